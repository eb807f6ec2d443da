//! The files that are shipped are valid: units, drop-ins and the units inside the cloud-config files, by systemd's own word;
//! cloud-init's file by cloud-init's; what is written twice is the same.

mod cloud_config;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use wire_tests::{Lab, LabError, Result, binary, check, lab};

use cloud_config::{Butane, ButaneFile, CloudInit, CoreOs, Unit, WrittenFile, yaml};

/// The worst ratings that the unit may have, systemd-analyze(1), and with the drop-in that makes it root's; a bare unit has 9.6.
const EXPOSURE: [f64; 2] = [2.0, 2.1];

/// The same for the helper, which is root and may enter network namespaces.
const EXPOSURE_OF_GUESTS: f64 = 2.3;

/// Docker's drop-ins, one of which is linked.
const DROP_INS: [&str; 4] = ["expands", "replaces", "daemon-json", "networks"];

#[test]
fn units_and_drop_ins_are_valid_for_systemd() -> Result {
    let lab = lab!();
    if lacks("systemd-analyze")? {
        return Ok(());
    }
    for kind in DROP_INS {
        let root = Root::installed(&lab, kind)?;
        root.docker_unit()?;
        root.link(&format!("usr/share/wire-agent/docker.service.d-{kind}"), "etc/systemd/system/docker.service.d")?;
        root.verify(&["wire-agent.service", "docker.service"])?;
    }
    let root = Root::installed(&lab, "legacy")?;
    let legacy = "systemd/wire-agent.service.d-legacy-iptables/60-legacy-iptables.conf";
    root.write("etc/systemd/system/wire-agent.service.d/60-legacy-iptables.conf", &shipped(legacy)?)?;
    root.verify(&["wire-agent.service", "wire-agent-guests.socket", "wire-agent-guests.service"])
}

#[test]
fn a_mistake_in_a_unit_is_noticed() -> Result {
    let lab = lab!();
    if lacks("systemd-analyze")? {
        return Ok(());
    }
    for (from, to) in
        [("ProtectSystem=strict", "ProtectSystm=strict"), ("/usr/bin/wire-agent\n", "/usr/bin/wire-agnt\n")]
    {
        let root = Root::installed(&lab, "mistake")?;
        let unit = shipped("systemd/wire-agent.service")?.replace(from, to);
        root.write("usr/lib/systemd/system/wire-agent.service", &unit)?;
        check(root.verify(&["wire-agent.service"]).is_err(), || format!("{to} goes unnoticed"))?;
    }
    Ok(())
}

#[test]
fn the_unit_is_rated_two_or_better_and_as_root_nearly_so() -> Result {
    let lab = lab!();
    if lacks("systemd-analyze")? {
        return Ok(());
    }
    let unit = shipped("systemd/wire-agent.service")?;
    let legacy = shipped("systemd/wire-agent.service.d-legacy-iptables/60-legacy-iptables.conf")?;
    for (unit, worst) in [unit.clone(), unit.replace("[Install]", &format!("{legacy}\n[Install]"))].iter().zip(EXPOSURE)
    {
        rated(&lab, "wire-agent.service", unit, worst)?;
    }
    Ok(())
}

/// Root's helper for the agent: nothing but the namespaces is open to it.
#[test]
fn the_helper_for_guests_has_three_capabilities_and_a_sandbox() -> Result {
    let lab = lab!();
    let unit = shipped("systemd/wire-agent-guests.service")?;
    let lines = directives(&unit);
    for line in [
        "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_NET_ADMIN",
        "RestrictNamespaces=net",
        "RestrictAddressFamilies=AF_UNIX AF_NETLINK",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
    ] {
        check(lines.contains(&line), || format!("no {line}"))?;
    }
    check(!lines.iter().any(|line| line.starts_with("Environment")), || "root obeys variables of a file".to_owned())?;
    // It opens /proc/PID/stat of other users' processes, which the agent does not see.
    let hides = |line: &&str| line.starts_with("ProtectProc=") || line.starts_with("ProcSubset=");
    check(!lines.iter().any(hides), || "it does not see the processes".to_owned())?;
    let socket = shipped("systemd/wire-agent-guests.socket")?;
    for line in ["SocketUser=wire-agent", "SocketMode=0600", "ListenSequentialPacket=/run/wire-agent/guests.sock"] {
        check(directives(&socket).contains(&line), || format!("no {line}"))?;
    }
    if lacks("systemd-analyze")? {
        return Ok(());
    }
    rated(&lab, "wire-agent-guests.service", &unit, EXPOSURE_OF_GUESTS)
}

