//! Which MAC our VXLAN device has.

use wire_net::MacAddr;

/// The MAC for our device of one family. All candidates but `fresh` may be missing:
///
/// - `published`: the one in our own live lease, which all peers have programmed;
/// - `device`: that of a device already there which can be used as it is;
/// - `stored`: the one we kept on disk;
/// - `fresh`: a random one.
///
/// A device whose MAC is the published one wins: that is the hand-over from flannel, which stores none. Then the stored one,
/// so that a MAC changed by hand is put back; then the device's (the first adoption); then the published one, where
/// everything else is lost; then the fresh one.
#[must_use]
pub fn choose(published: Option<MacAddr>, device: Option<MacAddr>, stored: Option<MacAddr>, fresh: MacAddr) -> MacAddr {
    let live = device.filter(|device| published == Some(*device));
    [live, stored, device, published].into_iter().flatten().find(|mac| mac.is_unicast()).unwrap_or(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_peers_send_to_wins_then_the_stored_one_then_the_devices() {
        let mac = |last| MacAddr::new([2, 0, 0, 0, 0, last]);
        let (a, b, fresh) = (mac(1), mac(2), mac(9));
        assert_eq!(choose(Some(a), Some(a), Some(b), fresh), a);
        assert_eq!(choose(Some(a), Some(b), Some(a), fresh), a);
        assert_eq!(choose(Some(a), Some(b), None, fresh), b);
        assert_eq!(choose(None, Some(b), Some(a), fresh), a);
        assert_eq!(choose(None, Some(b), None, fresh), b);
        assert_eq!(choose(Some(a), None, None, fresh), a);
        assert_eq!(choose(None, None, None, fresh), fresh);
        assert_eq!(choose(None, Some(MacAddr::new([0; 6])), None, fresh), fresh);
    }
}
