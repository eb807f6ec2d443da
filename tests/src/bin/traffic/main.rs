//! Traffic whose contents are checked: TCP streams, UDP datagrams of every size, and bursts that an application leaves to the
//! kernel to cut (UDP_SEGMENT). The exit status is 0 only where all of it came through unchanged, both ways.
//!
//! Flow: `traffic serve` answers; each other form is a client that connects to it by TCP, says in one line what it wants
//! ([`serve`]), and checks what comes back ([`streams`], [`datagrams`], [`bursts`]). The family is that of the address. A
//! network without loss is taken for granted: a datagram that does not come is an error, not a retry.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod bursts;
mod control;
mod datagrams;
mod options;
mod pattern;
mod serve;
mod streams;

use std::{net::SocketAddr, process::ExitCode, thread};

use control::Outcome;
use options::{Task, USAGE};

fn main() -> ExitCode {
    let done = match Task::from_arguments(std::env::args().skip(1)) {
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(64);
        }
        Ok(Task::Help) => {
            println!("{USAGE}");
            Ok(())
        }
        Ok(Task::Serve(address)) => serve::run(address),
        Ok(Task::Streams { server, sizes, flows }) => each_flow(flows, |flow| streams::run(server, &sizes, flow)),
        Ok(Task::Datagrams { server, sizes, flows }) => each_flow(flows, |flow| datagrams::run(server, &sizes, flow)),
        Ok(Task::Bursts { server, sizes, flows }) => each_flow(flows, |flow| bursts::run(server, &sizes, flow)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all flows at once and gives the first error, with the flow it belongs to.
fn each_flow(flows: u16, run: impl Fn(u16) -> Outcome + Sync) -> Outcome {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..flows)
            .map(|flow| {
                (
                    flow,
                    scope.spawn({
                        let run = &run;
                        move || run(flow)
                    }),
                )
            })
            .collect();
        let results = threads.into_iter().map(|(flow, thread)| {
            let result = thread.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()));
            result.map_err(|error| format!("flow {flow}: {error}"))
        });
        // All are joined before the first error counts.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

/// The address a UDP socket takes to talk beside a TCP connection: the same one, with a port of its own.
fn beside(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}
