//! The command line as a user meets it: the real program, no etcd, no network.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

/// Runs the program with nothing but these variables.
fn agent(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wire-agent"));
    command.args(args).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn refused(args: &[&str], variables: &[(&str, &str)], status: i32, because: &str) {
    let output = agent(args, variables);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {}", said(&output));
    assert!(said(&output).contains(because), "{args:?} does not say {because:?}: {}", said(&output));
}

#[test]
fn help_teaches_flags_and_exit_statuses() {
    for help in ["--help", "-help", "-h"] {
        let output = agent(&[help], &[]);
        assert!(output.status.success());
        assert!(said(&output).contains("--etcd-endpoints"), "{help}");
        assert!(said(&output).contains("78  the network config in etcd is wrong"), "{help}");
    }
    assert!(agent(&["--version"], &[]).status.success());
    assert!(said(&agent(&["-version"], &[])).starts_with("wire-agent "));
}

#[test]
fn what_makes_no_sense_is_refused_with_status_64_and_its_name() {
    refused(&["--no-such-flag"], &[], 64, "--no-such-flag");
    refused(&["-no-such-flag=1"], &[], 64, "no-such-flag");
    refused(&["--ip-masq=perhaps"], &[], 64, "--ip-masq");
    refused(&["--subnet-lease-renew-margin=0"], &[], 64, "--subnet-lease-renew-margin");
    refused(&["--subnet-lease-renew-margin", "1440"], &[], 64, "1..=1439");
    refused(&["--iptables-resync=0"], &[], 64, "--iptables-resync");
    refused(&["--healthz-port=65536"], &[], 64, "--healthz-port");
    refused(&["--public-ip=10.0.0"], &[], 64, "--public-ip");
    for nobodys in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        refused(
            &[&format!("--public-ip={nobodys}")],
            &[],
            64,
            &format!("--public-ip={nobodys}: other hosts can reach no host"),
        );
    }
    refused(&["--public-ipv6=::1"], &[], 64, "--public-ipv6=::1: other hosts can reach no host");
    refused(&["--iface-can-reach=here"], &[], 64, "--iface-can-reach");
    refused(&["--iface-regex=eth["], &[], 64, "--iface-regex");
    refused(&["--subnet-lease-ttl=soon"], &[], 64, "--subnet-lease-ttl");
    refused(&["--etcd-endpoints="], &[], 64, "--etcd-endpoints");
    refused(&["--etcd-endpoints=ftp://x y"], &[], 64, "ftp://x y");
    refused(&["--etcd-certfile=/x.pem"], &[], 64, "--etcd-keyfile");
    refused(&["--etcd-password=secret"], &[], 64, "--etcd-username");
    refused(&["frobnicate"], &[], 64, "frobnicate");
}

#[test]
fn kubernetes_flags_are_refused_with_a_clear_line() {
    refused(&["-kube-subnet-mgr"], &[], 64, "does not work with Kubernetes");
    refused(&["--kube-api-url", "http://x"], &[], 64, "--kube-api-url");
    refused(&[], &[("FLANNELD_KUBE_SUBNET_MGR", "true")], 64, "FLANNELD_KUBE_SUBNET_MGR: wire-agent keeps its leases");
    refused(
        &[],
        &[("WIRE_AGENT_KUBE_API_URL", "http://x")],
        64,
        "WIRE_AGENT_KUBE_API_URL: wire-agent keeps its leases",
    );
}

/// What the agent says before it is stopped by a pattern that is none.
const STOP: &str = "-iface-regex=[";

#[test]
fn flags_of_kubernetes_and_of_gos_log_are_no_reason_not_to_start() {
    for flag in [
        "-net-config-path=/etc/kube-flannel/net-conf.json",
        "-kube-annotation-prefix=flannel.alpha.coreos.com",
        "-set-node-network-unavailable=true",
        "-use-multi-cluster-cidr",
        "-use-multi-cluster-cidr=true",
        "-persistent-mac",
        "--persistent-mac=false",
        "--kubeconfig-file=/x",
        "-kube-subnet-mgr=false",
        "-logtostderr",
        "-logtostderr=true",
        "--logtostderr=false",
        "-alsologtostderr",
        "-stderrthreshold=ERROR",
        "-log_dir=/x",
        "-log_file=/x",
        "-skip_headers",
        "-vmodule=main=2",
        "-log_backtrace_at=main.go:7",
        "-log_file_max_size=1",
        "-log_link=/x",
        "-logbuflevel=0",
        "-skip_log_headers",
        "-add_dir_header",
        "-one_output",
        "-v=10",
        // Any address, as for flannel.
        "-healthz-ip=",
    ] {
        refused(&[flag, STOP], &[], 64, "is not a regular expression");
    }
    refused(&[STOP], &[("EVENT_QUEUE_DEPTH", "5000")], 64, "is not a regular expression");
    for variable in ["FLANNELD_USE_MULTI_CLUSTER_CIDR", "FLANNELD_PERSISTENT_MAC"] {
        refused(&[STOP], &[(variable, "true")], 64, "is not a regular expression");
        refused(&[STOP], &[(&variable.replace("FLANNELD", "WIRE_AGENT"), "perhaps")], 64, "true or false");
    }
}

