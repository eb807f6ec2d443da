//! What others do to bridges, their ports, and their FDB.

use wire_net::MacAddr;
use wire_state::{Bridge, BridgeFdbKey, ObservedKind, PortFlags, retain};

use super::{SimHost, others::named};

impl SimHost {
    /// Changes the options of a bridge.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_bridge(&self, name: &str, change: impl FnOnce(&mut Bridge)) {
        let name = named(name);
        self.edit_net(|net| {
            if let Some(ObservedKind::Bridge(bridge)) = net.links.get_mut(&name).map(|link| &mut link.kind) {
                change(bridge);
            }
        });
    }

    /// Changes the flags of a port of a bridge.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_port(&self, name: &str, change: impl FnOnce(PortFlags) -> PortFlags) {
        let name = named(name);
        self.edit_net(|net| {
            if let Some(flags) = net.links.get_mut(&name).and_then(|link| link.port.as_mut()) {
                *flags = change(*flags);
            }
        });
    }

    /// Takes a port out of its bridge: what leads to it there is gone.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_no_master(&self, name: &str) {
        let name = named(name);
        self.edit_net(|net| {
            retain(&mut net.bridge_fdb, |_, port| *port != name);
            if let Some(link) = net.links.get_mut(&name) {
                (link.master, link.port) = (None, None);
            }
        });
    }

    /// Adds a static entry to the FDB of the bridge that a port is in.
    ///
    /// # Panics
    /// If `port` is no name of a link.
    pub fn put_bridge_fdb(&self, port: &str, mac: MacAddr) {
        let port = named(port);
        self.edit_net(|net| {
            if let Some(bridge) = net.links.get(&port).and_then(|link| link.master) {
                net.bridge_fdb.insert(BridgeFdbKey { bridge: bridge.name, mac }, port);
            }
        });
    }

    /// Removes an entry from the FDB of the bridge that a port is in.
    ///
    /// # Panics
    /// If `port` is no name of a link.
    pub fn delete_bridge_fdb(&self, port: &str, mac: MacAddr) {
        let port = named(port);
        self.edit_net(|net| retain(&mut net.bridge_fdb, |key, found| *found != port || key.mac != mac));
    }
}
