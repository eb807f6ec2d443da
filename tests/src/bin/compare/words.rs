//! Words in place of what is rightly another in each run.
//!
//! A value that tells one thing from another (a MAC, an etcd lease) becomes a word with a number, the same one wherever it
//! stands: relations still show. A value that only counts or measures becomes a bare word.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::{Captures, Regex};

/// The words of one record, in the order in which their values appeared.
#[derive(Debug)]
pub(crate) struct Words {
    /// Folders and names of the run, and what stands for them; the longest first.
    places: Vec<(String, &'static str)>,
    seen: Seen,
}

/// The numbers of what has appeared, by word and value.
#[derive(Debug, Default)]
struct Seen {
    numbers: BTreeMap<(&'static str, String), usize>,
    counts: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
struct Rule {
    pattern: Regex,
    word: Word,
}

/// What stands for what a pattern has found, behind its group, if it has one.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// Itself.
    Stays,
    /// A bare one.
    Plain(&'static str),
    /// `0`, or that it is more.
    Some,
    /// One with a number.
    Numbered(&'static str),
    /// The same for an etcd lease, in this base.
    Lease(u32),
}

/// Each is tried on what the ones before it have left.
const PATTERNS: [(&str, Word); 25] = [
    // The agent of the Makefile's BASE did not name the family in the marks of the rules that decide.
    (
        r#"(comment "(?:let in by no rule|sources outside leases|peers|sources of other leases|strangers|all others)) v[46]"#,
        Word::Plain(""),
    ),
    // The agent of the Makefile's BASE counted the changes of the packet filter anew with each join, and not since its start.
    (r#"("firewall": \{\n +"converged": \w+,\n +"written": )\d+"#, Word::Plain("COUNT")),
    // The agent of the Makefile's BASE does not list its conditions. All their texts stand in other fields too.
    (r#"(?s),\n  "conditions": \[(?:\]|.*?\n  \])"#, Word::Plain("")),
    // Nor does it say by which former backend a peer is reached, or keep what it speaks for a change of backend.
    (r#",\n +"reached_by": """#, Word::Plain("")),
    (r#"(?s),\n +"spoken": \{.*?\n +\}"#, Word::Plain("")),
    // Drawn anew with each network.json.
    (r#"(\{"id":")[0-9a-f]{16}"#, Word::Plain("ID")),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| UTC|[+-]\d\d:\d\d)?", Word::Plain("TIME")),
    // The lab's own MACs, of hosts, of peers and of former flannels, are the same in each run, as are groups that are no host's.
    (
        r"\b(?:02:(?:64|aa|f1):[0-9a-f:]{11}|01:00:5e(?::[0-9a-f]{2}){3}|33:33:00(?::[0-9a-f]{2}){3}|33:33:ff:00(?::[0-9a-f]{2}){2}|(?:00:){5}00|(?:ff:){5}ff)\b",
        Word::Stays,
    ),
    (r"\b33:33:ff(?::[0-9a-f]{2}){3}\b", Word::Numbered("GROUP")),
    (r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b", Word::Numbered("MAC")),
    (r"\bfe80::64:ff:fe00:[0-9a-f]+\b", Word::Stays),
    (r"\bfe80::[0-9a-f]+(?::[0-9a-f]+)+\b", Word::Numbered("LINK-LOCAL")),
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", Word::Numbered("ID")),
    (r"\b(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32})\b", Word::Numbered("ID")),
    (r"\bveth[0-9a-f]{7}\b", Word::Numbered("VETH")),
    // As JSON has it: a number in a file, text in what the agent says.
    (r#"("lease": ?")[0-9a-f]+"#, Word::Lease(16)),
    (r#"("lease": ?|\(lease )\d+"#, Word::Lease(10)),
    (r#"("(?:create_|mod_)?revision": ?)\d+"#, Word::Plain("REVISION")),
    (r#"("lease_seconds": ?)[1-9]\d*"#, Word::Plain("SECONDS")),
    (r#"("(?:written|removed|rounds|resyncs)": ?)\d+"#, Word::Some),
    (r"(\bends in (?:at most )?)\d+ s\b", Word::Plain("DURATION")),
    (r"(\bexpires )[0-9hms]+\b", Word::Plain("DURATION")),
    (r"(@if|@)\d+\b", Word::Plain("NUMBER")),
    (r"(\b(?:[a-z_]+_timer|bridge_id|designated_root|designated_bridge))\s+\S+", Word::Plain(" VARIES")),
    // How often a kernel speaks to groups through a device that comes up is its own affair.
    (r#"("(?:dropped_(?:multicast|no_route|ttl)|tun_reads)": ?)\d+"#, Word::Plain("COUNT")),
];

/// Sentences that the agent of the Makefile's BASE has in other words than today's: then, and now. Nothing but words may be in here.
const REWORDED: [(&str, &str); 5] = [
    ("give each a --run-dir of its own", "give each an --network of its own"),
    ("traffic flows by what was known at ", "traffic uses the leases known at "),
    ("other hosts do not reach its containers", "other hosts cannot reach its containers"),
    ("or, where it gets no such flags, run", "or, if docker.service does not pass them, run"),
    ("--userspace-vxlan asks for it", "--userspace-vxlan is set"),
];

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |(pattern, word): &(&str, Word)| {
        let pattern = Regex::new(pattern).expect("the patterns are constants, and tried by a test");
        Rule { pattern, word: *word }
    };
    PATTERNS.iter().map(rule).collect()
});

impl Words {
    /// None yet. `places` are what a run calls its folders and hosts, with what stands for each.
    pub(crate) fn new(mut places: Vec<(String, &'static str)>) -> Self {
        places.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
        Self { places, seen: Seen::default() }
    }

    /// The text with words in it.
    pub(crate) fn replace(&mut self, text: &str) -> String {
        let mut text = self.places.iter().fold(text.to_owned(), |text, (place, word)| text.replace(place, word));
        text = REWORDED.iter().fold(text, |text, (then, now)| text.replace(then, now));
        // What is to stay hides from the rules behind it.
        let mut kept: Vec<String> = Vec::new();
        for Rule { pattern, word } in RULES.iter() {
            let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                let lead = found.get(1).map_or("", |group| group.as_str());
                let value = &found[0][lead.len()..];
                if matches!(word, Word::Stays) {
                    kept.push(value.to_owned());
                    return hidden(kept.len() - 1);
                }
                format!("{lead}{}", self.seen.word(*word, value))
            });
            text = replaced.into_owned();
        }
        for (number, value) in kept.iter().enumerate() {
            text = text.replace(&hidden(number), value);
        }
        text
    }
}

impl Seen {
    fn word(&mut self, word: Word, value: &str) -> String {
        match word {
            Word::Stays => value.to_owned(),
            Word::Plain(word) => word.to_owned(),
            Word::Some if value == "0" => value.to_owned(),
            Word::Some => "SOME".to_owned(),
            Word::Numbered(word) => self.numbered(word, value.to_lowercase()),
            Word::Lease(base) => {
                let number = i64::from_str_radix(value, base).unwrap_or_default();
                self.numbered("LEASE", number.to_string())
            }
        }
    }

    fn numbered(&mut self, word: &'static str, value: String) -> String {
        let count = self.counts.entry(word).or_default();
        let number = self.numbers.entry((word, value)).or_insert_with(|| {
            *count += 1;
            *count
        });
        format!("{word}-{number}")
    }
}

/// A number that no rule takes for anything.
fn hidden(number: usize) -> String {
    let letters: String = number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'g')).collect();
    format!("\u{1}{letters}\u{2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> String {
        Words::new(vec![("/tmp/run/7n0".to_owned(), "DIR"), ("run-7n0".to_owned(), "RUN")]).replace(text)
    }

    #[test]
    fn one_thing_has_one_word_wherever_it_stands() {
        let text =
            "a 7a:01:02:03:04:05 b 7A:01:02:03:04:06 c 7a:01:02:03:04:05 d 02:64:00:00:00:02 e 02:aa:00:00:00:64";
        assert_eq!(replaced(text), "a MAC-1 b MAC-2 c MAC-1 d 02:64:00:00:00:02 e 02:aa:00:00:00:64");
        // Rules are tried one after the other, so text of the agent comes first; what is one lease stays one.
        let text = r#"(lease 7587895283416478979) "lease": "694d9abcde123503" "lease":7587895283416478979"#;
        assert_eq!(replaced(text), r#"(lease LEASE-2) "lease": "LEASE-1" "lease":LEASE-2"#);
        let both = format!(r#""lease": "{:x}", "lease":7587895283416478979"#, 7_587_895_283_416_478_979_i64);
        assert_eq!(replaced(&both), r#""lease": "LEASE-1", "lease":LEASE-1"#);
        assert_eq!(replaced("/tmp/run/7n0/h1 in run-7n0-h1"), "DIR/h1 in RUN-h1");
        assert_eq!(replaced("--userspace-vxlan asks for it"), replaced("--userspace-vxlan is set"));
    }

    #[test]
    fn what_counts_or_measures_is_a_bare_word_and_nothing_stays_nothing() {
        let text = r#""revision": 12, "written": 0, "rounds": 4, "lease_seconds": 86399 as of 2026-01-02T03:04:05Z"#;
        let words = r#""revision": REVISION, "written": 0, "rounds": SOME, "lease_seconds": SECONDS as of TIME"#;
        assert_eq!(replaced(text), words);
        assert_eq!(replaced("one ends in at most 86399 s, eth0@if12 "), "one ends in at most DURATION, eth0@ifNUMBER ");
        assert_eq!(replaced("gc_timer   12.5 hello_timer 0.0"), "gc_timer VARIES hello_timer VARIES");
    }

    #[test]
    fn the_list_of_conditions_does_not_count() {
        for list in ["[]", "[\n    {\n      \"name\": \"x\",\n      \"list\": []\n    }\n  ]"] {
            let text = format!("{{\n  \"a\": [],\n  \"conditions\": {list}\n}}\n");
            assert_eq!(replaced(&text), "{\n  \"a\": []\n}\n");
        }
    }

    #[test]
    fn what_only_a_newer_agent_says_does_not_count() {
        assert_eq!(replaced("\"a\": 1,\n      \"reached_by\": \"\"\n"), "\"a\": 1\n");
        assert_eq!(replaced("\"a\": 1,\n  \"spoken\": {\n    \"joined\": \"{}\"\n  }\n}"), "\"a\": 1\n}");
        assert_eq!(replaced(r#"{"id":"71f980c9c284ef78","prefix":"/x"}"#), r#"{"id":"ID","prefix":"/x"}"#);
        let other = ",\n      \"reached_by\": \"host-gw\"";
        assert_eq!(replaced(other), other);
    }

    #[test]
    fn addresses_subnets_ports_and_link_locals_of_the_lab_stay() {
        let text = "10.5.1.0/24 fd00:5:0:1::/64 8472 fe80::64:ff:fe00:2 33:33:00:00:00:01 ff:ff:ff:ff:ff:ff 24h";
        assert_eq!(replaced(text), text);
        assert_eq!(replaced("fe80::8c:3aff:fe01:203/64 fe80::/64"), "LINK-LOCAL-1/64 fe80::/64");
    }
}
