//! IPv4 in IPv4, RFC 2003.

use std::{fmt, net::Ipv4Addr};

/// A tunnel to any host: where each packet goes, its route's gateway says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipip<P> {
    /// The link it sends through; `None` leaves that to the routes.
    pub parent: Option<P>,
    /// The source of outer packets; `None` leaves that to the routes.
    pub local: Option<Ipv4Addr>,
}

impl<P: fmt::Display> fmt::Display for Ipip<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ipip")?;
        if let Some(parent) = &self.parent {
            write!(f, " dev {parent}")?;
        }
        self.local.map_or(Ok(()), |local| write!(f, " local {local}"))
    }
}
