//! Many devices on a host, and new ones among them.

use std::time::Duration;

use wire_net::Family;

use super::lab::{self, Lab};
use crate::{HostNetwork, Monitor, RouteForm};

/// A host in so many networks on a bridge each.
fn host(segments: u8) -> Lab {
    let _ = Lab::new(0);
    Lab::with_segments(&HostNetwork::read([]).unwrap(), segments)
}

#[test]
fn what_is_read_of_many_devices_at_once_is_what_was_written() {
    for segments in [1, 2, 6] {
        lab::in_namespace(move || {
            let lab = host(segments);
            let mut reconciler = lab.reconciler(RouteForm::Plain);
            let report = reconciler.round(&lab.want());
            assert!(report.converged, "{report:?}");
            reconciler.invalidate();
            let again = reconciler.round(&lab.want());
            assert!(again.read_back && again.written + again.removed == 0, "{again:?}");
            let (found, want) = (reconciler.cached().unwrap(), lab.want());
            assert_eq!(found.fdb, want.fdb);
            assert_eq!(found.flooding, want.flooding);
            assert_eq!(found.bridge_fdb, want.bridge_fdb);
            assert_eq!(found.neighbours, want.neighbours);
            assert_eq!(found.addresses, want.addresses);
        });
    }
}

/// What the kernel tells of their making arrives while the thread that makes them cannot receive it.
#[test]
fn links_that_are_made_one_round_after_another_are_no_changes() {
    lab::in_namespace(|| {
        let lab = host(1);
        lab::runtime().block_on(async {
            let mut reconciler = lab.reconciler(RouteForm::Plain);
            let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
            assert!(reconciler.round(&lab.want_of(&Family::ALL)).converged);
            lab::settle(&mut monitor, &reconciler);
            for (want, what) in [(lab.want_of(&Family::ALL), "nothing new"), (lab.want(), "a network more")] {
                let report = reconciler.round(&want);
                assert!(report.converged && !report.read_back, "{what}: {report:?}");
                let heard = monitor.changed(reconciler.cached().unwrap());
                let heard = tokio::time::timeout(Duration::from_millis(300), heard).await;
                assert!(heard.is_err(), "{what}: {heard:?}");
            }
        });
    });
}
