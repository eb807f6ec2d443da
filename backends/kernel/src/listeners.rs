//! The links that accept routes from router advertisements (RFC 4861) and must go on to accept them although this host forwards. They
//! follow from one read of all links and from the result of the reads before. Pure.

use std::collections::BTreeSet;

use wire_state::Scope;

use super::settings::LinkSettings;

/// The links that accept router advertisements, as remembered from one read to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners {
    /// The indexes of these links. A link stays among them while it exists, unless its `accept_ra` is set to 0.
    kept: BTreeSet<u32>,
    /// The indexes of all links of the last read; `None` before the first.
    seen: Option<BTreeSet<u32>>,
    /// Whether this host forwards only because the agent enabled it. Without the agent, a new link would accept router advertisements.
    is_host: bool,
}

/// The state of the host that decides about its links.
pub(super) struct RouterContext<'a> {
    pub(super) scope: &'a Scope,
    /// The indexes of the links with a route from a router advertisement.
    pub(super) learnt: &'a BTreeSet<u32>,
    /// Whether this host forwards IPv6.
    pub(super) forwards: bool,
    /// Whether `accept_ra` of a new link will be 1 (`net.ipv6.conf.default.accept_ra`).
    pub(super) by_default: bool,
}

impl RouterContext<'_> {
    /// Whether a link accepts router advertisements for the host. On bridges and their ports there may be containers, so these links
    /// count only if a router was seen there.
    fn may_listen(&self, link: &LinkSettings) -> bool {
        self.has_router(link) || !link.is_bridge && !link.is_inner
    }

    fn has_router(&self, link: &LinkSettings) -> bool {
        self.learnt.contains(&link.index) || self.scope.is_parent(link.index)
    }
}

impl Listeners {
    /// The links that accept router advertisements, or would if this host did not forward.
    pub(super) fn update<'a>(
        &mut self,
        links: &[&'a LinkSettings],
        context: &RouterContext<'_>,
    ) -> Vec<&'a LinkSettings> {
        let is_first = self.seen.is_none();
        if !context.forwards {
            self.is_host = true;
        } else if is_first {
            self.is_host = was_made_to_forward(links);
        }
        self.kept = links.iter().filter(|link| self.listens(link, context)).map(|link| link.index).collect();
        self.seen = Some(links.iter().map(|link| link.index).collect());
        let is_kept = |link: &&&LinkSettings| self.kept.contains(&link.index);
        let kept = links.iter().filter(is_kept).filter(|link| link.disable_ipv6 == Some(false));
        kept.filter(|link| !link.is_inner || context.has_router(link)).copied().collect()
    }

    fn listens(&self, link: &LinkSettings, context: &RouterContext<'_>) -> bool {
        let is_kept = self.kept.contains(&link.index);
        match link.router_advertisements {
            1 => {
                let as_host = link.forwards.v6 == Some(false) && context.may_listen(link);
                is_kept || context.has_router(link) || as_host || context.by_default && self.is_new_to_a_host(link)
            }
            // At the first read, an earlier run may have set 2. Later it was another program.
            2 => is_kept || self.seen.is_none() && context.may_listen(link),
            _ => false,
        }
    }

    fn is_new_to_a_host(&self, link: &LinkSettings) -> bool {
        let is_new = self.seen.as_ref().is_some_and(|seen| !seen.contains(&link.index));
        is_new && self.is_host && link.may_listen_as_new()
    }
}

/// Whether an earlier run seems to have enabled forwarding: all links to other hosts accept router advertisements nonetheless. A host
/// that was a router before has a link that does not.
fn was_made_to_forward(links: &[&LinkSettings]) -> bool {
    let out = || links.iter().filter(|link| link.leads_out && !link.is_inner && link.disable_ipv6 == Some(false));
    out().any(|link| link.router_advertisements == 2) && out().all(|link| link.router_advertisements != 1)
}

#[cfg(test)]
mod tests {
    use wire_net::DualStack;

    use super::*;
    use wire_state::{LinkId, Namespace};

    fn link(name: &str, index: u32) -> LinkSettings {
        LinkSettings {
            index,
            forwards: DualStack { v4: Some(false), v6: Some(false) },
            router_advertisements: 1,
            disable_ipv6: Some(false),
            ..LinkSettings::empty(name.parse().unwrap())
        }
    }

    /// A link of a host that forwards, with this `accept_ra`.
    fn router(name: &str, index: u32, value: u32) -> LinkSettings {
        let forwards = DualStack { v4: Some(true), v6: Some(true) };
        LinkSettings { forwards, router_advertisements: value, ..link(name, index) }
    }

