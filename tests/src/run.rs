//! One run of the lab: its name, its directory, and the certainty that nothing of it stays.
//!
//! Everything a run makes lies in namespaces and a directory that carry its id. To remove a run is therefore one function,
//! used when it is dropped, when a run is found whose process is dead, on Ctrl-C, and by `make lab-down`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{LabError, Result, command::output};

/// What the names of all namespaces of all runs begin with.
const PREFIX: &str = "wirelab";
/// Where `ip netns` keeps its namespaces.
const NETNS: &str = "/run/netns";
/// The file in a run's directory that protects it from the sweep.
const KEPT: &str = "kept";

/// One run. Dropped, it takes all its processes, namespaces and files with it.
#[derive(Debug)]
pub struct Run {
    id: String,
    dir: PathBuf,
    kept: AtomicBool,
}

impl Run {
    /// A run of its own for the caller. The first one in a process also removes what dead runs have left.
    ///
    /// # Errors
    /// Where the directory for runs cannot be made, or belongs to someone else.
    pub fn new() -> Result<Self> {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let id = format!("{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = base()?.join(&id);
        fs::create_dir(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        Ok(Self { id, dir, kept: AtomicBool::new(false) })
    }

    /// The id that all names of this run carry.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its files lie. Not a long path: sockets lie there too.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of one of its namespaces.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{PREFIX}-{}-{host}", self.id)
    }

    /// Leaves everything standing when this process ends, until [`remove`] is called with its id.
    ///
    /// # Errors
    /// Where the mark cannot be written.
    pub fn keep(&self) -> Result {
        fs::write(self.dir.join(KEPT), "").map_err(LabError::io("cannot mark the run as kept"))?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`Run::keep`] was called.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_kept() {
            remove(&self.id);
        }
    }
}

/// Removes a run: kills what runs in its namespaces and what that has started, deletes the namespaces, then the files.
/// What is gone already is no error; what cannot be removed is said on standard error.
pub fn remove(id: &str) {
    // On Ctrl-C two threads may want the same.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let namespaces = namespaces_of(id);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = processes_in(&namespaces);
        if processes.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            eprintln!("lab: run {id}: processes that do not die: {processes:?}");
            break;
        }
        for pid in processes {
            // It may have ended since: that is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
    for name in &namespaces {
        if let Err(error) = output(Command::new("ip").args(["netns", "delete", name])) {
            eprintln!("lab: run {id}: {error}");
        }
    }
    remove_cgroups(id);
    if let Ok(base) = base()
        && let Err(error) = fs::remove_dir_all(base.join(id))
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("lab: run {id}: its files stay: {error}");
    }
}

/// Kills all that runs in one namespace, with what that has started, and deletes it.
pub(crate) fn remove_namespace(name: &str) -> Result {
    let namespaces = [name.to_owned()];
    crate::eventually(Duration::from_secs(10), || {
        let processes = processes_in(&namespaces);
        for pid in &processes {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        crate::check(processes.is_empty(), || format!("processes in {name} do not die: {processes:?}"))
    })?;
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// The namespaces of a run that exist now.
#[must_use]
pub fn namespaces_of(id: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}-{id}-");
    names_in(NETNS).into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// The processes that live in these namespaces, and all they have started, wherever those live.
#[must_use]
pub fn processes_in(namespaces: &[String]) -> BTreeSet<i32> {
    let inodes: BTreeSet<u64> =
        namespaces.iter().filter_map(|name| fs::metadata(Path::new(NETNS).join(name)).ok()).map(|m| m.ino()).collect();
    let mut found = BTreeSet::new();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in names_in("/proc").iter().filter_map(|name| name.parse::<i32>().ok()) {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
        if fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| inodes.contains(&net.ino())) {
            found.insert(pid);
        }
    }
    let mut open: Vec<i32> = found.iter().copied().collect();
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    // A caller that has entered a namespace with one of its threads is not of the run.
    found.remove(&i32::try_from(std::process::id()).unwrap_or(0));
    found
}

/// The parent of a process that is alive; zombies have nothing left to kill.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z")
}

/// Removes the runs whose process is dead, except kept ones.
fn sweep() {
    let Ok(base) = base() else { return };
    let mut ids: BTreeSet<String> = names_in(&base).into_iter().collect();
    let of_namespace =
        |name: &String| Some(name.strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?.0.to_owned());
    ids.extend(names_in(NETNS).iter().filter_map(of_namespace));
    for id in ids {
        let Some((pid, _)) = id.split_once('n') else { continue };
        if !Path::new("/proc").join(pid).exists() && !base.join(&id).join(KEPT).exists() {
            eprintln!("lab: removing run {id}, whose process is dead");
            remove(&id);
        }
    }
}

/// The name of the control group of a run's containers.
pub(crate) fn cgroup(id: &str) -> String {
    format!("{PREFIX}-{id}")
}

/// Removes the control groups that docker leaves behind, in both hierarchies, deepest first.
fn remove_cgroups(id: &str) {
    let name = cgroup(id);
    for controller in names_in("/sys/fs/cgroup") {
        remove_tree_of_directories(&Path::new("/sys/fs/cgroup").join(controller).join(&name));
    }
    remove_tree_of_directories(&Path::new("/sys/fs/cgroup").join(&name));
}

fn remove_tree_of_directories(dir: &Path) {
    for name in names_in(dir) {
        let path = dir.join(name);
        if path.is_dir() {
            remove_tree_of_directories(&path);
        }
    }
    // Most of these do not exist.
    let _ = fs::remove_dir(dir);
}

fn names_in(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The directory of all runs. Its name can be guessed, so it must be ours alone.
fn base() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(PREFIX);
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(LabError::Io { what: format!("cannot create {}", dir.display()), source: error });
        }
        Ok(()) | Err(_) => {}
    }
    let meta = fs::symlink_metadata(&dir).map_err(LabError::io(format!("cannot read {}", dir.display())))?;
    if meta.is_dir() && meta.uid() == nix::unistd::getuid().as_raw() && meta.mode() & 0o077 == 0 {
        Ok(dir)
    } else {
        Err(LabError::Machine(format!("{} is not a directory of ours alone: remove it", dir.display())))
    }
}
