//! A trace as it is printed.

use std::net::IpAddr;

use serde::Serialize;
use wire_state::{Encapsulated, Hop, Outcome, Packet, Sending, Trace};

/// A trace as it is printed, also as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    from: IpAddr,
    to: IpAddr,
    hops: Vec<Line>,
    outcome: Line,
    /// The packet that leaves this host.
    sent: Option<Sent>,
    not_looked_at: Vec<String>,
}

/// A sentence, and a word for what it is about.
#[derive(Debug, Serialize)]
struct Line {
    kind: &'static str,
    sentence: String,
}

/// A packet that leaves this host.
#[derive(Debug, Serialize)]
struct Sent {
    link: String,
    next_hop: IpAddr,
    mac: Option<String>,
    from: IpAddr,
    to: IpAddr,
    udp_port: Option<u16>,
    vni: Option<u32>,
    inner_mac: Option<String>,
}

impl Report {
    /// A trace of that packet. `unread` is what may decide about any packet of this host.
    pub(super) fn new(packet: &Packet, trace: &Trace, unread: &[String]) -> Self {
        Self {
            from: packet.source,
            to: packet.destination,
            hops: trace.hops.iter().map(|hop| Line { kind: kind_of_hop(hop), sentence: hop.to_string() }).collect(),
            outcome: Line { kind: kind_of(&trace.outcome), sentence: trace.outcome.to_string() },
            sent: sent(&trace.outcome),
            not_looked_at: trace.not_looked_at.iter().chain(unread).cloned().collect(),
        }
    }

    /// A line for each hop, then for each thing that was not looked at. The packet's fate comes last.
    pub(super) fn text(&self) -> String {
        let hops = self.hops.iter().map(|hop| hop.sentence.clone());
        let unread = self.not_looked_at.iter().map(|what| format!("not looked at: {what}"));
        let lines = hops.chain(unread).chain([self.outcome.sentence.clone()]);
        lines.map(|line| format!("{}\n", printable(&line))).collect()
    }
}

/// The text without control characters: a link may have any name, and must not move the cursor of who reads this.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

const fn kind_of_hop(hop: &Hop) -> &'static str {
    match hop {
        Hop::Arrived(_) => "arrived",
        Hop::LetIn(_) => "let-in",
        Hop::Accepted(..) => "accepted",
        Hop::Route(..) => "route",
        Hop::Neighbour(..) => "neighbour",
        Hop::Fdb(..) => "fdb",
        Hop::Flooded(..) => "flooded",
        Hop::Forward(..) => "tunnel",
        Hop::Answers { .. } => "answers",
        Hop::BridgeFdb(..) => "bridge-fdb",
        Hop::Behind(..) => "behind",
        Hop::BridgeFloods(..) => "bridge-floods",
        Hop::Masqueraded(_) => "masqueraded",
        Hop::Encapsulated(_) => "encapsulated",
        Hop::Decapsulated(..) => "decapsulated",
    }
}

const fn kind_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Sent(_) => "sent",
        Outcome::Dropped(_) => "dropped",
        Outcome::Unknown(_) => "unknown",
    }
}

fn sent(outcome: &Outcome) -> Option<Sent> {
    let Sending { link, next_hop, mac, packet } = match outcome {
        Outcome::Sent(sending) => sending,
        Outcome::Delivered(_) | Outcome::Dropped(_) | Outcome::Unknown(_) => return None,
    };
    let header = packet.inner.as_deref().and_then(|Encapsulated { header, .. }| *header);
    Some(Sent {
        link: link.to_string(),
        next_hop: *next_hop,
        mac: mac.map(|mac| mac.to_string()),
        from: packet.source,
        to: packet.destination,
        udp_port: packet.udp_port,
        vni: header.map(|header| header.vni.number()),
        inner_mac: header.map(|header| header.destination.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use wire_state::Reason;

    use super::*;

    fn dropped() -> Report {
        let (from, to) = ([10, 5, 3, 2].into(), [10, 5, 7, 2].into());
        let hops = vec![Hop::Arrived("docker0".parse().unwrap())];
        let trace = Trace { hops, outcome: Outcome::Dropped(Reason::NoRoute(to)), not_looked_at: Vec::new() };
        Report::new(&Packet::new(from, to), &trace, &["table inet foo".to_owned()])
    }

    #[test]
    fn the_fate_of_the_packet_is_the_last_line() {
        let lines = "comes in by docker0\nnot looked at: table inet foo\ndropped: no route to 10.5.7.2\n";
        assert_eq!(dropped().text(), lines);
    }

    #[test]
    fn the_json_has_a_word_for_each_sentence() {
        let value = serde_json::to_value(dropped()).unwrap();
        assert_eq!(value["hops"][0]["kind"], "arrived");
        assert_eq!(value["outcome"]["kind"], "dropped");
    }
}
