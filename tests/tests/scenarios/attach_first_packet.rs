//! The first packet to a container that was attached a moment ago on another host: one datagram, sent once, as soon as `attach` has answered.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
};

use wire_tests::{LabError, Result, check, inside, lab};

use crate::{
    attach_site::{Made, Site, attach, ctl, silent, sites},
    cluster::{DUAL, START},
};

/// The endpoints that are attached one after the other to each host: the first, and later ones.
const ENDPOINTS: usize = 6;
const PORT: u16 = 4000;

/// A namespace that is attached, as a container would be.
struct Guest {
    name: String,
    addresses: Vec<IpAddr>,
    _made: Made,
}

impl Guest {
    fn attach(site: &Site, number: usize) -> Result<Self> {
        let name = format!("{}-f{number}", site.node.host.namespace().name());
        let made = Made::new(&name)?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        let addresses = attach(&site.node, &format!("/run/netns/{name} app"))?;
        Ok(Self { name, addresses, _made: made })
    }

    /// A socket in the namespace, on one of its addresses.
    fn socket(&self, address: IpAddr) -> Result<UdpSocket> {
        let bind = || {
            let socket = UdpSocket::bind((address, PORT))?;
            socket.set_read_timeout(Some(START))?;
            Ok(socket)
        };
        let socket: io::Result<UdpSocket> = inside(&Path::new("/run/netns").join(&self.name), bind)?;
        socket.map_err(LabError::io(format!("cannot listen on {address} in {}", self.name)))
    }
}

fn ip(words: &[&str]) -> Result {
    wire_tests::output(Command::new("ip").args(words)).map(drop)
}

/// One datagram each way: if one is lost, nothing is sent again.
fn exchange([from, to]: [&Guest; 2], payload: u8) -> Result {
    for (near, far) in from.addresses.iter().zip(&to.addresses) {
        let (here, there) = (from.socket(*near)?, to.socket(*far)?);
        let failed = |what: &str| LabError::io(format!("{what}, {near} to {far}"));
        here.send_to(&[payload], SocketAddr::new(*far, PORT)).map_err(failed("the first packet was not sent"))?;
        let mut heard = [0; 2];
        let (len, sender) = there.recv_from(&mut heard).map_err(failed("the first packet was lost"))?;
        check(heard[..len] == [payload] && sender.ip() == *near, || format!("{heard:?} from {sender}"))?;
        there.send_to(&[payload], sender).map_err(failed("the answer was not sent"))?;
        here.recv_from(&mut heard).map_err(failed("the answer was lost"))?;
    }
    Ok(())
}

#[test]
fn the_first_packet_to_a_container_attached_a_moment_ago_elsewhere_is_not_lost() -> Result {
    let lab = lab!();
    let (_etcd, sites) = sites::<2>(&lab, DUAL, false)?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let mut guests: [Vec<Guest>; 2] = [Vec::new(), Vec::new()];
    for number in 0..ENDPOINTS {
        for (here, there) in [(0, 1), (1, 0)] {
            let new = Guest::attach(&sites[here], number)?;
            // From each that is elsewhere, beginning with the last: it, too, is new to the one that was attached now.
            for (turn, other) in guests[there].iter().rev().enumerate() {
                let payload = u8::try_from(turn).unwrap_or_default();
                exchange([other, &new], payload)
                    .map_err(|error| LabError::Wrong(format!("endpoint {number}: {error:?}\n{}", logs(&sites))))?;
            }
            guests[here].push(new);
        }
    }
    silent(&sites)
}

fn logs(sites: &[Site]) -> String {
    sites.iter().map(|site| site.node.agent.log()).collect()
}
