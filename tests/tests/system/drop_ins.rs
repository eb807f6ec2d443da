//! Docker's drop-ins under a real systemd, and what networkd is told.

use std::time::Duration;

use wire_tests::{Machine, Result, check, eventually};

use crate::{SUBNET, containers::DOCKER_ANEW, up};

const FOLDER: &str = "/etc/systemd/system/docker.service.d";

/// An agent that cannot start gives no subnet: Docker, which tries again and again, never takes one of its own. As soon as the
/// setting is right, all is up by itself.
pub(crate) fn docker_never_starts_on_another_subnet(machine: &Machine) -> Result {
    machine.sh("systemctl stop docker.socket docker wire-agent; ip link delete docker0; rm /run/flannel/*.env
         echo WIRE_AGENT_IPTABLES_RESYNC=never >>/etc/default/wire-agent
         systemctl start --no-block docker")?;
    eventually(Duration::from_secs(60), || {
        let tries = machine.sh("systemctl show --value -p NRestarts docker")?;
        let several = tries.trim().parse().is_ok_and(|tries: u32| tries >= 3);
        check(several, || format!("Docker has tried again {tries} times"))
    })?;
    // A bridge that was ever made would still be there.
    let link = machine.sh("ip -o link show docker0 2>/dev/null || true")?;
    let states = machine.sh("systemctl is-active docker wire-agent || true")?;
    check(link.is_empty() && !states.lines().any(|state| state == "active"), || format!("{states}{link}"))?;
    machine.sh("sed -i /RESYNC/d /etc/default/wire-agent")?;
    up(machine)
}

/// Each drop-in on the kind of host that it is for. Debian's own unit has `replaces`.
pub(crate) fn each_drop_in_gives_docker_its_subnet(machine: &Machine) -> Result {
    let chosen = machine.sh(&format!("readlink {FOLDER}/40-wire-agent.conf"))?;
    check(chosen.contains("d-replaces/"), || chosen.clone())?;
    let flags = "tr '\\0' ' ' </proc/$(systemctl show --value -p MainPID docker)/cmdline";
    let bip = format!("--bip={}", machine.sh(SUBNET)?.trim());

    let own = "/usr/sbin/dockerd -H fd:// --debug $DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ";
    machine.sh(&format!("printf '[Service]\\nExecStart=\\nExecStart={own}\\n' >{FOLDER}/30-own.conf"))?;
    link(machine, "expands")?;
    up(machine)?;
    let told = machine.sh(flags)?;
    check(told.contains("--debug") && told.contains(&bip), || format!("expands: {told}"))?;
    machine.sh(&format!("rm {FOLDER}/30-own.conf"))?;

    link(machine, "daemon-json")?;
    up(machine)?;
    let (told, file) = (machine.sh(flags)?, machine.sh("cat /etc/docker/daemon.json")?);
    check(!told.contains("--bip") && file.contains("\"bip\""), || format!("daemon-json: {told}{file}"))?;

    machine.sh("echo '{\"bridge\": \"none\"}' >/etc/docker/daemon.json")?;
    link(machine, "networks")?;
    let state = machine.sh("systemctl is-active docker; ip -o link show docker0 2>&1 || true")?;
    check(state.starts_with("active\n") && state.contains("does not exist"), || format!("networks: {state}"))?;

    machine.sh("rm /etc/docker/daemon.json")?;
    link(machine, "replaces")?;
    up(machine)
}

fn link(machine: &Machine, kind: &str) -> Result {
    let target = format!("/usr/share/wire-agent/docker.service.d-{kind}/40-wire-agent.conf");
    machine.sh(&format!("ln -sfn {target} {FOLDER}/40-wire-agent.conf; systemctl daemon-reload\n{DOCKER_ANEW}"))?;
    Ok(())
}

/// Not even where the operator has it manage all that is there.
pub(crate) fn networkd_leaves_our_device_alone(machine: &Machine) -> Result {
    let ours = "ip -o address show dev flannel.1; ip route show dev flannel.1; bridge fdb show dev flannel.1";
    let before = machine.sh(ours)?;
    machine.sh(
        "printf '[Match]\\nName=flannel* test0\\n[Network]\\nAddress=10.99.0.1/24\\n' >/etc/systemd/network/90-all.network
         ip link add test0 type veth peer test1; ip link set test0 up; ip link set test1 up
         systemctl start systemd-networkd",
    )?;
    let managed = || {
        let links = machine.sh("networkctl --no-pager --no-legend list; ip -o -4 address show dev test0")?;
        let ours = links.lines().find(|line| line.contains(" flannel.1 ")).unwrap_or_default();
        // What it does manage has what it was told to give it, or the rest would prove nothing.
        check(ours.trim_end().ends_with("unmanaged") && links.contains("10.99.0.1/24"), || links.clone())
    };
    eventually(Duration::from_secs(30), managed)?;
    machine.sh("systemctl restart systemd-networkd; sleep 2")?;
    let after = machine.sh(ours)?;
    check(before == after, || format!("before networkd\n{before}with it\n{after}"))
}
