//! Helper and client on real namespaces, with a Docker that says what the test wants.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};
use wire_kernel::{KernelDataplane, OpenedGuest, RouteForm};
use wire_net::{LinkName, MacAddr, Mtu};
use wire_netlink::lab::{in_namespace, keep_only_net_admin, run};
use wire_state::{
    Address, DesiredKind, DesiredLink, DesiredNet, KernelKind, LinkPlace, Namespace, PerNamespace, Reconciler, Scope,
    Veth,
};

use super::{
    client::{Helper as Client, HelperError},
    guest::Place,
    packet::{self, Packets},
    protocol::{Answer, LONGEST_ANSWER, Refusal, Request, Why, Word},
    serve::{CONNECTIONS, Helper},
};
use crate::host_dataplane::HostDataplane;

mod told;

/// A helper whose host is this thread's namespace, and its folder.
struct Served {
    folder: tempfile::TempDir,
    client: Client,
}

impl Served {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// `docker` gets the path at which Docker's socket is looked for.
    fn with(docker: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::in_folder(folder.path());
        let docker_socket = folder.path().join("docker.sock");
        docker(&docker_socket);
        let helper = Helper::new(docker_socket, Uid::from_raw(65534)).unwrap();
        let listener = packet::listen_at(&folder.path().join("guests.sock")).unwrap();
        // It ends with the process.
        thread::spawn(move || helper.serve(listener.as_fd(), None));
        Self { folder, client }
    }

    fn connect(&self) -> Packets {
        Packets::connect(&self.folder.path().join("guests.sock")).unwrap()
    }

    fn refusal(&self, place: &Place) -> Refusal {
        let error = self.client.open(place).unwrap_err();
        let HelperError::Refused(refusal) = error else { panic!("{error}") };
        refusal
    }
}

