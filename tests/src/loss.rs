//! The loss meter: a hundred numbered pings a second between two hosts' subnets, and the proof that they went through the overlay.

use std::{
    net::IpAddr,
    path, thread,
    time::{Duration, Instant},
};

use crate::{Encapsulation, Fault, Host, LabError, Pings, Result, Underlay, check};

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
    pings: Pings,
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
    /// The numbers of those not answered.
    pub lost: Vec<u32>,
    /// The pings seen encapsulated on the underlay.
    pub encapsulated: u64,
}

impl LossMeter {
    /// Starts one and waits for its first answer.
    ///
    /// # Errors
    /// Where no ping is answered in five seconds.
    pub fn start(path: &Path<'_>) -> Result<Self> {
        Self::start_inside(&path.from.0.namespace().path(), path)
    }

    /// Starts one in a network namespace behind the host that asks: in that of a container.
    ///
    /// # Errors
    /// As [`LossMeter::start`].
    pub fn start_inside(namespace: &path::Path, path: &Path<'_>) -> Result<Self> {
        let meter = Self::start_unanswered(namespace, path)?;
        meter.pings.wait_answered().map_err(|error| LabError::Wrong(format!("{}: {error}", meter.path)))?;
        Ok(meter)
    }

    fn start_unanswered(namespace: &path::Path, path: &Path<'_>) -> Result<Self> {
        let Path { underlay, from: (asking, source), to: (answering, target), encapsulation } = *path;
        let counter = underlay.count(&format!(
            "iifname {} oifname {} udp dport {} {}",
            asking.port(),
            answering.port(),
            encapsulation.port(),
            inner_echo_request(encapsulation, target)
        ))?;
        let pings = Pings::start(namespace, Some(source), target)?;
        let path = format!("{} {source} to {} {target}", asking.name(), answering.name());
        Ok(Self { pings, started: Instant::now(), counter, path })
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

    fn stop_unjudged(self) -> Result<Loss> {
        let period = self.started.elapsed();
        let seen = self.pings.stop()?;
        Ok(Loss { period, sent: seen.sent, lost: seen.lost(), encapsulated: self.counter.packets()? })
    }
}

/// The control run: with the encapsulation's port dropped between the two hosts, the meter must lose its pings.
///
/// # Errors
/// Where it loses less than 95 % of them.
pub fn control_run(path: &Path<'_>) -> Result<Loss> {
    control_run_inside(&path.from.0.namespace().path(), path)
}

/// The same in a network namespace behind the host that asks.
///
/// # Errors
/// As [`control_run`].
pub fn control_run_inside(namespace: &path::Path, path: &Path<'_>) -> Result<Loss> {
    let fault = path.underlay.drop_udp_between(path.encapsulation.port(), path.from.0, path.to.0)?;
    let meter = LossMeter::start_unanswered(namespace, path)?;
    thread::sleep(Duration::from_secs(1));
    let loss = meter.stop_unjudged()?;
    let (sent, lost) = (loss.sent, u32::try_from(loss.lost.len()).unwrap_or(u32::MAX));
    check(sent > 50 && lost >= sent - sent / 20, || format!("the control run lost only {lost} of {sent} pings"))?;
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
}
