//! Whole machines: real systemd, cloud-init, the .deb and Docker from Debian. `make test-system` runs these, which takes minutes;
//! elsewhere they are ignored.

mod built;
mod compose;
mod containers;
mod drop_ins;
mod flushed;
mod left;
mod meter;
mod names;
mod offline;
mod senders;
mod shipped;

use std::time::Duration;

use wire_tests::{Encapsulation, Etcd, Host, Lab, LabError, Machine, Result, check, eventually, steadily};

use compose::compose_on_the_hosts_subnet;
use containers::{container_address, fetch_at_once, reach_each_other, start_again, start_container};
use drop_ins::{
    docker_never_starts_on_another_subnet, each_drop_in_gives_docker_its_subnet, networkd_leaves_our_device_alone,
};
use flushed::what_is_flushed_comes_back;
use meter::Line;
use senders::what_is_forged_is_dropped;
use shipped::{Shipped, lab};

#[test]
#[ignore = "`make test-system` runs it"]
fn three_machines_join_from_the_package_and_one_cloud_config_with_docker_of_bookworm() -> Result {
    let lab = lab("three_machines_bookworm")?;
    three_machines(&lab, "bookworm")
}

#[test]
#[ignore = "`make test-system` runs it"]
fn three_machines_join_from_the_package_and_one_cloud_config_with_docker_of_forky() -> Result {
    let lab = lab("three_machines_forky")?;
    three_machines(&lab, "forky")
}

#[test]
#[ignore = "`make test-system` runs it"]
fn docker_waits_for_a_subnet_while_etcd_is_away_at_the_first_boot() -> Result {
    let lab = lab("docker_waits")?;
    let mut etcd = Etcd::start(&lab)?;
    let shipped = Shipped::find("bookworm")?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = shipped.spec(&user_data);
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
    // Until etcd arrives two minutes late.
    steadily(Duration::from_secs(120), || waits().map(drop))?;
    etcd.restart(0)?;
    provisioned(&machine)?;
    docker_started_behind_the_agent(&machine)?;
    docker_never_starts_on_another_subnet(&machine)?;
    each_drop_in_gives_docker_its_subnet(&machine)?;
    networkd_leaves_our_device_alone(&machine)
}

/// What the agent works itself does not depend on it: systemd keeps the TUN device's queues and the sockets, and packets wait in
/// them.
#[test]
#[ignore = "`make test-system` runs it"]
fn the_userspace_path_loses_nothing_while_the_agent_is_restarted() -> Result {
    let lab = lab("userspace_restart")?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#)?;
    let shipped = Shipped::find("bookworm")?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = shipped.spec(&user_data);
    let hosts: [Host; 2] = lab.hosts()?;
    let machines = [Machine::boot(&hosts[0], spec)?, Machine::boot(&hosts[1], spec)?];
    for machine in &machines {
        provisioned(machine)?;
        start_container(machine)?;
    }
    let kind = machines[0].sh("wire-agent status --json | tr -d ' \n'")?;
    check(kind.contains("\"kind\":\"userspace-udp\""), || kind.clone())?;
    machines[1].sh(&format!("docker exec web ping -c 1 -W 2 {}", container_address(&machines[0])?))?;
    // Pings that share a message would be counted as one on the underlay.
    hosts[1].cut_frames()?;
    let (to, from) = ((&hosts[0], &machines[0]), (&hosts[1], &machines[1]));
    let line = Line { underlay: &lab, from, to, encapsulation: Encapsulation::RawIp };
    line.control_run()?;
    restart_and_upgrade_touch_no_container(&line)?;
    // What systemd keeps of queues that are no longer wanted must not swallow any flow.
    for queues in [4, 1, 4] {
        machines[0].sh(&format!(
            "sed -i '/FORWARD_QUEUES/d' /etc/default/wire-agent; echo WIRE_AGENT_FORWARD_QUEUES={queues} >>/etc/default/wire-agent
             systemctl restart wire-agent"
        ))?;
        let target = container_address(&machines[0])?;
        for _ in 0..20 {
            machines[1].sh(&fetch_at_once(&target, 80))?;
        }
    }
    Ok(())
}

