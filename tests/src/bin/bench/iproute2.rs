//! The same entries by iproute2's batch mode, in turns with the agent: a ratio from one run, whatever else the machine does.

use std::{
    fmt::Write,
    fs,
    time::{Duration, Instant},
};

use wire_tests::{
    Agent, AgentSpec, Change, Etcd, Family, Host, Lab, LabError, Monitor, PeerLease, Result, check, eventually,
    expect_peers, median,
};

use crate::{
    marks::MANY,
    report::{Goal, Report},
};

/// How many turns each has.
const TURNS: u8 = 3;

/// A start of the agent among leases that are there, and iproute2's batches of the entries alone: A B A B A B.
pub(crate) fn turns(lab: &Lab, etcd: &Etcd, report: &mut Report) -> Result {
    let peers: Vec<_> = (1..=MANY).map(PeerLease::numbered).collect();
    etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let host = lab.host(&format!("agent{turn}"))?;
        ours.push(agent(&host, etcd, &peers)?);
        // The next one is to find the same leases, and no more.
        let own = format!("\"PublicIP\":\"{}\"", host.v4());
        for lease in etcd.leases()?.iter().filter(|lease| lease.value().contains(&own)) {
            etcd.revoke(lease.lease)?;
        }
        theirs.push(batch(&lab.host(&format!("batch{turn}"))?, &peers)?);
    }
    let seconds = |times: &[Duration]| median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
    report.times("4 000 leases: agent's start to last entry, in turns", &ours, Goal::default());
    report.times("4 000 leases: iproute2's batches of the entries alone", &theirs, Goal::default());
    let ratio = seconds(&theirs) / seconds(&ours);
    report.number("4 000 leases: iproute2's time to ours, medians", ratio, "×", Goal::default());
    Ok(())
}

fn agent(host: &Host, etcd: &Etcd, peers: &[PeerLease]) -> Result<Duration> {
    let monitor = Monitor::listen(host.namespace())?;
    let agent = Agent::spawn(host, AgentSpec::new(etcd.agent_flags()))?;
    eventually(Duration::from_secs(60), || {
        let (routes, _) = monitor.count(Change::NEW_ROUTE);
        check(routes >= peers.len(), || format!("{routes} routes"))
    })?;
    let (_, last) = monitor.count(Change::NEW_ROUTE);
    let took = last.map_or_else(|| agent.started().elapsed(), |last| last.duration_since(agent.started()));
    verify(host, peers)?;
    Ok(took)
}

fn batch(host: &Host, peers: &[PeerLease]) -> Result<Duration> {
    let (mut ip, mut bridge) = (String::new(), String::new());
    for PeerLease { subnet, mac, public_ip, .. } in peers {
        let _ = writeln!(bridge, "fdb add {mac} dev flannel.1 dst {public_ip}");
        let _ = writeln!(ip, "neighbour add {subnet} lladdr {mac} dev flannel.1 nud permanent");
        let _ = writeln!(ip, "route add {subnet}/24 via {subnet} dev flannel.1 onlink");
    }
    let write = |name: &str, text: &str| {
        let path = host.dir().join(name);
        let failed = |source| LabError::Io { what: format!("cannot write {}", path.display()), source };
        fs::write(&path, text).map_err(failed)?;
        Ok::<_, LabError>(path.display().to_string())
    };
    let (ip, bridge) = (write("ip.batch", &ip)?, write("bridge.batch", &bridge)?);
    let device = "link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning";
    host.namespace().ip(device)?;
    host.namespace().ip("link set flannel.1 up")?;
    let start = Instant::now();
    host.namespace().bridge(&format!("-batch {bridge}"))?;
    host.namespace().ip(&format!("-batch {ip}"))?;
    let took = start.elapsed();
    verify(host, peers)?;
    Ok(took)
}

fn verify(host: &Host, peers: &[PeerLease]) -> Result {
    let expected: Vec<_> = peers.iter().filter_map(|peer| peer.expected(Family::V4)).collect();
    eventually(Duration::from_secs(10), || expect_peers(host, "flannel.1", Family::V4, &expected)).map(drop)
}
