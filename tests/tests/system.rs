//! Whole machines: real systemd, cloud-init, the .deb and Docker from Debian. `make test-system` runs these, which takes minutes;
//! elsewhere they are passed over.

use std::{env, fs, net::IpAddr, path::PathBuf, process::Command, thread, time::Duration};

use wire_tests::{Etcd, Host, Lab, LabError, Machine, MachineSpec, Result, Share, check, eventually, steadily};

#[test]
fn three_machines_join_from_the_package_and_one_cloud_config_with_docker_of_bookworm() -> Result {
    let Some(lab) = lab("three_machines_bookworm")? else { return Ok(()) };
    three_machines(&lab, "bookworm")
}

#[test]
fn docker_waits_for_a_subnet_while_etcd_is_away_at_the_first_boot() -> Result {
    let Some(lab) = lab("docker_waits")? else { return Ok(()) };
    let mut etcd = Etcd::start(&lab)?;
    let shipped = Shipped::find("bookworm")?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = MachineSpec { root: &shipped.root, package: &shipped.package, user_data: &user_data };
    etcd.kill(0);
    let [host] = lab.hosts()?;
    let machine = Machine::boot(&host, spec)?;
    let waits = || {
        let states = machine.sh("systemctl is-active wire-agent docker || true")?;
        let job = machine.sh("systemctl list-jobs --no-legend docker.service || true")?;
        check(states == "activating\ninactive\n" && job.contains("waiting"), || format!("{states}{job}"))?;
        machine.sh("! ip link show docker0 2>/dev/null")
    };
    eventually(Duration::from_secs(60), || waits().map(drop))?;
    steadily(Duration::from_secs(10), || waits().map(drop))?;
    etcd.restart(0)?;
    provisioned(&machine)?;
    docker_started_behind_the_agent(&machine)
}

/// What the agent works itself does not depend on it: systemd keeps the TUN device's queues and the sockets, and packets wait in
/// them.
#[test]
fn the_userspace_path_loses_nothing_while_the_agent_is_restarted() -> Result {
    let Some(lab) = lab("userspace_restart")? else { return Ok(()) };
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#)?;
    let shipped = Shipped::find("bookworm")?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = MachineSpec { root: &shipped.root, package: &shipped.package, user_data: &user_data };
    let hosts: [Host; 2] = lab.hosts()?;
    let machines = [Machine::boot(&hosts[0], spec)?, Machine::boot(&hosts[1], spec)?];
    for machine in &machines {
        provisioned(machine)?;
        start_container(machine)?;
    }
    let kind = machines[0].sh("wire-agent status --json | tr -d ' \n'")?;
    check(kind.contains("\"kind\":\"userspace-udp\""), || kind.clone())?;
    machines[1].sh(&format!("docker exec web ping -c 1 -W 2 {}", container_address(&machines[0])?))?;
    restart_and_upgrade_touch_no_container(&machines[0], &machines[1])?;
    // What systemd keeps of queues that are no longer wanted must not swallow any flow.
    for queues in [4, 1, 4] {
        machines[0].sh(&format!(
            "sed -i '/FORWARD_QUEUES/d' /etc/default/wire-agent; echo WIRE_AGENT_FORWARD_QUEUES={queues} >>/etc/default/wire-agent
             systemctl restart wire-agent"
        ))?;
        let target = container_address(&machines[0])?;
        for _ in 0..20 {
            machines[1].sh(&fetch(&target, 80))?;
        }
    }
    Ok(())
}

