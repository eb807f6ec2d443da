#![no_main]

use wire_lease::{Lease, NetworkConfig};

// What any host may write to etcd: a key and a value, parted by a line feed, and the network config.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = NetworkConfig::from_json(data);
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Some(subnet) = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok()) {
        let _ = Lease::from_value(subnet, value);
    }
});