#[test]
fn flags_that_no_flannel_has_any_more_are_refused_by_a_sentence() {
    for flag in ["-remote=x:8888", "-remote-keyfile=/x", "-remote-certfile=/x", "-remote-cafile=/x", "-listen=:8888"] {
        refused(&[flag], &[], 64, "name etcd's members with --etcd-endpoints");
    }
    refused(&["-networks=a,b"], &[], 64, "--networks: a host belongs to one network: name it with --etcd-prefix");
    refused(&["-subnet-dir=/x"], &[], 64, "--subnet-dir: a host has one subnet: name its file with --subnet-file");
    refused(&["-listn=:8888"], &[], 64, "'--listn'");
    refused(&["-logtostdrr"], &[], 64, "'--logtostdrr'");
}

#[test]
fn a_boolean_with_its_value_apart_is_told_the_right_form() {
    for flag in [
        "ip-masq",
        "ip-masq-fully-random-disable",
        "iptables-forward-rules",
        "peers-only",
        "flowtable",
        "ip-blackhole-route",
        "userspace-vxlan",
        "forward-source-check",
        "logtostderr",
        "kube-subnet-mgr",
    ] {
        refused(&[&format!("--{flag}"), "true"], &[], 64, &format!("write --{flag}=true"));
        refused(&[&format!("-{flag}"), "0", "status"], &[], 64, &format!("write --{flag}=0"));
    }
    refused(&["--ip-masq=true", "false"], &[], 64, "write --ip-masq=false");
}

