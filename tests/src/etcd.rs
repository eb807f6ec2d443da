//! A real etcd, of one or three members, each on a host of its own so that faults of the underlay reach it.

mod backup;
mod stored;

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Host, LabError, Process, Result, Underlay, check, command::output, eventually, gateway::Gateway, pki::Pki,
};

pub use stored::Stored;

/// How a client proves itself, and what it is given to do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Plain HTTP, for anyone.
    Open,
    /// TLS; the server proves itself by a CA, clients need not.
    CaAlone,
    /// TLS; clients have certificates.
    ClientCertificates,
    /// Plain HTTP; user `root` with the password `lab-root`, authentication enabled.
    Password,
}

/// The store of a lab.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    access: Access,
    pki: Option<Pki>,
}

#[derive(Debug)]
struct Member {
    host: Host,
    process: Option<Process>,
}

impl Etcd {
    /// The prefix of all keys of the network, flannel's default.
    pub const PREFIX: &'static str = "/coreos.com/network";
    /// The user of [`Access::Password`] and its password.
    pub const USER: (&'static str, &'static str) = ("root", "lab-root");

    /// One open member, ready.
    ///
    /// # Errors
    /// Where it does not start; with its log.
    pub fn start(underlay: &Underlay) -> Result<Self> {
        Self::start_with(underlay, Access::Open, 1)
    }

    /// Any number of members with any access, ready.
    ///
    /// # Errors
    /// Where one does not start; with its log.
    pub fn start_with(underlay: &Underlay, access: Access, members: usize) -> Result<Self> {
        // Several may stand on one underlay, so the names go on where the last one's ended.
        let host = |_| underlay.host(&format!("etcd{}", underlay.hosts_made()));
        let members = (0..members).map(host).map(|host| Ok(Member { host: host?, process: None }));
        let members = members.collect::<Result<Vec<_>>>()?;
        let pki = match access {
            Access::Open | Access::Password => None,
            Access::CaAlone | Access::ClientCertificates => {
                let dir = underlay.namespace().run().dir().join(format!("pki{}", underlay.hosts_made()));
                Some(Pki::new(dir, members.iter().map(|member| member.host.v4().into()))?)
            }
        };
        let mut etcd = Self { members, access, pki };
        for number in 0..etcd.members.len() {
            etcd.launch(number)?;
        }
        etcd.wait_ready(Duration::from_secs(20))?;
        if access == Access::Password {
            let (user, password) = Self::USER;
            etcd.bare_ctl(&["user", "add", user, "--new-user-password", password])?;
            etcd.bare_ctl(&["user", "grant-role", user, "root"])?;
            etcd.bare_ctl(&["auth", "enable"])?;
        }
        Ok(etcd)
    }

