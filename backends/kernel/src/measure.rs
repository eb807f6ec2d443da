//! The figures of docs/adr/0002:
//! `cargo test --release -p wire-kernel measure -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use wire_net::Family;
use wire_netlink::{Batch, Netlink};
use wire_state::{DesiredNet, KernelOp, Op, samples::plan_host};

use super::{
    NetlinkDataplane, OtherNamespaces, RouteForm, encode,
    tests::lab::{self, Lab},
};

const SIZES: [usize; 3] = [1_000, 4_000, 20_000];

#[test]
#[ignore = "a measurement"]
fn measure_answers_against_a_barrier() {
    println!("| entries | neighbours, each answered | barrier | FDB, each answered | barrier |");
    for size in SIZES {
        lab::in_namespace(move || {
            let (lab, want) = prepared(size);
            let mut times = Vec::new();
            for fdb in [false, true] {
                for answered in [true, false] {
                    lab.make_device();
                    let index = u32::try_from(lab::index("flannel.1")).unwrap();
                    let mut batch = Batch::default();
                    match fdb {
                        false => {
                            want.neighbours
                                .iter()
                                .for_each(|(key, mac)| encode::put_neighbour(&mut batch, index, key, *mac));
                        }
                        true => want.fdb.iter().for_each(|(key, to)| encode::put_fdb(&mut batch, index, key, *to)),
                    }
                    if answered {
                        batch.ask_for_all_answers();
                    }
                    let mut netlink = Netlink::open().unwrap();
                    let from = Instant::now();
                    assert!(netlink.send(&mut batch).into_iter().all(|attempt| attempt.is_ok()));
                    times.push(from.elapsed());
                }
            }
            println!("| {size} | {} |", cells(&times));
        });
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_route_forms() {
    println!(
        "| peers | plain routes alone | nexthops and routes | auto | whole first round, auto | read back | plan | echo |"
    );
    for size in SIZES {
        let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let shared = times.clone();
        lab::in_namespace(move || {
            let mut times = shared.lock().unwrap();
            for form in [RouteForm::Plain, RouteForm::Nexthop, RouteForm::Auto] {
                let (lab, want) = prepared(size);
                let mut dataplane = NetlinkDataplane::open(form).unwrap();
                let have = dataplane.read(lab.reconciler_of(form, &[Family::V4]).scope()).unwrap();
                let ops: Vec<Op> = plan_host(&have, &want).ops;
                let is_route = |op: &&KernelOp| matches!(op, KernelOp::AddRoute(..));
                let ops: Vec<&KernelOp> = ops.iter().filter_map(kernel).filter(is_route).collect();
                let from = Instant::now();
                assert!(dataplane.apply(&ops, &OtherNamespaces::default()).into_iter().all(|attempt| attempt.is_ok()));
                times.push(from.elapsed());
                lab::run("ip link del wb-up");
            }
            let lab = Lab::new(size);
            lab::runtime().block_on(async {
                let mut reconciler = lab.reconciler_of(RouteForm::Auto, &[Family::V4]);
                let mut monitor = super::Monitor::open(reconciler.scope().clone()).unwrap();
                let want = lab.want_of(&[Family::V4]);
                let from = Instant::now();
                assert!(reconciler.round(&want).converged);
                times.push(from.elapsed());
                let from = Instant::now();
                let echo = monitor.drain(reconciler.cached().unwrap()).unwrap();
                let drained = from.elapsed();
                println!("overrun at {size}: {}", echo.overrun);
                let from = Instant::now();
                let plan = reconciler.preview(&want).unwrap();
                times.push(from.elapsed());
                assert!(plan.ops.is_empty());
                let from = Instant::now();
                assert!(reconciler.round(&want).converged);
                times.push(from.elapsed());
                times.push(drained);
            });
        });
        println!("| {size} | {} |", cells(&times.lock().unwrap()));
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_one_lease_among_four_thousand() {
    lab::in_namespace(|| {
        let mut lab = Lab::new(4_000);
        let mut reconciler = lab.reconciler_of(RouteForm::Auto, &[Family::V4]);
        let _ = reconciler.round(&lab.want_of(&[Family::V4]));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("memory of the process: {}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
        let mut want_times = Vec::new();
        let mut times: Vec<Duration> = (0..200)
            .map(|number| {
                lab.remove_peer(number * 2 + 1);
                let from = Instant::now();
                let want = lab.want_of(&[Family::V4]);
                want_times.push(from.elapsed());
                let from = Instant::now();
                assert!(reconciler.round(&want).converged);
                from.elapsed()
            })
            .collect();
        times.sort();
        println!(
            "one lease: {:?} median, {:?} p99; desired (with its table) {:?}",
            times[100], times[198], want_times[100]
        );
    });
}

const fn kernel(op: &Op) -> Option<&KernelOp> {
    match op {
        Op::Kernel(_, op) => Some(op),
        Op::Tunnel(_) => None,
    }
}

/// A device without entries, and the desired state with all entries.
fn prepared(size: usize) -> (Lab, DesiredNet) {
    let lab = Lab::new(size);
    let want = lab.want_of(&[Family::V4]);
    lab.make_device();
    (lab, want)
}

fn cells(times: &[Duration]) -> String {
    let cells: Vec<String> = times.iter().map(|time| format!("{:.3}", time.as_secs_f64())).collect();
    cells.join(" | ")
}