/// Boot, containers, flush, forged packets, restart, upgrade, reboot, Compose: what three machines go through.
fn three_machines(lab: &Lab, suite: &str) -> Result {
    let etcd = Etcd::start(lab)?;
    let shipped = Shipped::find(suite)?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let hosts: [Host; 3] = lab.hosts()?;
    let mut machines = boot(&hosts, &shipped, &user_data)?;
    for machine in &machines {
        start_container(machine)?;
    }
    eprintln!("docker {}", machines[0].sh("docker version -f '{{.Server.Version}}'")?.trim());
    reach_each_other(&hosts, &machines)?;
    what_is_flushed_comes_back(&machines[0], &machines[1])?;
    reach_each_other(&hosts, &machines)?;
    what_is_forged_is_dropped(lab, &hosts, &machines)?;

    let (to, from) = ((&hosts[0], &machines[0]), (&hosts[1], &machines[1]));
    let line = Line { underlay: lab, from, to, encapsulation: Encapsulation::Vxlan };
    line.control_run()?;
    let meter = line.meter()?;
    reload_keeps_the_process(&machines[0])?;
    meter.lost_none()?;
    restart_and_upgrade_touch_no_container(&line)?;
    reach_each_other(&hosts, &machines)?;

    let before = machines[1].sh(SUBNET)?;
    machines.remove(1).power_off()?;
    hosts[1].reboot()?;
    machines.insert(1, Machine::boot(&hosts[1], shipped.spec(&user_data))?);
    up(&machines[1])?;
    let after = machines[1].sh(SUBNET)?;
    check(before == after, || format!("another subnet after the reboot: {before}, then {after}"))?;
    docker_started_behind_the_agent(&machines[1])?;
    start_again(&machines[1])?;
    reach_each_other(&hosts, &machines)?;
    // Debian 12 has Compose 1, which is no longer maintained.
    if suite == "forky" { compose_on_the_hosts_subnet(&machines[0], &machines[1]) } else { Ok(()) }
}

/// The first boot, of one machine that forwards already and two that do not; the third leaves masquerading to the agent.
fn boot(hosts: &[Host; 3], shipped: &Shipped, user_data: &str) -> Result<Vec<Machine>> {
    let endpoints = user_data.lines().find(|line| line.contains("WIRE_AGENT_ETCD_ENDPOINTS=")).unwrap_or_default();
    let masquerades = user_data.replace(endpoints, &format!("{endpoints}\n      WIRE_AGENT_IP_MASQ=true"));
    hosts[0].sysctl("net.ipv4.ip_forward", "1")?;
    let forwarding = |host: &Host| host.exec("sysctl -n net.ipv4.ip_forward");
    let forward = hosts.iter().map(forwarding).collect::<Result<String>>()?;
    check(forward == "1\n0\n0\n", || format!("before the first boot ip_forward is {forward}"))?;
    let booted = hosts.iter().zip([user_data, user_data, &masquerades]);
    let machines = booted.map(|(host, data)| Machine::boot(host, shipped.spec(data))).collect::<Result<Vec<_>>>()?;
    for machine in &machines {
        provisioned(machine)?;
        docker_started_behind_the_agent(machine)?;
        sandboxed(machine)?;
        // Docker would have set it to DROP, had it switched forwarding on itself.
        machine.sh("iptables -S FORWARD | grep -qx -e '-P FORWARD ACCEPT'")?;
    }
    let forward = hosts.iter().map(forwarding).collect::<Result<String>>()?;
    check(forward == "1\n1\n1\n", || format!("ip_forward is {forward}"))?;
    let masquerading = |machine: &Machine| {
        machine.sh("nft list table inet wire-agent | grep -q ' masquerade ' && echo yes || echo no")
    };
    let masquerading = machines.iter().map(masquerading).collect::<Result<String>>()?;
    check(masquerading == "no\nno\nyes\n", || format!("masquerade: {masquerading}")).map(|()| machines)
}

const SUBNET: &str = "sed -n 's/^FLANNEL_SUBNET=//p' /run/flannel/subnet.env";

/// cloud-init has ended well, and with it the installation of agent and Docker.
fn provisioned(machine: &Machine) -> Result {
    cloud_init_done(machine)?;
    up(machine)
}

fn cloud_init_done(machine: &Machine) -> Result {
    // Until its first process is there nobody can ask.
    eventually(Duration::from_secs(120), || machine.sh("systemctl is-system-running || true").map(drop))?;
    let status = machine.sh("cloud-init status --wait --long || true")?;
    let log =
        || machine.sh("tail -n 60 /var/log/cloud-init-output.log; systemctl --failed --no-pager").unwrap_or_default();
    check(status.contains("status: done"), || format!("{status}\n{}", log()))
}

/// The agent is ready and Docker runs, with the bridge that the agent's subnet asks for.
fn up(machine: &Machine) -> Result {
    let waited = eventually(Duration::from_secs(180), || {
        let states = machine.sh("systemctl is-active wire-agent docker || true")?;
        check(states == "active\nactive\n", || states.clone())
    });
    let log = || machine.sh("journalctl --no-pager -n 40 -u wire-agent -u docker").unwrap_or_default();
    waited.map_err(|error| LabError::Wrong(format!("{error}\n{}", log())))?;
    let (subnet, bridge) = (machine.sh(SUBNET)?, machine.sh("ip -o -4 addr show docker0 | tr -s ' ' | cut -d' ' -f4")?);
    check(subnet == bridge, || format!("docker0 has {bridge}, the subnet is {subnet}"))
}

