//! The flags of `wire-agent network`, and what it prints.

use wire_lease::Origin;
use wire_lease::named::{NamedNetworks, NamedRecords, NewNetwork, Record, Records, Stored, SubnetWish};
use wire_net::DualStack;
use wire_store::Revision;

use super::*;
use crate::cli::{Cli, Command};

fn usual_ranges() -> DualStack<NetworkRange> {
    NetworkRange::of_config(b"{}", &KeyPrefix::new(KeyPrefix::DEFAULT)).unwrap()
}

fn command(words: &[&str]) -> Result<NetworkCommand, String> {
    let words = ["wire-agent", "network"].iter().chain(words).map(Into::into);
    match Cli::read(words).map_err(|error| error.to_string())?.command {
        Some(Command::Network(command)) => Ok(command),
        other => panic!("{other:?}"),
    }
}

fn wanted(words: &[&str]) -> Result<NewNetwork, String> {
    let command = command(&[&["create"], words].concat())?;
    let NetworkCommand::Create(flags) = command else { panic!("{command:?}") };
    flags.wanted(&usual_ranges(), String::new()).map_err(|error| wire_net::chain(&error).to_string())
}

/// The subnets of each family: given, or from a range.
fn subnets(words: &[&str]) -> Vec<String> {
    let shown = |wish: &SubnetWish| match wish {
        SubnetWish::Of(prefix) => prefix.to_string(),
        SubnetWish::From(range) => format!("a /{} of {}", range.len, range.range),
    };
    wanted(words).unwrap().subnets.iter().map(|(_, wish)| shown(wish)).collect()
}

#[test]
fn a_network_has_ipv4_and_if_asked_ipv6() {
    assert_eq!(subnets(&["app"]), ["a /20 of 10.128.0.0/9"]);
    assert_eq!(subnets(&["app", "--subnet", "10.9.0.0/24"]), ["10.9.0.0/24"]);
    assert_eq!(subnets(&["app", "--subnet", "10.9.0.0/24", "--subnet=fd57::/64"]), ["10.9.0.0/24", "fd57::/64"]);
    assert_eq!(subnets(&["app", "--ipv6=fd57::/64", "--no-ipv4"]), ["fd57::/64"]);
    let both = subnets(&["app", "--ipv6"]);
    assert!(both.len() == 2 && both[1].starts_with("a /64 of fd57:"), "{both:?}");
    let plain =
        wanted(&["app", "--label", "a=b=c", "--label", "d", "--internal", "--no-broadcast", "--mtu=1400"]).unwrap();
    assert_eq!((plain.internal, plain.broadcast, plain.mtu), (true, false, 1400));
    assert_eq!(plain.labels, [("a", "b=c"), ("d", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    for (words, reason) in [
        (&["app", "-o", "encrypted"][..], "does not encrypt the packets of a network"),
        (&["app", "-o", "encrypted=true"], "does not encrypt the packets of a network"),
        (&["app", "--opt", "com.docker.network.driver.mtu=1400"], "there is no such option"),
        (&["app", "--no-ipv4"], "add --ipv6"),
        (&["app", "--no-ipv4", "--ipv6", "--subnet=10.9.0.0/24"], "leave one of them out"),
        (&["app", "--subnet=10.9.0.0/24", "--subnet=10.10.0.0/24"], "two IPv4 subnets"),
        (&["app", "--subnet=10.9.0.1/24"], "holds host bits: the prefix is 10.9.0.0/24"),
        (&["app", "--subnet=10.9.0.0"], "is no IPv4 prefix"),
        (&["app", "--ipv6=10.9.0.0/24"], "is no IPv6 prefix"),
        (&["a b"], "is no network name"),
        (&["app", "--label", "=x"], "NAME=VALUE"),
        (&["app", "--mtu=x"], "invalid digit"),
    ] {
        let error = wanted(words).expect_err(reason);
        assert!(error.contains(reason), "{words:?}: {error}");
    }
    assert!(command(&["rm"]).is_err());
    assert!(command(&["inspect"]).is_err());
}

fn create_beside(flat: &str, name: &str) -> (NetworkCommand, EtcdFlags) {
    let cli = Cli::read(["wire-agent", "--flat", flat, "network", "create", name].map(Into::into)).unwrap();
    let Some(Command::Network(command)) = cli.command else { panic!("{name}") };
    (command, cli.etcd)
}

#[tokio::test]
async fn the_name_of_a_flat_network_is_refused_before_etcd_is_asked() {
    for (flat, name) in [("blue=/blue", "blue"), ("blue=/blue,red=/red", "red")] {
        let (command, etcd) = create_beside(flat, name);
        let refused = run(command, etcd, Path::new("/nowhere")).await.unwrap_err();
        let reason = format!("{name} is a flat network of this host (--flat): give the network another name");
        assert_eq!((refused.to_string(), refused.status()), (reason, NO));
    }
    let (_, etcd) = create_beside("blue=/blue", "blues");
    assert!(refuse_flat(&"blues".parse().unwrap(), &etcd).is_ok());
}

fn put<R: Record>(records: &mut Records<R>, key: &str, json: &str, revision: i64) {
    let origin = Origin { create_revision: Revision(revision), mod_revision: Revision(revision), lease: None };
    let stored = Stored { record: std::sync::Arc::new(R::from_value(json.as_bytes()).unwrap()), origin };
    records.insert(R::parse_key(key.as_bytes()).unwrap(), stored);
}

fn site() -> Site {
    const HOST: &str = "00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f";
    let mut records = NamedRecords::default();
    let app = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20","Block":27},"Labels":{"tier":"web"},"Created":"2026-01-31T12:00:00Z"}"#;
    put(&mut records.networks, "app", app, 1);
    put(&mut records.networks, "late", r#"{"VNI":5001,"IPv4":{"Pool":"10.128.8.0/24"}}"#, 2);
    put(
        &mut records.members,
        &format!("app/{HOST}"),
        r#"{"PublicIP":"192.0.2.1","Port":8472,"Own":{"IPv4":"10.128.3.32"}}"#,
        3,
    );
    put(&mut records.blocks, "app/10.128.3.32-27", &format!(r#"{{"Host":"{HOST}"}}"#), 3);
    put(&mut records.blocks, "app/10.128.3.0-28", &format!(r#"{{"Host":"{HOST}"}}"#), 4);
    Site {
        flat: NetworkConfig::from_json(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).ok(),
        networks: NamedNetworks::of(&records, &[]),
        records,
        invalid: vec![("bad".to_owned(), "missing field `VNI`".to_owned())],
    }
}

#[test]
fn all_networks_are_listed_the_flat_one_and_the_refused_ones_too() {
    let all = site().all();
    let names: Vec<&str> = all.iter().filter_map(|network| network["name"].as_str()).collect();
    assert_eq!(names, ["default", "app", "late", "bad"]);
    let text = show::table(&all);
    for part in ["10.5.0.0/16", "10.128.0.0/20", "overlaps that of the older network app", "missing field `VNI`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_network_is_shown_with_its_members_and_what_they_have() {
    let shown = show::lines(&site().one(&"app".parse().unwrap()).unwrap());
    for line in [
        "vni              5000",
        "ipv4 gateway     10.128.0.1",
        "labels tier      web",
        "member host      00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f",
        "member public    192.0.2.1",
        "member addresses 10.128.3.32/27",
        "is no block of the network",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(site().one(&"none".parse().unwrap()).is_none());
    assert_eq!(site().one(&NetworkName::default()).unwrap()["backend"], "vxlan");
}
