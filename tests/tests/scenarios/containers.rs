//! Containers of three hosts reach each other, over real dockerds, by kernel VXLAN and by the userspace path.

use std::time::Duration;

use wire_tests::{Container, Dockerd, Family, Lab, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, V4, V6, cluster_of, families},
    datapath::{DUAL_UDP, Datapath},
    seat::{self, seats_by},
};

/// An odd number of bytes, so that no segment size divides it.
const STREAM: u32 = 5_000_011;

#[test]
fn containers_of_three_hosts_ping_and_stream_over_ipv4() -> Result {
    reach_each_other(&lab!(), V4, Datapath::KernelVxlan)
}

#[test]
fn containers_of_three_hosts_ping_and_stream_over_both_families() -> Result {
    reach_each_other(&lab!(), DUAL, Datapath::KernelVxlan)
}

#[test]
fn containers_of_three_hosts_ping_and_stream_over_ipv6_alone() -> Result {
    reach_each_other(&lab!(), V6, Datapath::KernelVxlan)
}

#[test]
fn containers_of_three_hosts_without_vxlan_ping_and_stream_by_userspace_vxlan() -> Result {
    reach_each_other(&lab!(), DUAL, Datapath::UserspaceVxlan)
}

#[test]
fn containers_of_three_hosts_without_vxlan_ping_and_stream_by_raw_udp() -> Result {
    reach_each_other(&lab!(), DUAL_UDP, Datapath::UserspaceUdp)
}

/// A dockerd and its container.
struct Seat {
    container: Container,
    docker: Dockerd,
}

impl Seat {
    fn new(node: &Node) -> Result<Self> {
        let mut docker = Dockerd::start_with_file(&node.host, &node.agent.docker_opts_file())?;
        Ok(Self { container: docker.run()?, docker })
    }

    /// Runs a shell script in the container.
    fn sh(&self, options: &[&str], script: &str) -> Result<String> {
        let words = ["exec"].into_iter().chain(options.iter().copied());
        self.docker.docker(&words.chain([self.container.name(), "sh", "-c", script]).collect::<Vec<_>>())
    }
}

fn reach_each_other(lab: &Lab, config: &str, datapath: Datapath) -> Result {
    let (_etcd, nodes) = cluster_of(lab, config, [datapath; 3], &[])?;
    let seats = nodes.iter().map(Seat::new).collect::<Result<Vec<_>>>()?;
    let encapsulated = lab.count(&format!("udp dport {}", datapath.encapsulation().port()))?;
    for (from, sender) in seats.iter().enumerate() {
        for (to, receiver) in seats.iter().enumerate().filter(|(to, _)| *to != from) {
            for family in families(config) {
                let address = receiver.container.address(*family)?;
                let pings = sender.container.pings(address, 2);
                check(pings, || format!("container {from} cannot ping container {to} at {address}"))?;
            }
        }
        for family in families(config) {
            stream(sender, &seats[(from + 1) % 3], *family)?;
        }
    }
    // Two pings and their answers between six pairs, and three streams of 5 MB.
    let packets = encapsulated.packets()?;
    check(packets > 200, || format!("only {packets} packets were seen encapsulated"))?;
    for (node, seat) in nodes.iter().zip(&seats) {
        let damaged = (node.host.kernel().damaged()?, seat.container.damaged()?);
        let none = damaged.0.is_empty() && damaged.1.is_empty();
        check(none, || format!("{} and its container have counted {damaged:?}", node.host.name()))?;
    }
    Ok(())
}

/// Sends bytes by TCP and compares their checksums at both ends.
fn stream(sender: &Seat, receiver: &Seat, family: Family) -> Result {
    let address = receiver.container.address(family)?;
    // busybox's nc closes both ways when its own input ends, so that the listener is given one that does not.
    let listen = "test -e /tmp/open || mkfifo /tmp/open; exec 2> /dev/null; sleep 60 > /tmp/open & nc -l -p 5001 < /tmp/open > /tmp/got; kill $!; mv /tmp/got /tmp/whole";
    receiver.sh(&["-d"], listen)?;
    sender.sh(&[], &format!("dd if=/dev/urandom of=/tmp/sent bs={STREAM} count=1 iflag=fullblock"))?;
    // The listener may need a moment.
    let send = format!("for i in 1 2 3 4 5; do nc -w 5 {address} 5001 < /tmp/sent && exit 0; sleep 0.2; done; exit 1");
    sender.sh(&[], &send)?;
    let sent = sender.sh(&[], "sha256sum < /tmp/sent")?;
    eventually(PROMPT, || receiver.sh(&[], "test -e /tmp/whole").map(drop))?;
    let got = receiver.sh(&[], "wc -c < /tmp/whole; sha256sum < /tmp/whole; rm /tmp/whole")?;
    check(got == format!("{STREAM}\n{sent}"), || format!("sent {STREAM} bytes, {sent}, but received {got}"))
}

#[test]
fn a_docker_that_drops_forwarded_packets_by_default_is_no_obstacle() -> Result {
    let lab = lab!();
    let (_etcd, [one, other]) = seats_by(&lab, V4, |host, etcd| seat::Seat::of_former_docker(host, etcd, &[]))?;
    let address = other.address()?;
    check(one.container.pings(address, 3), || format!("no answer from {address}"))?;
    // Flushed by anyone, the rule is back within the resync's five seconds.
    one.sh("iptables -F; iptables -X WIRE-FORWARD")?;
    eventually(Duration::from_secs(6), || {
        let rules = one.sh("iptables -S FORWARD")?;
        check(rules.contains("-j WIRE-FORWARD"), || rules)
    })?;
    check(one.container.pings(address, 3), || format!("no answer from {address} after the flush"))
}
