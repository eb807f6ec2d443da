//! The demo's command line, and the lab that is left standing.

use std::{fs, io, path::Path};

use wire_tests::{LabError, Result, remove};

use crate::stage::Stage;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: demo [--cut A:B] [--keep]      three hosts, one network
       demo --down                    remove what --keep has left standing

  --cut A:B   nothing passes between hosts A and B, 1:2 for instance: shows what a failure looks like
  --keep      leave it standing to play with";

/// The runs that are left standing, one id a line.
const STANDING: &str = "/run/wire-agent-lab";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Show the usage.
    Help,
    /// Remove what stands.
    Down,
    /// Play.
    Run(Options),
}

/// How to play.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Leave it standing.
    pub(crate) keep: bool,
    /// Two hosts, counted from 1, that are cut from each other.
    pub(crate) cut: Option<(usize, usize)>,
}

impl Task {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(words: impl Iterator<Item = String>) -> std::result::Result<Self, String> {
        let mut options = Options::default();
        let mut words = words.flat_map(|word| word.split('=').map(str::to_owned).collect::<Vec<_>>());
        while let Some(word) = words.next() {
            match word.as_str() {
                "-h" | "--help" => return Ok(Self::Help),
                "--down" => return Ok(Self::Down),
                "--keep" => options.keep = true,
                "--cut" => options.cut = Some(pair(&words.next().unwrap_or_default())?),
                other => return Err(format!("demo: no option is called {other:?}\n{USAGE}")),
            }
        }
        Ok(Self::Run(options))
    }
}

fn pair(text: &str) -> std::result::Result<(usize, usize), String> {
    let number =
        |text: &str| text.trim_start_matches('h').parse().ok().filter(|number| (1..=Stage::HOSTS).contains(number));
    let pair = text.split_once(':').and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let hosts = Stage::HOSTS;
    pair.filter(|(a, b)| a != b).ok_or_else(|| format!("demo: --cut wants two different hosts of 1 to {hosts}, as 1:2"))
}

/// Refuses to build a second lab beside one that stands.
pub(crate) fn refuse_second() -> Result {
    if Path::new(STANDING).exists() {
        return Err(LabError::Machine("a lab stands already; `make lab-down` removes it".to_owned()));
    }
    Ok(())
}

/// Leaves the stage standing, and says how to walk around on it.
pub(crate) fn keep(stage: &Stage) -> Result {
    let what = || format!("cannot write {STANDING}");
    fs::write(STANDING, stage.lab.run().id()).map_err(|source| LabError::Io { what: what(), source })?;
    stage.lab.run().keep()?;
    let (first, second) = (&stage.sites[0], &stage.sites[1]);
    let agent = wire_tests::binary()?;
    let enter = |name: &str| format!("nsenter --net=/run/netns/{name}");
    let host = enter(first.host.namespace().name());
    let docker = format!("docker --host unix://{}/docker/docker.sock", first.host.dir().display());
    println!("\nIt stands. Some things to try (as root):");
    println!("  {} peers --run-dir {}", agent.display(), first.agent.run_dir().display());
    println!("  {host} ip route");
    println!("  {host} {docker} exec -it {} sh", first.container.name());
    println!("  ping {}            (in there: the container of {})", second.address()?, second.host.name());
    let store = enter(stage.etcd.host(0).namespace().name());
    println!("  {store} env ETCDCTL_API=3 etcdctl --endpoints={} get --prefix /", stage.etcd.endpoints());
    println!("  tail -f {}", first.host.dir().join("agent/log").display());
    println!("`make lab-down` removes it.");
    Ok(())
}

/// Removes what stands.
pub(crate) fn down() -> Result<bool> {
    match fs::read_to_string(STANDING) {
        Ok(ids) => {
            ids.lines().for_each(remove);
            let removed = fs::remove_file(STANDING);
            removed.map_err(|source| LabError::Io { what: format!("cannot remove {STANDING}"), source })?;
            println!("demo: the lab is gone");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => println!("demo: no lab stands"),
        Err(source) => return Err(LabError::Io { what: format!("cannot read {STANDING}"), source }),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_do_and_nothing_else() {
        let task = |line: &str| Task::from_arguments(line.split_whitespace().map(str::to_owned));
        assert_eq!(task(""), Ok(Task::Run(Options::default())));
        assert_eq!(task("--keep --cut 1:3"), Ok(Task::Run(Options { keep: true, cut: Some((1, 3)) })));
        assert_eq!(task("--cut=h2:h3"), Ok(Task::Run(Options { keep: false, cut: Some((2, 3)) })));
        assert_eq!(task("--down"), Ok(Task::Down));
        for wrong in ["--cut", "--cut 1", "--cut 1:1", "--cut 0:1", "--cut 1:4", "--cute"] {
            assert!(task(wrong).is_err(), "{wrong}");
        }
    }
}
