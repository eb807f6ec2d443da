//! Networks by name on hosts whose kernel has no VXLAN: the agent moves the frames of their bridges, and hosts with VXLAN see no difference.

use std::net::IpAddr;

use wire_tests::{Etcd, Family, Lab, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, Site, attach, ctl, silent},
    cluster::{DUAL, START, V4, V6, cluster_of},
    datapath::Datapath,
};

/// One host of kernel VXLAN, and two of userspace VXLAN.
const MIXED: [Datapath; 3] = [Datapath::KernelVxlan, Datapath::UserspaceVxlan, Datapath::UserspaceVxlan];

/// A namespace on a network, and its addresses there.
struct Attached {
    guest: Made,
    addresses: Vec<IpAddr>,
}

impl Attached {
    fn on(site: &Site, network: &str) -> Result<Self> {
        let guest = Made::of(&site.node, network)?;
        let addresses = attach(&site.node, &format!("{} {network}", guest.path()))?;
        Ok(Self { guest, addresses })
    }
}

fn sites<const N: usize>(lab: &Lab, config: &str, datapaths: [Datapath; N]) -> Result<(Etcd, Vec<Site>)> {
    let (etcd, nodes) = cluster_of(lab, config, datapaths, &[])?;
    let sites = nodes.into_iter().map(|node| Site::new(node, false)).collect::<Result<Vec<_>>>()?;
    Ok((etcd, sites))
}

fn logs(sites: &[Site]) -> String {
    sites.iter().map(|site| site.node.agent.log()).collect()
}

/// The entries of the others are in all kernels a moment after the last one has joined.
fn all_meet(sites: &[Site], all: &[Attached]) -> Result {
    for (from, one) in all.iter().enumerate() {
        for (to, other) in all.iter().enumerate().filter(|(to, _)| *to != from) {
            for address in &other.addresses {
                let meets = || {
                    let pinged = one.guest.pings(*address);
                    check(pinged.is_ok(), || format!("{from} does not reach {to} at {address}\n{}", logs(sites)))
                };
                eventually(START, meets)?;
            }
        }
    }
    Ok(())
}

fn containers_meet(lab: &Lab, config: &str, flags: &str, families: &[Family]) -> Result {
    let (_etcd, sites) = sites(lab, config, MIXED)?;
    ctl(&sites[0].node, &format!("network create app{flags}"))?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    check(all.iter().all(|one| one.addresses.len() == families.len()), || "a family is missing".to_owned())?;
    all_meet(&sites, &all)?;
    silent(&sites)
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_ipv4() -> Result {
    containers_meet(&lab!(), V4, "", &[Family::V4])
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_ipv6() -> Result {
    containers_meet(&lab!(), V6, " --no-ipv4 --ipv6", &[Family::V6])
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_both_families() -> Result {
    containers_meet(&lab!(), DUAL, " --ipv6", &Family::ALL)
}
