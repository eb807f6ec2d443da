//! Parses /etc/resolv.conf as glibc does: lines it does not understand are skipped.

use std::{net::IpAddr, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    /// A name with at least that many dots is queried as it is before the search list is used.
    pub(super) ndots: usize,
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
    pub(super) rotate: bool,
    pub(super) tcp_only: bool,
}

/// glibc's limits, see resolv.conf(5).
const MAX_SERVERS: usize = 3;
const MAX_NDOTS: usize = 15;
const MAX_ATTEMPTS: usize = 5;
const MAX_TIMEOUT: u64 = 30;
/// Per server and query. glibc's default is 5 s, as long as a whole call to etcd may take.
const TIMEOUT: Duration = Duration::from_secs(2);

impl ResolvConf {
    /// Parses the text. Without a `domain` or `search` line, the domain of `hostname` is searched.
    pub(super) fn parse(text: &str, hostname: &str) -> Self {
        let domain = hostname.trim().split_once('.').map(|(_, domain)| domain.to_owned());
        let mut conf = Self {
            servers: Vec::new(),
            search: domain.into_iter().collect(),
            ndots: 1,
            timeout: TIMEOUT,
            attempts: 2,
            rotate: false,
            tcp_only: false,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                Some("domain") => conf.search = words.next().map(str::to_owned).into_iter().collect(),
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        conf.servers.truncate(MAX_SERVERS);
        if conf.servers.is_empty() {
            conf.servers.push(std::net::Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    fn option(&mut self, option: &str) {
        let (name, number) = option.split_once(':').unwrap_or((option, ""));
        let number: Option<u64> = number.parse().ok();
        let at_most = |limit: usize| number.map(|number| usize::try_from(number).unwrap_or(limit).min(limit));
        match name {
            "ndots" => self.ndots = at_most(MAX_NDOTS).unwrap_or(self.ndots),
            "attempts" => self.attempts = at_most(MAX_ATTEMPTS).unwrap_or(self.attempts).max(1),
            "timeout" => {
                self.timeout = number.map_or(self.timeout, |number| Duration::from_secs(number.clamp(1, MAX_TIMEOUT)));
            }
            "rotate" => self.rotate = true,
            "use-vc" => self.tcp_only = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_by_glibc_and_what_is_not_understood_is_passed_over() {
        let conf = ResolvConf::parse(
            "# a comment\n; another\nnameserver 10.0.0.53\nnameserver nonsense\nnameserver fd00::53\nnameserver 10.0.0.54\n\
             nameserver 10.0.0.55\ndomain old.example\nsearch a.example  b.example\n\
             options ndots:20 timeout:1 attempts:9 rotate trust-ad edns0 unheard-of:7\nsortlist 1.2.3.4\n",
            "host.corp.example\n",
        );
        let servers: [IpAddr; 3] = ["10.0.0.53", "fd00::53", "10.0.0.54"].map(|server| server.parse().unwrap());
        assert_eq!(conf.servers, servers);
        assert_eq!(conf.search, ["a.example", "b.example"], "the last of domain and search wins");
        assert_eq!((conf.ndots, conf.attempts, conf.timeout), (15, 5, Duration::from_secs(1)));
        assert!(conf.rotate && !conf.tcp_only);
    }

    #[test]
    fn without_resolv_conf_the_server_of_this_host_is_asked_and_its_own_domain_searched() {
        let conf = ResolvConf::parse("", "host.corp.example\n");
        assert_eq!(conf.servers, [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(conf.search, ["corp.example"]);
        assert_eq!(ResolvConf::parse("", "host").search, [""; 0]);
        assert_eq!(ResolvConf::parse("domain only.example", "host.corp.example").search, ["only.example"]);
    }
}