fn rated(lab: &Lab, name: &str, unit: &str, worst: f64) -> Result {
    let path = lab.run().dir().join(name);
    fs::write(&path, unit).map_err(LabError::io("cannot write a unit"))?;
    let mut analyze = Command::new("systemd-analyze");
    let text = run(analyze.args(["security", "--offline=true", "--no-pager"]).arg(&path))?;
    let rating = text.split(&format!("{name}:")).nth(1).and_then(|rest| rest.split_whitespace().next());
    let rating: f64 = rating.and_then(|word| word.parse().ok()).ok_or_else(|| LabError::Wrong(text.clone()))?;
    check(rating <= worst, || format!("{name} is rated {rating}:\n{text}"))
}

#[test]
fn no_users_unit_is_tied_to_the_agent() -> Result {
    let _lab = lab!();
    for kind in DROP_INS {
        let text = shipped(&format!("systemd/docker.service.d-{kind}/40-wire-agent.conf"))?;
        let lines = directives(&text);
        check(lines.contains(&"Wants=wire-agent.service") && lines.contains(&"After=wire-agent.service"), || {
            text.clone()
        })?;
        let tied =
            |line: &&str| line.starts_with("Requires") || line.starts_with("BindsTo") || line.starts_with("PartOf");
        check(!lines.iter().any(tied), || format!("{kind} ties Docker to the agent:\n{text}"))?;
    }
    Ok(())
}

/// Folders of the agent's user.
const THE_AGENTS: [&str; 3] = ["/run/flannel/", "/run/wire-agent/", "/var/lib/wire-agent/"];

#[test]
fn root_obeys_no_variable_that_the_agents_user_can_write() -> Result {
    let _lab = lab!();
    // dockerd is root's.
    for kind in DROP_INS {
        let text = shipped(&format!("systemd/docker.service.d-{kind}/40-wire-agent.conf"))?;
        let files = directives(&text).into_iter().filter_map(|line| line.strip_prefix("EnvironmentFile="));
        let open = files
            .map(|file| file.trim_start_matches('-'))
            .find(|file| THE_AGENTS.iter().any(|folder| file.starts_with(folder)));
        check(open.is_none(), || format!("{kind} reads {open:?}"))?;
    }
    // The agent's unit reads such a file, and starts nothing but the agent's user's.
    let legacy = shipped("systemd/wire-agent.service.d-legacy-iptables/60-legacy-iptables.conf")?;
    for text in [shipped("systemd/wire-agent.service")?, legacy] {
        let commands = directives(&text).into_iter().filter(|line| line.starts_with("Exec"));
        let as_root = commands.filter_map(|line| line.split_once('=')).find(|(_, line)| {
            line.chars()
                .take_while(|sign| !sign.is_alphanumeric() && *sign != '/')
                .any(|sign| sign == '+' || sign == '!')
        });
        check(as_root.is_none(), || format!("{as_root:?}"))?;
    }
    let host = shipped("systemd/wire-agent-host.service")?;
    check(!directives(&host).iter().any(|line| line.starts_with("Environment")), || host.clone())
}

#[test]
fn the_debian_cloud_config_is_valid_for_cloud_init() -> Result {
    let lab = lab!();
    let text = shipped("cloud-config/cloud-init.yaml")?;
    let config: CloudInit = yaml(&text)?;
    let root = Root::installed(&lab, "cloud-init")?;
    for file in &config.write_files {
        check(file.path.starts_with('/'), || file.path.clone())?;
        root.write(&file.path[1..], &file.content)?;
        if file.content.starts_with("#!/bin/sh") {
            run(Command::new("sh").arg("-n").arg(root.0.join(&file.path[1..])))?;
        }
    }
    if !lacks("systemd-analyze")? {
        root.verify(&["wire-agent.service"])?;
    }
    if !lacks("cloud-init")? {
        run(Command::new("cloud-init").args(["schema", "-c"]).arg(dist().join("cloud-config/cloud-init.yaml")))?;
    }
    Ok(())
}

