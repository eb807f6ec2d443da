//! The table of exit statuses and texts.

use super::*;

fn io() -> io::Error {
    io::Error::from_raw_os_error(13)
}

fn store() -> StoreError {
    StoreError::Unavailable { operation: "get", source: Some(Box::new(io())) }
}

fn write() -> WriteError {
    let folder = tempfile::tempdir().unwrap();
    let error = crate::files::write_if_changed(folder.path(), "", crate::files::Durable::No).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /"), "{error}");
    error
}

#[track_caller]
fn ends(exit: impl Into<Exit>, status: u8, text: &str, remedy: Option<&str>) {
    let exit = exit.into();
    assert_eq!(chain(&exit), text);
    assert_eq!(exit.status(), status, "{text}");
    assert_eq!(exit.remedy(), remedy, "{text}");
    let whole = remedy.map_or_else(|| text.to_owned(), |remedy| format!("{text}; {remedy}"));
    assert_eq!(exit.report(), whole);
}

#[test]
fn an_answer_of_no_has_status_1() {
    let (phase, reason) = ("waiting".to_owned(), "etcd: it does not answer".to_owned());
    ends(Exit::NotReady { phase, reason }, 1, "waiting: etcd: it does not answer", None);
    let failure = "replace route 10.5.2.0/24: not allowed".to_owned();
    let text = "not all routes could be written: replace route 10.5.2.0/24: not allowed";
    ends(Exit::RoutesLeft { failure }, 1, text, Some("try again"));
    let failure = "a program is missing".to_owned();
    let text = "not all of the firewall could be removed: a program is missing";
    ends(Exit::FirewallLeft { failure }, 1, text, Some("try again"));
}

#[test]
fn what_attach_says_has_statuses_of_its_own() {
    let said = || "web is not running".to_owned();
    ends(Exit::NotAttached { message: said() }, 1, "web is not running", None);
    ends(Exit::Blocked { reason: said() }, 1, "it is kept, and blocked: web is not running", None);
    ends(Exit::NoGuest { message: said() }, 3, "web is not running", None);
    ends(Exit::Waits { reason: said() }, 4, "it is kept, and waits: web is not running", None);
}

#[test]
fn a_flag_that_is_not_valid_has_status_64() {
    use UsageError::{
        ForwardWithout, HalfIdentity, Kubernetes, NoEndpoint, NoHostsAddress, PasswordWithoutUser, Pattern,
        RefusedAddress, Removed, SameFile, TwoPasswords,
    };
    let text = "--kube-subnet-mgr: wire-agent keeps its leases in etcd and does not work with Kubernetes";
    let remedy = Some("leave it out, or run flanneld there");
    ends(Kubernetes { flag: "kube-subnet-mgr" }, 64, text, remedy);
    ends(Removed { flag: "listen", instead: "it was removed" }, 64, "--listen: it was removed", None);
    let address = "127.0.0.1".parse().unwrap();
    let text = "--public-ip=127.0.0.1: other hosts can reach no host at this address, and refuse a lease with it: \
                give an address at which they reach this host, or remove the flag";
    ends(NoHostsAddress { flag: "--public-ip", address }, 64, text, None);
    let reason = "it is mine".to_owned();
    let text = "--public-ip=127.0.0.1: it is mine, so other hosts refuse a lease with it: give an address at which \
                they reach this host, or remove the flag";
    ends(RefusedAddress { flag: "--public-ip", address, reason }, 64, text, None);
    let text = "--subnet-file and --docker-opts-file are both /f, and each would be written over the other: give \
                each a file of its own";
    ends(SameFile { file: "/f".into() }, 64, text, None);
    let text = "--etcd-certfile and --etcd-keyfile belong together: give both or neither";
    ends(HalfIdentity, 64, text, None);
    ends(PasswordWithoutUser, 64, "--etcd-password and --etcd-password-file need --etcd-username", None);
    let text = "--etcd-password and --etcd-password-file both give a password: give one of them";
    ends(TwoPasswords, 64, text, None);
    let text = "--etcd-endpoints is empty: name at least one member, like http://10.0.0.1:2379";
    ends(NoEndpoint, 64, text, None);
    let text = r#"--forward-without: "x" is none of uso, tso, gso, gro, vxlan"#;
    ends(ForwardWithout { name: "x".to_owned() }, 64, text, None);
    let source = regex::Error::Syntax("unclosed".to_owned());
    let text = r#"--iface-regex "[" is not a regular expression: unclosed"#;
    ends(Pattern { text: "[".to_owned(), source }, 64, text, None);
    let text = "no etcd endpoint is given, for example http://127.0.0.1:2379";
    ends(EtcdSettingsError::NoEndpoint, 64, text, None);
}

