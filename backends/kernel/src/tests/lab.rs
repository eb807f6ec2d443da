//! A host in a network namespace of its own, with invented leases.

mod segment;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    net::IpAddr,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns, unshare};
use wire_backends::{Backend, ForwardSettings, Placement, select};
use wire_lease::{BackendData, Entry, Lease, LeaseTable, NetworkConfig, Origin, Vtep};
use wire_net::{DualStack, Family, MacAddr, Prefix, Subnet};
use wire_state::{
    Attempt, DataplaneError, DesiredNet, Driver, Namespace, Network, NetworkPart, ObservedNet, Op, PerNamespace, Plan,
    Reconciler, Report, Reread, Scope, Underlay,
};
use wire_store::Revision;

pub(crate) use wire_netlink::lab::{drop_privileges, in_namespace, run, runtime};

use crate::{HostNetwork, KernelDataplane, Monitor, NetlinkDataplane, RouteForm};

/// The underlay on the lab's link, with both families.
fn underlay(host: &HostNetwork) -> Underlay {
    let link = host.link("wb-up".parse().unwrap()).unwrap();
    let of_family = |address: &&crate::HostAddress, family| Family::of(address.local.address) == family;
    let of = |family| link.addresses.iter().find(|address| of_family(address, family));
    host.underlay(link, DualStack::from_fn(|family| Some(of(family)?.local.address)), &DualStack::default())
}

/// The lease of one peer.
pub(crate) struct Peer {
    pub(crate) v4: Prefix,
    pub(crate) v6: Prefix,
    pub(crate) mac: MacAddr,
    pub(crate) public4: IpAddr,
    public6: IpAddr,
}

/// This host: its uplink and the leases of its peers.
pub(crate) struct Lab {
    peers: BTreeMap<usize, Peer>,
    underlay: Underlay,
    public: DualStack<IpAddr>,
    /// The number of networks on a bridge.
    segments: u8,
}

impl Lab {
    pub(crate) fn new(peers: usize) -> Self {
        run("ip link set lo up; ip link add wb-up type veth peer wb-far; ip link set wb-far up; ip link set wb-up up");
        run("ip addr add 192.0.2.1/24 dev wb-up; ip addr add 2001:db8::1/64 dev wb-up nodad");
        Self::on(&HostNetwork::read([]).unwrap(), peers)
    }

    /// A host with the link `wb-up`, and the leases of that many peers.
    pub(crate) fn on(host: &HostNetwork, peers: usize) -> Self {
        let underlay = underlay(host);
        let public = underlay.addresses;
        let peers = (1..=peers).map(|number| (number, Peer::new(number))).collect();
        Self { peers, underlay, public, segments: 0 }
    }

    /// A host without peers, in so many networks on a bridge each.
    pub(crate) fn with_segments(host: &HostNetwork, segments: u8) -> Self {
        Self { segments, ..Self::on(host, 0) }
    }

    /// Makes the IPv4 device anew without peers.
    pub(crate) fn make_device(&self) {
        let want = self.want_of(&[Family::V4]);
        let empty = DesiredNet { links: want.links, addresses: want.addresses, ..DesiredNet::default() };
        let _ = Command::new("ip").args(["link", "del", "flannel.1"]).output().unwrap();
        assert!(self.reconciler_of(RouteForm::Plain, &[Family::V4]).round(&empty).converged);
    }

