//! The same entries by iproute2's batch mode, for reference.

use std::{
    fmt::Write,
    fs,
    time::{Duration, Instant},
};

use wire_tests::{ExpectedPeer, Host, LabError, Result};

use crate::leases::Lease;

/// As many routes as the agent writes without nexthop objects: more would be quadratic.
const PLAIN_ROUTES: usize = 512;

/// The time that the batches of all entries take.
pub(crate) fn batch(host: &Host, leases: &[Lease]) -> Result<Duration> {
    let (mut ip, mut bridge) = (String::new(), String::new());
    for (number, lease) in leases.iter().enumerate() {
        let ExpectedPeer { subnet, len, public, mac } = lease.expected();
        let _ = writeln!(bridge, "fdb add {mac} dev flannel.1 dst {public}");
        let _ = writeln!(ip, "neighbour add {subnet} lladdr {mac} dev flannel.1 nud permanent");
        if number < PLAIN_ROUTES {
            let _ = writeln!(ip, "route add {subnet}/{len} via {subnet} dev flannel.1 onlink");
        } else {
            let _ = writeln!(ip, "nexthop add id {} via {subnet} dev flannel.1 onlink", number + 1);
            let _ = writeln!(ip, "route add {subnet}/{len} nhid {}", number + 1);
        }
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
    Ok(start.elapsed())
}