/// Boot, containers, restart, upgrade, reboot, purge: what an operator does with three machines.
fn three_machines(lab: &Lab, suite: &str) -> Result {
    let etcd = Etcd::start(lab)?;
    let shipped = Shipped::find(suite)?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = MachineSpec { root: &shipped.root, package: &shipped.package, user_data: &user_data };
    let hosts: [Host; 3] = lab.hosts()?;
    let mut machines = Vec::new();
    for host in &hosts {
        machines.push(Machine::boot(host, spec)?);
    }
    for machine in &machines {
        provisioned(machine)?;
        docker_started_behind_the_agent(machine)?;
    }
    for machine in &machines {
        start_container(machine)?;
    }
    reach_each_other(&hosts, &machines)?;
    let meter = Meter::start(&machines[1], &container_address(&machines[0])?)?;
    reload_keeps_the_process(&machines[0])?;
    meter.lost_none()?;
    restart_and_upgrade_touch_no_container(&machines[0], &machines[1])?;
    reach_each_other(&hosts, &machines)?;

    let before = machines[1].sh(SUBNET)?;
    machines.remove(1).power_off()?;
    hosts[1].reboot()?;
    machines.insert(1, Machine::boot(&hosts[1], spec)?);
    up(&machines[1])?;
    let after = machines[1].sh(SUBNET)?;
    check(before == after, || format!("another subnet after the reboot: {before}, then {after}"))?;
    docker_started_behind_the_agent(&machines[1])?;
    machines[1].sh("docker start web")?;
    reach_each_other(&hosts, &machines)?;
    purge_leaves_no_file(&machines[2])
}

const SUBNET: &str = "sed -n 's/^FLANNEL_SUBNET=//p' /run/flannel/subnet.env";

/// cloud-init has ended well, and with it the installation of agent and Docker.
fn provisioned(machine: &Machine) -> Result {
    // Until its first process is there nobody can ask.
    eventually(Duration::from_secs(20), || machine.sh("systemctl is-system-running || true").map(drop))?;
    let status = machine.sh("cloud-init status --wait --long || true")?;
    let log =
        || machine.sh("tail -n 60 /var/log/cloud-init-output.log; systemctl --failed --no-pager").unwrap_or_default();
    check(status.contains("status: done"), || format!("{status}\n{}", log()))?;
    up(machine)
}

/// The agent is ready and Docker runs, with the bridge that the agent's subnet asks for.
fn up(machine: &Machine) -> Result {
    let waited = eventually(Duration::from_secs(60), || {
        let states = machine.sh("systemctl is-active wire-agent docker || true")?;
        check(states == "active\nactive\n", || states.clone())
    });
    let log = || machine.sh("journalctl --no-pager -n 40 -u wire-agent -u docker").unwrap_or_default();
    waited.map_err(|error| LabError::Wrong(format!("{error}\n{}", log())))?;
    let (subnet, bridge) = (machine.sh(SUBNET)?, machine.sh("ip -o -4 addr show docker0 | tr -s ' ' | cut -d' ' -f4")?);
    check(subnet == bridge, || format!("docker0 has {bridge}, the subnet is {subnet}"))
}

fn docker_started_behind_the_agent(machine: &Machine) -> Result {
    let stamp = |unit: &str, which: &str| -> Result<u64> {
        let text = machine.sh(&format!("systemctl show --value -p {which}Monotonic {unit}"))?;
        text.trim().parse().map_err(|_| LabError::Wrong(format!("{unit} has no {which}: {text}")))
    };
    let (ready, started) = (stamp("wire-agent", "ActiveEnterTimestamp")?, stamp("docker", "ExecMainStartTimestamp")?);
    check(ready != 0 && ready < started, || format!("ready at {ready} µs, dockerd started at {started} µs"))
}

fn start_container(machine: &Machine) -> Result {
    machine.sh("mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/
         for applet in sh ping httpd nc; do ln -sf busybox /tmp/image/bin/$applet; done
         tar -C /tmp/image -c . | docker import - lab >/dev/null
         docker run -d --name web -p 8080:80 lab httpd -f -p 80 -h /bin >/dev/null")?;
    Ok(())
}

fn container_address(machine: &Machine) -> Result<String> {
    // Docker 28 has it in the networks alone.
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    machine.sh(&format!("docker inspect -f '{format}' web")).map(|text| text.trim().to_owned())
}

/// A ping every ten milliseconds, or what the clock makes of that, out of a machine's container.
struct Meter<'a>(&'a Machine);

