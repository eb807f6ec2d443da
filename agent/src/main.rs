//! The program `wire-agent`. All of it is in the library, so that the simulation runs the same agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    wire_agent::main(std::env::args_os())
}
