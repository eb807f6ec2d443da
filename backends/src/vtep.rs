//! Chooses the MAC of our VXLAN device.

use wire_net::MacAddr;

/// Chooses the MAC for our device of one family. All candidates except `fresh` may be missing:
///
/// - `published`: the one in our own lease, to which all peers send;
/// - `device`: the one of an existing device that can be used as it is;
/// - `stored`: the one in the state file;
/// - `fresh`: a random one.
///
/// The device's MAC has precedence if it is the published one too: so it is after flannel, which stores none. Then comes the stored one,
/// so that a MAC changed by hand is set back; then the device's, when a device is adopted for the first time; then the published one,
/// if all others are lost; then the fresh one.
#[must_use]
pub fn choose_mac(
    published: Option<MacAddr>,
    device: Option<MacAddr>,
    stored: Option<MacAddr>,
    fresh: MacAddr,
) -> MacAddr {
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
        assert_eq!(choose_mac(Some(a), Some(a), Some(b), fresh), a);
        assert_eq!(choose_mac(Some(a), Some(b), Some(a), fresh), a);
        assert_eq!(choose_mac(Some(a), Some(b), None, fresh), b);
        assert_eq!(choose_mac(None, Some(b), Some(a), fresh), a);
        assert_eq!(choose_mac(None, Some(b), None, fresh), b);
        assert_eq!(choose_mac(Some(a), None, None, fresh), a);
        assert_eq!(choose_mac(None, None, None, fresh), fresh);
        assert_eq!(choose_mac(None, Some(MacAddr::new([0; 6])), None, fresh), fresh);
    }
}