#[test]
fn the_coreos_cloud_config_holds_valid_units() -> Result {
    let lab = lab!();
    let text = shipped("cloud-config/coreos.yaml")?;
    check(text.starts_with("#cloud-config\n"), || "coreos-cloudinit would not take it".to_owned())?;
    let config: CoreOs = yaml(&text)?;
    check(config.coreos.flannel.etcd_endpoints.starts_with("http"), || text.clone())?;
    check(config.users.iter().any(|user| user.name == "wire-agent"), || "the unit's user is not made".to_owned())?;
    let files: Vec<_> =
        config.write_files.into_iter().map(|file| WrittenFile { path: file.path, content: file.content }).collect();
    let units: Vec<Unit> = config.coreos.units.into_iter().map(Unit::from).collect();
    units_are_valid(&lab, "coreos", &units, &files)
}

/// coreos-cloudinit says nothing to a key that it does not know, and Butane has other keys.
#[test]
fn a_key_that_is_not_known_where_it_stands_is_noticed() -> Result {
    let _lab = lab!();
    let coreos = shipped("cloud-config/coreos.yaml")?;
    yaml::<CoreOs>(&coreos)?;
    for (from, to) in [
        ("    etcd_prefix:", "    etcd-prefix:"),
        ("      content: |", "      contents: |"),
        ("          content: |", "          contents: |"),
        ("      drop-ins:", "      dropins:"),
        ("      enable: true", "      enabled: true"),
        ("    permissions:", "    mode:"),
        ("    no-create-home:", "    no_create_home:"),
    ] {
        let changed = coreos.replacen(from, to, 1);
        check(changed != coreos && yaml::<CoreOs>(&changed).is_err(), || format!("coreos.yaml: {to} goes unnoticed"))?;
    }
    let flatcar = shipped("cloud-config/flatcar.bu")?;
    yaml::<Butane>(&flatcar)?;
    for (from, to) in [
        ("      contents: |", "      content: |"),
        ("          contents: |", "          content: |"),
        ("      dropins:", "      drop-ins:"),
        ("      enabled: true", "      enable: true"),
        ("      mode:", "      permissions:"),
    ] {
        let changed = flatcar.replacen(from, to, 1);
        check(changed != flatcar && yaml::<Butane>(&changed).is_err(), || format!("flatcar.bu: {to} goes unnoticed"))?;
    }
    Ok(())
}

#[test]
fn the_butane_file_holds_valid_units() -> Result {
    let lab = lab!();
    let config: Butane = yaml(&shipped("cloud-config/flatcar.bu")?)?;
    check(config.variant == "flatcar" && config.version == "1.0.0", || config.variant.clone())?;
    check(config.passwd.users.iter().any(|user| user.name == "wire-agent"), || {
        "the unit's user is not made".to_owned()
    })?;
    let inline = |file: ButaneFile| file.contents.inline.map(|content| WrittenFile { path: file.path, content });
    let files: Vec<WrittenFile> = config.storage.files.into_iter().filter_map(inline).collect();
    let units: Vec<Unit> = config.systemd.units.into_iter().map(Unit::from).collect();
    units_are_valid(&lab, "flatcar", &units, &files)
}

#[test]
fn scripts_and_completions_are_valid_for_their_shells() -> Result {
    let lab = lab!();
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(dist().join("deb").join(script)))?;
    }
    let root = Root::installed(&lab, "completions")?;
    let share = root.0.join("usr/share");
    for (shell, file) in [
        ("bash", "bash-completion/completions/wire-agent"),
        ("zsh", "zsh/vendor-completions/_wire-agent"),
        ("fish", "fish/vendor_completions.d/wire-agent.fish"),
    ] {
        let file = share.join(file);
        check(fs::metadata(&file).is_ok_and(|file| file.len() > 1000), || format!("{} is empty", file.display()))?;
        if !lacks(shell)? {
            run(Command::new(shell).arg("-n").arg(file))?;
        }
    }
    let page = fs::read_to_string(share.join("man/man8/wire-agent.8")).unwrap_or_default();
    check(page.contains("etcd\\-endpoints") && page.contains("Exit statuses"), || page.clone())?;
    check(share.join("man/man8/wire-agent-docker-opts.8").exists(), || "a command has no page".to_owned())
}

