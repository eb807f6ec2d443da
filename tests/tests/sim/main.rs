//! The simulation: many whole agents on a store and kernels in memory, in virtual time, with faults drawn from a seed.

mod clocks;
mod disk;
mod firewall;
mod host;
mod ports;
mod smoke;
