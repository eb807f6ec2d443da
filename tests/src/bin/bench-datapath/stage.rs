//! All pairs, and the frames between them.

use wire_tests::{Etcd, Host, Lab, Result, check};

use crate::{
    frames::{Frames, Uplinks},
    iperf,
    options::Options,
    pair::Pair,
};

/// What stands for the whole run.
pub(crate) struct Stage {
    /// The pairs, in the order of their turns.
    pub(crate) pairs: Vec<Pair>,
    /// What their frames are made by.
    pub(crate) frames: Uplinks,
    /// Where the agents have their networks from.
    pub(crate) etcd: Etcd,
}

impl Stage {
    /// Sets all up.
    ///
    /// # Errors
    /// Where a contestant does not start; names it.
    pub(crate) fn set(lab: &Lab, options: &Options) -> Result<Self> {
        let etcd = Etcd::start(lab)?;
        let pairs = options.contestants.iter().map(|contestant| {
            eprintln!("bench-datapath: setting up {contestant}");
            Pair::set(lab, &etcd, *contestant)
        });
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        let hosts = pairs.iter().flat_map(|pair| [&pair.near, &pair.far]);
        if options.is_bridge_netfilter_off {
            hosts.clone().try_for_each(without_bridge_netfilter)?;
        }
        let frames = Uplinks::new(lab, hosts, options.gro)?;
        let stage = Self { pairs, frames, etcd };
        stage.prove_frames(lab)?;
        Ok(stage)
    }

    /// Checks that with real frames none crosses the bridge that is longer than the underlay's MTU, whoever sends it. Not while
    /// anything is measured: counting takes time.
    fn prove_frames(&self, lab: &Lab) -> Result {
        self.frames.set(Frames::Real)?;
        // Without the Ethernet header, which nft has behind it here.
        let long = lab.count("meta length > 1500")?;
        for pair in &self.pairs {
            iperf::run(pair, iperf::Streams::Forth(1), iperf::End::Bytes(8 << 20))
                .map_err(|error| pair.failed("a short stream", &error))?;
            let packets = long.packets()?;
            check(packets == 0, || format!("{}: {packets} frames were longer than real ones", pair.contestant))?;
        }
        Ok(())
    }
}

/// Lets frames that bridges of a host forward pass no rules of IP. A kernel without br_netfilter has no such settings.
fn without_bridge_netfilter(host: &Host) -> Result {
    let setting = "for file in /proc/sys/net/bridge/bridge-nf-call-*tables; do test ! -e $file || echo 0 > $file; done";
    host.namespace().sh(setting).map(drop)
}