/// A process in a new namespace, as a container has one.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        // What it prints says that it is inside.
        let mut command = Command::new("unshare");
        let mut child =
            command.args(["--net", "sh", "-c", "echo in; exec sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn started(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        text.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
    }

    fn place(&self) -> Place {
        Place::Process { pid: self.pid(), started: None }
    }

    fn run(&self, command: &str) -> String {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        let inside = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run(command)
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

/// A veth pair between the host and a guest.
fn wanted(guest: Namespace) -> PerNamespace<DesiredNet> {
    let end = |namespace, name, last| {
        let peer = LinkPlace { namespace, name };
        let kind = DesiredKind::Kernel(KernelKind::Veth(Veth { peer }));
        DesiredLink { mac: Some(MacAddr::new([2, 0x57, 10, 9, 0, last])), ..DesiredLink::new(kind, Mtu(1400)) }
    };
    let (outside, inside) = (name("wp1"), name("eth1"));
    let (mut host, mut net) = (DesiredNet::default(), DesiredNet::default());
    host.links.insert(outside, end(guest, inside, 1));
    net.links.insert(inside, end(Namespace::Host, outside, 2));
    net.addresses.insert(Address { link: inside, address: [10, 9, 0, 2].into(), len: 24 });
    [(Namespace::Host, host), (guest, net)].into_iter().collect()
}

/// Uses passed sockets, as an agent with CAP_NET_ADMIN alone does.
fn attach(guest: Namespace, opened: OpenedGuest) {
    let as_agent = || {
        keep_only_net_admin();
        let mut kernel = KernelDataplane::open(RouteForm::Plain).unwrap();
        kernel.add_opened(guest, opened).unwrap();
        let scope = |device: &str| Scope { devices: [name(device)].into(), ..Scope::default() };
        let scopes = [(Namespace::Host, scope("wp1")), (guest, scope("eth1"))];
        let driver = HostDataplane::without_tunnels(kernel);
        let report = Reconciler::new(driver, scopes.into_iter().collect()).round(&wanted(guest));
        assert!(report.converged, "{:?}", report.failures);
    };
    thread::scope(|scope| scope.spawn(as_agent).join().unwrap());
}

#[test]
fn what_the_helper_passes_is_enough_to_attach_a_process_with_net_admin_alone() {
    in_namespace(|| {
        let served = Served::new();
        let sleeper = Sleeper::start();
        let reached = served.client.open(&sleeper.place()).unwrap();
        let guest = reached.namespace;
        attach(guest, reached.opened);
        let found = sleeper.run("ip -o -4 addr show eth1; ip link show eth1");
        assert!(found.contains("10.9.0.2/24") && found.contains("02:57:0a:09:00:02"), "{found}");
        assert!(found.contains("mtu 1400"), "{found}");
        run("ip link show wp1");
        // Another call has the same name for it, and another process another name.
        assert_eq!(served.client.open(&sleeper.place()).unwrap().namespace, guest);
        let right = Place::Process { pid: sleeper.pid(), started: Some(sleeper.started()) };
        assert_eq!(served.client.open(&right).unwrap().namespace, guest);
        let file = Place::File(PathBuf::from(format!("/proc/{}/ns/net", sleeper.pid())));
        assert_eq!(served.client.open(&file).unwrap().namespace, guest);
        assert_ne!(served.client.open(&Sleeper::start().place()).unwrap().namespace, guest);
    });
}

/// As the agent's unit has it: ProtectProc=invisible.
fn hide_processes() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    run("mount --make-rprivate /; mount -t proc -o hidepid=invisible,gid=65533 proc /proc");
    keep_only_net_admin();
}

#[test]
fn an_agent_that_sees_no_process_of_others_is_told_when_it_was_started_and_that_it_has_ended() {
    in_namespace(|| {
        let served = Served::new();
        let sleeper = Sleeper::start();
        let (place, stat, started) = (sleeper.place(), format!("/proc/{}/stat", sleeper.pid()), sleeper.started());
        let as_agent = || {
            hide_processes();
            assert!(std::fs::read(&stat).is_err(), "it is seen");
            let process = served.client.open(&place).unwrap().process.unwrap();
            assert_eq!(process.started(), started);
            assert!(!process.has_ended());
            drop(sleeper);
            assert!(process.has_ended());
            assert!(served.client.open(&Place::Process { pid: 1, started: Some(u64::MAX) }).is_err());
        };
        thread::scope(|scope| scope.spawn(as_agent).join().unwrap());
        let file = Place::File(PathBuf::from("/proc/thread-self/ns/net"));
        assert_eq!(served.refusal(&file).why, Why::Host);
    });
}

#[test]
fn the_host_itself_and_what_is_no_network_namespace_are_refused_with_the_reason() {
    in_namespace(|| {
        let served = Served::new();
        let sleeper = Sleeper::start();
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        let own = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&own));
        let file = |path: &str| Place::File(PathBuf::from(path));
        let fifo = served.folder.path().join("pipe");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let other_start = Place::Process { pid: sleeper.pid(), started: Some(sleeper.started() + 1) };
        let gone = Place::Process { pid: i32::MAX.cast_unsigned(), started: None };
        for (place, why, said) in [
            (file(&own), Why::Host, "the network of this host itself"),
            (file("/etc/passwd"), Why::Failed, "no namespace"),
            (file("/dev/zero"), Why::Failed, "no namespace"),
            (file(fifo.to_str().unwrap()), Why::Failed, "no namespace"),
            (file(&format!("/proc/{}/ns/mnt", sleeper.pid())), Why::Failed, "Invalid argument"),
            (file("/run/netns/there-is-none"), Why::NotThere, "No such file"),
            (other_start, Why::NotThere, "its number is another one's"),
            (gone, Why::NotThere, "No such file"),
            (Place::Container("a".repeat(64).parse().unwrap()), Why::NotThere, "container aaaaaaaaaaaa"),
        ] {
            let refusal = served.refusal(&place);
            assert!(refusal.why == why && refusal.text.contains(said), "{place}: {refusal:?}");
        }
    });
}

