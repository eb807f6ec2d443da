//! The end of a world: operators settle what clashes, all networks are as wished, and after their removal nothing is left.

use wire_net::NetworkName;

use super::{KEPT, NAMES, Wish, records::Records};
use crate::{
    checks::Whom,
    world::{Broken, PROMPT, START, World},
};

/// The sentence of an agent on a network that etcd does not have.
const NO_NETWORK: &str = "there is no network";
/// Its sentence while it puts back a record that etcd has lost.
const LOST: &str = "etcd has lost";
/// The number of times that an operator settles a clash: what one host leaves, another may have to join anew.
const TRIES: u32 = 3;

impl World {
    /// Operators settle what only they can: of two networks with one name, one is chosen.
    ///
    /// # Errors
    /// When something is wrong that should not be.
    pub(crate) async fn settle_networks(&mut self) -> Result<(), Broken> {
        for _ in 0..TRIES {
            let faults = self.network_faults();
            if faults.is_empty() {
                break;
            }
            if let Some((host, name, fault)) = faults.iter().find(|fault| self.has_vanished(fault)) {
                return Err(Broken(format!("{name}, which host {host} has a part in, has vanished: {fault}")));
            }
            let unexpected = faults.iter().find(|(_, _, fault)| !self.networks.may_clash && !is_of_operator(fault));
            if let Some(fault) = unexpected {
                return Err(Broken(format!("nothing has clashed, and a host says {fault:?}")));
            }
            for (host, name, _) in faults {
                self.ask(host, &name, Wish::Open);
            }
            self.pass(KEPT + START).await?;
        }
        Ok(())
    }

    /// True if a network is lost that a host has joined: it is to be put back.
    fn has_vanished(&self, (host, name, fault): &(usize, NetworkName, String)) -> bool {
        let document = self.hosts[*host].document();
        let has_joined = document.networks.get(name).is_some_and(|part| part.is_exposed && part.held.is_some());
        has_joined && (fault.contains(LOST) || fault.contains(NO_NETWORK))
    }

    /// The hosts that say that something is wrong with a network.
    fn network_faults(&self) -> Vec<(usize, NetworkName, String)> {
        let mut faults = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            for name in host.document().networks.into_keys() {
                if let Some(fault) = host.fault_of(&name) {
                    faults.push((index, name, fault));
                }
            }
        }
        faults
    }

    /// All hosts leave all networks, and these are removed: nothing is left on any host and in the store.
    ///
    /// # Errors
    /// Names what is left.
    pub(crate) async fn end_networks(&mut self) -> Result<(), Broken> {
        if !self.networks.is_used {
            return Ok(());
        }
        for name in NAMES {
            let name: NetworkName = name.parse().expect("the name of a network");
            (0..self.hosts.len()).for_each(|host| self.ask(host, &name, Wish::Hidden));
        }
        self.pass(START).await?;
        for name in Records::of(self).networks.into_keys() {
            self.remove(&name, false);
        }
        self.pass(START + PROMPT).await?;
        self.check_networks(Whom::All)?;
        let left = Records::of(self).keys;
        if !left.is_empty() {
            return Err(Broken(format!("networks were removed, and the store has {left:?}")));
        }
        for host in &self.hosts {
            let (document, net) = (host.document(), host.parts.kernel.state());
            let links = net.links.keys().filter(|link| link.as_str().starts_with('w'));
            let links: Vec<String> = links.map(ToString::to_string).collect();
            if !document.networks.is_empty() || !links.is_empty() {
                let said = host.conditions();
                return Err(Broken(format!(
                    "host {} has left {links:?} of networks that were removed: {document:?} {said:?}",
                    host.number
                )));
            }
        }
        Ok(())
    }

    /// Each acknowledged part is joined, at rest, and nobody else has anything.
    ///
    /// # Errors
    /// Names the host that has not joined.
    pub(crate) fn check_joined(&self) -> Result<(), Broken> {
        let wished = self.networks.wishes.iter().filter(|(_, wish)| **wish == Wish::Exposed);
        for ((host, name), _) in wished {
            let running = self.hosts[*host].agent.as_ref();
            let state = running.and_then(|running| running.status.networks().get(name).copied());
            if state != Some("joined") {
                let said = self.hosts[*host].conditions();
                return Err(Broken(format!("host {host} is {state:?} on {name}, which it shall have: {said:?}")));
            }
        }
        let records = Records::of(self);
        for (name, rooms) in &records.rooms {
            let members = records.members.get(name);
            let is_member = |host: &String| members.is_some_and(|members| members.contains_key(host));
            if let Some((room, host)) = rooms.iter().find(|(_, host)| !is_member(host)) {
                return Err(Broken(format!("{room} of {name} is of {host}, which is no member")));
            }
        }
        Ok(())
    }
}

/// True if a fault follows from the command: there is no such network, or it has no address left.
fn is_of_operator(fault: &str) -> bool {
    fault.contains(NO_NETWORK) || fault.contains("are taken")
}
