//! The host network agent.
//!
//! Purpose: gives a Docker host its part of a container network that is described in etcd. Flow: `cli` reads flags, `settings` checks them, `run`
//! prepares a run on this host, [`Agent`] leases a subnet through `wire-lease`, writes it for Docker and hands what the kernel should hold to
//! `datapath`, which keeps it so through `wire-backends`. `status` is what all of them know, and what `status`, health checks and systemd are told
//! from. What the agent needs from the outside comes in by [`ports`].
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod agent;
mod all_attachments;
mod allocator;
mod attach;
mod attach_command;
mod audit;
mod bridges;
mod cli;
mod commands;
mod config_command;
mod control;
mod daemon_json;
mod datapath;
mod docker_opts;
mod docker_unit;
mod drain;
mod exit;
mod files;
mod firewall;
mod flat;
mod generate;
mod go_syntax;
mod guests;
mod hand_back;
mod health;
mod host;
mod host_dataplane;
mod inherited;
mod last_known;
mod limited;
mod loops;
mod machine;
mod named;
mod network;
mod network_command;
mod notify;
mod old_flags;
mod other_agents;
mod output;
mod overview;
pub mod ports;
mod pulse;
mod reconcile_loop;
mod repeats;
mod run;
mod session;
mod settings;
mod stale;
mod state;
mod status;
mod trace;
mod traffic;
mod underlay;
mod upkeep;
mod variables;
mod verify;

use std::{ffi::OsString, process::ExitCode};

use tracing_subscriber::EnvFilter;
use wire_forward::Fault;

pub use crate::{
    agent::{Agent, AgentError, AgentSettings, AgentStatus},
    named::{NetworkWishes, WishError},
};
use crate::{
    cli::{Cli, Command, DebugCommand, LogFormat},
    exit::{Exit, USAGE},
    settings::Settings,
    verify::Form,
};

/// Runs the program with these arguments, the program's name first.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // clap writes help and version to standard output, errors to standard error.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let (is_command, origins) = (cli.command.is_some(), cli.run.origins.clone());
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            let why = origins.named(&exit.report());
            if is_command {
                output::complain(format_args!("wire-agent: {why}"));
            } else {
                tracing::error!("{why}");
            }
            exit.into()
        }
    }
}

/// The stack of each thread in bytes, as large as that of a main thread is by default. Only what is used takes memory. Without optimisation,
/// joining a network needs more than the 2 MiB of other threads.
const STACK: usize = 8 << 20;

/// Runs the agent as a task among its others. What a task is told by another one of its thread needs no other thread to wake up.
async fn on_worker(agent: impl Future<Output = Result<(), Exit>> + Send + 'static) -> Result<(), Exit> {
    match tokio::spawn(agent).await {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn start(cli: Cli) -> Result<(), Exit> {
    let Cli { etcd, run_dir, run, command } = cli;
    // It is root's, and small: without a runtime.
    if let Some(Command::Guests(flags)) = command {
        return guests::run(flags);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(Exit::Runtime)?;
    let own_run_dir = flat::folder_of(&etcd.network, &run_dir);
    let result = match command {
        None => {
            allocator::keep_small();
            log(run.verbosity, run.log_format);
            flat::settings(&etcd, &run, &run_dir)
                .map_err(Exit::from)
                .and_then(|networks| runtime.block_on(on_worker(run::run(networks))))
        }
        Some(Command::Status(output)) => runtime.block_on(commands::status(&own_run_dir, output.json)),
        Some(Command::Peers(output)) => runtime.block_on(commands::peers(&own_run_dir, output.json)),
        Some(Command::Config(command)) => runtime.block_on(config_command::run(command, etcd)),
        Some(Command::Network(command)) => runtime.block_on(network_command::run(command, etcd, &own_run_dir)),
        Some(Command::Attach(flags)) => runtime.block_on(attach_command::attach(&own_run_dir, flags)),
        Some(Command::Detach(flags)) => runtime.block_on(attach_command::detach(&own_run_dir, flags)),
        Some(Command::Attachments { all: true, forget: _, output }) => {
            runtime.block_on(all_attachments::list(etcd, output.json))
        }
        Some(Command::Attachments { all: false, forget: Some(host), output: _ }) => {
            runtime.block_on(all_attachments::forget(etcd, host))
        }
        Some(Command::Attachments { all: false, forget: None, output }) => {
            runtime.block_on(attach_command::list(&own_run_dir, output))
        }
        Some(Command::Verify { flags, remove_stale }) => {
            let form = if remove_stale { Form::Remove } else { Form::Verify };
            runtime.block_on(verify::run(form, flags, etcd, run, &run_dir))
        }
        Some(Command::Plan(flags)) => runtime.block_on(verify::run(Form::Plan, flags, etcd, run, &run_dir)),
        Some(Command::Trace(flags)) => {
            let network = etcd.network.clone();
            trace::run(&flags, network, Settings::new(etcd, run, &run_dir).ok().as_ref())
        }
        Some(Command::Drain { dry_run }) => {
            flat::settings(&etcd, &run, &run_dir).map_err(Exit::from).and_then(|networks| match dry_run {
                true => drain::dry_run(&networks),
                false => runtime.block_on(drain::all(networks)),
            })
        }
        Some(Command::HandBack { firewall_only: true }) => hand_back::firewall(&own_run_dir, etcd.network),
        Some(Command::HandBack { firewall_only: false }) => runtime.block_on(hand_back::run(etcd, &own_run_dir)),
        Some(Command::DockerOpts(flags)) => docker_opts::command(&flags),
        Some(Command::DockerUnit(flags)) => docker_unit::command(&flags),
        Some(Command::Guests(flags)) => guests::run(flags),
        Some(Command::Generate { folder }) => generate::run(&folder),
        Some(Command::Debug(DebugCommand::Hang { part })) => {
            runtime.block_on(control::fail(&own_run_dir, part, Fault::Hang))
        }
        Some(Command::Debug(DebugCommand::Panic { part })) => {
            runtime.block_on(control::fail(&own_run_dir, part, Fault::Panic))
        }
    };
    // A task that still runs (a call to etcd that hangs) must not delay the end.
    runtime.shutdown_background();
    result
}

/// Uses `RUST_LOG` if it is set, else the verbosity.
fn log(verbosity: i32, format: LogFormat) {
    let ours = match verbosity {
        ..=0 => "info",
        1..=3 => "debug",
        4.. => "trace",
    };
    // A filter matches the beginning of a target, and all our crates begin with this.
    let default = format!("warn,wire_={ours}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A failed write to standard error would otherwise panic in the logging thread.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