#[test]
fn a_malformed_packet_is_answered_and_ends_the_connection_and_no_other() {
    in_namespace(|| {
        let served = Served::new();
        let sleeper = Sleeper::start();
        let long = vec![1; 100_000];
        for packet in [&[0_u8][..], b"GET / HTTP/1.1\r\n\r\n", &[1, 1, 0, 5], &[1, 77, 0, 0], &long] {
            let connection = served.connect();
            connection.send(packet, &[]).unwrap();
            let answer = Answer::decode(&connection.receive(LONGEST_ANSWER).unwrap().unwrap()).unwrap();
            let Answer::Refused(refusal) = answer else { panic!("{answer:?}") };
            assert!(refusal.why == Why::Malformed && refusal.text.starts_with("the request is refused: "));
            assert!(connection.receive(LONGEST_ANSWER).map_or(true, |end| end.is_none()), "it goes on");
        }
        // Descriptors that nobody asked for are closed, and one that hangs up is no harm.
        let connection = served.connect();
        let many: Vec<OwnedFd> = (0..50).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let many: Vec<_> = many.iter().map(AsFd::as_fd).collect();
        connection.send(&Request::Open(sleeper.place()).encode(), &many).unwrap();
        drop(connection);
        served.client.open(&sleeper.place()).unwrap();
    });
}

#[test]
fn more_connections_than_the_agent_needs_are_closed_and_room_comes_back() {
    in_namespace(|| {
        let served = Served::new();
        let sleeper = Sleeper::start();
        let ask = |connection: &Packets| {
            let _ = connection.send(&Request::Open(sleeper.place()).encode(), &[]);
            connection.receive_with_descriptors(LONGEST_ANSWER).ok().flatten().is_some()
        };
        let open: Vec<Packets> = (0..CONNECTIONS).map(|_| served.connect()).collect();
        assert!(open.iter().all(ask));
        assert!(!ask(&served.connect()), "one more is served");
        drop(open);
        let mut tries = 0;
        while served.client.open(&sleeper.place()).is_err() {
            tries += 1;
            assert!(tries < 1000, "there is no room any more");
            thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn a_helper_that_systemd_started_ends_when_nobody_is_connected_any_more() {
    in_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let listener = packet::listen_at(&folder.path().join("guests.sock")).unwrap();
        let helper = Helper::new(PathBuf::from("/nobody"), Uid::from_raw(0)).unwrap();
        let serving = thread::spawn(move || helper.serve(listener.as_fd(), Some(Duration::from_millis(50))));
        let client = Client::in_folder(folder.path());
        let watch = client.watch().unwrap();
        assert!(matches!(watch.next().unwrap(), Word::Away(_)));
        thread::sleep(Duration::from_millis(200));
        assert!(!serving.is_finished(), "it ends although the agent is connected");
        drop(watch);
        let ended: io::Result<()> = serving.join().unwrap();
        ended.unwrap();
    });
}

#[test]
fn another_user_is_not_served() {
    in_namespace(|| {
        let served = Served::new();
        let folder = served.folder.path();
        run(&format!("chmod 755 {0}; chmod 666 {0}/guests.sock", folder.display()));
        // Prints how many bytes the answer to a request has.
        let script = "use Socket; socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die; connect(S, sockaddr_un($ARGV[0])) or die $!; \
                      send(S, pack('C4', 1, 1, 0, 0), 0x4000); recv(S, $answer, 100, 0); print length($answer)";
        let socket = folder.join("guests.sock");
        let ask = |user: &str| {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), "--clear-groups", "perl", "-e", script]).arg(&socket);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
        };
        assert_eq!(ask("12345"), 0, "another user is served");
        assert!(ask("65534") > 0, "the agent's user is not served");
        assert!(ask("0") > 0, "root is not served");
    });
}