impl<'a> Meter<'a> {
    fn start(machine: &'a Machine, to: &str) -> Result<Self> {
        let pid = machine.sh("docker inspect -f '{{.State.Pid}}' web")?;
        let ping = format!("nsenter -t {} -n ping -q -i 0.01 {to}", pid.trim());
        machine.sh(&format!("systemd-run --quiet --unit=meter {ping}"))?;
        thread::sleep(Duration::from_secs(1));
        Ok(Self(machine))
    }

    fn lost_none(&self) -> Result {
        thread::sleep(Duration::from_secs(1));
        self.0.sh("systemctl kill -s INT meter")?;
        let counts = || {
            let log = self.0.sh("journalctl --no-pager -o cat -u meter")?;
            let line = log.lines().find(|line| line.contains("packets transmitted")).map(str::to_owned);
            line.ok_or(LabError::Wrong(log))
        };
        eventually(Duration::from_secs(5), || counts().map(drop))?;
        let line = counts()?;
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // The last one may still have been on its way.
        let fine = matches!(numbers[..], [sent, back, ..] if sent > 100 && sent - back <= 1);
        eprintln!("the meter: {line}");
        check(fine, || line.clone())
    }
}

/// Every container reaches every other, its outside, and the ports that the other hosts publish.
fn reach_each_other(hosts: &[Host; 3], machines: &[Machine]) -> Result {
    let addresses = machines.iter().map(container_address).collect::<Result<Vec<_>>>()?;
    // The underlay's own gateway knows nothing of the overlay: it answers only what is masqueraded.
    let outside: IpAddr = [192, 168, 64, 254].into();
    for (from, machine) in machines.iter().enumerate() {
        // A bridge takes another MAC when a port goes or comes, and its neighbours learn that on their own time.
        eventually(Duration::from_secs(30), || {
            machine.sh(&format!("docker exec web ping -c 1 -W 2 {outside}")).map(drop)
        })?;
        for (to, host) in hosts.iter().enumerate().filter(|(to, _)| *to != from) {
            machine.sh(&format!("docker exec web ping -c 1 -W 2 {}", addresses[to]))?;
            machine.sh(&fetch(&addresses[to], 80))?;
            machine.sh(&fetch(&host.v4().to_string(), 8080))?;
        }
    }
    Ok(())
}

/// A container asks a server for a page (not by wget: busybox's crashes here).
fn fetch(address: &str, port: u16) -> String {
    let ask = format!("printf 'HEAD /busybox HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}");
    format!("docker exec web sh -c \"{ask}\" | grep -q '200 OK'")
}

/// A reload makes the same process join anew.
fn reload_keeps_the_process(machine: &Machine) -> Result {
    let agent = "systemctl show --value -p MainPID wire-agent";
    let before = machine.sh(agent)?;
    machine.sh("systemctl reload wire-agent")?;
    eventually(Duration::from_secs(10), || {
        machine.sh("journalctl --no-pager -o cat -u wire-agent | grep 'joining anew'").map(drop)
    })?;
    let after = machine.sh(agent)?;
    check(before == after, || format!("process {before} became {after}"))?;
    machine.sh("systemctl is-active wire-agent").map(drop)
}

/// What an operator, a package, an accident and the watchdog do to the agent. What hangs is killed by the watchdog, here after two
/// seconds instead of thirty.
const RESTARTS: [&str; 5] = [
    "systemctl restart wire-agent",
    "apt-get install -y --reinstall /opt/wire-agent.deb",
    "systemctl kill -s KILL wire-agent",
    "mkdir -p /run/systemd/system/wire-agent.service.d
     printf '[Service]\\nWatchdogSec=2\\nTimeoutAbortSec=2\\n' >/run/systemd/system/wire-agent.service.d/impatient.conf
     systemctl daemon-reload; systemctl restart wire-agent",
    "systemctl kill -s STOP wire-agent",
];