    pub(crate) fn set_public(&mut self, public: IpAddr) {
        self.public.set(Family::of(public), Some(public));
        self.underlay = underlay(&HostNetwork::read([]).unwrap());
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub(crate) fn change_peer(&mut self, number: usize, mac: &str, public: &str) {
        let peer = self.peers.get_mut(&number).unwrap();
        (peer.mac, peer.public4) = (mac.parse().unwrap(), public.parse().unwrap());
    }

    pub(crate) fn remove_peer(&mut self, number: usize) {
        self.peers.remove(&number);
    }

    pub(crate) fn scope(&self) -> Scope {
        let mut scope = self.backend(&Family::ALL).scope();
        scope.devices.extend((0..self.segments).flat_map(segment::devices));
        scope
    }

    fn backend(&self, families: &[Family]) -> Box<dyn Backend> {
        let (v4, v6) = (families.contains(&Family::V4), families.contains(&Family::V6));
        let json = format!(
            r#"{{"EnableIPv4":{v4},"EnableIPv6":{v6},"Network":"10.0.0.0/8","SubnetLen":24,"IPv6Network":"fd00::/16","Backend":{{"Type":"vxlan"}}}}"#
        );
        let config = NetworkConfig::from_json(json.as_bytes()).unwrap();
        let mac = |last| Some(MacAddr::new([2, 0, 0, 0, 0, last]));
        let macs = DualStack { v4: mac(1), v6: mac(6) };
        let forward = ForwardSettings::default();
        let (underlay, public) = (self.underlay.clone(), self.public);
        let placement = Placement { underlay, public, macs, blackhole: false, forward };
        select(&config, placement).unwrap()
    }

    pub(crate) fn want(&self) -> DesiredNet {
        let mut want = self.want_of(&Family::ALL);
        (0..self.segments).for_each(|number| segment::add(&mut want, &self.underlay, number));
        want
    }

    pub(crate) fn want_of(&self, families: &[Family]) -> DesiredNet {
        let own = lease(("10.5.0.0/24", "fd00:5::/64"), MacAddr::new([2, 0, 0, 0, 0, 1]), self.public);
        let mut table = LeaseTable::default();
        for peer in self.peers.values() {
            let public = DualStack { v4: Some(peer.public4), v6: Some(peer.public6) };
            let lease = lease((&peer.v4.to_string(), &peer.v6.to_string()), peer.mac, public);
            let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
            table.peers.insert(lease.subnet, Arc::new(Entry { lease, origin }));
        }
        self.backend(families).desired(&own, &table)
    }

    pub(crate) fn reconciler(&self, form: RouteForm) -> HostReconciler {
        HostReconciler::new(form, self.scope())
    }

    pub(crate) fn reconciler_of(&self, form: RouteForm, families: &[Family]) -> HostReconciler {
        HostReconciler::new(form, self.backend(families).scope())
    }

    /// Asserts that iproute2 shows exactly the entries of all peers.
    pub(crate) fn assert_whole(&self) {
        let mut routes = Vec::new();
        let mut neighbours = Vec::new();
        let mut fdb = Vec::new();
        for peer in self.peers.values() {
            for (subnet, link, public) in
                [(peer.v4, "flannel.1", peer.public4), (peer.v6, "flannel-v6.1", peer.public6)]
            {
                let (gateway, mac) = (subnet.network(), peer.mac);
                routes.push(format!("{subnet} via {gateway} {link}"));
                neighbours.push(format!("{gateway} {mac} {link}"));
                fdb.push(format!("{mac} {public} {link}"));
            }
        }
        let listed = |command: &str, line: fn(&serde_json::Value) -> Option<String>| -> Vec<String> {
            let mut lines: Vec<String> = json(command).iter().filter_map(line).collect();
            lines.sort();
            lines
        };
        routes.sort();
        neighbours.sort();
        fdb.sort();
        let mut found = listed("ip -4 -j route show dev flannel.1", |route| route_line(route, "flannel.1"));
        found.extend(listed("ip -6 -j route show dev flannel-v6.1", |route| route_line(route, "flannel-v6.1")));
        found.sort();
        assert_eq!(found, routes);
        let mut found =
            listed("ip -4 -j neigh show dev flannel.1 nud permanent", |one| neighbour_line(one, "flannel.1"));
        found.extend(listed("ip -6 -j neigh show dev flannel-v6.1 nud permanent", |one| {
            neighbour_line(one, "flannel-v6.1")
        }));
        found.sort();
        assert_eq!(found, neighbours);
        let mut found = listed("bridge -j fdb show dev flannel.1", |one| fdb_line(one, "flannel.1"));
        found.extend(listed("bridge -j fdb show dev flannel-v6.1", |one| fdb_line(one, "flannel-v6.1")));
        found.sort();
        assert_eq!(found, fdb);
        for (link, mac, mtu, address) in [
            ("flannel.1", "02:00:00:00:00:01", 1450, "10.5.0.0"),
            ("flannel-v6.1", "02:00:00:00:00:06", 1430, "fd00:5::"),
        ] {
            let found = &json(&format!("ip -j addr show dev {link}"))[0];
            assert_eq!(found["address"].as_str().unwrap(), mac, "{link}");
            assert_eq!(found["mtu"].as_u64().unwrap(), mtu, "{link}");
            assert!(found["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
            let addresses = found["addr_info"].as_array().unwrap();
            let global: Vec<_> = addresses.iter().filter(|one| one["scope"] == "global").collect();
            assert_eq!(global.len(), 1, "{link}");
            assert_eq!(global[0]["local"], address);
        }
    }
}

/// A driver for the kernel alone, without tunnels of the agent.
pub(crate) struct KernelAlone(pub(crate) KernelDataplane);

impl Driver for KernelAlone {
    type Resource = Network;

    fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        self.0.read(scope)
    }

    fn read_part(
        &mut self,
        scope: &PerNamespace<Scope>,
        observed: &mut PerNamespace<ObservedNet>,
        part: &NetworkPart,
    ) -> Result<Reread, DataplaneError> {
        self.0.read_part(scope, observed, part)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let parts = ops.iter().map(|op| match op {
            Op::Kernel(namespace, op) => (*namespace, op),
            Op::Tunnel(op) => panic!("{op} in a lab without tunnels"),
        });
        let parts: Vec<_> = parts.collect();
        let together =
            |segment: &[(Namespace, _)]| (segment[0].0, segment.iter().map(|(_, op)| *op).collect::<Vec<_>>());
        let segments = parts.chunk_by(|one, other| one.0 == other.0).map(together);
        segments.flat_map(|(namespace, ops)| self.0.apply(namespace, &ops)).collect()
    }
}

/// Reconciles the host's namespace alone.
pub(crate) struct HostReconciler {
    reconciler: Reconciler<KernelAlone>,
    scope: Scope,
}

impl HostReconciler {
    fn new(form: RouteForm, scope: Scope) -> Self {
        let driver = KernelAlone(KernelDataplane::open(form).unwrap());
        Self { reconciler: Reconciler::new(driver, PerNamespace::host(scope.clone())), scope }
    }

    pub(crate) fn round(&mut self, want: &DesiredNet) -> Report<Network> {
        self.reconciler.round(&PerNamespace::host(want.clone()))
    }

    pub(crate) fn preview(&mut self, want: &DesiredNet) -> Result<Plan<Network>, DataplaneError> {
        self.reconciler.preview(&PerNamespace::host(want.clone()))
    }

    pub(crate) fn cached(&self) -> Option<&ObservedNet> {
        self.reconciler.cached()?.get(Namespace::Host)
    }

    pub(crate) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn driver(&mut self) -> &mut NetlinkDataplane {
        self.reconciler.driver().0.host()
    }

    pub(crate) fn invalidate(&mut self) {
        self.reconciler.invalidate();
    }
}

impl Peer {
    fn new(number: usize) -> Self {
        let (high, low) = (number / 256, number % 256);
        let octets = [0x0a, 0, 0, 0, u8::try_from(high).unwrap(), u8::try_from(low).unwrap()];
        Self {
            v4: format!("10.{}.{low}.0/24", 5 + high).parse().unwrap(),
            v6: format!("fd00:5:{number:x}::/64").parse().unwrap(),
            mac: MacAddr::new(octets),
            public4: format!("198.51.{high}.{low}").parse().unwrap(),
            public6: format!("2001:db8::1:{number:x}").parse().unwrap(),
        }
    }
}

fn lease(subnets: (&str, &str), mac: MacAddr, public: DualStack<IpAddr>) -> Lease {
    let (v4, v6) = (Some(subnets.0.parse().unwrap()), Some(subnets.1.parse().unwrap()));
    let subnet = Subnet::new(DualStack { v4, v6 }).unwrap();
    let vtep = Some(Vtep { vni: None, mac });
    Lease { subnet, public, data: BackendData::Vxlan(DualStack { v4: vtep, v6: vtep }), port: None, former: None }
}

fn route_line(route: &serde_json::Value, link: &str) -> Option<String> {
    // The kernel makes link-local routes itself.
    (route["protocol"] != "kernel").then(|| format!("{} via {} {link}", text(route, "dst"), text(route, "gateway")))
}

fn neighbour_line(neighbour: &serde_json::Value, link: &str) -> Option<String> {
    Some(format!("{} {} {link}", text(neighbour, "dst"), text(neighbour, "lladdr")))
}

fn fdb_line(entry: &serde_json::Value, link: &str) -> Option<String> {
    Some(format!("{} {} {link}", text(entry, "mac"), text(entry, "dst")))
}

fn text<'a>(value: &'a serde_json::Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Receives all pending notifications, so that the monitor reports only later changes.
pub(crate) fn settle(monitor: &mut Monitor, reconciler: &HostReconciler) {
    // The kernel makes link-local addresses and their routes a moment after a device comes up.
    std::thread::sleep(std::time::Duration::from_millis(30));
    monitor.drain(reconciler.cached().unwrap()).unwrap();
}

/// A new network namespace, which exists until the descriptor is closed.
pub(crate) fn new_namespace() -> OwnedFd {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap().into()
}

/// Runs a shell command in a namespace.
pub(crate) fn run_inside(namespace: &OwnedFd, command: &str) -> String {
    std::thread::scope(|scope| {
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run(command)
        };
        scope.spawn(inside).join().unwrap()
    })
}

/// The interface index of a link.
pub(crate) fn index(link: &str) -> u64 {
    json(&format!("ip -j link show dev {link}"))[0]["ifindex"].as_u64().unwrap()
}

pub(crate) fn count(command: &str) -> usize {
    json(command).len()
}

fn json(command: &str) -> Vec<serde_json::Value> {
    let text = run(command);
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
}

/// `ip monitor`, which prints all notifications.
pub(crate) struct IpMonitor(std::process::Child);

impl IpMonitor {
    pub(crate) fn open() -> Self {
        // Waits until the kernel has made its own entries on a new device.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let child = Command::new("ip").args(["monitor", "all"]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        Self(child)
    }

    pub(crate) fn printed(&mut self) -> String {
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.0.kill().unwrap();
        let mut notified = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut notified).unwrap();
        self.0.wait().unwrap();
        notified
    }
}

/// Commands for `ip -batch`.
pub(crate) fn batch(lines: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

pub(crate) fn run_fails(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(!output.status.success(), "{command} succeeded");
}
