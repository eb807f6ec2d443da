//! What is not theirs to send, from strangers, members and containers: none of it arrives.

use std::time::Duration;

use wire_tests::{Host, Lab, LabError, Machine, Result, check, eventually};

/// Counters are looked at every five seconds.
const COUNTED: Duration = Duration::from_secs(15);

/// The first machine's kernel is the judge: it counts the echo requests that it has taken.
pub(crate) fn what_is_forged_is_dropped(lab: &Lab, hosts: &[Host; 3], machines: &[Machine]) -> Result {
    let [target, member, third] = machines else { return Err(LabError::Wrong("not three machines".to_owned())) };
    let (vtep, of_member, of_third) = (vtep(target)?, vtep(member)?, vtep(third)?);
    let stranger = lab.host("stranger")?;
    forge(&stranger, target, &hosts[0], &of_member)?;
    let ping = |from: &str| format!("ping -c 3 -i 0.2 -W 1 {from} {vtep}");
    let arrive = |who: &str, expected: u64, send: &dyn Fn() -> Result<String>| -> Result {
        let before = echoes(target)?;
        // What nobody answers ping calls a failure.
        let _ = send();
        let taken = echoes(target)? - before;
        eprintln!("{who}: {taken} of 3 arrive");
        check(taken == expected, || format!("{who}: {taken} of 3 arrive instead of {expected}"))
    };
    arrive("a member with its own source", 3, &|| member.sh(&ping("")))?;
    arrive("a stranger with a member's source", 0, &|| stranger.exec(&ping("")))?;
    arrive("a member with a source outside all leases", 0, &|| as_another(member, "10.99.9.9", &ping))?;
    arrive("a member with another member's source", 0, &|| as_another(member, &of_third, &ping))?;
    check(third.sh(&ping("")).is_ok(), || "whose source that was cannot ping".to_owned())?;
    containers_send_nothing_encapsulated(lab, hosts, target)?;
    eventually(COUNTED, || {
        let status = target.sh("wire-agent status --json")?;
        let status: serde_json::Value =
            serde_json::from_str(&status).map_err(|error| LabError::Wrong(error.to_string()))?;
        let counted = ["strangers", "spoofed", "containers"].map(|name| status["firewall"][name].as_u64());
        check(counted == [Some(3), Some(6), Some(2)], || format!("{counted:?} were counted"))
    })
    .map(drop)
}

/// To the own host and to another's, by the port that encapsulated packets have.
fn containers_send_nothing_encapsulated(lab: &Lab, hosts: &[Host; 3], machine: &Machine) -> Result {
    let leaving = lab.count(&format!("ip saddr {} udp sport != 8472 udp dport 8472 udp length 20", hosts[0].v4()))?;
    for host in &hosts[..2] {
        machine.sh(&format!(
            "nsenter -t $(docker inspect -f '{{{{.State.Pid}}}}' web) -n bash -c 'printf \"\\x08\\0\\0\\0\\0\\0\\1\\0xxxx\" >/dev/udp/{}/8472'",
            host.v4()
        ))?;
    }
    let leaving = leaving.packets()?;
    eprintln!("a container to the port of VXLAN: {leaving} of 2 leave the host");
    check(leaving == 0, || format!("{leaving} packets of a container left the host as if they were its own"))
}

/// A device that sends to a machine as a peer would, with a source inside a member's subnet.
fn forge(stranger: &Host, target: &Machine, host: &Host, source: &str) -> Result {
    let (vtep, mac) = (vtep(target)?, target.sh("cat /sys/class/net/flannel.1/address")?);
    let (mac, own, to) = (mac.trim(), stranger.v4(), host.v4());
    stranger.namespace().sh(&format!(
        "ip link add vx type vxlan id 1 dev eth0 local {own} dstport 8472 nolearning; ip link set vx up
         ip address add {source}/32 dev vx; ip route add {vtep}/32 dev vx src {source}
         ip neighbour add {vtep} lladdr {mac} dev vx; bridge fdb append {mac} dev vx dst {to} self permanent"
    ))?;
    Ok(())
}

/// On Docker's bridge, since the member's agent refuses a lease that overlaps what any other link of its host has.
fn as_another(member: &Machine, source: &str, ping: &dyn Fn(&str) -> String) -> Result<String> {
    member.sh(&format!("ip address add {source}/32 dev docker0"))?;
    let answer = member.sh(&ping(&format!("-I {source}")));
    member.sh(&format!("ip address delete {source}/32 dev docker0"))?;
    answer
}

fn vtep(machine: &Machine) -> Result<String> {
    let address = machine.sh("ip -o -4 addr show flannel.1 | tr -s ' ' / | cut -d/ -f4")?;
    Ok(address.trim().to_owned())
}

fn echoes(machine: &Machine) -> Result<u64> {
    let count = machine.sh("nstat -asz IcmpInEchos | awk '/InEchos/ {print $2}'")?;
    count.trim().parse().map_err(|_| LabError::Wrong(format!("nstat says {count:?}")))
}