#[test]
fn a_variable_that_cannot_be_read_is_named_and_flannels_is_passed_over_as_flannel_does() {
    for (variable, value) in [
        ("IP_MASQ", "yes"),
        ("V", "info"),
        ("SUBNET_LEASE_RENEW_MARGIN", "1h"),
        ("IPTABLES_RESYNC", "5s"),
        ("HEALTHZ_PORT", "http"),
    ] {
        let (flannels, ours) = (format!("FLANNELD_{variable}"), format!("WIRE_AGENT_{variable}"));
        refused(&[STOP], &[(&flannels, value)], 64, "is not a regular expression");
        refused(&[STOP], &[(&ours, value)], 64, &ours);
        // A flag on the line wins, so that the variable is of no interest.
        let flag = format!("--{}=1", variable.to_lowercase().replace('_', "-"));
        refused(&[&flag, STOP], &[(&ours, value)], 64, "is not a regular expression");
    }
    // What flannel refuses too.
    refused(&[STOP], &[("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "2000")], 64, "FLANNELD_SUBNET_LEASE_RENEW_MARGIN");
    refused(&[STOP], &[("FLANNELD_PUBLIC_IP", "10.0.0")], 64, "FLANNELD_PUBLIC_IP");
    refused(
        &[STOP],
        &[("WIRE_AGENT_SUBNET_LEASE_TTL", "soon")],
        64,
        "the variable WIRE_AGENT_SUBNET_LEASE_TTL is \"soon\"",
    );
    // Ours is read and flannel's is not.
    refused(&[STOP], &[("FLANNELD_V", "info"), ("WIRE_AGENT_V", "1")], 64, "is not a regular expression");
}

#[test]
fn a_password_comes_from_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let flag = format!("--etcd-password-file={}", file.display());
    refused(&[&flag], &[], 64, "need --etcd-username");
    let both = "give one of them";
    refused(&[&flag, "--etcd-username=u", "--etcd-password=x"], &[], 64, both);
    refused(&[&flag, "--etcd-username=u"], &[("FLANNELD_ETCD_PASSWORD", "x")], 64, both);
    refused(
        &["--etcd-username=u"],
        &[("WIRE_AGENT_ETCD_PASSWORD_FILE", "/x"), ("FLANNELD_ETCD_PASSWORD", "x")],
        64,
        both,
    );
    refused(
        &["--etcd-username=u", "--etcd-password-file=", STOP],
        &[("FLANNELD_ETCD_PASSWORD", "x")],
        64,
        "is not a regular expression",
    );
    let missing = [("FLANNELD_ETCD_PASSWORD_FILE", "/nowhere/password")];
    refused(
        &["--etcd-username=u", "config", "get"],
        &missing,
        64,
        "cannot read the password /nowhere/password: No such file",
    );
    std::fs::write(&file, "\n").unwrap();
    refused(&["--etcd-username=u", &flag, "config", "get"], &[], 64, "is empty: write the password into it");
}

#[test]
fn variables_fill_in_for_flags_and_a_flag_wins() {
    refused(&[], &[("FLANNELD_IFACE_REGEX", "eth[")], 64, "FLANNELD_IFACE_REGEX \"eth[\" is not a regular expression");
    refused(
        &[],
        &[("WIRE_AGENT_IFACE_REGEX", "eth[")],
        64,
        "WIRE_AGENT_IFACE_REGEX \"eth[\" is not a regular expression",
    );
    refused(
        &[],
        &[("WIRE_AGENT_PUBLIC_IP", "127.0.0.1")],
        64,
        "WIRE_AGENT_PUBLIC_IP=127.0.0.1: other hosts can reach no host",
    );
    refused(&[], &[("FLANNELD_ETCD_CERTFILE", "/x")], 64, "FLANNELD_ETCD_CERTFILE and --etcd-keyfile belong together");
    refused(&["-iface-regex=c["], &[("WIRE_AGENT_IFACE_REGEX", "b[")], 64, "--iface-regex \"c[\"");
    // Ours wins over flannel's, a flag over both, and an empty one is none.
    refused(&[], &[("FLANNELD_IFACE_REGEX", "a["), ("WIRE_AGENT_IFACE_REGEX", "b[")], 64, "\"b[\"");
    refused(&[], &[("FLANNELD_IFACE_REGEX", "a["), ("WIRE_AGENT_IFACE_REGEX", "")], 64, "\"a[\"");
    // flannel has no --run-dir, so that its variable for one means nothing.
    refused(&["status"], &[("WIRE_AGENT_RUN_DIR", "/nowhere/a"), ("FLANNELD_RUN_DIR", "/nowhere/b")], 69, "/nowhere/a");
}

#[test]
fn go_booleans_are_understood_on_the_line_and_in_variables() {
    for (args, variables) in [
        (vec!["-ip-masq", "-iface-regex=["], vec![]),
        (vec!["--ip-masq=F", "-iface-regex=["], vec![]),
        (vec!["-iface-regex=["], vec![("FLANNELD_IP_MASQ", "1")]),
        (vec!["-iface-regex=["], vec![("FLANNELD_IP_MASQ", "t")]),
    ] {
        // The boolean is understood: what is refused is the pattern.
        refused(&args, &variables, 64, "--iface-regex \"[\"");
    }
}

#[test]
fn a_config_is_validated_without_etcd() {
    let valid = agent(&["config", "validate", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"},"Typo":1}"#], &[]);
    assert!(valid.status.success(), "{}", said(&valid));
    for expected in ["\"backend\": \"vxlan\"", "\"hosts\": \"255\"", "10.5.1.0/24", "Typo"] {
        assert!(said(&valid).contains(expected), "{expected}: {}", said(&valid));
    }
    for (config, because) in [
        ("xx{", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "Network"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":8}"#, "SubnetLen is 8"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#, "SubnetLen is 31"),
        (r#"{"Network":"10.5.0.0/24","SubnetLen":25}"#, "SubnetLen is 25"),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}"#, "SubnetMin is 10.5.9.0"),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#, "SubnetMin"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#, "Backend.VNI is \"1\""),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, "Backend.VNI is 16777216"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"carrier-pigeon"}}"#, "carrier-pigeon"),
    ] {
        refused(&["config", "validate", config], &[], 78, because);
    }
}

#[test]
fn docker_options_are_printed_and_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let env = folder.path().join("subnet.env");
    let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    std::fs::write(&env, text).unwrap();
    let env = env.to_str().unwrap();
    let single =
        "DOCKER_OPT_BIP=\"--bip=10.5.52.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n";
    let all = "DOCKER_OPTS=\" --bip=10.5.52.1/24 --ip-masq=false --mtu=1450\"\n";
    let printed = |args: &[&str]| {
        let args: Vec<&str> = ["docker-opts", "-f", env, "-d", "-"].iter().chain(args).copied().collect();
        String::from_utf8(agent(&args, &[]).stdout).unwrap()
    };
    assert_eq!(printed(&[]), format!("{single}{all}"));
    assert_eq!(printed(&["-i", "-c"]), format!("{single}{all}"));
    assert_eq!(printed(&["-i"]), single);
    assert_eq!(printed(&["-c"]), all);
    assert_eq!(printed(&["-c", "-m", "-k", "X"]), "X=\" --bip=10.5.52.1/24 --mtu=1450\"\n");
    let file = folder.path().join("docker.env");
    assert!(agent(&["docker-opts", "-f", env, "-i", "-d", file.to_str().unwrap()], &[]).status.success());
    assert_eq!(std::fs::read_to_string(file).unwrap(), single);
    refused(&["docker-opts", "-f", "/nowhere/subnet.env"], &[], 1, "/nowhere/subnet.env");
    refused(&["docker-opts", "-f", env, "-k", "A B"], &[], 64, "--key");
}

/// Without a bip Docker would start on 172.17.0.0/16.
#[test]
fn a_subnet_env_without_a_subnet_gives_docker_no_options() {
    let folder = tempfile::tempdir().unwrap();
    let (env, daemon) = (folder.path().join("subnet.env"), folder.path().join("daemon.json"));
    let (file, path) = (env.to_str().unwrap(), daemon.to_str().unwrap());
    for text in ["", "\n", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"] {
        std::fs::write(&env, text).unwrap();
        refused(&["docker-opts", "-f", file, "-d", "-"], &[], 1, "neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET");
        refused(&["docker-opts", "-f", file, "--daemon-json", path], &[], 1, "see wire-agent status");
        assert!(!daemon.exists());
    }
}

#[test]
fn docker_options_are_merged_into_daemon_json() {
    let folder = tempfile::tempdir().unwrap();
    let (env, daemon) = (folder.path().join("subnet.env"), folder.path().join("daemon.json"));
    std::fs::write(&env, "FLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n").unwrap();
    std::fs::write(&daemon, "{\n  \"debug\": true,\n  \"bip\": \"172.17.0.1/16\"\n}\n").unwrap();
    let (env, path) = (env.to_str().unwrap(), daemon.to_str().unwrap());
    let first = agent(&["docker-opts", "-f", env, "--daemon-json", path], &[]);
    assert!(first.status.success() && said(&first).contains("is written"), "{}", said(&first));
    let merged = "{\n  \"debug\": true,\n  \"bip\": \"10.5.52.1/24\",\n  \"mtu\": 1450,\n  \"ip-masq\": false\n}\n";
    assert_eq!(std::fs::read_to_string(&daemon).unwrap(), merged);
    let second = agent(&["docker-opts", "-f", env, &format!("--daemon-json={path}")], &[]);
    assert!(second.status.success() && said(&second).is_empty(), "{}", said(&second));
    std::fs::write(&daemon, "debug: true\n").unwrap();
    refused(&["docker-opts", "-f", env, "--daemon-json", path], &[], 1, "not a JSON object");
    assert_eq!(std::fs::read_to_string(&daemon).unwrap(), "debug: true\n");
    refused(&["docker-opts", "-f", env, "--daemon-json", path, "-i"], &[], 64, "--daemon-json");
}

/// A static glibc loads NSS modules that were built for another one, and dies of it.
#[test]
fn nothing_of_the_c_library_that_asks_nss_is_in_the_program() {
    let symbols =
        Command::new("nm").args(["--undefined-only", "--dynamic", env!("CARGO_BIN_EXE_wire-agent")]).output().unwrap();
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    assert!(symbols.contains(" socket@"), "nm says: {symbols}");
    let asks = [
        "getaddrinfo",
        "getnameinfo",
        "gethostby",
        "getservby",
        "getpw",
        "getgr",
        "getnetby",
        "getprotoby",
        "initgroups",
    ];
    let found: Vec<&str> = symbols.lines().filter(|line| asks.iter().any(|name| line.contains(name))).collect();
    assert!(found.is_empty(), "{found:?}");
}
