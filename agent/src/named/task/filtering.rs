//! What the packet filter is told of networks, and what waits for it.

use std::{sync::Arc, time::Duration};

use wire_firewall::SegmentShare;
use wire_net::NetworkName;

use super::NamedTask;
use crate::{
    firewall::FilterShare,
    named::{
        Ground,
        jobs::Done,
        part::{AfterFilter, Kernel, Part},
    },
    ports::Ports,
};

/// The longest time that devices wait for the packet filter.
const FILTER: Duration = Duration::from_secs(10);
/// The members from which on a network is large: its devices do not wait until the packet filter has all of them.
const LARGE: usize = 100;

impl<P: Ports> NamedTask<P> {
    /// Lets nobody send to a network whose members are not known, where devices of an earlier run may be.
    pub(super) fn close(&self, name: &NetworkName, part: &mut Part, ground: &Ground<P::Store>) {
        if !part.filtered.is_told()
            && part.progress.kernel == Kernel::Nothing
            && let Some(share) = part.closed(ground.outer)
        {
            self.tell_filter(name, part, share);
        }
    }

    /// Tells the packet filter of a network. Returns the first change that told of it as it is now, and this change.
    pub(super) fn tell_filter(&self, name: &NetworkName, part: &mut Part, share: SegmentShare) -> (u64, u64) {
        let share = Arc::new(share);
        let number = self.firewall.want(name, FilterShare::Named(share.clone()));
        (part.filtered.note(&share, number), number)
    }

    /// Lets nobody send to a large network that this host has just joined: then its devices need not wait until the packet filter has all members, which
    /// takes about as long as their entries.
    pub(super) fn close_if_large(&mut self, name: &NetworkName) {
        let admitted = self.admission.networks().networks.get(name);
        if admitted.is_none_or(|network| network.members.len() < LARGE) {
            return;
        }
        let (Some(ground), Some(mut part)) = (self.ground.clone(), self.parts.remove(name)) else { return };
        self.close(name, &mut part, &ground);
        self.parts.insert(name.clone(), part);
    }

    pub(super) fn wait_for_filter(&mut self, name: &NetworkName, number: u64) {
        let (firewall, name) = (self.firewall.clone(), name.clone());
        self.begin(Done::Filtered(name.clone(), number), async move {
            // A packet filter that does not answer is known from elsewhere, and stops nothing else.
            let _ = tokio::time::timeout(FILTER, firewall.outcome_of(number)).await;
            Done::Filtered(name, number)
        });
    }

    /// Makes the devices that waited for this change of the packet filter.
    pub(super) fn note_filtered(&mut self, name: &NetworkName, number: u64) {
        let Some(part) = self.parts.get_mut(name) else { return };
        let waited = part.progress.after_filter.take_if(|waiting| waiting.filtered == number);
        let Some(AfterFilter { share, belongs_to, .. }) = waited else { return };
        let number = self.network.want(name, share);
        part.attached().note_told(number);
        part.progress.kernel = Kernel::Told(number);
        self.wait_for_both(name, number, belongs_to);
    }

    /// Waits until the kernel has a share, and the packet filter the one that belongs to it: before, a container's packets are dropped.
    pub(super) fn wait_for_both(&mut self, name: &NetworkName, number: u64, filtered: u64) {
        let (network, firewall, name) = (self.network.clone(), self.firewall.clone(), name.clone());
        self.begin(Done::Round(name.clone(), number), async move {
            network.outcome_of(number).await;
            let _ = tokio::time::timeout(FILTER, firewall.outcome_of(filtered)).await;
            Done::Round(name, number)
        });
    }
}