#[test]
fn what_make_install_installs_by_default_is_started_where_it_lies() -> Result {
    let lab = lab!();
    let root = lab.run().dir().join("by-hand");
    // Neither is set where a person has set none.
    let mut install = Command::new(dist().join("install"));
    run(install.arg(binary()?).env("DESTDIR", &root).env_remove("PREFIX"))?;
    let program = root.join("usr/local/bin/wire-agent");
    run(Command::new(&program).arg("--version"))?;
    let read =
        |path: &str| fs::read_to_string(root.join("usr/local").join(path)).map_err(LabError::io("cannot read a file"));
    let unit = read("lib/systemd/system/wire-agent.service")?;
    check(directives(&unit).contains(&"ExecStart=/usr/local/bin/wire-agent"), || unit.clone())?;
    let guests = read("lib/systemd/system/wire-agent-guests.service")?;
    check(directives(&guests).contains(&"ExecStart=/usr/local/bin/wire-agent guests"), || guests.clone())?;
    let units = DROP_INS.map(|kind| read(&format!("share/wire-agent/docker.service.d-{kind}/40-wire-agent.conf")));
    for text in std::iter::once(Ok(unit)).chain(units) {
        let text = text?;
        check(!text.contains("/usr/bin/wire-agent"), || format!("it names a program that is not there:\n{text}"))?;
    }
    check(read("share/zsh/site-functions/_wire-agent").is_ok(), || "zsh finds no completions".to_owned())?;
    check(!root.join("usr/bin").exists(), || "a file lies at another place".to_owned())?;
    // It may hold a password. The package has it in its own words.
    let settings = fs::metadata(root.join("etc/default/wire-agent")).map_err(LabError::io("no settings"))?;
    check(settings.permissions().mode() & 0o777 == 0o640, || format!("{:o}", settings.permissions().mode()))?;
    let package = fs::read_to_string(dist().join("../agent/Cargo.toml")).map_err(LabError::io("no Cargo.toml"))?;
    check(package.contains(r#"root/etc/default/wire-agent", "etc/default/", "640"]"#), || package.clone())
}

/// The units of a cloud-config are valid together, and are those that are shipped, with the binary in /opt/bin.
fn units_are_valid(lab: &Lab, name: &str, units: &[Unit], files: &[WrittenFile]) -> Result {
    let root = Root::installed(lab, name)?;
    root.docker_unit()?;
    fs::create_dir_all(root.0.join("opt/bin")).map_err(LabError::io("cannot create opt/bin"))?;
    fs::copy(root.0.join("usr/bin/wire-agent"), root.0.join("opt/bin/wire-agent"))
        .map_err(LabError::io("cannot copy the agent"))?;
    let mut written = Vec::new();
    for unit in units {
        if let Some(content) = &unit.content {
            root.write(&format!("etc/systemd/system/{}", unit.name), content)?;
            written.push(unit.name.as_str());
        }
        for drop_in in &unit.drop_ins {
            root.write(&format!("etc/systemd/system/{}.d/{}", unit.name, drop_in.name), &drop_in.content)?;
        }
    }
    written.push("docker.service");
    if !lacks("systemd-analyze")? {
        root.verify(&written)?;
    }
    let find = |wanted: &str| units.iter().find(|unit| unit.name == wanted);
    let flanneld = find("flanneld.service").is_some_and(|unit| unit.mask);
    check(flanneld, || format!("{name}: flanneld.service is not masked"))?;
    let agent = find("wire-agent.service").and_then(|unit| unit.content.clone()).unwrap_or_default();
    same(name, &agent, "systemd/wire-agent.service")?;
    let host = find("wire-agent-host.service").and_then(|unit| unit.content.clone()).unwrap_or_default();
    same(name, &host, "systemd/wire-agent-host.service")?;
    let drop_ins = |unit: &str| find(unit).map(|unit| unit.drop_ins.as_slice()).unwrap_or_default();
    let drop_in = |unit: &str, file: &str| {
        let found = drop_ins(unit).iter().find(|drop_in| drop_in.name == file);
        found.map(|drop_in| drop_in.content.clone()).unwrap_or_default()
    };
    let docker = drop_in("docker.service", "40-wire-agent.conf");
    same(name, &docker, "systemd/docker.service.d-expands/40-wire-agent.conf")?;
    let legacy = drop_in("wire-agent.service", "60-legacy-iptables.conf");
    same(name, &legacy, "systemd/wire-agent.service.d-legacy-iptables/60-legacy-iptables.conf")?;
    for (path, ours) in [
        ("/etc/systemd/network/50-wire-agent.link", "networkd/50-wire-agent.link"),
        ("/etc/systemd/network/50-wire-agent.network", "networkd/50-wire-agent.network"),
        ("/etc/systemd/networkd.conf.d/50-wire-agent.conf", "networkd/networkd.conf"),
    ] {
        // CoreOS's networkd, before systemd 246, has no such setting.
        if name == "coreos" && path.contains("networkd.conf.d") {
            continue;
        }
        let content = files.iter().find(|file| file.path == path).map(|file| file.content.as_str()).unwrap_or_default();
        same(name, content, ours)?;
    }
    Ok(())
}

fn same(name: &str, text: &str, file: &str) -> Result {
    let ours = shipped(file)?.replace("/usr/bin/wire-agent", "/opt/bin/wire-agent");
    let (theirs, ours) = (directives(text), directives(&ours));
    check(theirs == ours, || format!("{name} and dist/{file} differ:\n{theirs:#?}\n{ours:#?}"))
}

/// What systemd reads of a file: its lines without comments.
fn directives(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// A root folder with everything installed, as a package leaves it.
struct Root(PathBuf);

impl Root {
    fn installed(lab: &Lab, name: &str) -> Result<Self> {
        let root = lab.run().dir().join(name);
        fs::create_dir_all(&root).map_err(LabError::io("cannot create a root"))?;
        run(Command::new(dist().join("install")).arg(binary()?).env("DESTDIR", &root).env("PREFIX", "/usr"))?;
        // What the units run must be there.
        for program in ["bin/sh", "bin/kill", "bin/touch", "usr/bin/mkdir", "usr/sbin/dockerd"] {
            let path = root.join(program);
            fs::create_dir_all(path.parent().expect("it has a folder"))
                .map_err(LabError::io("cannot create a folder"))?;
            fs::copy("/bin/true", path).map_err(LabError::io("cannot copy a program"))?;
        }
        let root = Self(root);
        // The targets that units are ordered by come with systemd.
        for folder in ["/usr/lib/systemd/system", "/lib/systemd/system"] {
            let Ok(files) = fs::read_dir(folder) else { continue };
            for file in files.flatten().filter(|file| file.path().extension().is_some_and(|kind| kind == "target")) {
                let Ok(text) = fs::read_to_string(file.path()) else { continue };
                root.write(&format!("usr/lib/systemd/system/{}", file.file_name().to_string_lossy()), &text)?;
            }
            break;
        }
        Ok(root)
    }

    /// Docker's unit as far as it matters here: expanding as Flatcar's does.
    fn docker_unit(&self) -> Result {
        let unit = "[Unit]\nDescription=Docker\n[Service]\nType=notify\n\
                    ExecStart=/usr/sbin/dockerd $DOCKER_OPTS $DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ\n";
        self.write("usr/lib/systemd/system/docker.service", unit)
    }

    fn write(&self, path: &str, content: &str) -> Result {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).map_err(LabError::io("cannot create a folder"))?;
        fs::write(&path, content).map_err(LabError::io("cannot write a file"))
    }

    fn link(&self, from: &str, to: &str) -> Result {
        let to = self.0.join(to);
        fs::create_dir_all(to.parent().expect("it has a folder")).map_err(LabError::io("cannot create a folder"))?;
        std::os::unix::fs::symlink(self.0.join(from), to).map_err(LabError::io("cannot link a folder"))
    }

    /// systemd has nothing to say about the units.
    fn verify(&self, units: &[&str]) -> Result {
        let root = format!("--root={}", self.0.display());
        let output = Command::new("systemd-analyze").args(["verify", "--man=no", &root]).args(units).output();
        let output = output.map_err(LabError::io("cannot run systemd-analyze"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        check(output.status.success() && said.trim().is_empty(), || format!("{units:?}: {}\n{said}", output.status))
    }
}

/// Whether a program is missing, which is said and, where `WIRE_TESTS_REQUIRE_LAB` is 1, a failure.
fn lacks(program: &str) -> Result<bool> {
    if exists(program) {
        return Ok(false);
    }
    check(env::var_os("WIRE_TESTS_REQUIRE_LAB").is_none_or(|value| value != "1"), || format!("{program} is missing"))?;
    eprintln!("SKIPPED in part: {program} is missing (`make deps` installs it)");
    Ok(true)
}

fn exists(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(LabError::io("cannot run a program"))?;
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    check(output.status.success(), || format!("{command:?}: {}\n{text}", output.status)).map(|()| text)
}

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist")
}

fn shipped(path: &str) -> Result<String> {
    let path = dist().join(path);
    fs::read_to_string(&path).map_err(|source| LabError::Io { what: format!("cannot read {}", path.display()), source })
}