/// A restart and a newer package bring a new agent and leave Docker and the container as they are, and no ping is lost.
fn restart_and_upgrade_touch_no_container(machine: &Machine, other: &Machine) -> Result {
    let docker =
        "systemctl show --value -p MainPID docker; docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web";
    let agent = "systemctl show --value -p MainPID wire-agent";
    let before = machine.sh(docker)?;
    for act in RESTARTS {
        let meter = Meter::start(other, &container_address(machine)?)?;
        let old = machine.sh(agent)?;
        machine.sh(act)?;
        eventually(Duration::from_secs(20), || {
            let new = machine.sh(agent)?;
            let state = machine.sh("systemctl is-active wire-agent || true")?;
            check(new != old && state.trim() == "active", || format!("{act}: still {new}, {state}"))
        })?;
        let log = || machine.sh("journalctl --no-pager -n 30 -u wire-agent").unwrap_or_default();
        meter.lost_none().map_err(|error| LabError::Wrong(format!("{act}: {error}\n{}", log())))?;
        let after = machine.sh(docker)?;
        check(before == after, || format!("{act} has touched Docker:\n{before}{after}"))?;
    }
    Ok(())
}

/// Where the agent was, no file, user or unit of it is left. Docker goes on.
fn purge_leaves_no_file(machine: &Machine) -> Result {
    machine.sh("apt-get purge -y wire-agent")?;
    let left = machine.sh(
        "find / -xdev -path /opt/wire-agent.deb -prune -o -path /etc/systemd/system/wire-agent.service.d -prune -o -name '*wire-agent*' -print
         ls -d /run/flannel /run/wire-agent /var/lib/wire-agent /etc/systemd/system/docker.service.d 2>/dev/null || true
         getent passwd wire-agent || true",
    )?;
    check(left.is_empty(), || format!("left behind:\n{left}"))?;
    machine.sh("systemctl is-active docker").map(drop)
}

/// What `make dist` and tests/system/rootfs have made.
struct Shipped {
    root: PathBuf,
    package: PathBuf,
}

impl Shipped {
    fn find(suite: &str) -> Result<Self> {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
        let root = target.join("system").join(suite).join("root");
        let packages = fs::read_dir(target.join("dist")).into_iter().flatten().flatten().map(|file| file.path());
        let package = packages.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb"));
        let lack = |what: &str| LabError::Machine(format!("there is no {what}: run `make test-system`"));
        let package = package.ok_or_else(|| lack("package in target/dist"))?;
        check(root.is_dir(), || format!("there is no {}: run `make test-system`", root.display()))?;
        let absolute = |path: PathBuf| path.canonicalize().map_err(|_| lack("folder target"));
        Ok(Self { root: absolute(root)?, package: absolute(package)? })
    }

    /// The file that is shipped, with all that an operator replaces replaced.
    fn user_data(&self, endpoints: &str) -> Result<String> {
        let sum = Command::new("sha256sum").arg(&self.package).output();
        let sum = sum.map_err(|source| LabError::Io { what: "cannot run sha256sum".to_owned(), source })?;
        let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap_or_default().to_owned();
        let shipped = include_str!("../../dist/cloud-config/cloud-init.yaml");
        let url = shipped.lines().find(|line| line.trim().starts_with("url=")).unwrap_or_default().trim();
        let text = shipped
            .replace(url, "url=file:///opt/wire-agent.deb")
            .replace("sha256=REPLACE-ME", &format!("sha256={sum}"))
            .replace("http://REPLACE-ME.example:2379", endpoints);
        let left = text.lines().any(|line| line.contains("REPLACE-ME") && !line.trim().starts_with('#'));
        check(!left, || format!("not all is replaced:\n{text}")).map(|()| text)
    }
}

/// A lab, where these tests are wanted.
fn lab(name: &str) -> Result<Option<Lab>> {
    if env::var_os("WIRE_TESTS_SYSTEM").is_none_or(|value| value != "1") {
        eprintln!("SKIPPED {name}: `make test-system` runs it");
        return Ok(None);
    }
    Lab::for_test(name, Share::Alone)
}
