//! The kernel's packet counters: those of devices, and that of wrong checksums.

use std::{collections::BTreeMap, fs, io, path::Path};

use wire_net::LinkName;

/// The number of packets of a device since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
}

/// The counters of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The packets of each device.
    pub devices: BTreeMap<LinkName, DeviceCounters>,
    /// UDP packets of both families that were dropped for a wrong checksum, on all ports.
    pub bad_checksums: u64,
}

/// Reads the counters of the calling thread's network namespace.
///
/// # Errors
/// When `/proc/net` cannot be read.
pub fn traffic() -> io::Result<Traffic> {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    // Without IPv6 there is no snmp6.
    let (devices, v4, v6) = (read("dev")?, read("snmp")?, read("snmp6").unwrap_or_default());
    Ok(Traffic { devices: passed(&devices), bad_checksums: bad_v4(&v4).unwrap_or(0) + bad_v6(&v6).unwrap_or(0) })
}

/// `dev`: a device's name, eight counters of what it received, eight of what it sent; packets come second.
fn passed(text: &str) -> BTreeMap<LinkName, DeviceCounters> {
    text.lines().filter_map(device).collect()
}

fn device(line: &str) -> Option<(LinkName, DeviceCounters)> {
    let (name, counters) = line.rsplit_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().map_while(|counter| counter.parse().ok()).collect();
    Some((name.trim().parse().ok()?, DeviceCounters { received: *counters.get(1)?, sent: *counters.get(9)? }))
}

/// `snmp`: a line of names, then one of values.
fn bad_v4(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "InCsumErrors")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

/// `snmp6`: a name and a value on each line.
fn bad_v6(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("Udp6InCsumErrors"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        let dev = "Inter-|   Receive                                                |  Transmit\n\
                   \x20face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                   flannel.1:     840      10    0    0    0     0          0         0     1680      20    0    0    0     0       0          0\n";
        assert_eq!(passed(dev), [("flannel.1".parse().unwrap(), DeviceCounters { received: 10, sent: 20 })].into());
        let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
                    Udp: 2 0 3 0 0 0 3 0 0\nUdpLite: InDatagrams InCsumErrors\nUdpLite: 0 7\n";
        assert_eq!(bad_v4(snmp), Some(3));
        assert_eq!(bad_v6("Udp6NoPorts\t1\nUdp6InCsumErrors                \t4\n"), Some(4));
        let found = traffic().unwrap();
        assert!(!found.devices.is_empty(), "{found:?}");
    }
}
