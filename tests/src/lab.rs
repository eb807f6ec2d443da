//! What a lab test begins with: a run, an underlay, its share of the machine, and the count of lab tests.

use std::{
    env,
    fs::File,
    io::Write,
    ops::Deref,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{LabError, Result, Underlay, guest, run::Run};

/// The programs a lab runs.
const PROGRAMS: [&str; 11] =
    ["bridge", "busybox", "docker", "dockerd", "etcd", "etcdctl", "ip", "nft", "nsenter", "ping", "strace"];
/// How many lab tests run at once: each has hosts, daemons and deadlines, and two cores bear two.
const SEATS: u8 = 2;

/// A lab: an underlay to put hosts on. It dereferences to [`Underlay`].
#[derive(Debug)]
pub struct Lab {
    underlay: Underlay,
    // Behind the underlay, so that its end counts too.
    _timed: Option<Timed>,
    // Last, so that the seat is free only when the run is gone.
    seats: Seats,
}

/// How much of the machine a test wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A seat among others.
    Seat,
    /// The whole machine: for tests that measure, or start dozens of processes.
    Alone,
}

impl Lab {
    /// A lab for a program that is no test.
    ///
    /// # Errors
    /// Where this machine cannot hold one.
    pub fn new() -> Result<Self> {
        Self::with_programs(&[])
    }

    /// The same for one that runs these programs too.
    ///
    /// # Errors
    /// Where this machine cannot hold one, or lacks one of them.
    pub fn with_programs(programs: &[&str]) -> Result<Self> {
        if let Some(lack) = lack(programs) {
            return Err(LabError::Machine(lack));
        }
        Self::with(Seats::take(1), None)
    }

    /// A lab for the test of this name, as [`Lab::for_test_with`] without a root.
    ///
    /// # Errors
    /// As there.
    pub fn for_test(name: &str, share: Share) -> Result<Option<Self>> {
        Self::for_test_with(name, share, &[])
    }

    /// A lab for the test of this name that needs these roots of other Debians ([`crate::Guest`]), counted as run; `None`: the test is to be skipped, which has been said.
    ///
    /// # Errors
    /// Where a skip is a failure, because `WIRE_TESTS_REQUIRE_LAB` is 1.
    pub fn for_test_with(name: &str, share: Share, roots: &[&str]) -> Result<Option<Self>> {
        let missing = |root: &&&str| !guest::made(root).exists();
        let no_root = |root: &&str| format!("target/{root} is missing or half made (`make roots` makes it)");
        if let Some(lack) = lack(&[]).or_else(|| roots.iter().find(missing).map(no_root)) {
            if env::var_os("WIRE_TESTS_REQUIRE_LAB").is_some_and(|value| value == "1") {
                return Err(LabError::Machine(lack));
            }
            // Not eprintln!, which the test harness keeps to itself when a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: it needs a lab, and {lack}");
            return Ok(None);
        }
        let seats = Seats::take(if share == Share::Alone { SEATS } else { 1 });
        let timed = Timed::begin(name)?;
        Self::with(seats, Some(timed)).map(Some)
    }

    /// The same, for [`crate::lab!`]: the name is that of the function in which it stands, which has to be the test.
    ///
    /// # Errors
    /// As there, and where the name is another than the test's.
    pub fn begin(name: &str, share: Share, roots: &[&str]) -> Result<Option<Self>> {
        begun_in_the_test(name)?;
        Self::for_test_with(name, share, roots)
    }

    fn with(seats: Seats, timed: Option<Timed>) -> Result<Self> {
        let run = Arc::new(Run::new()?);
        Ok(Self { underlay: Underlay::new(&run)?, _timed: timed, seats })
    }

    /// Waits, and lets another test have its seat meanwhile.
    pub fn rest(&self, duration: Duration) {
        self.resting(|| thread::sleep(duration));
    }

