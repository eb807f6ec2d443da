//! Finds the interface that carries the encapsulated packets, and watches it.

mod choose;
mod held;
mod overlap;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use wire_backends::Placement;
use wire_kernel::HostNetwork;
use wire_lease::Admission;
use wire_net::{DualStack, LinkName, LocalAddress, MacAddr, Pool};
use wire_state::Underlay;

use self::choose::{Chosen, Wanted, choose};
pub(crate) use self::{held::Held, overlap::overlaps};
use crate::{
    exit::Exit,
    ports::Ports,
    settings::{Settings, UnderlayWish},
    status::UnderlayCondition,
};

/// Finds the interface for a network with these pools. The choice `held` is kept while it is valid.
///
/// # Errors
/// [`Exit::NoUnderlay`], naming the flags and the interfaces of this host.
pub(crate) fn find(
    ports: &impl Ports,
    settings: &Settings,
    pools: &DualStack<Pool>,
    held: Option<Held>,
) -> Result<Underlay, Exit> {
    let host = read(ports, settings)?;
    let Chosen { link, addresses, .. } = choose(&host, &wanted(settings, pools, held)).map_err(none)?;
    Ok(host.underlay(link, addresses, pools))
}

fn read(ports: &impl Ports, settings: &Settings) -> Result<HostNetwork, Exit> {
    let targets: Vec<IpAddr> = settings.underlay.iter().filter_map(target).collect();
    Ok(ports.host_network(&targets)?)
}

const fn target(wish: &UnderlayWish) -> Option<IpAddr> {
    match wish {
        UnderlayWish::CanReach(target) => Some(*target),
        UnderlayWish::Interface(_) | UnderlayWish::Pattern(_) => None,
    }
}

const fn wanted<'a>(settings: &'a Settings, pools: &'a DualStack<Pool>, held: Option<Held>) -> Wanted<'a> {
    Wanted { wishes: settings.underlay.as_slice(), public: settings.public, pools, held }
}

const fn none(reason: String) -> Exit {
    Exit::NoUnderlay { reason }
}

/// True if a network that was joined on one need not be joined anew on the other.
pub(crate) fn is_same(one: &Underlay, other: &Underlay) -> bool {
    let of = |underlay: &Underlay| (underlay.index, underlay.link, underlay.mtu, underlay.addresses);
    of(one) == of(other)
}

/// The result of a comparison with the underlay that the network was joined on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Another interface, or another address, MTU or name of it.
    Yes,
    /// The same.
    No,
    /// There is no interface at the moment. The network stays as it is.
    Lost(String),
}

/// Watches the interface while the network is joined.
pub(crate) struct UnderlayWatch<P> {
    ports: P,
    joined_on: Underlay,
    is_direct: bool,
    held: Held,
    settings: Arc<Settings>,
    pools: DualStack<Pool>,
    /// Notified when links or addresses have changed.
    word: Arc<Notify>,
    admission: watch::Sender<Admission>,
    /// The time of the next look without a notification.
    again: Option<Instant>,
    /// The time since which the interface lacks its addresses while another one could be used.
    away: Option<Instant>,
    /// All addresses of the host when it last matched the join.
    known: Vec<LocalAddress>,
    /// The warning about a flag with the interface's old name.
    renamed: Option<UnderlayCondition>,
    /// Bridges among the subnets that hosts lease.
    attached: Vec<(LinkName, wire_net::Prefix)>,
}

/// The pause before looking again for a lost interface.
const AGAIN: Duration = Duration::from_secs(1);

/// The time an interface may be without its addresses before another is used: a renewed DHCP lease, or a restarted
/// service, removes them for some seconds.
const MOMENT: Duration = Duration::from_secs(15);

/// The underlay that a network was joined on, and the choice that led to it.
pub(crate) struct JoinedOn {
    pub(crate) underlay: Underlay,
    pub(crate) held: Held,
    /// True if some peers are reached on the link itself, so that its prefixes matter.
    pub(crate) is_direct: bool,
}

