use std::fs;

use serde_json::json;

use super::*;
use crate::daemon_json::{DaemonOptions, Held};

const UNIT: &str = "/usr/lib/systemd/system/docker.service";
const REPLACED: &str = "/etc/systemd/system/docker.service";
const FLANNEL: &str = "/etc/systemd/system/docker.service.d/10-flannel.conf";
const CE: &str = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n";
const DEBIAN: &str = "[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=/usr/sbin/dockerd -H fd:// \
                      --containerd=/run/containerd/containerd.sock $DOCKER_OPTS\n";

/// A root with these files.
struct Root(tempfile::TempDir);

impl Root {
    fn with(files: &[(&str, &str)]) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = root.0.path().join(&path[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn unit(&self) -> DockerUnit {
        DockerUnit::read_without_ours(self.0.path())
    }

    fn settings(&self) -> Held {
        daemon_json::held(&self.0.path().join(&self.unit().settings_path().display().to_string()[1..]))
    }

    fn warning(&self) -> Option<String> {
        self.unit().warning(&options(), &self.settings())
    }
}

/// The chosen drop-in, and all notes.
fn told(files: &[(&str, &str)]) -> (&'static str, String) {
    let root = Root::with(files);
    let (unit, settings) = (root.unit(), root.settings());
    let drop_in = unit.drop_in(&settings);
    (drop_in.name(), unit.notes(drop_in, &options(), &settings).join("\n"))
}

fn options() -> DaemonOptions {
    vec![("bip", json!("10.5.7.1/24")), ("fixed-cidr-v6", json!("fd00:5:0:7::/64"))]
}

#[test]
fn each_tie_of_docker_to_flanneld_is_named_with_its_file() {
    for (path, text, how) in [
        ("/etc/systemd/system/docker.service.requires/flanneld.service", "", "systemctl disable --now"),
        ("/usr/lib/systemd/system/docker.service.requires/flanneld.service", "", "remove it"),
        (
            REPLACED,
            "[Unit]\nRequires=flanneld.service\n[Service]\nExecStart=/usr/bin/dockerd -H fd://\n",
            "(line 2, Requires=)",
        ),
        (FLANNEL, "[Unit]\nRequires = flanneld.service\n", "(line 2, Requires=)"),
        (FLANNEL, "[Unit]\nBindsTo= network.target \\\n flanneld.service\n", "(line 2, BindsTo=)"),
        (FLANNEL, "[Unit]\n\nPartOf=flanneld.service\n", "(line 3, PartOf=)"),
        (FLANNEL, "[Unit]\nRequisite=\"flanneld.service\"\n", "(line 2, Requisite=)"),
        ("/usr/lib/systemd/system/docker.service.d/flannel.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        ("/usr/local/lib/systemd/system/docker.service.d/f.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        ("/lib/systemd/system/docker.service.d/f.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        ("/run/systemd/system/docker.service.d/f.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        ("/etc/systemd/system/service.d/f.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        ("/etc/systemd/system/docker.socket.d/f.conf", "[Unit]\nRequires=flanneld.service\n", "remove it"),
        (
            "/etc/systemd/system/flanneld.service",
            "[Unit]\nPropagatesStopTo=docker.service\n",
            "(line 2, PropagatesStopTo=)",
        ),
    ] {
        let (_, said) = told(&[(UNIT, CE), (path, text)]);
        let named = said.contains(path) && said.contains("ties Docker to flanneld.service") && said.contains(how);
        assert!(named && said.lines().count() == 1, "{path}: {said}");
    }
    let (_, said) = told(&[(UNIT, CE), (FLANNEL, "[Unit]\nWants=flanneld.service\n")]);
    assert!(said.contains("(line 2, Wants=) lets Docker start flanneld.service"), "{said}");
    for harmless in
        ["[Unit]\n#Requires=flanneld.service\n", "[Unit]\nAfter=flanneld.service\n", "[Unit]\nRequires=a.service\n"]
    {
        assert_eq!(told(&[(UNIT, CE), (FLANNEL, harmless)]).1, "");
    }
}

#[test]
fn a_drop_in_hides_those_of_its_name_in_later_folders() {
    let hidden = ("/usr/lib/systemd/system/docker.service.d/10-flannel.conf", "[Unit]\nRequires=flanneld.service\n");
    assert_eq!(told(&[(UNIT, CE), hidden, (FLANNEL, "")]).1, "");
}

#[test]
fn a_unit_that_gives_docker_its_subnet_by_itself_is_told_nothing() {
    let line = "ExecStart=/usr/bin/dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU}";
    let continued = "ExecStart=\nExecStart=/usr/bin/dockerd \\\n  --bip=${FLANNEL_SUBNET} \\\n  --mtu=${FLANNEL_MTU}";
    for (path, line) in [
        (REPLACED, line),
        (FLANNEL, continued),
        (REPLACED, "ExecStart=/bin/sh -c 'exec dockerd --bip=$$FLANNEL_SUBNET'"),
    ] {
        for env in [None, Some("FLANNEL_SUBNET=10.5.65.1/24\nFLANNEL_MTU=1450\n")] {
            let unit = format!("[Service]\nEnvironmentFile=/run/flannel/subnet.env\n{line}\n");
            let files =
                [Some((UNIT, CE)), Some((path, unit.as_str())), env.map(|env| ("/run/flannel/subnet.env", env))];
            let files: Vec<_> = files.into_iter().flatten().collect();
            assert_eq!(told(&files), ("networks", String::new()), "{line}");
        }
    }
}

#[test]
fn flags_of_the_operators_are_named_and_never_doubled() {
    for (line, flag) in [
        ("--bip=10.0.0.1/24", "--bip=10.0.0.1/24"),
        ("--bip 10.0.0.1/24", "--bip=10.0.0.1/24"),
        ("--mtu=9000", "--mtu=9000"),
    ] {
        let own = format!("[Service]\nExecStart=\nExecStart=/usr/bin/dockerd {line}\n");
        let (kind, said) = told(&[(UNIT, CE), (FLANNEL, &own)]);
        assert!(
            kind == "networks" && said.contains(&format!("10-flannel.conf sets {flag} in line 3")),
            "{kind}: {said}"
        );
    }
    // dockerd would refuse a key that is set as a flag too.
    let root = Root::with(&[(UNIT, "[Service]\nExecStart=/usr/bin/dockerd --mtu=9000\n")]);
    let held = Held { keys: vec!["bip"], ..Held::default() };
    assert_eq!(root.unit().drop_in(&held), DropIn::Networks);
    assert_eq!(Root::with(&[(UNIT, CE)]).unit().drop_in(&held), DropIn::DaemonJson);
}

#[test]
fn what_the_files_of_the_environment_give_dockerd_is_known() {
    for (options, kind, named) in [
        ("-b br0", "networks", "--bridge=br0"),
        ("-bbr0", "networks", "--bridge=br0"),
        ("--bridge=none", "networks", "--bridge=none"),
        ("--bip=172.30.0.1/24", "replaces", "--bip=172.30.0.1/24"),
        ("--debug --mtu 1400", "replaces", "--mtu=1400"),
        ("--debug", "replaces", ""),
    ] {
        let environment = format!("# --bip=1.2.3.4/5\nDOCKER_OPTS=\"{options}\"\n");
        let (chosen, said) = told(&[(UNIT, DEBIAN), ("/etc/default/docker", &environment)]);
        assert_eq!(chosen, kind, "{options}");
        let says_so = if named.is_empty() {
            said.is_empty()
        } else {
            said.contains(&format!("/etc/default/docker sets {named} in line 2"))
        };
        assert!(says_so, "{options}: {said}");
    }
    // A variable that the line does not expand has no effect.
    let own = "[Service]\nExecStart=\nEnvironment=\"X=-b br0\"\nExecStart=/usr/bin/dockerd --debug\n";
    assert_eq!(told(&[(UNIT, CE), (FLANNEL, own)]), ("daemon-json", String::new()));
    let (kind, said) = told(&[(UNIT, CE), (FLANNEL, &own.replace("--debug", "$X"))]);
    assert!(kind == "networks" && said.contains("10-flannel.conf sets --bridge=br0 in line 3"), "{said}");
}

#[test]
fn files_that_mk_docker_opts_has_left_are_named() {
    let stale =
        ("/run/flannel/docker", "DOCKER_OPTS=\" --bip=10.5.9.1/24\"\nDOCKER_NETWORK_OPTIONS=\" --bip=10.5.9.1/24\"\n");
    let with_file = |line: &str| format!("[Service]\nEnvironmentFile=/run/flannel/docker\n{line}");
    let own = with_file("ExecStart=\nExecStart=/usr/bin/dockerd $DOCKER_NETWORK_OPTIONS\n");
    let expands = with_file("ExecStart=\nExecStart=/usr/bin/dockerd $DOCKER_OPT_BIP\n");
    let known = DEBIAN.replace("-/etc/default/docker", "-/run/flannel/docker");
    for (name, files, kind) in [
        ("expanded by a drop-in", vec![(UNIT, CE), (FLANNEL, own.as_str()), stale], "networks"),
        ("expanded by a drop-in, after a reboot", vec![(UNIT, CE), (FLANNEL, own.as_str())], "daemon-json"),
        ("read by the unit itself", vec![(UNIT, known.as_str()), stale], "replaces"),
        ("read by a drop-in", vec![(UNIT, DEBIAN), (FLANNEL, &with_file("")), stale], "replaces"),
        ("a variable of other options", vec![(UNIT, CE), (FLANNEL, expands.as_str())], "expands"),
    ] {
        let (chosen, said) = told(&files);
        let named = said.contains("reads /run/flannel/docker in line 2, which wire-agent does not write");
        assert!(chosen == kind && named, "{name}: {chosen}: {said}");
        assert_eq!(said.contains("it holds"), files.contains(&stale), "{name}: {said}");
    }
    // Files that the agent writes or our drop-ins read are not leftovers.
    let ours =
        "[Service]\nEnvironmentFile=/run/flannel/flannel_docker_opts.env\nEnvironmentFile=/run/wire-agent-docker.env\n";
    assert_eq!(told(&[(UNIT, DEBIAN), (FLANNEL, ours)]), ("replaces", String::new()));
    let lost = "[Service]\nEnvironmentFile=/etc/sysconfig/docker\n";
    assert!(told(&[(UNIT, CE), (FLANNEL, lost)]).1.contains("which is not there: Docker does not start without it"));
    // systemd does not read a file after an empty EnvironmentFile=.
    assert_eq!(
        told(&[(UNIT, DEBIAN), (FLANNEL, "[Service]\nEnvironmentFile=/run/flannel/docker\nEnvironmentFile=\n")]).1,
        ""
    );
}

#[test]
fn the_settings_file_is_the_one_that_dockerd_reads() {
    let elsewhere = |line: &str| Root::with(&[(UNIT, &format!("[Service]\nExecStart=/usr/bin/dockerd {line}\n"))]);
    for (line, file) in [
        ("", daemon_json::PATH),
        ("--config-file=", daemon_json::PATH),
        ("--config-file=/srv/docker.json", "/srv/docker.json"),
        ("--config-file srv/docker.json", "/srv/docker.json"),
    ] {
        assert_eq!(elsewhere(line).unit().settings_path(), Path::new(file), "{line}");
    }
    let unit = "[Service]\nExecStart=/usr/bin/dockerd --config-file=/srv/docker.json --mtu=1450\n";
    for (settings, chosen) in [(daemon_json::PATH, "networks"), ("/srv/docker.json", "networks")] {
        let (kind, said) = told(&[(UNIT, unit), (settings, r#"{"mtu": 1450}"#)]);
        assert_eq!(
            (kind, said.contains("and /srv/docker.json sets mtu")),
            (chosen, settings != daemon_json::PATH),
            "{said}"
        );
    }
}

#[test]
fn status_and_notes_name_what_keeps_docker_from_starting() {
    let refused = "and dockerd refuses to start with both";
    let unused = "and a newer Docker (28) starts no container with both";
    for (flag, consequence) in [
        ("--default-gateway=172.17.0.254", refused),
        ("--default-gateway-v6=fd00:9::1", refused),
        ("--fixed-cidr=172.17.0.0/25", unused),
        ("--bip6=fd00:9::1/64", unused),
    ] {
        let unit = format!("[Service]\nExecStart=/usr/bin/dockerd {flag}\n");
        for said in [Root::with(&[(UNIT, &unit)]).warning().unwrap(), told(&[(UNIT, &unit)]).1] {
            let named = format!("{UNIT} sets {flag} in line 2, which is not in ");
            assert!(said.starts_with(&named) && said.ends_with(&format!("{consequence}: remove it")), "{said}");
        }
    }
    let right = "--default-gateway=10.5.7.9 --bip=10.5.7.1/24 --fixed-cidr=10.5.7.128/25 --bip6=fd00:5:0:7::1/64";
    assert_eq!(Root::with(&[(UNIT, &format!("[Service]\nExecStart=/usr/bin/dockerd {right}\n"))]).warning(), None);
    let root = Root::with(&[(UNIT, CE), (FLANNEL, "[Unit]\nRequires=flanneld.service\n")]);
    assert!(root.warning().unwrap().contains("ties Docker to flanneld.service"));
}

#[test]
fn a_key_of_the_settings_file_that_is_a_flag_too_is_named() {
    let settings = (daemon_json::PATH, r#"{"bip": "10.5.7.1/24", "live-restore": true, "debug": true}"#);
    for (line, key) in [("--bip=10.5.7.1/24", "bip"), ("--live-restore", "live-restore")] {
        let unit = format!("[Service]\nExecStart=/usr/bin/dockerd {line}\n");
        let named =
            format!(" in line 2, and /etc/docker/daemon.json sets {key}, and dockerd refuses to start with both");
        for said in [Root::with(&[(UNIT, &unit), settings]).warning().unwrap(), told(&[(UNIT, &unit), settings]).1] {
            assert!(said.contains(&named), "{said}");
        }
        assert_eq!(Root::with(&[(UNIT, &unit)]).warning(), None);
    }
    assert_eq!(Root::with(&[(UNIT, CE), settings]).warning(), None);
    // Before the file with our flags is there.
    let expands = format!("[Service]\nExecStart=/usr/bin/dockerd $DOCKER_OPT_BIP\nEnvironmentFile=-{FOR_DOCKER}\n");
    let said = Root::with(&[(UNIT, &expands), settings]).warning().unwrap();
    assert!(
        said.starts_with("docker.service gives Docker our --bip as a flag, and /etc/docker/daemon.json sets bip"),
        "{said}"
    );
}

#[test]
fn a_pattern_that_our_file_matches_gives_docker_ours() {
    let unit = |file: &str| format!("[Service]\nExecStart=/usr/bin/dockerd $DOCKER_OPT_BIP\nEnvironmentFile={file}\n");
    let written = (DOCKER_OPTS_FILE, "DOCKER_OPT_BIP=--bip=10.5.7.1/24\n");
    for (pattern, is_ours) in
        [("/run/flannel/*.env", true), ("-/run/flannel/flannel_*", true), ("/run/flannel/docker*", false)]
    {
        let unit = unit(pattern);
        for files in [vec![(UNIT, unit.as_str())], vec![(UNIT, unit.as_str()), written]] {
            let read = Root::with(&files).unit();
            assert_eq!(read.is_given_ours(), is_ours, "{pattern}");
            let has_flag = read.flag("bip").is_some_and(|flag| flag.place.is_in(DOCKER_OPTS_FILE));
            assert_eq!(has_flag, is_ours && files.contains(&written), "{pattern}");
            let (kind, said) = told(&files);
            assert_eq!(
                (kind, said.contains("which wire-agent does not write")),
                ("expands", !is_ours),
                "{pattern}: {said}"
            );
        }
    }
}

#[test]
fn a_unit_that_is_masked_or_not_there_bars_nothing() {
    assert_eq!(told(&[]), ("replaces", String::new()));
    let root = Root::with(&[(UNIT, "[Service]\nExecStart=/usr/bin/dockerd --mtu=1\n")]);
    let masked = root.0.path().join(&REPLACED[1..]);
    fs::create_dir_all(masked.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/null", masked).unwrap();
    assert!(root.unit().flags().is_empty());
}

#[test]
fn a_file_that_is_too_large_is_named_and_not_read() {
    let large = format!("DOCKER_OPTS=--mtu=1\n{}", "#".repeat(1 << 20));
    let (_, said) = told(&[(UNIT, DEBIAN), ("/etc/default/docker", &large)]);
    assert_eq!(said, "/etc/default/docker cannot be read: it is larger than 1024 KiB");
}

#[test]
fn our_own_drop_in_counts_only_for_what_is_so_now() {
    let ours = include_str!("../../../dist/systemd/docker.service.d-replaces/40-wire-agent.conf");
    let environment = "DOCKER_OPT_BIP=\"--bip=10.5.7.1/24\"\n";
    let files =
        [(UNIT, CE), (OURS, ours), ("/run/flannel/flannel_docker_opts.env", environment), (FOR_DOCKER, environment)];
    let root = Root::with(&files);
    assert_eq!(root.unit().drop_in(&Held::default()), DropIn::Replaces);
    assert!(root.unit().flags().is_empty());
    let flags = DockerUnit::read(root.0.path()).flags();
    assert!(flags.iter().any(|flag| flag.says(&vec![("bip", json!("10.5.7.1/24"))])), "{flags:?}");
}