    /// Does something that costs the machine nothing, and lets another test have its seat meanwhile. What must be done within seconds
    /// of its end is not for this: the seat has to become free again.
    pub fn resting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.seats.leave();
        let done = wait();
        self.seats.return_to();
        done
    }

    /// Its run.
    #[must_use]
    pub const fn run(&self) -> &Arc<Run> {
        self.underlay.namespace().run()
    }
}

impl Deref for Lab {
    type Target = Underlay;

    fn deref(&self) -> &Underlay {
        &self.underlay
    }
}

/// Begins a lab test: gives a [`Lab`], or ends the test where it must be skipped. The test returns [`Result`].
#[macro_export]
macro_rules! lab {
    () => {
        $crate::lab!($crate::Share::Seat)
    };
    ($share:expr) => {
        $crate::lab!($share, &[])
    };
    ($share:expr, $roots:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        match $crate::Lab::begin(name, $share, $roots)? {
            Some(lab) => lab,
            None => return Ok(()),
        }
    }};
}

/// Refuses a lab that a function begins which several tests may call: they would be counted as one, and the others as skipped.
/// The test harness gives a test's name to its thread, if it runs several tests at a time.
fn begun_in_the_test(name: &str) -> Result {
    let thread = thread::current();
    let test = thread.name().filter(|test| *test != "main").unwrap_or(name);
    let counted = name.ends_with(test);
    if counted {
        Ok(())
    } else {
        Err(LabError::Wrong(format!("lab!() is in {name}: it has to be in the test, {test}")))
    }
}

/// What this machine lacks to hold a lab that runs some more programs than each does.
fn lack(more: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this user is not root".to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let exists = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = PROGRAMS.iter().chain(more).copied().filter(|program| !exists(program)).collect();
    if !missing.is_empty() {
        return Some(format!("these programs are missing (`make deps` installs them): {}", missing.join(", ")));
    }
    let netns = Path::new("/proc/self/ns/net").exists();
    (!netns).then(|| "this kernel has no network namespaces".to_owned())
}

/// A test that is counted: its name is written when it begins, so that one that dies counts too, and once more with its seconds when
/// this is dropped. The wait for its first seat is not in them; that for a seat after a rest is.
#[derive(Debug)]
struct Timed {
    name: String,
    since: Instant,
}

impl Timed {
    fn begin(name: &str) -> Result<Self> {
        write_down(name)?;
        Ok(Self { name: name.to_owned(), since: Instant::now() })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let written = write_down(&format!("{} {:.1}", self.name, self.since.elapsed().as_secs_f64()));
        if let Err(error) = written {
            let _ = writeln!(std::io::stderr(), "{}: {error}", self.name);
        }
    }
}

/// Adds a line to the file that `make test` counts. One write of one line: threads and processes do not mix theirs.
fn write_down(line: &str) -> Result {
    let Some(path) = env::var_os("WIRE_TESTS_COUNT_FILE") else { return Ok(()) };
    let what = || LabError::io(format!("cannot count the test in {}", Path::new(&path).display()));
    let mut file = File::options().create(true).append(true).open(&path).map_err(what())?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(what())
}

/// Seats taken from the machine's, given back when dropped.
#[derive(Debug)]
struct Seats(u8);

static FREE: Mutex<u8> = Mutex::new(SEATS);
static FREED: Condvar = Condvar::new();

impl Seats {
    fn take(number: u8) -> Self {
        let seats = Self(number);
        seats.return_to();
        seats
    }

    fn return_to(&self) {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = FREED.wait_while(free, |free| *free < self.0).unwrap_or_else(PoisonError::into_inner);
        *free -= self.0;
    }

    fn leave(&self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREED.notify_all();
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_that_is_begun_in_a_function_of_several_tests_is_refused() {
        let asked = |name| thread::Builder::new().name("one::test".to_owned()).spawn(move || begun_in_the_test(name));
        let is_refused = |name| asked(name).unwrap().join().unwrap().is_err();
        assert!(is_refused("scenarios::one::function_of_several"));
        assert!(!is_refused("scenarios::one::test"));
    }
}
