//! An outer packet that has come to this host: the device that takes out the inner packet.

use std::net::IpAddr;

use wire_net::{Family, LinkName};

use super::{
    bridge::Frame,
    device::{Checks, OverlayDevice},
    filter::{ENCAPSULATED_IN, Incoming},
    outcome::{Gap, Hop, Outcome, Reason},
    packet::{Encapsulated, Packet, VxlanHeader},
    walk::{Step, Walk},
};
use crate::{Forward, ForwardKey, ObservedKind, ReceiveFlag};

impl<'a> Walk<'a> {
    /// Takes out the inner packet, and follows it.
    pub(super) fn open(&mut self, outer: &Packet, link: LinkName, let_in: bool) -> Step<Outcome> {
        let Some(inner) = outer.inner.as_deref() else {
            return Ok(Outcome::Delivered(super::Delivery::Here(outer.destination)));
        };
        // Only packets without a VXLAN header are judged there.
        let let_in = let_in
            || inner.header.is_none() && self.filter(&Incoming { packet: outer, link, let_in }, &ENCAPSULATED_IN)?;
        let device = self.receiver(outer, inner)?;
        let bridge = self.host.bridge_of(device.name);
        if let Some(header) = inner.header {
            if bridge.is_none() && device.mac != Some(header.destination) && !self.takes_all_frames(device) {
                return Err(Reason::OtherMac { link: device.name, mac: header.destination }.into());
            }
            // `vxlan_set_mac` of drivers/net/vxlan takes such a frame for one of its own that has come back.
            if let Some(source) = header.source.filter(|source| device.mac == Some(*source)) {
                return Err(Reason::OwnMac(device.name, source).into());
            }
        }
        self.hops.push(Hop::Decapsulated(device.name, inner.packet.clone()));
        if let Some(checks) = device.checks {
            self.check_inner(outer, &inner.packet, device, checks)?;
        }
        if let Some((bridge, VxlanHeader { source, destination, .. })) = bridge.zip(inner.header) {
            return self.at_port(Frame { packet: &inner.packet, source, destination, let_in }, device.name, bridge);
        }
        self.arrive(&inner.packet, device.name, let_in)
    }

    /// The device that takes packets with this port and VNI. While a device is down, it has no socket.
    fn receiver(&self, outer: &Packet, inner: &Encapsulated) -> Step<OverlayDevice<'a>> {
        let vni = inner.header.map(|header| header.vni);
        let port = outer.udp_port;
        let family = Family::of(outer.destination);
        let devices = || self.host.devices().filter(|device| device.link.up && device.port == port);
        // A port has one device, whatever its address. Of IPIP devices the one with the address takes the packet.
        let is_at = |device: &OverlayDevice<'_>| port.is_some() || device.local == Some(outer.destination);
        let is_it = |device: &OverlayDevice<'_>| device.family == family && device.vni == vni && is_at(device);
        if let Some(device) = devices().find(is_it) {
            return Ok(device);
        }
        // A device with metadata takes packets of any VNI and family.
        if let Some(device) = devices().find(has_metadata) {
            return Err(Gap::Kind(device.name, "vxlan external".to_owned()).into());
        }
        let elsewhere = self.host.links().find(|(_, link)| matches!(link.kind, ObservedKind::Tun(None)));
        match elsewhere {
            Some((name, _)) => Err(Gap::TunnelElsewhere(name).into()),
            None => Err(Reason::NoDevice { port, vni }.into()),
        }
    }

    /// Whether frames for other MACs are taken too, since the device is a port of a bridge.
    fn takes_all_frames(&mut self, device: OverlayDevice<'_>) -> bool {
        let is_port = device.link.master.is_some();
        if is_port {
            self.not_looked_at(&format!("the bridge that {} is a port of", device.name));
        }
        is_port
    }

    /// The checks of a tunnel whose packets the agent moves.
    fn check_inner(&self, outer: &Packet, inner: &Packet, device: OverlayDevice<'_>, checks: Checks) -> Step<()> {
        if let Some(own) = checks.own.filter(|own| !own.contains(inner.destination)) {
            return Err(Reason::NotOwn(inner.destination, own).into());
        }
        let sender = self.forward(device.name, inner.source).map(|(_, forward)| forward.to);
        if checks.sources && sender != Some(outer.source) {
            return Err(Reason::OtherSource(inner.source, outer.source).into());
        }
        Ok(())
    }

    /// The entry of a tunnel's table for an inner address.
    pub(super) fn forward(&self, link: LinkName, address: IpAddr) -> Option<(ForwardKey, Forward)> {
        let table = &self.host.net.forwarding;
        let lens = (0..=Family::of(address).bits()).rev();
        let keys =
            lens.filter_map(|len| Some(ForwardKey { link, destination: wire_net::Prefix::new(address, len).ok()? }));
        keys.into_iter().find_map(|key| Some((key, *table.get(&key)?)))
    }
}

fn has_metadata(device: &OverlayDevice<'_>) -> bool {
    matches!(&device.link.kind, ObservedKind::Vxlan(vxlan) if vxlan.receive_flag == Some(ReceiveFlag::Metadata))
}
