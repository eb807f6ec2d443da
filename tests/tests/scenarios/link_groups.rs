//! What containers on a network by name send to the groups that bridges do not forward (01:80:c2:00:00:00 to 0f, IEEE 802.1D) reaches nobody.

use std::net::IpAddr;

use wire_tests::{LabError, Namespace, Process, Result, binary, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, START, cluster},
    named::{asked, network, silent},
};

/// A namespace that is attached to a network as a container is.
struct Guest {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    /// Its port on the host's bridge.
    port: String,
    mac: String,
}

impl Guest {
    /// Attaches one to `app`.
    fn on(node: &Node, name: &str) -> Result<Self> {
        let namespace = Namespace::new(node.host.namespace().run(), &format!("{}-{name}", node.host.name()))?;
        let words = format!("attach {} app --name lan0 --json", namespace.path().display());
        let output = node.agent.run_with_its_flags(&words)?;
        let wrong = || LabError::Wrong(format!("{words}: {output:?}\n{}", node.agent.log()));
        let reply: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| wrong())?;
        let endpoint = &reply["attachment"]["endpoints"][0];
        let text = |name: &str| endpoint[name].as_str().map(str::to_owned).ok_or_else(wrong);
        let addresses = [text("address")?, text("address_v6")?].iter().filter_map(|text| text.parse().ok()).collect();
        let mac = namespace.sh("ip -o link show lan0 | sed 's/.*ether \\([0-9a-f:]*\\).*/\\1/'")?.trim().to_owned();
        Ok(Self { port: text("port")?, namespace, addresses, mac })
    }

    fn reaches(&self, to: IpAddr) -> bool {
        self.namespace.exec(&format!("ping -c 1 -W 2 {to}")).is_ok()
    }

    /// True if an answer comes to what this guest sends to the group with that number, as the sender with this MAC.
    fn is_answered(&self, mac: &str, group: u8, to: IpAddr) -> bool {
        let group = format!("01:80:c2:00:00:{group:02x}");
        let sent = self.namespace.sh(&format!(
            "ip link set lan0 address {mac}; ip neigh replace {to} lladdr {group} dev lan0 nud permanent
             ping -c 1 -W 1 {to} > /dev/null && echo answered || true
             ip neigh del {to} dev lan0; ip link set lan0 address {}",
            self.mac
        ));
        sent.is_ok_and(|said| said.contains("answered"))
    }
}

/// The helper of root, by which the agent reaches into namespaces.
fn helper(node: &Node) -> Result<Process> {
    let socket = node.agent.run_dir().join("guests.sock");
    let path = socket.display().to_string();
    let words = ["guests", "--agent-user=root", "--socket", &path, "--docker-socket", "/nobody/listens.sock"];
    let helper = node.host.start(binary()?, &words.map(str::to_owned), "guests.log")?;
    eventually(START, || check(socket.exists(), || "the helper does not listen".to_owned()))?;
    Ok(helper)
}

/// The number of frames that were dropped at ports.
fn at_ports(node: &Node) -> Result<u64> {
    let counted = &node.agent.status()?.rest["firewall"]["networks"]["at_ports"];
    counted.as_u64().ok_or_else(|| LabError::Wrong(format!("at_ports is {counted}")))
}

fn vni(node: &Node) -> Result<u64> {
    let inspected = asked(node, "inspect app")?;
    inspected["vni"].as_u64().ok_or_else(|| LabError::Wrong(inspected.to_string()))
}

/// Lets the kernel's own way stand for most groups.
fn change(node: &Node, port: &str) -> Result {
    node.host.namespace().ip(&format!("link set {port} type bridge_slave group_fwd_mask 8")).map(drop)
}

fn takes_groups(node: &Node, port: &str) -> Result<bool> {
    Ok(node.host.namespace().sh(&format!("ip -d link show {port}"))?.contains("group_fwd_mask 0xfffd"))
}

#[test]
fn what_a_container_sends_to_the_groups_of_a_link_reaches_nobody_and_moves_nobodys_traffic() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, two]) = cluster::<2>(&lab, DUAL)?;
    let _helpers = [&one, &two].map(helper).into_iter().collect::<Result<Vec<_>>>()?;
    network(&one, "create app --ipv6")?;
    let (forger, victim, far) = (Guest::on(&one, "forger")?, Guest::on(&one, "victim")?, Guest::on(&two, "far")?);
    let all_reach = || {
        let pairs = [(&far, &victim), (&forger, &victim), (&victim, &far)];
        let mut wanted = pairs.into_iter().flat_map(|(from, to)| to.addresses.iter().map(move |to| (from, *to)));
        check(wanted.all(|(from, to)| from.reaches(to)), || "somebody is not reached".to_owned())
    };
    eventually(START, all_reach)?;
    let known = || one.host.namespace().sh(&format!("bridge fdb show | grep '^{} '", victim.mac));
    let before = known()?;
    check(before.contains(&victim.port), || before.clone())?;

    let gateway = forger.namespace.sh("ip route show default; ip -6 route show default")?;
    let gateways = gateway.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok());
    let targets: Vec<IpAddr> = gateways.chain(victim.addresses.iter().copied()).collect();
    check(targets.len() == 4, || gateway.clone())?;
    let counted = at_ports(&one)?;
    for group in [0, 2, 3, 0x0e, 0x0f] {
        for target in &targets {
            for mac in [&forger.mac, &victim.mac] {
                let is_answered = forger.is_answered(mac, group, *target);
                check(!is_answered, || format!("{target} answers to group {group:x} from {mac}"))?;
            }
        }
        check(known()? == before, || format!("group {group:x} moved {before} to {:?}", known()))?;
    }
    // Two for each group and target, and what its stack sends with the MAC of another besides.
    eventually(START, || check(at_ports(&one)? >= counted + 40, || format!("{counted}, {:?}", at_ports(&one))))?;
    eventually(START, all_reach)?;
    silent(&[&one, &two])?;

    // What somebody changes at a port is put back.
    let overlay = format!("wv.{}", vni(&one)?);
    let ports = [&forger.port, &overlay];
    for port in ports {
        change(&one, port)?;
        let is_back =
            || check(takes_groups(&one, port)?, || format!("{port} is as it was changed\n{}", one.agent.log()));
        eventually(START, is_back)?;
    }

    // While no agent runs it stays, is named of the network's own device, and this host still takes nothing by the port.
    one.agent.kill();
    for port in ports {
        change(&one, port)?;
    }
    let said = one.agent.compare(&["verify"])?;
    check(said.text.contains(&format!("device {overlay} has group_fwd_mask off")), || format!("{said:?}"))?;
    for gateway in &targets[..2] {
        check(!forger.is_answered(&forger.mac, 0x0e, *gateway), || format!("{gateway} answers past the bridge"))?;
    }
    one.agent.restart()?;
    one.agent.wait_ready(START)?;
    eventually(START, || silent(&[&one]))?;
    for port in ports {
        check(takes_groups(&one, port)?, || format!("{port} after a restart"))?;
    }
    Ok(())
}
