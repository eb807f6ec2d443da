//! IPv4 in IPv4, RFC 2003.

use std::{fmt, net::Ipv4Addr};

/// A tunnel device without a fixed remote host: each packet goes to the gateway of its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipip<P> {
    /// The link that it sends through; with `None` the host's routes choose it.
    pub parent: Option<P>,
    /// The source address of outer packets; with `None` the host's routes choose it.
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
