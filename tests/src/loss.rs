//! The loss meter: a hundred numbered pings a second between two hosts' subnets, and the proof that they went through the overlay.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{Encapsulation, Fault, Host, LabError, Process, Result, Underlay, check};

/// The pings that may be on their way when the meter is stopped: 50 ms.
const ON_THE_WAY: u32 = 5;

/// From where to where the pings go, and how they are carried.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    /// The network under both.
    pub underlay: &'a Underlay,
    /// The host that asks, and an address of it within its subnet.
    pub from: (&'a Host, IpAddr),
    /// The host that answers, and an address within its subnet.
    pub to: (&'a Host, IpAddr),
    /// How they travel on the underlay.
    pub encapsulation: Encapsulation,
}

/// A running meter. Dropped without [`LossMeter::stop`], it just ends.
#[derive(Debug)]
pub struct LossMeter {
    process: Process,
    started: Instant,
    counter: Fault,
    path: String,
}

/// What a meter has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How long it ran.
    pub period: Duration,
    /// The pings sent.
    pub sent: u32,
    /// The numbers of those not answered, without those on their way at the end.
    pub lost: Vec<u32>,
    /// The pings seen encapsulated on the underlay.
    pub encapsulated: u64,
}

impl LossMeter {
    /// Starts one and waits for its first answer, so that what is lost later is lost by what the caller does.
    ///
    /// # Errors
    /// Where no ping is answered in five seconds.
    pub fn start(path: &Path<'_>) -> Result<Self> {
        let mut meter = Self::start_unanswered(path)?;
        crate::eventually(Duration::from_secs(5), || {
            check(meter.process.log().contains("icmp_seq="), || format!("no ping is answered: {}", meter.path))
        })?;
        // How long the program took to start says nothing of how well it keeps its pace.
        meter.started = Instant::now();
        Ok(meter)
    }

