//! All pairs, and the frames between them.

use wire_tests::{Etcd, Lab, Result};

use crate::{frames::Uplinks, options::Options, pair::Pair};

/// What stands for the whole run.
pub(crate) struct Stage {
    /// The pairs, in the order of their turns.
    pub(crate) pairs: Vec<Pair>,
    /// What their frames are made by.
    pub(crate) frames: Uplinks,
    _etcd: Etcd,
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
        let frames = Uplinks::new(lab, hosts, options.gro)?;
        Ok(Self { pairs, frames, _etcd: etcd })
    }
}
