use nix::errno::Errno;
use wire_net::{DualStack, MacAddr, Mtu};
use wire_state::{DesiredLink, KernelKind, Veth};

use super::*;

pub(in crate::named) fn endpoint(port: &str, namespace: u64) -> SegmentEndpoint {
    SegmentEndpoint {
        port: port.parse().unwrap(),
        inside: LinkPlace { namespace: Namespace::Guest(namespace), name: "eth1".parse().unwrap() },
        addresses: DualStack { v4: Some([10, 128, 1, 33].into()), v6: None },
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
    }
}

fn create(endpoint: &SegmentEndpoint) -> Op {
    let link = DesiredLink::new(KernelKind::Veth(Veth { peer: endpoint.inside }), Mtu(1450));
    Op::Kernel(Namespace::Host, KernelOp::CreateLink(endpoint.port, Box::new(link)))
}

/// The report of a round in which these operations have failed, all with one error.
pub(in crate::named) fn failed(ops: Vec<Op>, errno: Errno) -> Report<Network> {
    let failures = ops.first().map(|op| Failure::Op { op: op.clone(), error: OpError::of(errno), more: ops.len() - 1 });
    Report { failures: failures.into_iter().collect(), failed_ops: ops, ..Report::default() }
}

/// The report of a round in which the links of these containers could not be made.
pub(in crate::named) fn unmade(endpoints: &[&SegmentEndpoint]) -> Report<Network> {
    failed(endpoints.iter().map(|endpoint| create(endpoint)).collect(), Errno::EEXIST)
}

#[test]
fn each_container_that_lacks_something_has_its_reason_and_no_other() {
    let [one, other, fine] = [endpoint("wp00000001", 7), endpoint("wp00000002", 8), endpoint("wp00000003", 9)];
    let report = unmade(&[&one, &other]);
    let undone = Undone::of(&report).unwrap();
    for without in [&one, &other] {
        let said = undone.at(without).unwrap();
        assert!(said.starts_with("eth1 is there already, perhaps as another name"), "{said}");
    }
    assert_eq!(undone.at(&fine), None);
    let address = wire_state::Address { link: "eth1".parse().unwrap(), address: [10, 128, 1, 33].into(), len: 20 };
    let report = failed(vec![Op::Kernel(Namespace::Guest(7), KernelOp::PutAddress(address))], Errno::EPERM);
    let undone = Undone::of(&report).unwrap();
    assert!(undone.at(&one).is_some_and(|said| said.contains("10.128.1.33/20 dev eth1")));
    assert_eq!(undone.at(&other), None);
}

#[test]
fn a_port_that_could_not_be_removed_is_kept_and_nothing_is_known_of_a_kernel_that_was_not_read() {
    let port: LinkName = "wp00000001".parse().unwrap();
    let report = failed(vec![Op::Kernel(Namespace::Host, KernelOp::DeleteLink(port))], Errno::EBUSY);
    let undone = Undone::of(&report).unwrap();
    assert!(undone.keeps(|name| name == port) && !undone.keeps(|name| name != port));
    let error = wire_state::DataplaneError::Open(std::io::ErrorKind::Other.into());
    let unread = Report::<Network> { failures: vec![Failure::Read(error)], ..Report::default() };
    assert!(Undone::of(&unread).is_none());
    let stopped = Report::<Network> { is_cut_short: true, ..Report::default() };
    assert!(Undone::of(&stopped).is_none(), "the removal of the port was not even tried");
}
