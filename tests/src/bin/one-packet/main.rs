//! The plainest peer of the `udp` backend: one thread, and one packet a system call.
//!
//! It is written from flannel's contract and shares no code with the agent: the IP packet is the whole UDP payload, and a packet's TTL
//! is lowered once, where it enters the tunnel. So it is the baseline of `make bench-datapath`, and a second opinion for tests. A
//! packet for no peer is dropped without a word; addresses and routes of the device are for its caller to set.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod forward;
mod options;
mod packet;
mod subnet;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    let options = match Options::from_arguments(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("one-packet: {usage}\n{}", options::USAGE);
            return ExitCode::from(64);
        }
    };
    match forward::run(&options) {
        Err(error) => {
            eprintln!("one-packet: {error:?}");
            ExitCode::FAILURE
        }
        Ok(never) => match never {},
    }
}
