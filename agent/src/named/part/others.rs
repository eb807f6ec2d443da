//! The addresses that other hosts have in a network. Pure.

use std::net::IpAddr;

use super::Part;

impl Part {
    /// True if it is known which addresses other hosts have.
    pub(in crate::named) const fn knows_others(&self) -> bool {
        self.admitted.is_some() || self.foreign.is_some()
    }

    /// The other host that has an address, for people. Those that the last join has found count until the records show what it has written.
    pub(in crate::named) fn other_holder(&self, address: IpAddr) -> Option<String> {
        let network = self.admitted.as_ref();
        if let Some(host) = network.and_then(|network| network.host_of(address)).filter(|host| *host != self.own) {
            let member = network.and_then(|network| network.members.get(&host));
            let public = member.and_then(|stored| stored.record.public.iter().next().map(|(_, public)| *public));
            return Some(
                public.map_or_else(|| format!("the host {host}"), |public| format!("the host {host} ({public})")),
            );
        }
        let was_found = self.foreign.as_ref().is_some_and(|foreign| foreign.contains(&address));
        (was_found && !self.has_seen).then(|| "another host".to_owned())
    }
}
