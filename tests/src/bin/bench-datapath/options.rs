//! Its command line.

use std::time::Duration;

use crate::{contestant::Contestant, frames::Frames, measure::Measurement};

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: bench-datapath [--firewall] [--rounds N] [--seconds N] [--quick] [--gro] [--no-bridge-netfilter] [--only NAME,…]

  --firewall    the kernel's VXLAN between containers, with one set of rules of the packet filter and with another, in place of
                ways to move packets; on real frames, by tcp1, tcp4, pps1 and pps64. Where our-rules takes part, forged and honest
                packets are sent to one of its hosts in the end, and over IPv6 to one more: a wrong verdict makes the exit status 1

  --rounds N    how often each is measured, 3 by default
  --seconds N   how long each measurement lasts, 3 by default
  --quick       one round of one second: shows that it works, and no more
  --gro         the hosts' uplinks merge what they receive, as a network card does (GRO); a veth does not by default
  --no-bridge-netfilter
                frames that a bridge forwards pass no rules of IP on any host, as where br_netfilter is not loaded: Docker before
                27.3 loads it, and later ones where they need it; some kernels have it built in
  --only NAMES  of contestants:  veth, kernel-vxlan, one-packet, ours-raw, ours-vxlan;
                with --firewall: tracking, tracking-again, flannel-rules, our-rules, our-rules-20000;
                and, where they are named, udp-rules, userspace-vxlan-rules,
                host-gw-tracking, host-gw-rules, named-tracking, named-rules;
                of measurements: tcp1, tcp4, both, pps1, pps64, ping;
                of frames:       real, offloads. Where none of a kind is named, all of it are taken";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Show the usage.
    Help,
    /// Measure.
    Run(Options),
}

/// What to measure, and how often.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// How often each is measured.
    pub(crate) rounds: u32,
    /// How long a measurement lasts, in seconds.
    pub(crate) seconds: u32,
    /// Whether the uplinks merge what they receive.
    pub(crate) gro: bool,
    /// Whether frames that a bridge forwards pass the rules of IP, where the kernel has them do so.
    pub(crate) is_bridge_netfilter_off: bool,
    /// Who takes part, in the order of their turns.
    pub(crate) contestants: Vec<Contestant>,
    /// What is measured.
    pub(crate) measurements: Vec<Measurement>,
    /// On what frames.
    pub(crate) frames: Vec<Frames>,
}

impl Task {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options { rounds: 3, seconds: 3, ..Options::default() };
        let mut firewall = false;
        let mut words = words.flat_map(|word| word.splitn(2, '=').map(str::to_owned).collect::<Vec<_>>());
        while let Some(word) = words.next() {
            match word.as_str() {
                "-h" | "--help" => return Ok(Self::Help),
                "--quick" => (options.rounds, options.seconds) = (1, 1),
                "--gro" => options.gro = true,
                "--no-bridge-netfilter" => options.is_bridge_netfilter_off = true,
                "--firewall" => firewall = true,
                "--rounds" => options.rounds = number(&word, words.next())?,
                "--seconds" => options.seconds = number(&word, words.next())?,
                "--only" => options.only(&words.next().unwrap_or_default())?,
                other => return Err(format!("no option is called {other:?}")),
            }
        }
        if firewall {
            all_where_empty(&mut options.contestants, &Contestant::RULES);
            all_where_empty(&mut options.measurements, &Measurement::OF_RULES);
            all_where_empty(&mut options.frames, &[Frames::Real]);
        }
        all_where_empty(&mut options.contestants, &Contestant::PATHS);
        all_where_empty(&mut options.measurements, &Measurement::ALL);
        all_where_empty(&mut options.frames, &Frames::ALL);
        Ok(Self::Run(options))
    }
}

impl Options {
    /// How long a measurement lasts.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    fn only(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            let contestant = pick(name, &Contestant::PATHS, |one| one.name(), &mut self.contestants)
                || pick(name, &Contestant::RULES, |one| one.name(), &mut self.contestants)
                || pick(name, &Contestant::USERSPACE_RULES, |one| one.name(), &mut self.contestants)
                || pick(name, &Contestant::DIRECT_RULES, |one| one.name(), &mut self.contestants)
                || pick(name, &Contestant::NAMED_RULES, |one| one.name(), &mut self.contestants);
            let measurement = pick(name, &Measurement::ALL, |one| one.name(), &mut self.measurements);
            let frames = pick(name, &Frames::ALL, |one| one.name(), &mut self.frames);
            if !(contestant || measurement || frames) {
                return Err(format!("--only knows no {name:?}"));
            }
        }
        Ok(())
    }
}

/// Adds the one of that name, once; whether there is one.
fn pick<T: Copy + PartialEq>(name: &str, all: &[T], of: impl Fn(&T) -> &'static str, picked: &mut Vec<T>) -> bool {
    let Some(found) = all.iter().find(|one| of(one) == name) else { return false };
    if !picked.contains(found) {
        picked.push(*found);
    }
    true
}

fn all_where_empty<T: Copy>(picked: &mut Vec<T>, all: &[T]) {
    if picked.is_empty() {
        picked.extend_from_slice(all);
    }
}

fn number(word: &str, value: Option<String>) -> Result<u32, String> {
    let value = value.unwrap_or_default();
    let number = value.parse().ok().filter(|number| (1..=60).contains(number));
    number.ok_or_else(|| format!("{word} wants a number from 1 to 60, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        match Task::from_arguments(line.split_whitespace().map(str::to_owned))? {
            Task::Run(options) => Ok(options),
            Task::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn each_kind_that_is_not_narrowed_is_taken_whole() {
        let all = options("").unwrap();
        assert_eq!((all.rounds, all.seconds, all.gro), (3, 3, false));
        assert_eq!((all.contestants.len(), all.measurements.len(), all.frames.len()), (5, 6, 2));
        let some = options("--quick --gro --only veth,one-packet --only=tcp1,veth").unwrap();
        assert_eq!((some.rounds, some.seconds, some.gro), (1, 1, true));
        assert_eq!(some.contestants, [Contestant::Veth, Contestant::OnePacket]);
        assert_eq!(some.measurements, [Measurement::Tcp1]);
        assert_eq!(some.frames, Frames::ALL);
        let rules = options("--firewall --rounds=21 --only tcp1").unwrap();
        assert!(!rules.is_bridge_netfilter_off && options("--no-bridge-netfilter").unwrap().is_bridge_netfilter_off);
        assert_eq!(rules.contestants, Contestant::RULES);
        assert_eq!((rules.measurements, rules.frames), (vec![Measurement::Tcp1], vec![Frames::Real]));
        let named = options("--firewall --only our-rules,udp-rules,one-packet").unwrap();
        assert_eq!(named.contestants, [Contestant::OurRules, Contestant::UdpRules, Contestant::OnePacket]);
        let networks = options("--firewall --only tracking,named-tracking,named-rules").unwrap();
        assert_eq!(networks.contestants[1..], Contestant::NAMED_RULES);
        assert_eq!(options("--firewall").unwrap().measurements, Measurement::OF_RULES);
        assert_eq!(options("--rounds 5 --seconds=2 --only real").unwrap().frames, [Frames::Real]);
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        for wrong in ["--only", "--only veht", "--rounds 0", "--rounds", "--seconds 3600", "--fast", "real"] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }
}
