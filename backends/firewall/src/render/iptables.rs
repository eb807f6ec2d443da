//! Rules as `iptables-save` writes them after `-A CHAIN `: what is desired is compared with its output, so options stand
//! in its order, addresses and links before matches of modules.

use crate::{
    address_range::AddressRange,
    common_rule::{CommonRule, Conditions, RangeMatch, Verdict},
    rule::SourcePort,
};

pub(crate) fn rule(rule: &CommonRule) -> String {
    let Conditions { mark, source, destination, incoming, outgoing } = &rule.conditions;
    let options = [
        source.and_then(|source| prefix("-s", source)),
        destination.and_then(|destination| prefix("-d", destination)),
        incoming.map(|link| format!("-i {link}")),
        outgoing.map(|link| format!("-o {link}")),
        mark.map(|bits| format!("-m mark --mark {bits:#x}/{bits:#x}")),
        iprange(*source, *destination),
        Some(format!("-j {}", target(rule.verdict))),
    ];
    options.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// An option of iptables itself, for an address in a prefix.
fn prefix(option: &str, addresses: RangeMatch) -> Option<String> {
    match addresses {
        RangeMatch::Inside(AddressRange::Prefix(prefix)) => Some(format!("{option} {prefix}")),
        RangeMatch::Outside(AddressRange::Prefix(prefix)) => Some(format!("! {option} {prefix}")),
        RangeMatch::Inside(AddressRange::Between { .. }) | RangeMatch::Outside(AddressRange::Between { .. }) => None,
    }
}

/// The module `iprange`, for addresses in ranges that are no prefix.
fn iprange(source: Option<RangeMatch>, destination: Option<RangeMatch>) -> Option<String> {
    let source = source.and_then(|source| between("--src-range", source));
    let destination = destination.and_then(|destination| between("--dst-range", destination));
    let options: Vec<String> = source.into_iter().chain(destination).collect();
    (!options.is_empty()).then(|| format!("-m iprange {}", options.join(" ")))
}

fn between(option: &str, addresses: RangeMatch) -> Option<String> {
    match addresses {
        RangeMatch::Inside(range @ AddressRange::Between { .. }) => Some(format!("{option} {range}")),
        RangeMatch::Outside(range @ AddressRange::Between { .. }) => Some(format!("! {option} {range}")),
        RangeMatch::Inside(AddressRange::Prefix(_)) | RangeMatch::Outside(AddressRange::Prefix(_)) => None,
    }
}

const fn target(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept | Verdict::KeepSource(_) => "ACCEPT",
        Verdict::Return => "RETURN",
        Verdict::Masquerade(SourcePort::Random) => "MASQUERADE --random-fully",
        Verdict::Masquerade(SourcePort::Kept) => "MASQUERADE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common_rule::LinkMatch;

    fn text(conditions: Conditions, verdict: Verdict) -> String {
        rule(&CommonRule { purpose: "a test", conditions, verdict })
    }

    #[test]
    fn addresses_and_links_come_before_modules_whatever_kind_of_range_they_are_in() {
        let prefix: wire_net::Prefix = "10.5.1.0/24".parse().unwrap();
        let range = AddressRange::Between { first: prefix, last: "10.5.9.0/24".parse().unwrap() };
        let conditions = Conditions {
            mark: Some(0x4000),
            source: RangeMatch::outside(range),
            destination: RangeMatch::inside(prefix),
            incoming: Some(LinkMatch::Is("eth0".parse().unwrap())),
            outgoing: Some(LinkMatch::Like("wb.")),
        };
        insta::assert_snapshot!(
            text(conditions, Verdict::Return),
            @"-d 10.5.1.0/24 -i eth0 -o wb.+ -m mark --mark 0x4000/0x4000 -m iprange ! --src-range 10.5.1.0-10.5.9.255 -j RETURN"
        );
        let conditions = Conditions { destination: RangeMatch::outside(range), ..conditions };
        insta::assert_snapshot!(
            text(conditions, Verdict::Masquerade(SourcePort::Random)),
            @"-i eth0 -o wb.+ -m mark --mark 0x4000/0x4000 -m iprange ! --src-range 10.5.1.0-10.5.9.255 ! --dst-range 10.5.1.0-10.5.9.255 -j MASQUERADE --random-fully"
        );
    }
}
