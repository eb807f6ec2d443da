//! What happens to networks by name, drawn from the seed.

use wire_net::{LinkName, NetworkName};

use super::{NAMES, Networks, Wish, records::Records};
use crate::world::{Broken, PROMPT, START, World};

/// Acts of operators and others.
#[derive(Clone, Copy, Debug)]
enum Act {
    Create,
    /// Two operators create one name at once.
    CreateTwice,
    Expose,
    Hide,
    Update,
    Remove,
    RemoveByForce,
    DeleteBridge,
    DeleteOverlay,
    FlushFdb,
    FlushNeighbours,
    /// The bridge's entries of other hosts are deleted.
    FlushBridge,
    /// Records that every agent must refuse.
    Garbage,
    /// A machine goes, and comes back only when all faults are over: often later than its lease ends.
    Gone,
}

impl Act {
    /// All acts, drawn with equal chances; those that others need stand twice.
    const ALL: [Self; 20] = [
        Self::Create,
        Self::Create,
        Self::CreateTwice,
        Self::Expose,
        Self::Expose,
        Self::Expose,
        Self::Expose,
        Self::Hide,
        Self::Hide,
        Self::Update,
        Self::Update,
        Self::Remove,
        Self::RemoveByForce,
        Self::DeleteBridge,
        Self::DeleteOverlay,
        Self::FlushFdb,
        Self::FlushNeighbours,
        Self::FlushBridge,
        Self::Garbage,
        Self::Gone,
    ];
}

impl Networks {
    fn name(&self) -> NetworkName {
        NAMES[self.random.index(NAMES.len())].parse().expect("the name of a network")
    }
}

impl World {
    /// The first networks, and hosts that take part in them.
    ///
    /// # Errors
    /// When something breaks meanwhile.
    pub(crate) async fn begin_networks(&mut self) -> Result<(), Broken> {
        if !self.networks.is_used {
            return Ok(());
        }
        for name in NAMES.iter().take(2 + self.networks.random.index(2)) {
            self.create(&name.parse().expect("the name of a network"));
        }
        self.pass(PROMPT).await?;
        for name in NAMES {
            let name: NetworkName = name.parse().expect("the name of a network");
            for host in 0..self.hosts.len() {
                // Blocks of large worlds are for half of the hosts.
                if Records::of(self).networks.contains_key(&name) && self.networks.random.chance(350) {
                    self.ask(host, &name, Wish::Exposed);
                }
            }
        }
        self.pass(START).await?;
        self.check_networks(crate::checks::Whom::All)
    }

    /// Something happens to networks by name, or nothing.
    pub(crate) fn act_on_networks(&mut self) {
        if !self.networks.is_used {
            return;
        }
        for _ in 0..self.networks.random.index(4) {
            let act = Act::ALL[self.networks.random.index(Act::ALL.len())];
            let (host, name) = (self.networks.random.index(self.hosts.len()), self.networks.name());
            self.record.note(format_args!("network {name}, host {host}: {act:?}"));
            self.carry_out(act, host, &name);
        }
    }

    fn carry_out(&mut self, act: Act, host: usize, name: &NetworkName) {
        match act {
            Act::Create => self.create(name),
            Act::CreateTwice => {
                self.create(name);
                self.create(name);
            }
            Act::Expose => self.ask(host, name, Wish::Exposed),
            Act::Hide => self.ask(host, name, Wish::Hidden),
            Act::Update => self.update(name),
            Act::Remove => self.remove(name, false),
            Act::RemoveByForce => self.remove(name, true),
            Act::DeleteBridge => {
                self.disturb_device(host, name, "wb", |kernel, link| kernel.delete_link(link.as_str()));
            }
            Act::DeleteOverlay => {
                self.disturb_device(host, name, "wv", |kernel, link| kernel.delete_link(link.as_str()));
            }
            Act::FlushFdb => self.disturb_device(host, name, "wv", |kernel, link| kernel.flush_fdb(link.as_str())),
            Act::FlushNeighbours => {
                self.disturb_device(host, name, "wb", |kernel, link| kernel.flush_neighbours(link.as_str()));
            }
            Act::FlushBridge => self.disturb_device(host, name, "wb", |kernel, link| {
                kernel.edit(|net| {
                    let ours: Vec<_> = net.bridge_fdb.keys().filter(|key| key.bridge == link).copied().collect();
                    for key in ours {
                        net.bridge_fdb.remove(&key);
                    }
                });
            }),
            Act::Garbage => self.put_network_garbage(name),
            Act::Gone => {
                let host = &mut self.hosts[host];
                host.reboot(crate::host::SimulatedHost::lose_power);
                (host.start_at, host.keeps) = (None, None);
                host.note_foreign();
                self.networks_may_be_wrong();
            }
        }
    }

    /// Does something to a device of a network on a host, if it has it.
    fn disturb_device(
        &mut self,
        host: usize,
        name: &NetworkName,
        kind: &str,
        change: fn(&wire_kernel::sim::SimHost, LinkName),
    ) {
        let host = &mut self.hosts[host];
        let held = host.document().networks.get(name).and_then(|part| part.held.as_ref().map(|held| held.vni));
        let Some(vni) = held else { return };
        let link: LinkName = format!("{kind}.{vni}").parse().expect("a name of a link");
        if host.parts.kernel.state().links.contains_key(&link) {
            change(&host.parts.kernel, link);
            host.disturb(PROMPT);
            host.note_foreign();
            // The MAC that the kernel has drawn for a device is another now, and what else follows from it.
            self.networks.be_lenient(PROMPT);
        }
    }

    /// Puts records that are to be refused one by one.
    fn put_network_garbage(&mut self, name: &NetworkName) {
        let stranger = "ffffffffffffffffffffffffffffffff";
        let (key, value) = match self.networks.random.index(6) {
            0 => ("networks/bad-1".to_owned(), "{".to_owned()),
            1 => ("networks/bad-2".to_owned(), r#"{"VNI":77777,"IPv4":{"Pool":"10.5.0.0/20","Block":27}}"#.to_owned()),
            2 => {
                ("networks/bad-3".to_owned(), r#"{"VNI":77778,"IPv4":{"Pool":"192.168.0.0/20","Block":27}}"#.to_owned())
            }
            3 => (format!("members/{name}/{stranger}"), r#"{"PublicIP":"127.0.0.1","Port":8472}"#.to_owned()),
            4 => (format!("blocks/{name}/10.9.9.0-27"), format!(r#"{{"Host":"{stranger}"}}"#)),
            _ => (format!("members/{name}/nobody"), "[]".to_owned()),
        };
        let key = format!("{}/wire/{key}", wire_net::KeyPrefix::DEFAULT);
        self.store.put(key.clone(), value, None);
        self.bad_keys.insert(key.clone().into_bytes());
        let lasts = std::time::Duration::from_millis(1000 + self.networks.random.number(0..30_000));
        self.remove_garbage_after(lasts, key.into_bytes());
    }
}
