//! What the task does when it looks.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info};
use wire_backends::SegmentOuter;
use wire_lease::named::{Joining, NamedNetwork, NamedRecords};
use wire_net::{MemberKey, NetworkName, chain};

use super::{Folders, NamedTask};
use crate::{
    named::{
        Ground, Leased, NetworkState,
        jobs::{self, Done, late},
        lack::Lack,
        part::{AfterFilter, Filtered, FreePorts, Kernel, Part, Trouble},
    },
    ports::Ports,
};

/// The time that the store has to list what is known from disk too.
const LISTED: Duration = Duration::from_secs(5);

impl<P: Ports> NamedTask<P> {
    /// Compares what is wished with what is there, and begins what is to be done. Returns the networks that it has looked at.
    pub(super) async fn look(&mut self) -> BTreeSet<NetworkName> {
        let begun = Instant::now();
        let is_same = self.step_on_ground();
        let Some(ground) = self.ground.clone() else { return BTreeSet::new() };
        self.end_for_good().await;
        self.look_at_attachments(&ground);
        self.refuse_faulty().await;
        self.follow_folders(&ground, is_same);
        self.ask_for_memberships(&ground);
        self.tell_attachments(&ground);
        if !self.is_saved {
            self.unsaved = self.save().await.err();
        }
        let listed = self.folders.as_mut().and_then(Folders::records);
        if listed.is_some() {
            self.known = None;
        }
        let is_late = self.known_at.is_some_and(|at| at <= Instant::now());
        let known = || self.known.clone().filter(|_| ground.store.is_none() || is_late);
        if let Some(records) = listed.clone().or_else(known) {
            self.due.note_records(self.records.as_ref(), &records);
            self.admission.update(&records, &ground.occupied);
            self.records = Some(records);
        }
        self.due.note_state(listed.is_some(), self.unsaved.is_some());
        let due = self.due.take(self.parts.iter(), begun);
        for name in &due {
            let Some(mut part) = self.parts.remove(name) else { continue };
            part.again = part.again.filter(|again| *again > Instant::now());
            let local = |port| SocketAddr::new(ground.outer.local, port);
            let ports = FreePorts {
                is_free: |port| self.ports.is_free_port(local(port)),
                has_inherited: |port| self.ports.has_inherited_port(port),
            };
            part.choose_port(&ground.outer, self.parts.values(), &ports);
            if part.entry.is_wanted() {
                self.release_idle(name, &mut part, &ground);
                let lack = listed.as_ref().map(|records| lack(name, &part, &ground, records));
                if self.hold(name, &mut part, &ground, lack) {
                    self.is_saved = false;
                    continue;
                }
            } else {
                self.close(name, &mut part, &ground);
                self.leave_kernel(name, &mut part, &ground);
            }
            if let Some(why) = &self.unsaved {
                part.trouble = Trouble::Fault(why.clone());
            }
            self.parts.insert(name.clone(), part);
        }
        // Only an agent that moves packets has any.
        let with_ports = self.parts.values().filter(|_| ground.outer.agent.is_some());
        self.ports.claim_ports(&with_ports.filter_map(Part::chosen_port).collect());
        if !self.is_saved {
            self.unsaved = self.save().await.err();
        }
        if self.unsaved.is_none() {
            self.leave_store(&ground);
        }
        due
    }

    /// Takes over what the networks stand on. True if the store is the one that it was.
    fn step_on_ground(&mut self) -> bool {
        if self.stood_on.has_changed().unwrap_or_default() {
            self.due.note_all();
        }
        let Some(ground) = self.stood_on.borrow_and_update().clone() else { return false };
        let before = self.ground.replace(ground.clone());
        if before.as_ref().is_none_or(|before| before.host != ground.host) {
            self.document.belong_to(ground.host);
            let entries = std::mem::take(&mut self.document.networks);
            let mut known = NamedRecords::default();
            for (name, entry) in &entries {
                if let Some(kept) = &entry.held {
                    self.known_files.load(self.ports.disk(), name, kept, &mut known, ground.host);
                }
            }
            let is_held = |name: &NetworkName| entries.get(name).is_some_and(|entry| entry.held.is_some());
            let others = self.filtered.iter().filter(|name| !is_held(name));
            others.for_each(|name| self.firewall.forget(name));
            (self.known, self.known_at) = (Some(known), Some(Instant::now() + LISTED));
            self.parts.keys().for_each(|name| self.due.note(name));
            self.parts = entries.into_iter().map(|(name, entry)| (name, Part::new(ground.host, entry))).collect();
        }
        if before.as_ref().is_some_and(|before| before.outer != ground.outer) {
            // A failure on the other way says nothing about this one.
            self.parts.values_mut().for_each(|part| part.progress.forget_pause());
        }
        // A store that has given this host another lease may have been wiped or restored: its revisions may begin anew.
        let is_same =
            before.as_ref().is_some_and(|before| before.joins == ground.joins && before.leased == ground.leased);
        if !is_same || before.is_some_and(|before| before.resyncs != ground.resyncs) {
            self.ask_soon();
        }
        is_same
    }

