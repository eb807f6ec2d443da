//! Whole machines that reboot while etcd is away.

use std::time::Duration;

use wire_tests::{Etcd, Host, Machine, Result, check, eventually};

use crate::{
    SUBNET,
    containers::{container_address, fetch, start_again, start_container},
    docker_started_behind_the_agent, provisioned,
    shipped::{Shipped, lab},
    up,
};

#[test]
#[ignore = "`make test-system` runs it"]
fn docker_starts_with_the_last_known_subnet_while_etcd_is_away_at_a_later_boot() -> Result {
    let lab = lab("docker_without_etcd")?;
    let mut etcd = Etcd::start(&lab)?;
    let shipped = Shipped::find("bookworm")?;
    let user_data = shipped.user_data(&etcd.endpoints())?;
    let spec = shipped.spec(&user_data);
    let hosts: [Host; 2] = lab.hosts()?;
    let [first, other] = [Machine::boot(&hosts[0], spec)?, Machine::boot(&hosts[1], spec)?];
    for machine in [&first, &other] {
        provisioned(machine)?;
        start_container(machine)?;
    }
    let subnet = first.sh(SUBNET)?;
    first.power_off()?;
    etcd.kill(0);
    hosts[0].reboot()?;

    let machine = Machine::boot(&hosts[0], spec)?;
    eventually(Duration::from_secs(120), || machine.sh("systemctl is-system-running || true").map(drop))?;
    up(&machine)?;
    docker_started_behind_the_agent(&machine)?;
    let after = machine.sh(SUBNET)?;
    check(after == subnet, || format!("before the reboot {subnet}, after it {after}"))?;
    for told in ["wire-agent status || true", "systemctl show --value -p StatusText wire-agent"] {
        let told = machine.sh(told)?;
        let is_said =
            told.contains("degraded: etcd: it does not answer") && told.contains("; traffic uses the leases known at");
        check(is_said, || told.clone())?;
    }
    start_again(&machine)?;
    let containers = || {
        for (from, to) in [(&machine, &other), (&other, &machine)] {
            fetch(from, &container_address(to)?, 80)?;
        }
        Ok(())
    };
    containers()?;

    etcd.restart(0)?;
    // Two seconds are promised of a running agent alone (scenarios/etcd_away.rs).
    let back = eventually(Duration::from_secs(15), || machine.sh("wire-agent status").map(drop))?;
    eprintln!("ready {back:?} after etcd was back");
    let docker =
        machine.sh("systemctl show --value -p NRestarts docker; docker inspect -f '{{.State.Running}}' web")?;
    check(docker == "0\ntrue\n", || format!("etcd's return has touched Docker: {docker}"))?;
    check(machine.sh(SUBNET)? == subnet, || "another subnet after etcd's return".to_owned())?;
    containers()
}
