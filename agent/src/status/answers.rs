//! The answers of the control socket. Pure.

use std::time::SystemTime;

use tokio::time::Instant;
use wire_backends::Segment;
use wire_firewall::SegmentsCounted;
use wire_forward::TunnelSeen;
use wire_lease::{Entry, HoldState};
use wire_net::{Family, LinkName, NetworkName, Prefix, Vni};
use wire_state::{Conflict, LinkPlace, Namespace};

use super::{
    EtcdCondition, FirewallSeen, Status,
    condition::{Condition, Rank, Severity},
    conditions::Current,
};
use crate::{
    attach::AttachmentId,
    control::proto,
    named::{AttachmentState, EndpointSeen, not_done},
};

impl Status {
    pub(crate) fn to_status(&self) -> proto::StatusReply {
        let (phase, reason) = self.phase();
        let text = |prefix: Option<&Prefix>| prefix.map(ToString::to_string).unwrap_or_default();
        let ip = |family| self.public.get(family).map(ToString::to_string).unwrap_or_default();
        let refused = self.leases.iter().flat_map(|table| table.refused.counts());
        let refused = refused.map(|(kind, count)| (kind.to_string(), u32::try_from(*count).unwrap_or(u32::MAX)));
        proto::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.name().to_owned(),
            reason,
            identity: self.identity.clone(),
            backend: self.backend.clone(),
            subnet: text(self.subnet.v4.as_ref()),
            subnet_v6: text(self.subnet.v6.as_ref()),
            public_ip: ip(Family::V4),
            public_ipv6: ip(Family::V6),
            underlay: self.underlay.clone(),
            mtu: self.mtu,
            store: Some(self.store_status()),
            dataplane: Some(self.dataplane_status()),
            peers: self.leases.as_ref().map_or(0, |table| u32::try_from(table.peers.len()).unwrap_or(u32::MAX)),
            refused: refused.collect(),
            warnings: self.of(Severity::Warning).map(Condition::text).collect(),
            datapath: Some(self.datapath_status()),
            firewall: Some(self.firewall_status()),
            conditions: self.conditions().map(condition_status).collect(),
            networks: self.networks.keys().filter_map(|name| self.network_part(name)).collect(),
            attachments: self.attachments.keys().filter_map(|id| self.attachment(*id)).collect(),
        }
    }

    /// This host's part in a network by name; `None` if it has none.
    pub(crate) fn network_part(&self, name: &NetworkName) -> Option<proto::NetworkPart> {
        let seen = self.networks.get(name)?;
        let own = |family| seen.own.get(family).map(ToString::to_string).unwrap_or_default();
        let blocked = || not_done(self, &[Segment::bridge(seen.vni?), Segment::overlay(seen.vni?)]);
        Some(proto::NetworkPart {
            name: name.to_string(),
            state: seen.state.name().to_owned(),
            reason: if seen.reason.is_empty() { blocked().unwrap_or_default() } else { seen.reason.clone() },
            vni: seen.vni.map_or(0, Vni::number),
            own: own(Family::V4),
            own_v6: own(Family::V6),
            addresses: seen.rooms.clone(),
            bridge: seen.vni.map(|vni| Segment::bridge(vni).to_string()).unwrap_or_default(),
            others: u32::try_from(seen.others).unwrap_or(u32::MAX),
            port: seen.port.map_or(0, u32::from),
            lacks: seen.lacks().to_owned(),
        })
    }

    /// An attachment; `None` if there is no such one.
    pub(crate) fn attachment(&self, id: AttachmentId) -> Option<proto::Attachment> {
        let seen = self.attachments.get(&id)?;
        let ends: Vec<LinkPlace> = seen.endpoints.iter().filter_map(|endpoint| endpoint.links).flatten().collect();
        let blocked = self.blocked_at(&ends).filter(|_| seen.state == AttachmentState::Attached);
        let (state, reason) = match blocked {
            Some(why) => (AttachmentState::Blocked, why),
            None => (seen.state, seen.reason.clone()),
        };
        Some(proto::Attachment {
            id: id.to_string(),
            guest: seen.guest.clone(),
            network: seen.network.to_string(),
            interface: seen.interface.to_string(),
            state: state.name().to_owned(),
            reason,
            endpoints: seen.endpoints.iter().map(endpoint).collect(),
        })
    }

    /// The reason why one of these links is not in the kernel, as the last round has found it.
    pub(crate) fn blocked_at(&self, places: &[LinkPlace]) -> Option<String> {
        let last = self.dataplane.last.as_ref()?;
        last.findings.conflicts.iter().find_map(|conflict| match conflict {
            Conflict::Name { link, .. } if places.contains(link) && link.namespace != Namespace::Host => Some(format!(
                "{} is there already, and is not ours: detach this, and attach it with another --name",
                link.name
            )),
            Conflict::Name { link, .. }
            | Conflict::Vni { link, .. }
            | Conflict::Port { link, .. }
            | Conflict::Needs { link, .. } => places.contains(link).then(|| conflict.to_string()),
            Conflict::Route { .. } | Conflict::Forwarding { .. } => None,
        })
    }

    /// The entry of others that is in the way of something on one of these links, as the last round has found it.
    pub(crate) fn in_the_way(&self, links: &[LinkName]) -> Option<String> {
        let last = self.dataplane.last.as_ref()?;
        let mut conflicts = last.findings.conflicts.iter().map(ToString::to_string);
        conflicts.find(|text| {
            text.split(|c: char| c.is_whitespace() || c == ',' || c == ':')
                .any(|word| links.iter().any(|link| word == link.as_str()))
        })
    }

    fn store_status(&self) -> proto::StoreStatus {
        let held = match &self.hold {
            Some(HoldState::Held { entry, expires, .. }) => entry.origin.lease.map(|lease| (lease, *expires)),
            Some(HoldState::Acquiring { .. } | HoldState::Lost { .. }) | None => None,
        };
        let seconds =
            |expires: Option<Instant>| expires.map_or(0, |at| at.saturating_duration_since(Instant::now()).as_secs());
        let error = self.text_of(EtcdCondition::AWAY);
        proto::StoreStatus {
            synced: error.is_none() && self.leases.is_some(),
            error: error.unwrap_or_default(),
            revision: self.leases.as_ref().map_or(0, |table| table.revision.0),
            resyncs: self.follow.listings,
            lease: held.map(|(lease, _)| lease.to_string()).unwrap_or_default(),
            lease_seconds: held.map_or(0, |(_, expires)| seconds(expires)),
        }
    }

    fn dataplane_status(&self) -> proto::DataplaneStatus {
        let last = self.dataplane.last.as_ref();
        proto::DataplaneStatus {
            converged: last.is_some_and(|report| report.converged),
            written: self.dataplane.written,
            removed: self.dataplane.removed,
            rounds: self.dataplane.rounds,
            failures: self.ranked(Rank::Failure),
            conflicts: self.ranked(Rank::Conflict),
        }
    }

    fn ranked(&self, rank: Rank) -> Vec<String> {
        let all = self.conditions().map(|current| &current.condition);
        all.filter(|condition| condition.kind().place.rank == rank).map(Condition::text).collect()
    }

    fn datapath_status(&self) -> proto::DatapathStatus {
        let (name, reason) = self.datapath.map_or(("none", ""), |datapath| (datapath.name, datapath.reason));
        let tunnels = self.tunnels.seen().into_iter().map(tunnel_status).collect();
        proto::DatapathStatus { kind: name.to_owned(), why: reason.to_owned(), tunnels }
    }

    fn firewall_status(&self) -> proto::FirewallStatus {
        let FirewallSeen { written, removed, converged, counted, tracked } = &self.firewall;
        let SegmentsCounted { strangers, forged, crossing, at_ports } = counted.segments;
        proto::FirewallStatus {
            converged: *converged,
            written: *written,
            removed: *removed,
            strangers: counted.unknown_peers,
            senders: counted.senders.iter().map(ToString::to_string).collect(),
            containers: counted.containers,
            spoofed: counted.spoofed,
            tracked: tracked.iter().map(|(family, why)| format!("{family}: {why}")).collect(),
            networks: Some(proto::NetworksDropped { strangers, forged, crossing, at_ports }),
        }
    }

    pub(crate) fn to_peers(&self) -> proto::PeersReply {
        let Some(table) = &self.leases else { return proto::PeersReply::default() };
        let refused = table.refused.iter().map(|(key, refusal)| proto::Refused {
            key: key.clone(),
            kind: refusal.kind.to_string(),
            reason: refusal.reason.clone(),
        });
        proto::PeersReply {
            peers: table
                .peers
                .values()
                .map(|entry| peer(entry, self.is_programmed(entry), self.reached_by(entry)))
                .collect(),
            refused: refused.collect(),
            refused_in_all: u32::try_from(table.refused.total()).unwrap_or(u32::MAX),
        }
    }

    /// The backend by which a peer is reached, if that is a former one of this host or of the peer.
    fn reached_by(&self, entry: &Entry) -> String {
        let reached = self.reaches.iter().position(|reaches| reaches.seen(&entry.lease).is_some());
        let reached = reached.map(|index| (index, self.reaches[index]));
        let reached = reached.filter(|(index, reaches)| *index > 0 || !reaches.has(&entry.lease.data));
        reached.map(|(_, reaches)| reaches.to_string()).unwrap_or_default()
    }

    /// True if all of a peer's entries are in the kernel.
    fn is_programmed(&self, entry: &Entry) -> bool {
        let Some(report) = &self.dataplane.last else { return false };
        report.converged
            && self.reaches.iter().any(|reaches| reaches.seen(&entry.lease).is_some())
            && !entry.lease.public.iter().any(|(_, public)| self.beyond_link.contains(*public))
            && entry.origin.mod_revision <= self.dataplane.applied
            && !report.findings.conflicts.iter().any(|conflict| blocks(conflict, entry))
    }
}

