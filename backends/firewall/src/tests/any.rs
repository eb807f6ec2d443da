//! Properties of any rules that may be desired.

use proptest::prelude::*;
use wire_state::{ChainName, ErrorKind, Operation as _, Reconciler, sim::Sim};

use super::*;

/// Any rules that may be desired.
fn any_firewall() -> impl Strategy<Value = DesiredFirewall> {
    let policies = (any::<[bool; 4]>(), prop::collection::btree_set(2u8..6, 0..4), any::<bool>());
    policies.prop_map(|([dual, masquerade, forward, peers_only], peers, bridged)| {
        let mut policy = policy(dual);
        policy.masquerade = if masquerade { Masquerade::Plain } else { Masquerade::Off };
        policy.forward = forward;
        policy.senders = if peers_only { Senders::Peers } else { Senders::Anyone };
        let peers: Vec<u8> = peers.into_iter().collect();
        wanted(&policy, &peers, if bridged { &["docker0"] } else { &[] })
    })
}

/// Compares our table.
fn holds(have: &ObservedFirewall, want: &DesiredFirewall) -> bool {
    match (&have.table, &want.table) {
        (Some(have), Some(want)) => have.equals(want),
        (have, want) => have.is_none() && want.is_none(),
    }
}

proptest! {
    #[test]
    fn a_change_carried_out_reaches_what_is_wanted(have in any_firewall(), want in any_firewall(), [docker, raw] in any::<[bool; 2]>()) {
        let mut have = put(&have);
        if docker {
            let table = ChainTable { family: Family::V4, kind: ChainTableKind::Filter };
            have.callers.insert(ChainName { table, name: "DOCKER-USER".to_owned() });
        }
        if !raw {
            have.used.clear();
        }
        let had: Vec<ChainName> = have.chains.keys().cloned().collect();
        let ops = plan(&have, &want).ops;
        prop_assert!(ops.is_sorted_by_key(FirewallOp::is_delete));
        ops.iter().for_each(|op| have.apply(op));
        prop_assert!(plan(&have, &want).ops.is_empty());
        prop_assert!(holds(&have, &want));
        let is_put = |name: &&ChainName| raw || name.table.kind != ChainTableKind::Raw || had.contains(name);
        let wanted = want.chains.keys().filter(is_put).collect::<Vec<_>>();
        prop_assert_eq!(have.chains.keys().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn the_packet_filter_converges_through_any_failures(
        have in any_firewall(),
        wants in prop::collection::vec(any_firewall(), 1..4),
        faults in prop::collection::vec((0usize..6, 0usize..5), 0..6),
    ) {
        const ERRORS: [ErrorKind; 5] =
            [ErrorKind::Permission, ErrorKind::NoBuffers, ErrorKind::NoDevice, ErrorKind::Busy, ErrorKind::Lost];
        const NAMES: [&str; 6] =
            ["put table", "change sets", "put chains", "delete chain", "delete table", "delete abandoned chain"];
        let mut have = put(&have);
        have.abandoned = have.chains.clone();
        let sim = Sim::<Firewall>::new(have.clone());
        let mut reconciler = Reconciler::new(sim.clone(), ());
        for want in &wants {
            for (name, error) in &faults {
                sim.fail_next(NAMES[*name], ERRORS[*error]);
            }
            let rounds = (0..8).take_while(|_| !reconciler.round(want).converged).count();
            prop_assert!(rounds < 8);
            prop_assert!(holds(&sim.state(), want));
            prop_assert!(sim.state().chains.keys().eq(want.chains.keys()));
            prop_assert!(sim.state().abandoned.is_empty());
        }
        prop_assert_eq!(sim.state().callers, have.callers);
    }
}
