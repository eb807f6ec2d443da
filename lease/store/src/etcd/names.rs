//! Resolves the names of etcd's members without the C library: a static binary cannot load NSS modules, and crashes if
//! /etc/nsswitch.conf names any except files and dns.
//!
//! Order: /etc/hosts, then DNS by /etc/resolv.conf, both read anew for each name, as glibc does for `hosts: files dns`.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the errors of libraries get new variants, which are treated like all others"
)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use futures::future::select;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};

use super::resolv_conf::ResolvConf;
use crate::Random;

/// The error of a host that has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Neither /etc/hosts nor DNS has the name.
    #[error("the name {name} is not in /etc/hosts, and DNS does not resolve it (/etc/resolv.conf)")]
    Unresolved {
        /// The name.
        name: String,
        /// The answer of DNS.
        #[source]
        source: Box<NetError>,
    },
    /// A link-local address names an interface that does not exist.
    #[error("{host}: there is no interface {zone}")]
    NoInterface {
        /// The address as configured.
        host: String,
        /// The interface.
        zone: String,
    },
}

/// The time to wait for the second family after the first has answered.
const OTHER_FAMILY: Duration = Duration::from_millis(300);

const DNS_PORT: u16 = 53;

/// The DNS servers of this host, and how they are asked.
struct Dns<'a> {
    conf: ResolvConf,
    port: u16,
    /// Chooses the first server, where the configuration asks for that.
    random: &'a Random,
}