    /// Follows the folders of the store, if this host takes part in a network.
    fn follow_folders(&mut self, ground: &Ground<P::Store>, is_same: bool) {
        match &ground.store {
            _ if self.parts.is_empty() => self.folders = None,
            None => self.folders = None,
            Some(_) if is_same && self.folders.is_some() => {}
            Some(store) => self.folders = Some(Folders::follow(store, &self.prefix, self.ports.random())),
        }
    }

    /// Takes part in a network. `lack` is what the store lacks; `None` if that is not known. True if the network is refused, so that this host has
    /// no part in it.
    fn hold(
        &mut self,
        name: &NetworkName,
        part: &mut Part,
        ground: &Ground<P::Store>,
        lack: Option<Option<Lack>>,
    ) -> bool {
        let now = Instant::now();
        let (is_known, has_joined) = (self.records.is_some(), part.entry.held.is_some());
        let is_listed = lack.is_some();
        if has_joined && lack == Some(None) && ground.leased != Leased::Not {
            part.note_lease(ground.leased, now);
        }
        let needs_job = match lack {
            Some(lack) if has_joined => part.note_lack(lack, now),
            Some(_) => true,
            None => false,
        };
        if !is_listed && !has_joined {
            // A network that is refused is not joined, and that is not known yet.
            part.wait_for("etcd has not listed the networks since the agent's start");
        }
        let admitted = self.admission.networks();
        let network = admitted.networks.get(name).filter(|_| is_known).cloned();
        let refusal = admitted.refused.get(name).filter(|_| is_known);
        let refused = refusal.map(|refusal| format!("the network {name} is refused: {refusal}"));
        if let Some(why) = &refused
            && !has_joined
            && !part.is_busy
            && part.is_awaited()
        {
            part.answer(&Err(why.clone()));
            return true;
        }
        let mut containers = self.containers(part);
        if refused.is_some() || self.unsaved.is_some() {
            // What ends is given up even so; what is new waits.
            containers.keep_those_of(part.attached());
        }
        part.set_attached(containers);
        self.bring_forward(name, part, ground, network.as_ref());
        if is_known {
            self.close(name, part, ground);
        }
        if let Some(why) = refused {
            part.trouble = Trouble::Fault(why);
            return false;
        }
        if is_listed && part.is_to_be_saved(now) {
            self.save_known(name);
        }
        if part.seen().state == NetworkState::Joined && self.unsaved.is_none() {
            part.answer(&Ok(()));
        }
        let bears = part.bears_with_rooms(network.as_deref(), ground.leased, now);
        if self.unsaved.is_some() || !part.is_free(now) {
            return false;
        }
        // A join would take for its own what another host may have by now.
        let spare = network.as_deref().filter(|_| is_listed).and_then(|network| part.spare(network, now));
        if let Some(room) = spare {
            self.begin_to_release(name, part, ground, room);
        } else if needs_job && !bears {
            self.begin_to_hold(name, part, ground);
        }
        false
    }

    /// Saves what is known of a network, beside this task.
    fn save_known(&mut self, name: &NetworkName) {
        let Some(records) = self.records.clone() else { return };
        let (files, disk, name) = (self.known_files.clone(), self.ports.disk().clone(), name.clone());
        let saved = name.clone();
        let writing = self.ports.blocking(move || files.save(&disk, &name, &records).map_err(|error| chain(&error)));
        let otherwise = Done::Saved(saved.clone(), Err("the writer has died".to_owned()));
        self.begin(otherwise, async move {
            let result = writing.await.unwrap_or_else(|error| Err(error.to_string()));
            Done::Saved(saved, result)
        });
    }

    fn begin_to_hold(&mut self, name: &NetworkName, part: &mut Part, ground: &Ground<P::Store>) {
        match self.store() {
            None => part.wait_for("etcd has not answered since the agent's start"),
            Some((_, Leased::Not)) => part.wait_for("this host has no lease in etcd at the moment"),
            Some((store, Leased::With(lease))) => {
                debug!(network = %name, "joining");
                part.is_busy = true;
                let joining = joining(ground, part, lease);
                let otherwise = Done::Held(name.clone(), Err(late()));
                self.begin(otherwise, jobs::hold(store, name.clone(), part.entry.held.clone(), joining));
            }
        }
    }

