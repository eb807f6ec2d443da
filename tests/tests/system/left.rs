//! What a purge leaves behind, which is nothing: a whole machine before the agent was installed beside a running Docker, and after.

use std::{fs, mem, process::Command, thread, time::Duration};

use wire_tests::{Etcd, Host, LabError, Machine, PeerLease, Result, check, eventually};

use crate::{
    SUBNET, cloud_init_done,
    containers::{DOCKER_ANEW, import_image, start_container},
    shipped::{Shipped, lab},
    up,
};

const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"vxlan"}}"#;

/// Docker alone, as on a host that has never heard of the agent. What timers start would be taken for ours.
const DOCKER_ALONE: &str = "#cloud-config\nruncmd:\n  - [sh, -ec, 'systemctl stop \"*.timer\"; apt-get update; apt-get install -y docker.io']\n";

#[test]
#[ignore = "`make test-system` runs it"]
fn a_purge_beside_docker_of_bookworm_leaves_the_machine_as_it_was() -> Result {
    leaves_nothing("purge_bookworm", "bookworm")
}

#[test]
#[ignore = "`make test-system` runs it"]
fn a_purge_beside_docker_of_forky_leaves_the_machine_as_it_was() -> Result {
    leaves_nothing("purge_forky", "forky")
}

fn leaves_nothing(name: &str, suite: &str) -> Result {
    let lab = lab(name)?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let peer = PeerLease::numbered(200).dual_stack();
    etcd.put(&peer.key(), &peer.value())?;
    let keys = || etcd.list(Etcd::PREFIX).map(|all| all.iter().map(|one| (one.key(), one.value())).collect::<Vec<_>>());
    let keys_before = keys()?;
    let shipped = Shipped::find(suite)?;
    let [host] = lab.hosts()?;
    let machine = Machine::boot(&host, shipped.spec(DOCKER_ALONE))?;
    cloud_init_done(&machine)?;
    import_image(&machine)?;
    machine.sh("docker run --rm lab true")?;
    machine.sh(DOCKER_ANEW)?;
    let before = settled_picture(&host, &machine)?;

    machine.sh("apt-get install -y /opt/wire-agent.deb")?;
    machine.sh(&format!(
        "printf '%s\\n' WIRE_AGENT_ETCD_ENDPOINTS={} WIRE_AGENT_IP_MASQ=true >>/etc/default/wire-agent
         systemctl restart wire-agent; systemctl restart docker",
        etcd.endpoints()
    ))?;
    up(&machine)?;
    start_container(&machine)?;
    // Otherwise the comparison would say nothing.
    let joined = picture(&host, &machine, "joined")?;
    for part in
        ["flannel.1", "flannel-v6.1", "10.5.200.0/24", "WIRE-FORWARD", "inet wire-agent", "/run/flannel/subnet.env"]
    {
        check(joined.contains(part) && !before.contains(part), || format!("{part} did not appear"))?;
    }
    check(keys()? != keys_before, || "no lease was written".to_owned())?;

    machine.sh("docker rm -f web >/dev/null")?;
    machine.sh("apt-get purge -y wire-agent")?;
    check(machine.sh(SUBNET).is_err(), || "subnet.env is left".to_owned())?;
    machine.sh(DOCKER_ANEW)?;
    let keys = keys()?;
    check(keys == keys_before, || format!("{keys:?} instead of {keys_before:?}"))?;
    // The kernel sends what it has to say of a bridge on its own time.
    eventually(Duration::from_secs(120), || {
        let after = picture(&host, &machine, "after")?;
        check(after == before, || differences(&host))
    })
    .map(drop)
}

/// All that a purge might leave. Apart from that: IPv6 forwarding stays on, as README says (Docker had switched IPv4's on
/// before), and the kernel's anycast addresses with it.
fn picture(host: &Host, machine: &Machine, name: &str) -> Result<String> {
    let text = machine.sh(include_str!("picture.sh"))?;
    let path = host.dir().join(name);
    let written = fs::write(&path, &text);
    written.map_err(|source| LabError::Io { what: format!("cannot write {}", path.display()), source })?;
    Ok(text)
}

/// The picture before, when what Docker, kernel and systemd still had to do is done: twice the same, two seconds apart.
fn settled_picture(host: &Host, machine: &Machine) -> Result<String> {
    let mut before = picture(host, machine, "before")?;
    eventually(Duration::from_secs(60), || {
        thread::sleep(Duration::from_secs(2));
        let earlier = mem::replace(&mut before, picture(host, machine, "before")?);
        check(before == earlier, || "the machine does not settle".to_owned())
    })?;
    Ok(before)
}

fn differences(host: &Host) -> String {
    let told = Command::new("diff").args(["-U0", "before", "after"]).current_dir(host.dir()).output();
    told.map_or_else(|error| error.to_string(), |told| String::from_utf8_lossy(&told.stdout).into_owned())
}
