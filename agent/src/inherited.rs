//! Descriptors that systemd kept for us since an earlier run, sd_listen_fds(3).
#![expect(unsafe_code, reason = "a descriptor that came by its number has to be believed in")]

use std::{
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::warn;
use wire_forward::Kept;
use wire_net::{LinkName, NetworkName};

use crate::notify::{Stored, name_in_store};

/// The descriptors of an earlier run, by the names under which systemd stores them.
#[derive(Default)]
pub(crate) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes the descriptors that systemd kept. A second call gets none.
    pub(crate) fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Self::default();
        }
        match sd_notify::listen_fds_with_names() {
            // SAFETY: systemd opened these for this process (LISTEN_PID is checked), and only here are they taken, once.
            Ok(kept) => Self(kept.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()),
            Err(error) => {
                warn!(%error, "a descriptor that systemd kept cannot be used");
                Self::default()
            }
        }
    }

    /// Takes those of a network: our copies, and the list of those that systemd still stores. A second call gets none. Copies of devices that are not
    /// `awaited` are closed: nothing would ever use or stop them.
    pub(crate) fn of(&mut self, network: &NetworkName, awaited: impl Fn(LinkName) -> bool) -> (Kept, Stored) {
        let begins = name_in_store(network, "");
        let is_of = |name: &str| name.strip_prefix(&begins).is_some_and(|name| !name.contains('/'));
        let (own, others) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| is_of(name));
        self.0 = others;
        let own = own.into_iter().map(|(name, fd): (String, _)| (name[begins.len()..].to_owned(), fd));
        let own: Vec<(String, OwnedFd)> = own.collect();
        let stored = Stored::inherited(network.clone(), own.iter().map(|(name, _)| name.clone()));
        let mut kept = Kept::new(own);
        kept.retain(awaited);
        (kept, stored)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io, net::UdpSocket, sync::Mutex, time::Duration};

    use sd_notify::NotifyState;
    use wire_forward::Handle;

    use super::*;
    use crate::ports::Supervisor;

    #[test]
    fn each_network_gets_the_descriptors_of_its_own() {
        let fd = || OwnedFd::from(File::open("/dev/null").unwrap());
        let names = ["flannel.1.0", "blue/flannel.6.0", "blue/flannel.6.socket", "green/flannel.7.0"];
        let mut inherited = Inherited(names.map(|name| (name.to_owned(), fd())).into());
        let (default, blue): (NetworkName, NetworkName) = (NetworkName::default(), "blue".parse().unwrap());
        let holds = |inherited: &mut Inherited, network| inherited.of(network, |_| true).1.holds_any();
        assert!(holds(&mut inherited, &default) && holds(&mut inherited, &blue));
        assert!(!holds(&mut inherited, &default) && !holds(&mut inherited, &blue));
        let left: Vec<&str> = inherited.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["green/flannel.7.0"]);
    }

    #[test]
    fn sockets_of_networks_that_no_document_has_are_closed_and_given_back() {
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let ports = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
        let names = ["wv.5001.socket", "wv.5002.socket", "flannel.1.socket"];
        let all = names.iter().zip(sockets).map(|(name, socket)| ((*name).to_owned(), socket.into()));
        let mut inherited = Inherited(all.collect());
        let (kept, stored) = inherited.of(&NetworkName::default(), |link| link.as_str() != "wv.5002");
        assert_eq!(kept.udp_ports(), [ports[0], ports[2]].into());
        assert!(UdpSocket::bind(("127.0.0.1", ports[1])).is_ok());
        let removed = Removed::default();
        stored.follow(&removed, &[]);
        assert_eq!(*removed.0.lock().unwrap(), names, "systemd closes its copies, too");
    }

    /// A service manager that notes the names that it is to give up.
    #[derive(Default)]
    struct Removed(Mutex<Vec<String>>);

    impl Supervisor for Removed {
        fn notify(&self, states: &[NotifyState<'_>]) -> bool {
            if let [NotifyState::FdStoreRemove, NotifyState::FdName(name)] = states {
                self.0.lock().unwrap().push((*name).to_owned());
            }
            true
        }

        fn keep(&self, _name: &str, _handle: &Handle) -> io::Result<()> {
            Ok(())
        }

        fn most_kept(&self) -> Option<usize> {
            None
        }

        fn watchdog(&self) -> Option<Duration> {
            None
        }
    }
}