    fn start_unanswered(path: &Path<'_>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Path { underlay, from: (asking, source), to: (answering, target), encapsulation } = *path;
        let counter = underlay.count(&format!(
            "iifname {} oifname {} udp dport {} {}",
            asking.port(),
            answering.port(),
            encapsulation.port(),
            inner_echo_request(encapsulation, target)
        ))?;
        let log: PathBuf = asking.dir().join(format!("loss.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = asking.namespace().command("ping");
        // -l: a ping that the scheduler has kept from its turn is sent late instead of not at all.
        command.args(["-n", "-i", "0.01", "-l", "20", "-I", &source.to_string(), &target.to_string()]);
        let process = Process::start(asking.namespace().run(), &mut command, log)?;
        let path = format!("{} {source} to {} {target}", asking.name(), answering.name());
        Ok(Self { process, started: Instant::now(), counter, path })
    }

    /// Stops it. Whether pings were lost is for the caller to judge; whether the meter was any good is judged here.
    ///
    /// # Errors
    /// Where it sent less than 95 % of its pings, or less than 95 % of those that were answered were seen encapsulated.
    pub fn stop(self) -> Result<Loss> {
        let path = self.path.clone();
        let loss = self.stop_unjudged()?;
        let due = u32::try_from(loss.period.as_millis() / 10).unwrap_or(u32::MAX);
        check(loss.sent >= due - due / 20, || format!("{path}: only {} of {due} pings were sent", loss.sent))?;
        // Those that were lost may have been lost before they were encapsulated.
        let answered = u64::from(loss.sent) - loss.lost.len() as u64;
        check(loss.encapsulated >= answered - answered / 20, || {
            format!("{path}: of {answered} answered pings only {} were seen encapsulated", loss.encapsulated)
        })?;
        Ok(loss)
    }

    /// Stops it and checks that no ping was lost.
    ///
    /// # Errors
    /// As [`LossMeter::stop`], and where one was lost.
    pub fn stop_without_loss(self) -> Result<Loss> {
        let path = self.path.clone();
        let loss = self.stop()?;
        check(loss.lost.is_empty(), || {
            format!("{path}: lost {} of {} pings: {:?}", loss.lost.len(), loss.sent, loss.lost)
        })?;
        Ok(loss)
    }

    fn stop_unjudged(mut self) -> Result<Loss> {
        let period = self.started.elapsed();
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(5))?;
        let log = self.process.log();
        let sent = sent_in(&log).ok_or_else(|| LabError::Answer { what: "ping".to_owned(), rule: log.clone() })?;
        let answered = answers_in(&log);
        let last_due = sent.saturating_sub(ON_THE_WAY);
        let lost = (1..=last_due).filter(|number| !answered.contains(number)).collect();
        Ok(Loss { period, sent, lost, encapsulated: self.counter.packets()? })
    }
}

/// The control run: with the encapsulation's port dropped between the two hosts, the meter must lose its pings.
///
/// # Errors
/// Where it loses less than 95 % of them.
pub fn control_run(path: &Path<'_>) -> Result<Loss> {
    let fault = path.underlay.drop_udp_between(path.encapsulation.port(), path.from.0, path.to.0)?;
    let meter = LossMeter::start_unanswered(path)?;
    thread::sleep(Duration::from_secs(1));
    let loss = meter.stop_unjudged()?;
    let due = loss.sent.saturating_sub(ON_THE_WAY);
    let lost = u32::try_from(loss.lost.len()).unwrap_or(u32::MAX);
    check(due > 50 && lost >= due - due / 20, || format!("the control run lost only {lost} of {due} pings"))?;
    check(fault.packets()? > 0, || "the control run's fault has met no packet".to_owned())?;
    Ok(loss)
}

/// Matches what lies behind UDP (8 bytes) and the encapsulation's header: an IP header without options whose ICMP message is an
/// echo request. nft counts these offsets in bits.
fn inner_echo_request(encapsulation: Encapsulation, target: IpAddr) -> String {
    let (protocol, icmp, message, request) = match target {
        // Protocol at byte 9 of the IPv4 header: 1 is ICMP. Type 8 after 20 bytes: echo request.
        IpAddr::V4(_) => (9, 1, 20, 8),
        // Next header at byte 6 of the IPv6 header: 58 is ICMPv6. Type 128 after 40 bytes: echo request.
        IpAddr::V6(_) => (6, 58, 40, 128),
    };
    let bits = |byte: u32| 8 * (8 + encapsulation.header_len() + byte);
    format!("@th,{},8 {icmp} @th,{},8 {request}", bits(protocol), bits(message))
}

fn sent_in(log: &str) -> Option<u32> {
    let summary = log.lines().find(|line| line.contains("packets transmitted"))?;
    summary.split(' ').next()?.parse().ok()
}

fn answers_in(log: &str) -> BTreeSet<u32> {
    let answers = log.lines().filter(|line| line.contains("bytes from"));
    let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
    answers.filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_request_lies_behind_the_encapsulation() {
        let (v4, v6) = ("10.5.1.0".parse().unwrap(), "fd00:5:1::".parse().unwrap());
        assert_eq!(inner_echo_request(Encapsulation::Vxlan, v4), "@th,312,8 1 @th,400,8 8");
        assert_eq!(inner_echo_request(Encapsulation::Vxlan, v6), "@th,288,8 58 @th,560,8 128");
        assert_eq!(inner_echo_request(Encapsulation::RawIp, v4), "@th,136,8 1 @th,224,8 8");
    }

    #[test]
    fn only_answers_count_as_answered() {
        let log = "PING 10.5.2.0 (10.5.2.0) from 10.5.1.0 : 56(84) bytes of data.\n\
                   64 bytes from 10.5.2.0: icmp_seq=1 ttl=64 time=0.1 ms\n\
                   From 10.5.1.0 icmp_seq=2 Destination Host Unreachable\n\
                   64 bytes from 10.5.2.0: icmp_seq=3 ttl=64 time=0.1 ms\n\n\
                   --- 10.5.2.0 ping statistics ---\n\
                   3 packets transmitted, 2 received, 33.3333% packet loss, time 20ms\n";
        assert_eq!(answers_in(log).into_iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(sent_in(log), Some(3));
    }
}