/// The agent, and with it nft and iptables, has one capability and a user of its own, and all of its unit is known to systemd.
fn sandboxed(machine: &Machine) -> Result {
    let status = machine.sh("cat /proc/$(systemctl show --value -p MainPID wire-agent)/status")?;
    let uid = machine.sh("id -u wire-agent")?;
    let fields =
        [format!("Uid:\t{}", uid.trim()), "CapEff:\t0000000000001000".into(), "CapBnd:\t0000000000001000".into()];
    check(fields.iter().all(|field| status.contains(field.as_str())), || status)?;
    machine.sh(r"! journalctl --no-pager _PID=1 | grep -E 'wire-agent\.(service|conf).*(Unknown|ignoring|Invalid)'")?;
    let ready = || {
        let status = machine.sh("wire-agent status --json | tr -d ' \n'")?;
        check(status.contains("\"phase\":\"ready\""), || status)
    };
    eventually(Duration::from_secs(30), ready).map(drop)
}

fn docker_started_behind_the_agent(machine: &Machine) -> Result {
    let stamp = |unit: &str, which: &str| -> Result<u64> {
        let text = machine.sh(&format!("systemctl show --value -p {which}Monotonic {unit}"))?;
        text.trim().parse().map_err(|_| LabError::Wrong(format!("{unit} has no {which}: {text}")))
    };
    let (ready, started) = (stamp("wire-agent", "ActiveEnterTimestamp")?, stamp("docker", "ExecMainStartTimestamp")?);
    check(ready != 0 && ready < started, || format!("ready at {ready} µs, dockerd started at {started} µs"))
}

/// A reload makes the same process join anew.
fn reload_keeps_the_process(machine: &Machine) -> Result {
    let agent = "systemctl show --value -p MainPID wire-agent";
    let before = machine.sh(agent)?;
    machine.sh("systemctl reload wire-agent")?;
    eventually(Duration::from_secs(30), || {
        machine.sh("journalctl --no-pager -o cat -u wire-agent | grep 'joining anew'").map(drop)
    })?;
    let after = machine.sh(agent)?;
    check(before == after, || format!("process {before} became {after}"))?;
    machine.sh("systemctl is-active wire-agent").map(drop)
}

/// What an operator, a package, an accident and the watchdog do to the agent. What hangs, a part of it or all, is killed by the
/// watchdog, here after two seconds instead of thirty.
const RESTARTS: [&str; 6] = [
    "systemctl restart wire-agent",
    "dpkg-deb -R /opt/wire-agent.deb /tmp/newer; echo >>/tmp/newer/usr/bin/wire-agent; sed -i 's/^Version: .*/Version: 99.0-1/' /tmp/newer/DEBIAN/control
     dpkg-deb -b /tmp/newer /tmp/newer.deb; apt-get install -y /tmp/newer.deb; dpkg-query -W -f '${Version}' wire-agent | grep -x 99.0-1
     cmp /tmp/newer/usr/bin/wire-agent /usr/bin/wire-agent",
    "systemctl kill -s KILL wire-agent",
    "mkdir -p /run/systemd/system/wire-agent.service.d
     printf '[Service]\\nWatchdogSec=2\\nTimeoutAbortSec=2\\n' >/run/systemd/system/wire-agent.service.d/impatient.conf
     systemctl daemon-reload; systemctl restart wire-agent",
    "wire-agent debug hang dataplane",
    "systemctl kill -s STOP wire-agent",
];

/// A restart and a newer package bring a new agent and leave Docker and the container as they are, and no ping is lost.
fn restart_and_upgrade_touch_no_container(line: &Line<'_>) -> Result {
    let machine = line.to.1;
    let docker =
        "systemctl show --value -p MainPID docker; docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web";
    let agent = "systemctl show --value -p MainPID wire-agent";
    let before = machine.sh(docker)?;
    for act in RESTARTS {
        let meter = line.meter()?;
        let old = machine.sh(agent)?;
        machine.sh(act)?;
        eventually(Duration::from_secs(60), || {
            let new = machine.sh(agent)?;
            let state = machine.sh("systemctl is-active wire-agent || true")?;
            check(new != old && state.trim() == "active", || format!("{act}: still {new}, {state}"))
        })?;
        machine.sh(&format!("cmp /proc/$({agent})/exe /usr/bin/wire-agent"))?;
        let log = || machine.sh("journalctl --no-pager -n 30 -u wire-agent").unwrap_or_default();
        meter.lost_none().map_err(|error| LabError::Wrong(format!("{act}: {error}\n{}", log())))?;
        let after = machine.sh(docker)?;
        check(before == after, || format!("{act} has touched Docker:\n{before}{after}"))?;
    }
    machine
        .sh("rm -r /run/systemd/system/wire-agent.service.d; systemctl daemon-reload; systemctl restart wire-agent")?;
    up(machine)
}
