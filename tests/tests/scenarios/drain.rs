//! Leaving the network: what `wire-agent drain` leaves behind, which is nothing.

use wire_tests::{AgentSpec, Dockerd, Etcd, Host, Lab, Result, check, lab, run_binary};

use crate::{
    bridges::with_settings,
    cluster::{DUAL, Node},
    datapath::{DUAL_UDP, Datapath},
};

#[test]
fn a_host_of_kernel_vxlan_leaves_nothing_behind_though_nobody_reads_what_drain_says() -> Result {
    leave(&lab!(), Datapath::KernelVxlan, DUAL)
}

#[test]
fn a_host_of_raw_udp_leaves_nothing_behind() -> Result {
    leave(&lab!(), Datapath::UserspaceUdp, DUAL_UDP)
}

fn leave(lab: &Lab, datapath: Datapath, config: &str) -> Result {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(config)?;
    let [host, other] = lab.hosts()?;
    let before = picture(&host)?;
    let stays = Node::by(datapath, other, AgentSpec::new(etcd.agent_flags()))?;
    let spec = AgentSpec::new(etcd.agent_flags()).flag("--ip-blackhole-route");
    let mut node = Node::by(datapath, host, spec)?;
    check(picture(&node.host)? != before, || "the agent has changed nothing".to_owned())?;

    let refused = node.agent.run_with_its_flags("drain")?;
    check(refused.status.code() == Some(75), || format!("while the agent runs: {refused:?}"))?;
    node.agent.terminate()?;
    // As before `| head -1`: it goes on to its end all the same.
    let unread = node.agent.run_unread("drain")?;
    check(unread.success(), || format!("unread: {unread}"))?;
    let after = picture(&node.host)?;
    check(after == before, || format!("before:\n{before}\nafter:\n{after}"))?;
    let again = node.agent.run_with_its_flags("drain")?;
    check(again.status.success(), || format!("the second time: {again:?}"))?;
    let files = node.host.namespace().sh(&format!("ls -R {}", node.agent.dir().display()))?;
    let left = ["subnet.env", "docker", "state.json", "network.json", "network.journal"]
        .iter()
        .find(|name| files.contains(**name));
    check(left.is_none(), || format!("left: {files}"))?;

    let keys: Vec<String> =
        etcd.list(Etcd::PREFIX)?.into_iter().map(|stored| String::from_utf8_lossy(&stored.key).into_owned()).collect();
    let subnet = stays.subnet(wire_tests::Family::V4)?.replace(".1/24", ".0");
    let foreign = |key: &&String| !key.ends_with("/config") && !key.contains(&subnet) && !key.contains("guards");
    check(!keys.iter().any(|key| foreign(&key)), || format!("keys: {keys:?}"))?;
    let guards = keys.iter().filter(|key| key.contains("guards")).count();
    check(guards == 2, || format!("guards: {keys:?}"))
}

#[test]
fn where_iptables_is_gone_before_it_drain_says_that_rules_are_left_and_can_be_tried_again() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("programs").display().to_string();
    host.namespace().sh(&format!(
        "mkdir -p {bin}/away; ln -s $(command -v nft) {bin}
         for t in iptables ip6tables; do for word in '' -save -restore; do ln -s $(command -v $t$word) {bin}; done; done"
    ))?;
    let wrapper = vec!["env".to_owned(), format!("PATH={bin}")];
    let mut node = Node::with(host, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
    node.agent.terminate()?;
    node.host.namespace().sh(&format!("mv {bin}/ip* {bin}/away"))?;
    let refused = node.agent.run_with_its_flags("drain")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let says_so =
        said.contains("not all of the firewall could be removed") && said.contains("iptables is not installed");
    check(refused.status.code() == Some(1) && says_so, || format!("{refused:?}"))?;
    node.host.namespace().sh(&format!("mv {bin}/away/* {bin}"))?;
    let drained = node.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    let left = node.host.namespace().sh("nft list ruleset")?;
    check(left.is_empty(), || left)
}

#[test]
fn what_was_merged_into_dockers_settings_is_taken_out_again() -> Result {
    const BEFORE: &str = "{\n    \"labels\":[\"kept=yes\"],  \"debug\" : false\n}\n";
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    // After a reboot there is no subnet.env: then nothing tells which MTU was ours.
    for (name, reboots, left) in [("a", false, ""), ("b", true, ",\n    \"mtu\": 1430")] {
        let host = lab.host(name)?;
        let dir = Dockerd::settings_dir(&host);
        let file = dir.join("daemon.json");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(&file, BEFORE).unwrap();
        let spec = AgentSpec { wrapper: with_settings(&dir), ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") };
        let mut node = Node::with(host, spec)?;
        let (env, path) = (node.agent.subnet_file(), file.display().to_string());
        let merged = run_binary(None, &["docker-opts", "-f", &env.display().to_string(), "--daemon-json", &path])?;
        let text = std::fs::read_to_string(&file).unwrap();
        let has_all = ["bip", "mtu", "ip-masq", "ipv6", "fixed-cidr-v6"].iter().all(|key| text.contains(key));
        check(merged.status.success() && has_all, || format!("{merged:?} {text}"))?;
        node.agent.terminate()?;
        if reboots {
            std::fs::remove_file(&env).unwrap();
        }
        let drained = node.agent.run_with_its_flags("drain")?;
        let said = String::from_utf8_lossy(&drained.stdout);
        let says_so = said.contains("ipv6, fixed-cidr-v6 removed from /etc/docker/daemon.json")
            && said.contains("until it is restarted");
        check(drained.status.success() && says_so, || format!("{drained:?}"))?;
        let now = std::fs::read_to_string(&file).unwrap();
        let wanted = BEFORE.replace("false\n", &format!("false{left}\n"));
        check(now == wanted, || format!("{now}\ninstead of\n{wanted}"))?;
    }
    Ok(())
}

/// All that an agent may change in a kernel, but forwarding, which stays on (and with it the kernel's anycast addresses).
fn picture(host: &Host) -> Result<String> {
    host.namespace().sh(
        "ip -o link | cut -d: -f2; ip -o addr | tr -s ' ' | cut -d' ' -f2-4; ip route show table all | grep -v 'table local'; ip -6 route show table all | grep -v 'table local'
         ip rule; ip nexthop; ip neigh show nud permanent; bridge fdb show | grep -v 'dev eth0' || true
         nft list ruleset",
    )
}