    /// Brings devices and entries forward to the admitted records; without any, to those that were admitted last.
    fn bring_forward(
        &mut self,
        name: &NetworkName,
        part: &mut Part,
        ground: &Ground<P::Store>,
        network: Option<&Arc<NamedNetwork>>,
    ) {
        if network.is_some_and(|network| part.admit(network, Instant::now())) {
            self.is_saved = false;
        }
        let waits = part.waits_to_tell(Instant::now());
        if network.is_none() && part.progress.kernel == Kernel::Nothing {
            if !waits {
                self.remove_ports(name, part, &ground.outer);
            }
            return;
        }
        let Some((share, filter)) = part.share(ground.outer).and_then(|share| Some((share, part.filter()?))) else {
            return;
        };
        let (filtered, number) = self.tell_filter(name, part, filter);
        match part.progress.kernel {
            // Its devices may not be there: nothing passes them before the rules about it stand.
            Kernel::Nothing => {
                let waiting = part.progress.after_filter.replace(AfterFilter { filtered, share, belongs_to: number });
                if waiting.is_none_or(|waiting| waiting.filtered != filtered) {
                    self.wait_for_filter(name, filtered);
                }
            }
            Kernel::Told(_) => {
                let told = self.network.want(name, share);
                part.attached().note_told(told);
                part.progress.kernel = Kernel::Told(told);
                self.wait_for_both(name, told, number);
            }
            Kernel::Done => {
                let told = self.network.want(name, share);
                part.attached().note_told(told);
                if part.attached().is_waiting() {
                    self.wait_for_both(name, told, number);
                }
            }
        }
    }

    /// Removes the ports of attachments that are gone from a network of which it is not known, or not admitted, what it should be on this host.
    fn remove_ports(&mut self, name: &NetworkName, part: &mut Part, outer: &SegmentOuter) {
        if part.attached().has_more_leaving() {
            let number = self.network.want(name, part.without_ports(outer));
            part.attached().note_leaving(number);
            self.wait_for_round(name, number);
        }
    }

    pub(super) fn wait_for_round(&mut self, name: &NetworkName, number: u64) {
        let (network, name) = (self.network.clone(), name.clone());
        self.begin(Done::Round(name.clone(), number), async move {
            network.outcome_of(number).await;
            Done::Round(name, number)
        });
    }

    /// Leaves a network: first the kernel, then this host's document, then the store ([`Self::leave_store`]).
    fn leave_kernel(&mut self, name: &NetworkName, part: &mut Part, ground: &Ground<P::Store>) {
        match part.progress.kernel {
            Kernel::Nothing if !part.is_free(Instant::now()) => return,
            Kernel::Nothing => match part.leaving(&ground.outer) {
                Some(share) => {
                    let number = self.network.want(name, share);
                    part.progress.kernel = Kernel::Told(number);
                    self.wait_for_round(name, number);
                    return;
                }
                None => part.progress.kernel = Kernel::Done,
            },
            Kernel::Told(_) => return,
            Kernel::Done => {}
        }
        if !part.is_busy && part.entry.held.take().is_some() {
            // From now on nobody is given an address of it, also after a crash: the store may have given it to another host.
            self.is_saved = false;
            self.network.forget(name);
            // Its devices are gone.
            self.firewall.forget(name);
            part.filtered = Filtered::default();
        }
    }

    /// Leaves in the store the networks that the kernel and the document have left.
    fn leave_store(&mut self, ground: &Ground<P::Store>) {
        let now = Instant::now();
        let is_to_leave = |part: &Part| {
            let Part { entry, progress, .. } = part;
            !entry.is_wanted() && entry.held.is_none() && progress.kernel == Kernel::Done && part.is_free(now)
        };
        let names: Vec<NetworkName> =
            self.parts.iter().filter(|(_, part)| is_to_leave(part)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let store = self.store();
            let Some(part) = self.parts.get_mut(&name) else { continue };
            let Some((store, _)) = store else {
                part.wait_for("etcd has not answered since the agent's start");
                continue;
            };
            info!(network = %name, "leaving");
            part.is_busy = true;
            let otherwise = Done::Left(name.clone(), Err(late()));
            self.begin(otherwise, jobs::leave(store, name, ground.host));
        }
    }
}

/// The records of this host that the store lacks.
fn lack<S>(name: &NetworkName, part: &Part, ground: &Ground<S>, records: &NamedRecords) -> Option<Lack> {
    let kept = part.entry.held.as_ref()?;
    match ground.leased {
        Leased::With(lease) => Lack::of(name, kept, &joining(ground, part, lease), records),
        // What has gone is seen also without a lease to write it with.
        Leased::Not => {
            let member = MemberKey { network: name.clone(), host: ground.host };
            let lease = records.members.get(&member).and_then(|stored| stored.origin.lease);
            Lack::of(name, kept, &joining(ground, part, lease), records).filter(|lack| *lack != Lack::Stale)
        }
    }
}

pub(super) fn joining<S>(ground: &Ground<S>, part: &Part, lease: Option<wire_store::LeaseId>) -> Joining {
    Joining { host: ground.host, public: ground.public, port: part.outer(ground.outer).own_port(), lease }
}