/// Resolves a name, or parses an address. Returns all its addresses. `random` chooses the first DNS server where
/// /etc/resolv.conf asks for that.
pub(super) async fn resolve(host: &str, port: u16, random: &Random) -> Result<Vec<SocketAddr>, NameError> {
    if let Some(address) = literal(host, port)? {
        return Ok(vec![address]);
    }
    let addresses = in_hosts(&read("/etc/hosts"), host, port);
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    if is_localhost(host) {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let dns = Dns { conf: resolv_conf(), port: DNS_PORT, random };
    let found = in_dns(&dns, host).await;
    let found = found.map_err(|error| NameError::Unresolved { name: host.to_owned(), source: Box::new(error) })?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// The DNS servers needed to resolve a host; none for an address or a name in /etc/hosts.
pub(super) fn servers_for(host: &str) -> Vec<IpAddr> {
    servers_by(host, &read("/etc/hosts"), resolv_conf())
}

fn servers_by(host: &str, hosts: &str, conf: ResolvConf) -> Vec<IpAddr> {
    let is_address = literal(host, 0).is_ok_and(|found| found.is_some());
    let is_known = is_address || is_localhost(host) || !in_hosts(hosts, host, 0).is_empty();
    if is_known { Vec::new() } else { conf.servers }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn resolv_conf() -> ResolvConf {
    ResolvConf::parse(&read("/etc/resolv.conf"), &read("/proc/sys/kernel/hostname"))
}

fn is_localhost(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Parses an address; the interface of a link-local one follows a `%`.
fn literal(host: &str, port: u16) -> Result<Option<SocketAddr>, NameError> {
    let Some((address, zone)) = host.split_once('%') else {
        return Ok(host.parse().ok().map(|ip| SocketAddr::new(ip, port)));
    };
    let Ok(address) = address.parse::<Ipv6Addr>() else { return Ok(None) };
    // In a URL, the % is written as %25.
    let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(zone);
    let index = fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok();
    let index = index.as_deref().map_or(zone, str::trim).parse();
    let no_interface = |_| NameError::NoInterface { host: host.to_owned(), zone: zone.to_owned() };
    Ok(Some(SocketAddrV6::new(address, port, 0, index.map_err(no_interface)?).into()))
}

/// The addresses of all lines that name the host, as in glibc.
fn in_hosts(text: &str, host: &str, port: u16) -> Vec<SocketAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    text.lines().filter_map(|line| in_hosts_line(line, host, port)).collect()
}

fn in_hosts_line(line: &str, host: &str, port: u16) -> Option<SocketAddr> {
    let mut words = line.split('#').next()?.split_whitespace();
    let address = words.next().and_then(|word| literal(word, port).ok().flatten())?;
    words.any(|word| word.eq_ignore_ascii_case(host)).then_some(address)
}

/// Queries one form of the name after another until one exists.
async fn in_dns(dns: &Dns<'_>, host: &str) -> Result<Vec<IpAddr>, NetError> {
    let mut error = NetError::NoConnections;
    for name in candidates(&dns.conf, host) {
        match both_families(dns, &name).await {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => {}
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// The forms of a name, in glibc's order. A name with a trailing dot has no other form.
fn candidates(conf: &ResolvConf, host: &str) -> Vec<String> {
    if host.ends_with('.') {
        return vec![host.to_owned()];
    }
    let searched = conf.search.iter().map(|domain| format!("{host}.{}.", domain.trim_matches('.')));
    let itself = format!("{host}.");
    if host.matches('.').count() >= conf.ndots {
        std::iter::once(itself).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(itself)).collect()
    }
}

/// Queries both families at the same time; the failure of one does not hide the other.
async fn both_families(dns: &Dns<'_>, name: &str) -> Result<Vec<IpAddr>, NetError> {
    let of = |kind| Box::pin(records(dns, name, kind));
    let (first, other) = select(of(RecordType::A), of(RecordType::AAAA)).await.factor_first();
    let Ok(mut found) = first else { return other.await };
    if let Ok(Ok(more)) = tokio::time::timeout(OTHER_FAMILY, other).await {
        found.extend(more);
    }
    Ok(found)
}

/// Queries one server after another, several times over, until one says that the records exist or that they do not.
async fn records(dns: &Dns<'_>, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, NetError> {
    let Dns { conf, port, random } = dns;
    let mut error = NetError::NoConnections;
    // Underscores are allowed, as in the C library: names of Compose have them.
    let name = Name::from_str_relaxed(name)?;
    let count = conf.servers.len();
    let first = if conf.rotate { random.index(count) } else { 0 };
    let servers = conf.servers.iter().cycle().skip(first).take(count * conf.attempts);
    for server in servers {
        match resolver(conf, SocketAddr::new(*server, *port))?.lookup(name.clone(), kind).await {
            // The answer holds aliases (CNAME), too.
            Ok(answer) => return Ok(answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect()),
            Err(none) if is_final(&none) => return Err(none),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// Whether the server knows that there are no records, so that asking another one is useless.
fn is_final(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
        }
        _ => false,
    }
}

/// A resolver that queries one server once, without a cache: a cached address would be wrong just when it matters,
/// after etcd has moved.
fn resolver(conf: &ResolvConf, server: SocketAddr) -> Result<TokioResolver, NetError> {
    let ip = server.ip();
    let mut name_server = if conf.tcp_only { NameServerConfig::tcp(ip) } else { NameServerConfig::udp_and_tcp(ip) };
    for connection in &mut name_server.connections {
        connection.port = server.port();
    }
    let mut options = ResolverOpts::default();
    options.timeout = conf.timeout;
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.edns0 = false;
    options.os_port_selection = true;
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::net::UdpSocket;

    use super::*;

    const HOSTS: &str = "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # etcd.example\n\n10.0.0.1 ETCD.example etcd\n\
                         fd00::1 etcd.example\nnonsense etcd.example\n10.0.0.2 other";

    #[test]
    fn hosts_gives_every_address_of_a_name_in_any_case_and_with_a_dot_at_its_end() {
        let found = |name| in_hosts(HOSTS, name, 1).iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        for name in ["etcd.example", "Etcd.Example", "etcd.example."] {
            assert_eq!(found(name), ["10.0.0.1:1", "[fd00::1]:1"], "{name}");
        }
        assert_eq!(found("localhost"), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(found("etcd"), ["10.0.0.1:1"]);
        assert_eq!(found("example"), [""; 0]);
    }

    #[test]
    fn the_dns_servers_are_on_the_way_to_a_name_that_they_alone_know() {
        let servers = |host| servers_by(host, HOSTS, ResolvConf::parse("nameserver 10.9.0.53", ""));
        assert_eq!(servers("etcd.elsewhere"), [IpAddr::from([10, 9, 0, 53])]);
        for known in ["etcd", "10.0.0.1", "fd00::1", "localhost"] {
            assert!(servers(known).is_empty(), "{known}");
        }
    }

    #[test]
    fn an_address_with_an_interface_is_taken_as_it_is() {
        let found = |host| literal(host, 1).map(|found| found.map(|address| address.to_string()));
        assert_eq!(found("192.0.2.1").unwrap().unwrap(), "192.0.2.1:1");
        assert_eq!(found("fd00::1").unwrap().unwrap(), "[fd00::1]:1");
        assert_eq!(found("fe80::1%lo").unwrap().unwrap(), "[fe80::1%1]:1");
        assert_eq!(found("fe80::1%25lo").unwrap().unwrap(), "[fe80::1%1]:1");
        assert_eq!(found("fe80::1%7").unwrap().unwrap(), "[fe80::1%7]:1");
        assert_eq!(found("etcd").unwrap(), None);
        let error = found("fe80::1%none0").unwrap_err().to_string();
        assert_eq!(error, "fe80::1%none0: there is no interface none0");
    }

    static SYSTEM: Random = Random::of_system();

    fn dns(conf: &ResolvConf, port: u16) -> Dns<'static> {
        Dns { conf: conf.clone(), port, random: &SYSTEM }
    }

    /// Answers A queries for `known` with 192.0.2.7, has no AAAA record for it, and knows no other name. Records the
    /// queries.
    async fn server(known: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (socket.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
        let notes = asked.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                let (mut name, mut at) = (Vec::new(), 12);
                while query[at] != 0 {
                    let label = &query[at + 1..][..query[at].into()];
                    name.push(String::from_utf8_lossy(label).into_owned());
                    at += 1 + label.len();
                }
                let is_a = query[at + 2] == 1;
                let name = name.join(".");
                let mut answer = query[..length].to_vec();
                (answer[2], answer[3]) = (0x81, if name == known { 0x80 } else { 0x83 });
                if name == known && is_a {
                    answer[7] = 1;
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
                }
                if is_a {
                    notes.lock().unwrap().push(name);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        (port, asked)
    }

    #[tokio::test]
    async fn dns_is_asked_by_search_list_and_dots_as_glibc_asks() {
        let conf = ResolvConf::parse("nameserver 127.0.0.1\nsearch one.example two.example", "");
        for (name, known, asked) in [
            ("etcd", "etcd.two.example", &["etcd.one.example", "etcd.two.example"][..]),
            ("etcd.two.example", "etcd.two.example", &["etcd.two.example"]),
            ("etcd.lan", "etcd.lan.one.example", &["etcd.lan", "etcd.lan.one.example"]),
            ("etcd.two.example.", "etcd.two.example", &["etcd.two.example"]),
            ("etcd_1.two.example", "etcd_1.two.example", &["etcd_1.two.example"]),
        ] {
            let (port, notes) = server(known).await;
            assert_eq!(in_dns(&dns(&conf, port), name).await.unwrap(), [IpAddr::from([192, 0, 2, 7])], "{name}");
            assert_eq!(*notes.lock().unwrap(), asked, "{name}");
        }
        let (port, notes) = server("etcd.two.example").await;
        assert!(in_dns(&dns(&conf, port), "etcd.").await.is_err());
        assert_eq!(*notes.lock().unwrap(), ["etcd"], "a dot at the end is the end");
        let (port, _) = server("etcd.one.example").await;
        let conf = ResolvConf { ndots: 3, ..conf };
        assert!(in_dns(&dns(&conf, port), "etcd").await.is_ok());
    }

    #[tokio::test]
    async fn a_server_that_is_away_costs_the_name_nothing_but_time() {
        let (port, _) = server("etcd.example").await;
        let conf = ResolvConf::parse("nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:1", "");
        assert_eq!(in_dns(&dns(&conf, port), "etcd.example").await.unwrap(), [IpAddr::from([192, 0, 2, 7])]);
    }
}