    /// The names of the links that accept router advertisements; the links in `learnt` have a route from one.
    fn look(listeners: &mut Listeners, links: &[LinkSettings], learnt: &[u32]) -> Vec<String> {
        let scope = Scope {
            parent: Some(LinkId { namespace: Namespace::Host, index: 1, name: "eth0".parse().unwrap() }),
            ..Scope::default()
        };
        let learnt = learnt.iter().copied().collect();
        let forwards = links.iter().any(|link| link.forwards.v6 == Some(true));
        let context = RouterContext { scope: &scope, learnt: &learnt, forwards, by_default: true };
        let links: Vec<&LinkSettings> = links.iter().collect();
        listeners.update(&links, &context).into_iter().map(|link| link.name.to_string()).collect()
    }

    fn first(links: &[LinkSettings], learnt: &[u32]) -> Vec<String> {
        look(&mut Listeners::default(), links, learnt)
    }

    #[test]
    fn exactly_the_links_that_accept_router_advertisements_are_found() {
        let all = [link("eth0", 1), link("eth1", 2), link("wlan0", 3)];
        assert_eq!(first(&all, &[]), ["eth0", "eth1", "wlan0"]);
        // A link that forwards already, with accept_ra 1, accepts none, except one with such a route, and the underlay.
        let forwarding = [router("eth0", 1, 1), router("eth1", 2, 1), router("wlan0", 3, 1)];
        assert_eq!(first(&forwarding, &[]), ["eth0"]);
        assert_eq!(first(&forwarding, &[3]), ["eth0", "wlan0"]);
        let deaf = all.clone().map(|link| LinkSettings { router_advertisements: 0, ..link });
        assert_eq!(first(&deaf, &[1, 2, 3]), [""; 0]);
        let without = all.map(|link| LinkSettings { disable_ipv6: Some(true), ..link });
        assert_eq!(first(&without, &[1, 2, 3]), [""; 0]);
    }

    #[test]
    fn links_that_containers_may_be_on_are_found_only_with_a_router() {
        let bridge = LinkSettings { is_bridge: true, ..link("br0", 4) };
        let port = LinkSettings { is_inner: true, ..link("veth1", 5) };
        assert_eq!(first(&[bridge.clone(), port.clone()], &[]), [""; 0]);
        let mut listeners = Listeners::default();
        assert_eq!(look(&mut listeners, &[bridge.clone(), port.clone()], &[4]), ["br0"]);
        assert_eq!(look(&mut listeners, &[bridge, port], &[]), ["br0"], "its route may be lost for now");
    }

    #[test]
    fn a_link_accepts_router_advertisements_until_it_is_set_to_0_or_removed() {
        let mut listeners = Listeners::default();
        assert_eq!(look(&mut listeners, &[link("eth1", 2)], &[]), ["eth1"]);
        // Its routes are lost and its value may have been set back.
        for value in [2, 1, 2] {
            assert_eq!(look(&mut listeners, &[router("eth1", 2, value)], &[]), ["eth1"], "{value}");
        }
        // Another link with the same name is not kept.
        assert_eq!(look(&mut Listeners::default(), &[router("eth1", 7, 1)], &[]), [""; 0]);
        let port = LinkSettings { is_inner: true, ..router("eth1", 2, 1) };
        assert_eq!(look(&mut listeners, &[port], &[]), [""; 0], "as a bridge's port it has no routes");
        assert_eq!(look(&mut listeners, &[router("eth1", 2, 1)], &[]), ["eth1"]);
        for value in [0, 1] {
            assert_eq!(look(&mut listeners, &[router("eth1", 2, value)], &[]), [""; 0], "{value} after 0");
        }
    }

    #[test]
    fn a_new_link_accepts_router_advertisements_if_the_host_forwards_only_for_the_agent() {
        let ours =
            [vec![link("eth0", 1)], vec![router("eth0", 1, 2)], vec![router("eth0", 1, 2), router("eth9", 9, 0)]];
        for before in ours {
            let mut listeners = Listeners::default();
            look(&mut listeners, &before, &[]);
            let veth = LinkSettings { leads_out: false, ..router("veth1", 4, 1) };
            let port = LinkSettings { is_inner: true, ..router("eth2", 5, 1) };
            let links = [router("eth0", 1, 2), router("eth1", 3, 1), veth, port];
            assert_eq!(look(&mut listeners, &links, &[]), ["eth0", "eth1"], "{before:?}");
            // The veth and the port are not added later either, since they are not new then.
            assert_eq!(look(&mut listeners, &links, &[]), ["eth0", "eth1"], "{before:?}");
        }
        // A host that was a router before: it routes for the hosts on a new link, and is not routed by them.
        let mut listeners = Listeners::default();
        let before = [router("eth0", 1, 2), router("lan0", 2, 1)];
        assert_eq!(look(&mut listeners, &before, &[]), ["eth0"]);
        assert_eq!(look(&mut listeners, &[before[0].clone(), before[1].clone(), router("lan1", 3, 1)], &[]), ["eth0"]);
    }
}
