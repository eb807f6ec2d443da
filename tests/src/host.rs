//! A host: a namespace with one uplink into the underlay.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use wire_net::Family;

use crate::{Kernel, LabError, Namespace, Process, Result, Underlay, run};

/// A host. Its uplink is `eth0`; `ip_forward` is 0, as the kernel makes it.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    underlay: Namespace,
    number: u8,
    port: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    dir: PathBuf,
}

impl Host {
    pub(crate) fn new(underlay: &Underlay, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        let bridge = underlay.namespace();
        let namespace = Namespace::new(bridge.run(), name)?;
        let dir = bridge.run().dir().join(name);
        fs::create_dir_all(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        // The port is named for the address: a host's own name may be longer than a device's may be.
        let [.., number] = v4.octets();
        let port = format!("p{number}");
        let host = Self { name: name.to_owned(), namespace, underlay: bridge.clone(), number, port, v4, v6, dir };
        host.plug()?;
        Ok(host)
    }

    fn plug(&self) -> Result {
        let (port, host) = (&self.port, self.namespace.name());
        // Always the same address, as a real card has: neighbours need not learn it anew after a reboot.
        let mac = format!("02:64:00:00:00:{:02x}", self.number);
        self.underlay.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {host}"))?;
        self.underlay.ip(&format!("link set {port} master br0 up"))?;
        self.namespace.ip("link set eth0 up")?;
        self.namespace.ip(&format!("address add {}/24 dev eth0", self.v4))?;
        self.namespace.ip(&format!("address add {}/64 dev eth0 nodad", self.v6))?;
        self.namespace.ip("route add default via 192.168.64.254 dev eth0")?;
        self.namespace.ip("route add default via fd64::fe dev eth0").map(drop)
    }

    /// Its name, `h1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where files of this host lie. They survive [`Host::reboot`].
    #[must_use]
    pub const fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// Its port in the bridge of the underlay.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Its IPv4 address on the underlay.
    #[must_use]
    pub const fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address on the underlay.
    #[must_use]
    pub const fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Its address on the underlay that carries a family of the overlay.
    #[must_use]
    pub fn on_underlay(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Runs a command line, split at blanks, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.namespace.exec(line)
    }

    /// Starts a program that runs until it is dropped; what it writes goes to the file `log` of this host.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, program: impl AsRef<OsStr>, words: &[String], log: &str) -> Result<Process> {
        self.start_in(&self.namespace, program, words, log)
    }

    /// The same in another namespace, as of a container of this host.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_in(
        &self,
        namespace: &Namespace,
        program: impl AsRef<OsStr>,
        words: &[String],
        log: &str,
    ) -> Result<Process> {
        let mut command = namespace.command(program);
        Process::start(namespace.run(), command.args(words), self.dir.join(log))
    }

    /// What its kernel holds.
    #[must_use]
    pub const fn kernel(&self) -> Kernel<'_> {
        Kernel::new(&self.namespace)
    }

    /// Whether one ping is answered within a second. For where no answer should come, or one within a promised time.
    #[must_use]
    pub fn pings(&self, target: IpAddr) -> bool {
        self.pings_within(1, target)
    }

    /// Whether one ping is answered, on a machine that is busy too: for where an answer should come. There is no second ping,
    /// so that a lost one is noticed and counts are right.
    #[must_use]
    pub fn reaches(&self, target: IpAddr) -> bool {
        self.pings_within(10, target)
    }

    fn pings_within(&self, seconds: u32, target: IpAddr) -> bool {
        self.exec(&format!("ping -c 1 -W {seconds} {target}")).is_ok()
    }

    /// Adds an address to the uplink.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_address(&self, address: IpAddr) -> Result {
        let (len, flag) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
        self.namespace.ip(&format!("address add {address}/{len} dev eth0 {flag}")).map(drop)
    }

    /// Replaces the address of the uplink in the new one's family.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn change_address(&mut self, address: IpAddr) -> Result {
        // The old one first: with it the kernel deletes the addresses that came after it, and the routes through it.
        match address {
            IpAddr::V4(new) => {
                self.namespace.ip(&format!("address delete {}/24 dev eth0", self.v4))?;
                self.v4 = new;
                self.add_address(address)?;
                self.namespace.ip("route replace default via 192.168.64.254 dev eth0").map(drop)
            }
            IpAddr::V6(new) => {
                self.namespace.ip(&format!("address delete {}/64 dev eth0", self.v6))?;
                self.v6 = new;
                self.add_address(address)?;
                self.namespace.ip("route replace default via fd64::fe dev eth0").map(drop)
            }
        }
    }

    /// Has every frame cut to the MTU before it leaves by the uplink, so that a [`crate::Capture`] sees what a wire would carry.
    /// Without it a veth hands what TCP, or a program by UDP_SEGMENT, leaves to the device to cut to the other end as it is.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut_frames(&self) -> Result {
        self.namespace.ip("link set eth0 gso_max_segs 1").map(drop)
    }

    /// Takes the carrier of the uplink away, or gives it back.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn set_carrier(&self, up: bool) -> Result {
        let state = if up { "up" } else { "down" };
        self.underlay.ip(&format!("link set {} {state}", self.port)).map(drop)
    }

    /// Writes a sysctl of its namespace, `net.ipv4.ip_forward` for instance.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn sysctl(&self, name: &str, value: &str) -> Result {
        self.exec(&format!("sysctl -qw {name}={value}")).map(drop)
    }

    /// Kills all that runs here and makes the namespace anew, with the same addresses and files, as a true reboot does.
    ///
    /// # Errors
    /// Where a process does not die, and what `ip` says.
    pub fn reboot(&self) -> Result {
        run::remove_namespace(self.namespace.name())?;
        self.namespace.create()?;
        // The kernel removes the old pair of devices on its own time.
        let _ = self.underlay.ip(&format!("link delete {}", self.port));
        self.plug()
    }
}
