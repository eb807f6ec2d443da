//! Which interface carries the encapsulated packets: the operator's wishes in order, else the default route.

use std::{net::IpAddr, sync::Arc, time::Duration};

use regex::Regex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use wire_backends::{Host, Underlay, UnderlayChoice};
use wire_lease::{Admission, Prefix, chain};

use crate::{
    exit::Exit,
    settings::{Settings, UnderlayWish, UnderlayWishes},
};

/// Finds the interface. `networks` are the overlay's.
///
/// # Errors
/// [`Exit::NoUnderlay`], naming what was looked for and what there is.
pub(crate) fn find(wishes: &UnderlayWishes, networks: &[Prefix]) -> Result<Underlay, Exit> {
    let host = Host::read().map_err(|error| Exit::Software(chain(&error)))?;
    let mut refused = Vec::new();
    let choices: Vec<Result<UnderlayChoice, String>> = if wishes.is_empty() {
        vec![Ok(UnderlayChoice::DefaultRoute)]
    } else {
        wishes.iter().map(|wish| choice(&host, wish)).collect()
    };
    for choice in choices {
        match choice.and_then(|choice| host.underlay(&choice, networks).map_err(|error| chain(&error))) {
            Ok(underlay) => return Ok(underlay),
            Err(reason) => refused.push(reason),
        }
    }
    Err(Exit::NoUnderlay(format!("no interface for the underlay: {}; choose one with --iface", refused.join("; "))))
}

fn choice(host: &Host, wish: &UnderlayWish) -> Result<UnderlayChoice, String> {
    match wish {
        UnderlayWish::Interface(text) => match text.parse::<IpAddr>() {
            Ok(address) => Ok(UnderlayChoice::Address(address)),
            Err(_) => text.parse().map(UnderlayChoice::Name).map_err(|error| chain(&error)),
        },
        UnderlayWish::Pattern(pattern) => matching(host, pattern)
            .ok_or_else(|| format!("no name or address of an interface matches {pattern}; this host has {host}")),
        UnderlayWish::CanReach(address) => Ok(UnderlayChoice::Reach(*address)),
    }
}

/// As flannel does: names first, then addresses.
fn matching(host: &Host, pattern: &Regex) -> Option<UnderlayChoice> {
    let named = host.links.iter().find(|link| pattern.is_match(link.name.as_str()));
    let addresses = || host.links.iter().flat_map(|link| &link.addresses).map(|(address, _)| *address);
    let addressed = || addresses().find(|address| pattern.is_match(&address.to_string()));
    named.map(|link| UnderlayChoice::Name(link.name)).or_else(|| addressed().map(UnderlayChoice::Address))
}

/// Whether the interface of the underlay is still what the network was joined on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Another interface, or another address or MTU.
    Yes,
    /// The same.
    No,
    /// There is none at the moment. The network stays as it is.
    Lost(String),
}

/// Looks after the interface while the network is joined.
pub(crate) struct UnderlayWatch {
    joined_on: Underlay,
    settings: Arc<Settings>,
    networks: Vec<Prefix>,
    /// Tells that links or addresses have changed.
    word: Arc<Notify>,
    admission: watch::Sender<Admission>,
    /// When to look again though nobody says that anything has changed.
    again: Option<Instant>,
}

/// How soon to look again for an interface that is lost.
const AGAIN: Duration = Duration::from_secs(1);

impl UnderlayWatch {
    pub(crate) fn new(
        joined_on: Underlay,
        settings: Arc<Settings>,
        word: Arc<Notify>,
        admission: watch::Sender<Admission>,
    ) -> Self {
        let networks = admission.borrow().pools.iter().map(|(_, pool)| pool.network).collect();
        Self { joined_on, settings, networks, word, admission, again: None }
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

    /// Looks. What the host reaches without the overlay is followed in place.
    pub(crate) fn look(&mut self) -> Moved {
        let now = match find(&self.settings.underlay, &self.networks) {
            Ok(now) => now,
            Err(error) => {
                self.again = Some(Instant::now() + AGAIN);
                return Moved::Lost(error.to_string());
            }
        };
        if let Some(family) =
            self.networks.iter().map(|network| network.family()).find(|family| now.addresses.of(*family).is_none())
        {
            self.again = Some(Instant::now() + AGAIN);
            return Moved::Lost(format!("the interface {} has no {family} address at the moment", now.link));
        }
        // Where joining anew fails, it is tried again.
        self.again = Some(Instant::now() + AGAIN);
        let before = &self.joined_on;
        if (now.index, now.mtu, now.addresses) != (before.index, before.mtu, before.addresses) {
            return Moved::Yes;
        }
        self.again = None;
        self.admission.send_if_modified(|admission| {
            let changed = admission.underlay != now.connected;
            admission.underlay = now.connected;
            changed
        });
        Moved::No
    }
}