#[test]
fn a_host_without_an_underlay_has_status_68() {
    let reason = "no default route".to_owned();
    let text = "no interface for the underlay: no default route";
    ends(Exit::NoUnderlay { reason }, 68, text, Some("choose one with --iface"));
    let text = "--iface=lo: no interface that leads to other hosts can have that name or address: give another, or \
                remove the flag";
    ends(Exit::NoPossibleUnderlay { flags: "--iface=lo".to_owned() }, 68, text, None);
}

#[tokio::test]
async fn an_agent_or_etcd_that_does_not_answer_has_status_69() {
    let dial = tower::service_fn(|_: tonic::transport::Uri| async {
        Err::<hyper_util::rt::TokioIo<tokio::net::UnixStream>, _>(io())
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control");
    let source = endpoint.connect_with_connector(dial).await.unwrap_err();
    let text = "no agent answers on /run/control.sock: transport error: Permission denied (os error 13)";
    let remedy = "is wire-agent running, with the same --run-dir, and are you root?";
    ends(Exit::NoAgent { socket: "/run/control.sock".into(), source }, 69, text, Some(remedy));
    let message = "there is no part".to_owned();
    ends(Exit::Refused { message }, 69, "the agent refuses: there is no part", None);
    let (socket, waited) = ("/run/control.sock".into(), Duration::from_secs(40));
    let text = "the agent on /run/control.sock has not answered for 40s";
    ends(Exit::SilentAgent { socket, waited }, 69, text, None);
    let answer = "etcd does not answer (get): Permission denied (os error 13)";
    ends(store(), 69, answer, None);
    let remedy = "nothing was changed. flanneld works with the routes as they are, but not with wire-agent's \
                  firewall: before you start flanneld, remove the firewall with `wire-agent hand-back \
                  --firewall-only`, which needs no etcd";
    ends(Exit::HandBackStore(store()), 69, answer, Some(remedy));
    ends(Exit::NoAnswer(NoAnswer::Silence), 69, "etcd: it does not answer", None);
    let held = "10.5.7.0-24".parse().unwrap();
    let text = "this network has no 10.5.7.0-24, and no other subnet could be leased yet";
    ends(Exit::NoOtherSubnet { held }, 69, text, None);
}

#[test]
fn an_error_inside_the_agent_has_status_70_and_ends_a_running_one() {
    let denied = |text: &str| format!("{text}: Permission denied (os error 13)");
    ends(Exit::Runtime(io()), 70, &denied("cannot start the async runtime"), None);
    let failed = StartError { name: "firewall", source: io() };
    ends(Exit::Loop(failed), 70, &denied("cannot start the loop of the firewall"), None);
    ends(Exit::Signals(io()), 70, &denied("cannot listen for signals"), None);
    ends(DataplaneError::Open(io()), 70, &denied("cannot open a netlink socket"), None);
    ends(Exit::NoSubnetHeld, 70, "the subnet held last is not known", None);
    ends(Exit::NoLeaseHeld, 70, "there is no lease to continue with", None);
    ends(Exit::HolderEnded, 70, "the task that holds the lease has ended", None);
    ends(Exit::PartDied { part: "the dataplane" }, 70, "the dataplane has died", None);
    assert!(Exit::HolderEnded.is_fatal_while_running());
    assert!(!Exit::from(store()).is_fatal_while_running());
    assert!(!Exit::NoDevice { summary: String::new() }.is_fatal_while_running());
}

#[test]
fn a_kernel_without_devices_has_status_71() {
    let summary = "waiting: no TUN device".to_owned();
    ends(Exit::NoDevice { summary }, 71, "waiting: no TUN device", None);
    let no_ipip = "this kernel cannot make IPIP devices, which the network's backend ipip needs: load the module (modprobe ipip) or start a \
                   kernel with CONFIG_NET_IPIP, or set Backend.Type to vxlan in the network config";
    ends(Exit::NoIpip, 71, no_ipip, None);
}

#[test]
fn a_file_that_cannot_be_used_has_status_73() {
    let denied = |text: &str| format!("{text}: Permission denied (os error 13)");
    let folder = || PathBuf::from("/folder");
    let text = denied("cannot read the state in /folder");
    ends(Exit::StateUnread { folder: folder(), source: io() }, 73, &text, Some("see --state-dir"));
    let unwritten = write();
    let text = chain(&unwritten);
    ends(Exit::StateUnwritten(unwritten), 73, &text, Some("see --state-dir"));
    let unwritten = write();
    let text = chain(&unwritten);
    ends(unwritten, 73, &text, None);
    let text = denied("cannot make /folder");
    ends(Exit::LockUnmade { path: folder(), source: io() }, 73, &text, Some("see --run-dir"));
    ends(Exit::SocketUnmade { path: folder(), source: io() }, 73, &text, None);
    ends(Exit::Stdout(io()), 73, &denied("cannot write to standard output"), None);
    ends(Exit::Generate { folder: folder(), source: io() }, 73, &denied("cannot write into /folder"), None);
}

#[test]
fn another_agent_has_status_75_and_a_missing_capability_77() {
    let text = "another wire-agent holds /run/lock: stop it, or give each an --network of its own";
    let taken = Exit::Taken(Taken::Device { device: "flannel.1".parse().unwrap(), network: "blue".to_owned() });
    let remedy = Some("give one of the networks another VNI, or with udp or ipip a network namespace of its own");
    ends(taken, 75, "the device flannel.1 belongs to network blue, which runs in this network namespace too", remedy);
    ends(Exit::LockHeld { path: "/run/lock".into() }, 75, text, None);
    let text = "wire-agent needs CAP_NET_ADMIN to program the network: run it as root, or give its unit \
                AmbientCapabilities=CAP_NET_ADMIN";
    ends(Exit::NoCapability, 77, text, None);
}

#[test]
fn a_network_config_that_cannot_be_used_has_status_78() {
    ends(ConfigError::NoObject, 78, "the network config is no JSON object", None);
    let prefix = KeyPrefix::new("/coreos.com/network");
    let text = "/coreos.com/network/config: the network config is no JSON object";
    let remedy = Some("correct it with wire-agent config set");
    ends(Exit::StoredConfig { prefix, source: ConfigError::NoObject.into() }, 78, text, remedy);
    let text = "the backend wireguard is not in this version: set Backend.Type to vxlan in the network config";
    ends(SelectError::NotYet("wireguard".to_owned()), 78, text, None);
}

#[test]
fn a_command_about_the_network_config_names_the_reason() {
    use ConfigCommandError::{Exists, Json, Missing, Stdin};
    let prefix = KeyPrefix::new("/coreos.com/network");
    let text = "etcd has no network config at /coreos.com/network/config: write one with wire-agent config init \
                '{\"Network\":\"10.5.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}'; a config written with etcd's v2 \
                API (etcdctl before 3.4 without ETCDCTL_API=3) is in another store, which the v3 API does not see";
    ends(Missing { prefix }, 1, text, None);
    ends(Exists, 1, "there is a network config already, nothing was changed", None);
    ends(Stdin(io()), 64, "standard input cannot be read: Permission denied (os error 13)", None);
    let error = serde_json::from_str::<u8>("x").unwrap_err();
    ends(Json(error), 70, "expected value at line 1 column 1", None);
}

#[test]
fn docker_opts_names_the_file_and_the_next_step() {
    use DockerOptsError::{BesideFlags, DaemonJson, Key, NotValid, OutputIsInput, Unread};
    let key = "A B".to_owned();
    ends(Key { key }, 64, r#"--key "A B" cannot be the name of a variable"#, None);
    let text = "/out is /in, the file that the agent writes and that the options are read from: choose another \
                output file";
    ends(OutputIsInput { output: "/out".into(), input: "/in".into() }, 64, text, None);
    let remedy = "the agent writes it once it has a subnet, see wire-agent status";
    let text = "cannot read /in: Permission denied (os error 13)";
    ends(Unread { file: "/in".into(), source: io() }, 1, text, Some(remedy));
    let reason = "it has no subnet".to_owned();
    ends(NotValid { file: "/in".into(), reason }, 1, "/in: it has no subnet", None);
    let text = "docker.service already gives dockerd these options as flags ($DOCKER_OPT_BIP), and dockerd does not \
                start with both: /d.json was not changed";
    ends(BesideFlags { settings: "/d.json".into() }, 1, text, Some("restart Docker to apply the flags"));
    let unread = crate::daemon_json::DaemonJsonError::Read { path: "/d.json".into(), source: io() };
    ends(DaemonJson(unread), 1, "cannot read /d.json: Permission denied (os error 13)", None);
    let unwritten = write();
    let text = chain(&unwritten);
    ends(DaemonJson(crate::daemon_json::DaemonJsonError::Write(unwritten)), 73, &text, None);
}

#[test]
fn drain_names_each_thing_that_is_left() {
    use DrainError::{Docker, Incomplete, LeaseLeft, StateUnread};
    let text = "cannot read the state in /folder: Permission denied (os error 13)";
    ends(StateUnread { folder: "/folder".into(), source: io() }, 73, text, None);
    let text = "the lease was not given back: etcd does not answer (get): Permission denied (os error 13)";
    ends(LeaseLeft(store()), 69, text, Some("run wire-agent drain again, or let the lease expire"));
    let text = "cannot read /f: Permission denied (os error 13)";
    ends(Docker(crate::daemon_json::DaemonJsonError::Read { path: "/f".into(), source: io() }), 1, text, None);
    let failures = ["one", "two"].map(str::to_owned).to_vec();
    let text = "not everything could be removed, run wire-agent drain again: one; two";
    ends(Incomplete { failures }, 1, text, None);
}