    /// Where clients find it, comma separated.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(|member| self.client_url(member)).collect();
        urls.join(",")
    }

    /// What an agent must be given to reach it.
    #[must_use]
    pub fn agent_flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--etcd-endpoints={}", self.endpoints())];
        flags.push(format!("--etcd-prefix={}", Self::PREFIX));
        if let Some(pki) = &self.pki {
            flags.push(format!("--etcd-cafile={}", pki.ca().display()));
            if self.access == Access::ClientCertificates {
                flags.push(format!("--etcd-certfile={}", pki.client_certificate().display()));
                flags.push(format!("--etcd-keyfile={}", pki.client_key().display()));
            }
        }
        if self.access == Access::Password {
            let (user, password) = Self::USER;
            flags.extend([format!("--etcd-username={user}"), format!("--etcd-password={password}")]);
        }
        flags
    }

    /// The host of a member, counted from 0.
    #[must_use]
    pub fn host(&self, member: usize) -> &Host {
        &self.members[member].host
    }

    /// The certificates, where it has any.
    #[must_use]
    pub const fn pki(&self) -> Option<&Pki> {
        self.pki.as_ref()
    }

    /// Runs `etcdctl` with the credentials of [`Etcd::agent_flags`].
    ///
    /// # Errors
    /// What it says.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let (user, password) = Self::USER;
        let user = format!("--user={user}:{password}");
        let credentials = (self.access == Access::Password).then_some(user.as_str());
        self.bare_ctl(&credentials.into_iter().chain(words.iter().copied()).collect::<Vec<_>>())
    }

    /// Puts a key, bound to no etcd lease.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn put(&self, key: &str, value: &str) -> Result {
        self.ctl(&["put", "--", key, value]).map(drop)
    }

    /// Puts the network config.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn put_config(&self, json: &str) -> Result {
        self.put(&format!("{}/config", Self::PREFIX), json)
    }

    /// Puts any number of keys of any bytes with one new etcd lease of a day, in transactions of a hundred. Open access only.
    ///
    /// # Errors
    /// What the gateway says.
    pub fn put_all(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result {
        let mut gateway = self.gateway()?;
        let lease = gateway.grant(86_400)?;
        entries.chunks(100).try_for_each(|chunk| gateway.put_all(chunk, lease))
    }

    /// A connection for many calls, or calls to be timed. Open access only.
    ///
    /// # Errors
    /// Where the first member cannot be reached.
    pub fn gateway(&self) -> Result<Gateway> {
        Gateway::connect(self.members[0].host.namespace())
    }

    /// One key.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn get(&self, key: &str) -> Result<Option<Stored>> {
        Ok(self.read(&["get", "-w=json", "--", key])?.into_iter().next())
    }

    /// All keys with a prefix, in order.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn list(&self, prefix: &str) -> Result<Vec<Stored>> {
        self.read(&["get", "-w=json", "--prefix", "--", prefix])
    }

    /// The keys of all leases of the network, in order.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn leases(&self) -> Result<Vec<Stored>> {
        self.list(&format!("{}/subnets/", Self::PREFIX))
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn delete(&self, key: &str) -> Result {
        self.ctl(&["del", "--", key]).map(drop)
    }

    /// Deletes all keys with a prefix.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn delete_all(&self, prefix: &str) -> Result {
        self.ctl(&["del", "--prefix", "--", prefix]).map(drop)
    }

    /// Revokes an etcd lease, and so deletes its keys.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn revoke(&self, lease: i64) -> Result {
        self.ctl(&["lease", "revoke", &format!("{lease:x}")]).map(drop)
    }

    /// Compacts everything before the present revision.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn compact(&self) -> Result {
        self.ctl(&["compact", &self.revision()?.to_string()]).map(drop)
    }

    /// How many calls of one of its key-value methods etcd has begun, `Txn` for instance. Open access only.
    ///
    /// # Errors
    /// What the first member says.
    pub fn calls_begun(&self, method: &str) -> Result<u64> {
        let host = &self.members[0].host;
        let text = host.exec(&format!("busybox wget -q -O - http://{}:2379/metrics", host.v4()))?;
        let begun = format!(r#"grpc_server_started_total{{grpc_method="{method}",grpc_service="etcdserverpb.KV""#);
        let number =
            text.lines().find(|line| line.starts_with(&begun)).and_then(|line| line.rsplit(' ').next()?.parse().ok());
        number.ok_or_else(|| LabError::Wrong(format!("etcd's metrics have no {begun}")))
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Stops a member with SIGSTOP, or lets it go on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self, member: usize, frozen: bool) -> Result {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        match &self.members[member].process {
            Some(process) => process.signal(signal),
            None => Err(LabError::Wrong(format!("etcd member {member} does not run"))),
        }
    }

    /// Starts a killed member again and waits until the cluster answers.
    ///
    /// # Errors
    /// Where it does not.
    pub fn restart(&mut self, member: usize) -> Result {
        self.launch(member)?;
        self.wait_ready(Duration::from_secs(20))
    }

    /// Waits until a read through the quorum succeeds.
    ///
    /// # Errors
    /// The last answer, and each member's log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result {
        let ready = eventually(limit, || self.ctl(&["get", "--command-timeout=1s", "--", "ready"]).map(drop));
        ready.map(drop).map_err(|error| LabError::Wrong(format!("etcd is not ready: {error}\n{}", self.logs())))
    }

    /// Kills a member and forgets all its data. [`Etcd::restart`] then begins at revision 1.
    ///
    /// # Errors
    /// Where the data cannot be removed.
    pub fn wipe(&mut self, member: usize) -> Result {
        self.kill(member);
        let dir = self.data_dir(member);
        std::fs::remove_dir_all(&dir).map_err(LabError::io(format!("cannot remove {}", dir.display())))
    }

    /// Where a member keeps its data.
    #[must_use]
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.members[member].host.dir().join("data")
    }

    fn launch(&mut self, number: usize) -> Result {
        let cluster: Vec<_> =
            self.members.iter().map(|m| format!("{}=http://{}:2380", m.host.name(), m.host.v4())).collect();
        let member = &self.members[number];
        let (host, url) = (&member.host, self.client_url(member));
        check(member.process.is_none(), || format!("{} runs already", host.name()))?;
        let peer = format!("http://{}:2380", host.v4());
        let mut command = host.namespace().command("etcd");
        command.args(["--name", host.name(), "--data-dir"]).arg(self.data_dir(number));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "lab"]);
        // Elections in half a second instead of one: the members share one machine.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap"]);
        if let Some(pki) = &self.pki {
            command.arg("--cert-file").arg(pki.server_certificate()).arg("--key-file").arg(pki.server_key());
            if self.access == Access::ClientCertificates {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(pki.ca());
            }
        }
        let process = Process::start(host.namespace().run(), &mut command, host.dir().join("etcd.log"))?;
        self.members[number].process = Some(process);
        Ok(())
    }

    fn client_url(&self, member: &Member) -> String {
        let scheme = if self.pki.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:2379", member.host.v4())
    }

    fn bare_ctl(&self, words: &[&str]) -> Result<String> {
        // From the first member that runs, so that a partition of the others cannot hide it.
        let from = self.members.iter().find(|member| member.process.is_some()).unwrap_or(&self.members[0]);
        let mut command = from.host.namespace().command("timeout");
        command.args(["20", "etcdctl"]).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", self.endpoints());
        if let Some(pki) = &self.pki {
            command.env("ETCDCTL_CACERT", pki.ca());
            if self.access == Access::ClientCertificates {
                command.env("ETCDCTL_CERT", pki.client_certificate()).env("ETCDCTL_KEY", pki.client_key());
            }
        }
        output(command.args(words))
    }

    fn read(&self, words: &[&str]) -> Result<Vec<Stored>> {
        stored::keys(&self.ctl(words)?)
    }

    fn logs(&self) -> String {
        let log = |process: &Process| process.log().lines().rev().take(8).collect::<Vec<_>>().join("\n");
        self.members.iter().filter_map(|member| member.process.as_ref()).map(log).collect::<Vec<_>>().join("\n")
    }
}
