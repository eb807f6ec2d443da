//! The demo: three hosts with Docker become one network, before the eyes of whoever runs it.
//!
//! Everything shown is real: an etcd, a dockerd and an agent on each of three hosts, which are namespaces of this machine. What
//! is claimed is counted; the exit status is 0 only where all of it was true.

mod app;
mod options;
mod show;
mod stage;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use options::{Options, Task};
use stage::{Pair, Stage};
use tokio::signal::unix::{SignalKind, signal};
use wire_tests::{Change, Family, Lab, LabError, Monitor, Result, check, eventually, expect_all_leases, remove};

fn main() -> ExitCode {
    let task = match Task::from_arguments(std::env::args().skip(1)) {
        Ok(task) => task,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(64);
        }
    };
    let done = match task {
        Task::Help => {
            println!("{}", options::USAGE);
            Ok(true)
        }
        Task::Down => options::down(),
        Task::Run(options) => run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole play; `false` where anything was not as claimed.
fn run(options: &Options) -> Result<bool> {
    if options.keep {
        options::refuse_second()?;
    }
    let lab = Lab::new()?;
    remove_on_signal(lab.run().id().to_owned())?;
    let mut stage = Stage::set(lab)?;
    let cut = options.cut.map(|(a, b)| stage.cut(a, b)).transpose()?;

    show::leases(&stage.leases()?);
    for site in &stage.sites {
        show::said(&format!("{}: wire-agent status", site.host.name()), &site.agent.ctl(&["status"])?);
    }
    let first = &stage.sites[0];
    show::said(&format!("{}: wire-agent peers", first.host.name()), &first.agent.ctl(&["peers"])?);

    let seen = stage.watch_the_wire()?;
    let pairs = stage.ping_all_pairs();
    show::pings(&stage, &pairs);
    let packets = seen.iter().map(|row| row.iter().map(|seen| seen.as_ref().map_or(Ok(0), wire_tests::Fault::packets)));
    let packets = packets.map(Iterator::collect).collect::<Result<Vec<Vec<u64>>>>()?;
    show::packets(&stage, &packets);
    let answered = pairs.iter().filter(|pair| pair.answered).count();
    let encapsulated = pairs.iter().all(|pair| packets[pair.from][pair.to] > 0);

    let mut all_true = answered == pairs.len() && encapsulated;
    all_true &= told("routes flushed", &routes_come_back(&stage));
    all_true &= told("network app", &app::act(&mut stage));
    if options.keep {
        options::keep(&stage)?;
    } else {
        all_true &= told("host taken away", &host_leaves(&mut stage, &pairs));
        say("cleaning up");
    }
    let (hosts, count) = (stage.sites.len(), pairs.len());
    drop((cut, seen, stage));
    println!("\ndemo: {hosts} hosts, {answered} of {count} container pairs answered");
    Ok(all_true)
}

/// Flushes a host's overlay routes and waits until the agent has put them back; the time is that of the kernel's last word.
fn routes_come_back(stage: &Stage) -> Result<String> {
    let site = &stage.sites[1];
    let name = site.host.name();
    let monitor = Monitor::listen(site.host.namespace())?;
    let flushed = Instant::now();
    site.host.exec("ip route flush dev flannel.1")?;
    eventually(Duration::from_secs(5), || expect_all_leases(&site.host, &stage.etcd, Family::V4))?;
    let (gone, (back, last)) = (monitor.count(Change::DELETE_ROUTE).0, monitor.count(Change::NEW_ROUTE));
    check(gone > 0 && back >= gone, || format!("{gone} routes went and {back} came"))?;
    let took = last.map(|last| last.duration_since(flushed)).unwrap_or_default();
    Ok(format!("`ip route flush dev flannel.1` on {name} took {gone} routes away; {took:.1?} later the last was back"))
}

/// Takes the last host away: its agent ends, its lease is revoked. The others must forget it, and those that talked go on.
fn host_leaves(stage: &mut Stage, pairs: &[Pair]) -> Result<String> {
    let last = stage.sites.len() - 1;
    let public_ip = format!("\"{}\"", stage.sites[last].host.v4());
    let leases = stage.leases()?;
    let lease = leases.iter().find(|lease| lease.value().contains(&public_ip));
    let lease = lease.ok_or_else(|| LabError::Wrong(format!("there is no lease of {public_ip}")))?;
    stage.sites[last].agent.terminate()?;
    if lease.lease == 0 {
        stage.etcd.delete(&lease.key())?;
    } else {
        stage.etcd.revoke(lease.lease)?;
    }
    let (stayed, name) = (&stage.sites[..last], stage.sites[last].host.name());
    let gone = || stayed.iter().try_for_each(|site| expect_all_leases(&site.host, &stage.etcd, Family::V4));
    let took = eventually(Duration::from_secs(5), gone)?;
    let stay = |pair: &&Pair| pair.answered && pair.from < last && pair.to < last;
    for pair in pairs.iter().filter(stay) {
        let (from, to) = (&stayed[pair.from], &stayed[pair.to]);
        let names = || format!("{} does not reach {} any more", from.host.name(), to.host.name());
        check(from.container.pings(to.address()?, 1), names)?;
    }
    Ok(format!(
        "the lease of {name} was revoked; {took:.0?} later the others held no entry of it, and talked on as before"
    ))
}

/// Says how a step went, and whether it went well.
fn told(step: &str, outcome: &Result<String>) -> bool {
    match outcome {
        Ok(text) => say(&format!("{step}: {text}")),
        Err(error) => say(&format!("{step}: NOT AS IT SHOULD BE: {error:?}")),
    }
    outcome.is_ok()
}

/// A line of progress.
fn say(text: &str) {
    println!("demo: {text}");
}

/// On Ctrl-C nothing stays either.
fn remove_on_signal(run: String) -> Result {
    let failed = |source| LabError::Io { what: "cannot listen to signals".to_owned(), source };
    // Handlers, not a mask of blocked signals: children would inherit the mask, and not end when they are told to.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let signals = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal)
    };
    let [interrupt, terminate, hangup] = signals;
    let (mut interrupt, mut terminate, mut hangup) =
        (interrupt.map_err(failed)?, terminate.map_err(failed)?, hangup.map_err(failed)?);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        eprintln!("\ndemo: interrupted, cleaning up");
        remove(&run);
        std::process::exit(130);
    });
    Ok(())
}
