//! Pairs of virtual Ethernet devices, veth(4).

/// One end of a pair. Both ends are made together and removed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Veth<P> {
    /// The other end.
    pub peer: P,
}