impl<P: Ports> UnderlayWatch<P> {
    pub(crate) fn new(
        ports: P,
        JoinedOn { underlay, held, is_direct }: JoinedOn,
        settings: Arc<Settings>,
        word: Arc<Notify>,
        admission: watch::Sender<Admission>,
    ) -> Self {
        let pools = admission.borrow().pools;
        let (attached, known) = (underlay.attached.clone(), underlay.local.clone());
        Self {
            ports,
            joined_on: underlay,
            is_direct,
            held,
            settings,
            pools,
            word,
            admission,
            again: None,
            away: None,
            known,
            renamed: None,
            attached,
        }
    }

    /// Waits until it is time to look.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn changed(&self) {
        let again = async {
            match self.again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.word.notified() => (),
            () = again => (),
        }
    }

    pub(crate) const fn ports(&self) -> &P {
        &self.ports
    }

    /// The prefixes of bridges among the subnets that hosts lease, as of the last look.
    pub(crate) fn attached(&self) -> &[(LinkName, wire_net::Prefix)] {
        &self.attached
    }

    /// The placement of this host in a network with other pools, with placeholder MACs.
    ///
    /// # Errors
    /// [`Exit::NoUnderlay`].
    pub(crate) fn placement(&self, pools: &DualStack<Pool>) -> Result<Placement, Exit> {
        let underlay = find(&self.ports, &self.settings, pools, Some(self.held))?;
        let Settings { blackhole, forward, .. } = *self.settings;
        let (public, macs) = (self.settings.public_on(&underlay), pools.map(|_, _| MacAddr::local([0; 6])));
        Ok(Placement { underlay, public, macs, blackhole, forward })
    }

    /// The warning about a flag with the interface's old name.
    pub(crate) fn renamed(&self) -> Option<UnderlayCondition> {
        self.renamed.clone()
    }

    /// Reads the links. Changes of the networks that the host reaches without the overlay are applied in place.
    pub(crate) fn look(&mut self) -> Moved {
        let found =
            read(&self.ports, &self.settings).map_err(|error| error.report()).and_then(|host| self.found(&host));
        let moved = match found {
            Err(reason) => Moved::Lost(reason),
            Ok(now) if self.is_joined_on(&now) => {
                self.follow(now);
                Moved::No
            }
            Ok(_) => Moved::Yes,
        };
        // If joining anew fails, it is tried again.
        self.again = (moved != Moved::No).then(|| Instant::now() + AGAIN);
        moved
    }

    /// True if the network need not be joined anew on an interface as it is now.
    fn is_joined_on(&self, now: &Underlay) -> bool {
        is_same(now, &self.joined_on) && (!self.is_direct || now.on_link == self.joined_on.on_link)
    }

    /// The current interface. An error if there is none, or only another one while this one may come back.
    fn found(&mut self, host: &HostNetwork) -> Result<Underlay, String> {
        let since = self.away.take();
        let chosen = choose(host, &wanted(&self.settings, &self.pools, Some(self.held)))
            .map_err(|reason| none(reason).report())?;
        if let Some(missing) = self.held.awaited(host, &chosen, &self.known) {
            let since = *self.away.insert(since.unwrap_or_else(Instant::now));
            if since.elapsed() < MOMENT {
                let (link, seconds) = (self.held.link, MOMENT.as_secs());
                return Err(format!("the interface {link} has lost {missing}: waiting for it for {seconds} s"));
            }
        }
        let Chosen { link, addresses, formerly } = chosen;
        self.renamed = formerly.map(|before| UnderlayCondition::Renamed { before, now: link.name });
        Ok(host.underlay(link, addresses, &self.pools))
    }

    fn follow(&mut self, now: Underlay) {
        self.known.clone_from(&now.local);
        self.attached = now.attached;
        self.admission.send_if_modified(|admission| {
            let changed = (&admission.underlay, &admission.local) != (&now.connected, &now.local);
            (admission.underlay, admission.local) = (now.connected, now.local);
            changed
        });
    }
}