/// True if the conflict keeps entries of this peer out of the kernel.
fn blocks(conflict: &Conflict, peer: &Entry) -> bool {
    match conflict {
        Conflict::Route { key, .. } => peer.lease.subnet.prefixes().any(|prefix| prefix == key.destination),
        Conflict::Name { .. } | Conflict::Vni { .. } | Conflict::Port { .. } | Conflict::Needs { .. } => true,
        Conflict::Forwarding { .. } => false,
    }
}

fn condition_status(Current { condition, since, .. }: &Current) -> proto::ConditionStatus {
    proto::ConditionStatus {
        name: condition.name().to_owned(),
        severity: condition.severity().name().to_owned(),
        since: shown(*since),
        subject: condition.subject().unwrap_or_default().to_owned(),
        sentence: condition.sentence(),
        remedy: condition.remedy().unwrap_or_default(),
    }
}

/// A time for people and programs, in UTC. A clock or a file may have any time.
pub(crate) fn shown(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shown = since.as_secs() < END_OF_YEAR_9999;
    if shown { humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string() } else { "?".to_owned() }
}

/// The last second that RFC 3339 can write.
const END_OF_YEAR_9999: u64 = 253_402_300_799;

fn endpoint(seen: &EndpointSeen) -> proto::Endpoint {
    let address = |family| seen.addresses.get(family).map(ToString::to_string).unwrap_or_default();
    proto::Endpoint {
        holder: seen.holder.clone(),
        address: address(Family::V4),
        address_v6: address(Family::V6),
        mac: seen.mac.to_string(),
        since: seen.since.clone(),
        port: seen.port.to_string(),
    }
}

