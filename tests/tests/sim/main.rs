//! The simulation: many whole agents on a store and kernels in memory, in virtual time, with faults drawn from a seed.

mod checks;
mod clocks;
mod disk;
mod faults;
mod firewall;
mod flannel;
mod gaps;
mod held;
mod host;
mod networks;
mod others;
mod planted;
mod ports;
mod reach;
mod record;
mod run;
mod theft;
mod world;
