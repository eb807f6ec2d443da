//! The package's scripts, as dpkg runs them: on a root of its own with this machine's programs, where those that would reach
//! further write down what they were asked.

use std::{
    fs,
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use wire_tests::{Lab, LabError, Result, binary, check, lab};

/// Docker CE's unit, and what Debian's adds.
const CE: &str = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n";
const DEBIAN: &str = "[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS\n";
const OWN: &str = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// --data-root=/srv/docker\n";
const EXPANDING: &str = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd $DOCKER_OPTS $DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ\n";

/// It gives Docker flannel's subnet by itself.
const FED: &str = "[Service]\nEnvironmentFile=/run/flannel/subnet.env\nExecStart=\n\
    ExecStart=/usr/bin/dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU}\n";
const REQUIRES: &str = "[Unit]\nRequires=flanneld.service\n";
/// What flannel's mk-docker-opts.sh had written.
const LEFT_OVER: &str = "[Service]\nEnvironmentFile=/run/flannel/docker\n";

const UNIT: &str = "/usr/lib/systemd/system/docker.service";
const OVERRIDE: &str = "/etc/systemd/system/docker.service.d/override.conf";
const REPLACED: &str = "/etc/systemd/system/docker.service";
const MACHINE: &str = "/etc/systemd/system/docker.service.d/10-machine.conf";
const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const OURS: &str = "/etc/systemd/system/docker.service.d/40-wire-agent.conf";

#[test]
fn the_drop_in_that_is_linked_takes_nothing_away_from_docker() -> Result {
    let lab = lab!();
    let cases: [(&str, &[File], &str); 20] = [
        ("nothing", &[], "replaces"),
        ("ce", &[(UNIT, CE)], "replaces"),
        ("debian", &[(UNIT, DEBIAN)], "replaces"),
        ("flatcar", &[(UNIT, EXPANDING)], "expands"),
        ("log", &[(UNIT, CE), (OVERRIDE, "[Service]\nLimitNOFILE=9\n")], "replaces"),
        ("override", &[(UNIT, CE), (OVERRIDE, OWN)], "daemon-json"),
        ("expanding", &[(UNIT, CE), (OVERRIDE, EXPANDING)], "expands"),
        ("machine", &[(UNIT, CE), (MACHINE, OWN)], "daemon-json"),
        ("unit", &[(UNIT, CE), (REPLACED, OWN)], "daemon-json"),
        ("fed", &[(UNIT, CE), (REPLACED, FED)], "networks"),
        ("fed-by-drop-in", &[(UNIT, CE), (MACHINE, FED)], "networks"),
        ("default", &[(UNIT, DEBIAN), ("/etc/default/docker", "DOCKER_OPTS=\"-b br0\"\n")], "networks"),
        ("debug", &[(UNIT, DEBIAN), ("/etc/default/docker", "DOCKER_OPTS=--debug\n")], "replaces"),
        ("tls", &[(UNIT, CE), (DAEMON_JSON, r#"{"tls": true}"#)], "replaces"),
        ("bip", &[(UNIT, CE), (DAEMON_JSON, r#"{"bip": "10.0.0.1/24"}"#)], "daemon-json"),
        ("spaced", &[(UNIT, CE), (MACHINE, " ExecStart = /usr/local/bin/dockerd --tls\n")], "daemon-json"),
        ("script", &[(UNIT, CE), (MACHINE, "[Service]\nExecStart=\nExecStart=/usr/local/sbin/start\n")], "daemon-json"),
        ("options", &[(UNIT, CE), (DAEMON_JSON, r#"{"default-network-opts": {"bridge": {"a": "b"}}}"#)], "replaces"),
        ("empty", &[(UNIT, CE), (DAEMON_JSON, r#"{"bridge": ""}"#)], "replaces"),
        ("bridge", &[(UNIT, CE), (DAEMON_JSON, r#"{"bridge" : "none"}"#)], "networks"),
    ];
    for (name, files, kind) in cases {
        let debian = Debian::new(&lab, name, files)?;
        debian.run("postinst", "configure ''")?;
        let link = debian.sh(&format!("readlink {OURS}"))?;
        let wanted = format!("/usr/share/wire-agent/docker.service.d-{kind}/40-wire-agent.conf\n");
        check(link == wanted, || format!("{name}: {link}"))?;
    }
    let own = OWN.replace("--data-root=/srv/docker", "--bip=10.0.0.1/24");
    let debian = Debian::new(&lab, "flag", &[(UNIT, CE), (OVERRIDE, &own)])?;
    let said = debian.run("postinst", "configure ''")?;
    check(said.contains("override.conf sets --bip"), || said)?;
    let link = debian.sh(&format!("readlink {OURS}"))?;
    // Merged into daemon.json, ours would keep Docker from starting.
    check(link.contains("d-networks/"), || link)
}

#[test]
fn what_the_files_of_dockers_environment_hold_is_named() -> Result {
    let lab = lab!();
    let options = "DOCKER_OPTS=\"--bip=172.30.0.1/24\"\n";
    let cases: [(&str, &[File], &str); 3] = [
        (
            "bip",
            &[(UNIT, DEBIAN), ("/etc/default/docker", options)],
            "/etc/default/docker sets --bip=172.30.0.1/24 in line 1",
        ),
        ("gone", &[(UNIT, DEBIAN), (MACHINE, LEFT_OVER)], "10-machine.conf reads /run/flannel/docker in line 2"),
        (
            "stale",
            &[(UNIT, DEBIAN), (MACHINE, LEFT_OVER), ("/run/flannel/docker", options)],
            "(it holds DOCKER_OPTS=\"--bip=172.30.0.1/24\")",
        ),
    ];
    for (name, files, named) in cases {
        let said = Debian::new(&lab, name, files)?.run("postinst", "configure ''")?;
        check(said.contains(named), || format!("{name}: {said}"))?;
    }
    Ok(())
}

#[test]
fn what_ties_docker_to_flanneld_is_named_before_the_command_that_stops_flanneld() -> Result {
    let lab = lab!();
    for (number, (path, text)) in [
        (MACHINE, REQUIRES),
        ("/etc/systemd/system/docker.service.requires/flanneld.service", ""),
        (REPLACED, REQUIRES),
        (MACHINE, "[Unit]\nBindsTo = flanneld.service\n"),
        ("/usr/local/lib/systemd/system/docker.service.d/flannel.conf", REQUIRES),
        ("/run/systemd/system/docker.service.d/flannel.conf", "[Unit]\nPartOf=flanneld.service\n"),
    ]
    .into_iter()
    .enumerate()
    {
        // While flanneld runs, and where it only ran before.
        for runs in [Some(("/flanneld", "it runs")), None] {
            let files: Vec<File> = [(UNIT, CE), (path, text)].into_iter().chain(runs).collect();
            let name = format!("tie-{number}-{}", runs.is_some());
            let said = Debian::new(&lab, &name, &files)?.run("postinst", "configure ''")?;
            let tie = said.find(path).filter(|_| said.contains("ties Docker to flanneld.service"));
            let command = said.find("disable --now flanneld &&");
            let right = tie.is_some() && command.is_some() == runs.is_some() && command.is_none_or(|at| tie < Some(at));
            check(right, || format!("{path}: {said}"))?;
        }
    }
    Ok(())
}

#[test]
fn settings_that_were_shipped_for_all_to_read_are_roots_alone_after_an_upgrade() -> Result {
    let lab = lab!();
    let debian = Debian::new(&lab, "mode", &[(UNIT, CE), ("/etc/default/wire-agent", "WIRE_AGENT_ETCD_PASSWORD=x\n")])?;
    let mode = "stat -c %a /etc/default/wire-agent";
    for (before, after) in [("644", "640\n"), ("600", "600\n"), ("664", "664\n")] {
        debian.sh(&format!("chmod {before} /etc/default/wire-agent"))?;
        debian.run("postinst", "configure 0.1.0-1")?;
        let mode = debian.sh(mode)?;
        check(mode == after, || format!("{before} is {mode}"))?;
    }
    Ok(())
}

#[test]
fn a_purge_takes_nothing_from_a_flanneld_that_has_this_host_though_it_is_just_being_restarted() -> Result {
    let lab = lab!();
    for (name, files, taken) in [
        ("runs", &[("/flanneld", "")][..], true),
        ("activating", &[("/is-active", "activating\n")], true),
        ("enabled", &[("/is-enabled", "enabled\n")], true),
        ("its-file", &[("/foreign", "")], true),
        ("disabled", &[("/is-active", "inactive\n"), ("/is-enabled", "disabled\n")], false),
    ] {
        let ours = [
            ("/usr/bin/wire-agent", AGENT),
            (UNIT, CE),
            ("/run/flannel/subnet.env", "FLANNEL_SUBNET=10.5.9.1/24\n"),
            ("/var/lib/wire-agent/state.json", "{}"),
        ];
        let debian = Debian::new(&lab, name, &[&ours[..], files].concat())?;
        // The agent's user has written both, or flanneld, which is root's, the first.
        debian.sh("chown -R 7:7 /run/flannel /var/lib/wire-agent; if test -e /foreign; then chown 0:0 /run/flannel/subnet.env; fi")?;
        debian.run("prerm", "remove")?;
        debian.run("postrm", "remove")?;
        let said = debian.run("postrm", "purge")?;
        let log = debian.sh("cat /log; if test -e /run/flannel/subnet.env; then echo it is there; fi")?;
        let right = if taken {
            said.contains("flanneld has this host")
                && log.contains("hand-back --firewall-only")
                && log.contains("it is there")
        } else {
            log.contains("drain:") && !log.contains("it is there")
        };
        check(right && log.contains("drain:") != taken, || format!("{name}: {said}{log}"))?;
    }
    Ok(())
}

#[test]
fn of_the_agents_own_folder_only_what_root_has_put_there_decides_what_root_does() -> Result {
    let lab = lab!();
    let hostile = "WIRE_AGENT_ETCD_ENDPOINTS=http://192.0.2.9:2379\n";
    for (name, becomes, obeyed) in [
        ("root's", "true", true),
        ("the-agent's", "chown 7 /run/flannel/options.env", false),
        ("a-link", "mv /run/flannel/options.env /x; ln -s /x /run/flannel/options.env", false),
    ] {
        let files = [("/usr/bin/wire-agent", AGENT), (UNIT, CE), ("/run/flannel/options.env", hostile)];
        let debian = Debian::new(&lab, name, &files)?;
        debian.sh(becomes)?;
        debian.run("prerm", "remove")?;
        debian.run("postrm", "purge")?;
        let log = debian.sh("cat /log")?;
        check(log.contains("192.0.2.9") == obeyed && log.contains("drain:"), || format!("{name}: {log}"))?;
    }
    Ok(())
}

#[test]
fn beside_flanneld_nothing_is_started_before_it_is_stopped() -> Result {
    let lab = lab!();
    let debian = Debian::new(&lab, "flanneld", &[(UNIT, CE), ("/flanneld", "it runs")])?;
    let said = debian.run("postinst", "configure ''")?;
    check(said.contains("disable --now flanneld && dpkg-reconfigure wire-agent"), || said)?;
    let log = debian.sh("cat /log")?;
    check(!log.contains("enable") && !log.contains("start"), || log)?;
    debian.sh(&format!("! test -L {OURS} && rm /flanneld"))?;
    // As dpkg-reconfigure does.
    debian.run("postinst", "configure 0.1.0-1")?;
    let log = debian.sh(&format!("readlink {OURS} >/dev/null; cat /log"))?;
    let done = log.contains("deb-systemd-helper enable wire-agent.service")
        && log.contains("systemctl --no-block start wire-agent.service");
    check(done, || log)
}

#[test]
fn an_upgrade_and_an_operators_choice_are_left_alone() -> Result {
    let lab = lab!();
    let debian = Debian::new(&lab, "upgrade", &[(UNIT, CE)])?;
    debian.run("postinst", "configure 0.1.0-1")?;
    let log = debian.sh(&format!("test ! -L {OURS}; cat /log"))?;
    check(log.contains("try-restart wire-agent.service") && !log.contains(" start "), || log)?;
    let debian = Debian::new(&lab, "disabled", &[(UNIT, CE), ("/disabled", ""), ("/var/lib/wire-agent-purge/x", "")])?;
    debian.run("postinst", "configure 0.1.0-1")?;
    let log = debian.sh("test ! -e /var/lib/wire-agent-purge; cat /log")?;
    check(log.contains("is-enabled") && !log.contains(" start "), || log)
}

/// A program that tells what it was called with.
const AGENT: &str = "#!/bin/sh\n\
    echo \"$*: [$WIRE_AGENT_ETCD_ENDPOINTS] [$FLANNELD_ETCD_PREFIX] [$WIRE_AGENT_IP_MASQ] [$PATH_OF]\" >>/log\n\
    [ \"$WIRE_AGENT_IP_MASQ\" != maybe ] || exit 64\n";

const SETTINGS: &str = "# a comment\nWIRE_AGENT_ETCD_ENDPOINTS = \"http://192.0.2.1:2379\"  \n\
    FLANNELD_ETCD_PREFIX='/a b'\nWIRE-AGENT_X=1\nWIRE_AGENT_ODD NAME=1\nPATH_OF=nothing\n WIRE_AGENT_IP_MASQ=";

#[test]
fn a_purge_reads_settings_as_systemd_does_and_ends_well_whatever_they_are() -> Result {
    let lab = lab!();
    for (name, masquerade, drains) in [
        ("purge", "true \n", &["drain: [http://192.0.2.1:2379] [/a b] [true] []"][..]),
        ("refused", "maybe", &["drain: [http://192.0.2.1:2379] [/a b] [maybe] []", "drain: [] [] [] []"]),
    ] {
        let settings = format!("{SETTINGS}{masquerade}");
        let debian = Debian::new(
            &lab,
            name,
            &[
                ("/usr/bin/wire-agent", AGENT),
                ("/etc/default/wire-agent", &settings),
                (UNIT, CE),
                ("/run/flannel/subnet.env", ""),
            ],
        )?;
        debian.run("postinst", "configure ''")?;
        debian.run("prerm", "remove")?;
        debian.run("postrm", "remove")?;
        debian.sh(&format!("! test -e {OURS} && ! test -L {OURS} && rm /log"))?;
        debian.run("postrm", "purge")?;
        let log = debian.sh("cat /log")?;
        let asked: Vec<&str> = log.lines().filter(|line| line.starts_with("drain")).collect();
        check(asked == drains, || format!("{name}: {log}"))?;
        debian.sh("! ls /var/lib/wire-agent* /run/wire-agent /run/flannel 2>/dev/null")?;
    }
    // What an operator has copied there would make Docker wait for ever.
    let debian = Debian::new(&lab, "copied", &[(OURS, "[Unit]\nWants=wire-agent.service\n")])?;
    let said = debian.run("postrm", "remove")?;
    check(said.contains("40-wire-agent.conf was not put there by the package"), || said)?;
    debian.sh(&format!("test -e {OURS}")).map(drop)
}

/// A path and what is there.
type File<'a> = (&'a str, &'a str);

/// A root with this machine's programs and libraries; everything else is its own.
struct Debian(PathBuf);

/// $1 is the root, $2 what is done in it, $3 the agent's program, where it is not another one there. This machine's units are hidden.
const ENTER: &str = r#"
cd "$1"
mount --bind /usr real && mount -o remount,ro,bind real
mount -t tmpfs none real/lib/systemd/system
mount --bind /dev/null dev/null
if test -s agent; then mount --bind "$3" usr/bin/wire-agent; fi
exec chroot . /bin/env -i PATH=/stubs:/bin:/sbin /bin/sh -ec "$2"
"#;

/// What is asked of the rest of the system is written down.
const STUB: &str = "#!/bin/sh\necho \"${0##*/} $*\" >>/log\ncase \"${0##*/} $*\" in\n\
    pidof*) test -e /flanneld ;;\n*is-active\\ flanneld*) cat /is-active ;;\n*is-enabled\\ flanneld*) cat /is-enabled ;;\n\
    *is-active*) exit 3 ;;\n*is-enabled*) ! test -e /disabled ;;\nesac\n";

impl Debian {
    fn new(lab: &Lab, name: &str, files: &[File<'_>]) -> Result<Self> {
        let debian = Self(lab.run().dir().join(name));
        for folder in ["real", "run/systemd/system", "var/lib", "etc", "tmp"] {
            fs::create_dir_all(debian.0.join(folder)).map_err(LabError::io("cannot create a folder"))?;
        }
        for folder in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("real/{folder}"), debian.0.join(folder)).map_err(LabError::io("cannot link a folder"))?;
        }
        debian.write("/dev/null", "")?;
        for stub in ["systemctl", "deb-systemd-helper", "systemd-sysusers", "userdel", "pidof"] {
            debian.write(&format!("/stubs/{stub}"), STUB)?;
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/deb");
        for script in ["postinst", "prerm", "postrm"] {
            let text = fs::read_to_string(scripts.join(script)).map_err(LabError::io("cannot read a script"))?;
            debian.write(&format!("/{script}"), &text)?;
        }
        if !files.iter().any(|(path, _)| *path == "/usr/bin/wire-agent") {
            debian.write("/usr/bin/wire-agent", "")?;
            debian.write("/agent", "it is this one")?;
        }
        files.iter().try_for_each(|(path, content)| debian.write(path, content)).map(|()| debian)
    }

    /// Writes a file; programs and scripts can be run.
    fn write(&self, path: &str, content: &str) -> Result {
        let path = self.0.join(&path[1..]);
        fs::create_dir_all(path.parent().expect("it has a folder")).map_err(LabError::io("cannot create a folder"))?;
        fs::write(&path, content).map_err(LabError::io("cannot write a file"))?;
        let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(LabError::io("cannot make a file executable"))
    }

    /// Runs one of the package's scripts, which must end well, and gives what it said.
    fn run(&self, script: &str, arguments: &str) -> Result<String> {
        self.sh(&format!("/{script} {arguments} 2>&1"))
    }

    fn sh(&self, script: &str) -> Result<String> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", ENTER, "sh"]).arg(&self.0).arg(script).arg(binary()?);
        let output = command.output().map_err(LabError::io("cannot run unshare"))?;
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        check(output.status.success(), || format!("{script}: {}\n{text}", output.status)).map(|()| text)
    }
}