fn tunnel_status(seen: TunnelSeen) -> proto::TunnelStatus {
    let stranger = seen.rejected_sender.map(|(from, source)| {
        format!(
            "packets from {from} with source {source} are dropped: {from} is not the public IP of the peer that has \
             {source}; if that peer is behind NAT or has several addresses, set --forward-source-check=false"
        )
    });
    let capabilities = seen.capabilities.named().into_iter().filter(|(_, there)| *there);
    proto::TunnelStatus {
        link: seen.link.to_string(),
        local: seen.tunnel.local.to_string(),
        capabilities: capabilities.map(|(name, _)| name.to_owned()).collect(),
        counters: seen.counters.into_iter().map(|(name, number)| (name.to_owned(), number)).collect(),
        stranger: stranger.unwrap_or_default(),
    }
}

fn peer(entry: &Entry, programmed: bool, reached_by: String) -> proto::Peer {
    let lease = &entry.lease;
    let prefix = |family| lease.subnet.get(family).map(|prefix| prefix.to_string()).unwrap_or_default();
    let ip = |family| lease.public.get(family).map(ToString::to_string).unwrap_or_default();
    let macs = lease.data.macs();
    let mac = |family| macs.get(family).map(ToString::to_string).unwrap_or_default();
    proto::Peer {
        subnet: prefix(Family::V4),
        subnet_v6: prefix(Family::V6),
        public_ip: ip(Family::V4),
        public_ipv6: ip(Family::V6),
        backend_type: lease.data.name().to_owned(),
        vtep_mac: mac(Family::V4),
        vtep_mac_v6: mac(Family::V6),
        programmed,
        reservation: entry.origin.lease.is_none(),
        reached_by,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn any_time_of_a_file_can_be_shown() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(shown(at(1_700_000_000)), "2023-11-14T22:13:20Z");
        assert_eq!(shown(at(END_OF_YEAR_9999)), "?");
        assert_eq!(shown(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
    }
}
