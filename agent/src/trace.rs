//! `wire-agent trace` says which way a packet takes on this host, by what its kernel holds. It reads the kernel itself, and writes nothing.

mod direct;
mod flags;
mod report;

use std::net::IpAddr;

use wire_firewall::FirewallDataplane;
use wire_kernel::{HostNetwork, TraceView};
use wire_net::{Family, NetworkName, chain};
use wire_state::{DataplaneError, Driver as _, Entry, HostState, ObservedFirewall, Outcome, Packet, trace};

pub(crate) use self::flags::{Flags, HELP};
use self::report::Report;
use crate::{
    commands::print_json,
    exit::{Exit, NO, UNAVAILABLE, USAGE},
    output::answer,
    run::require_capability,
    settings::Settings,
};

/// A packet that does not arrive, or cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// It is dropped on this host.
    #[error("the packet to {0} is dropped on this host")]
    Dropped(IpAddr),
    /// Something decides that is not looked at.
    #[error("it is not known whether the packet to {0} leaves this host")]
    NotKnown(IpAddr),
    /// The kernel cannot be read.
    #[error("the kernel cannot be read")]
    Unread(#[source] DataplaneError),
    /// No packet can have these addresses.
    #[error("--from {from} and {to} are not of one family")]
    Families { from: IpAddr, to: IpAddr },
    /// Nothing says by which link the packet comes in.
    #[error("no link of this host leads to --from {0}, and no container on a network by name is known to have it")]
    NoEntry(IpAddr),
}

impl TraceError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Dropped(_) => NO,
            Self::NotKnown(_) | Self::Unread(_) => UNAVAILABLE,
            Self::Families { .. } | Self::NoEntry(_) => USAGE,
        }
    }
}

/// All that the kernel holds, as it was read.
struct Held {
    view: TraceView,
    firewall: Option<ObservedFirewall>,
}

/// Follows a packet, and prints its way. `settings` name the folder in which the agent keeps its state.
///
/// # Errors
/// [`TraceError::Dropped`] if it is dropped here; all others if that is not known.
pub(crate) fn run(flags: &Flags, network: NetworkName, settings: Option<&Settings>) -> Result<(), Exit> {
    require_capability()?;
    let to = flags.to;
    if let Some(from) = flags.from.filter(|from| Family::of(*from) != Family::of(to)) {
        return Err(TraceError::Families { from, to }.into());
    }
    let Held { mut view, firewall } = Held::read(network)?;
    view.surroundings.direct = settings.map(direct::known).unwrap_or_default();
    let host = HostState { net: &view.net, surroundings: &view.surroundings, firewall: firewall.as_ref() };
    let (source, entry) = match flags.from {
        Some(from) => (from, host.entry_of(from, to).ok_or(TraceError::NoEntry(from))?),
        None => (source_for(to)?, Entry::Here),
    };
    let packet = Packet { udp_port: flags.port, ..Packet::new(source, to) };
    let trace = trace(&host, &packet, entry);
    let report = Report::new(&packet, &trace, &view.surroundings.not_looked_at);
    if flags.json { print_json(&report) } else { answer(&report.text()) }?;
    match trace.outcome {
        Outcome::Delivered(_) | Outcome::Sent(_) => Ok(()),
        Outcome::Dropped(_) => Err(TraceError::Dropped(to).into()),
        Outcome::Unknown(_) => Err(TraceError::NotKnown(to).into()),
    }
}

impl Held {
    fn read(network: NetworkName) -> Result<Self, TraceError> {
        let mut view = TraceView::read().map_err(TraceError::Unread)?;
        let not_looked_at = &mut view.surroundings.not_looked_at;
        let mut filter = FirewallDataplane::new(network, Family::ALL.to_vec());
        let firewall = match filter.read(&()) {
            Ok(firewall) => {
                not_looked_at.extend(filter.tables_of_others(&firewall));
                not_looked_at.extend(filter.unread().map(|error| format!("the packet filter: {}", chain(&error))));
                Some(firewall)
            }
            Err(error) => {
                not_looked_at.push(format!("the packet filter: {}", chain(&error)));
                None
            }
        };
        Ok(Self { view, firewall })
    }
}

/// The source address that the kernel gives a packet of this host. If no route leads to the destination, it gives none.
fn source_for(to: IpAddr) -> Result<IpAddr, TraceError> {
    let host = HostNetwork::read([to]).map_err(TraceError::Unread)?;
    let resolved = host.resolved.get(&to).and_then(|route| route.as_ref().ok()).and_then(|route| route.source);
    let unspecified = match Family::of(to) {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    Ok(resolved.unwrap_or(unspecified))
}
