//! How all networks of a run are, for those who ask once for all: systemd, and the health checks.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;
use wire_net::NetworkName;

use crate::status::{Status, StatusWriter};

/// The status of each network of a run. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Overview(Arc<[(NetworkName, StatusWriter)]>);

impl Overview {
    /// At least one network.
    pub(crate) fn new(networks: impl IntoIterator<Item = (NetworkName, StatusWriter)>) -> Self {
        Self(networks.into_iter().collect())
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = &StatusWriter> {
        self.0.iter().map(|(_, status)| status)
    }

    /// True if it is so of each network.
    pub(crate) fn all(&self, is_so: fn(&Status) -> bool) -> bool {
        self.statuses().all(|status| status.look(is_so))
    }

    /// True if it is so of the first network.
    pub(crate) fn first(&self, is_so: fn(&Status) -> bool) -> bool {
        self.statuses().next().is_some_and(|status| status.look(is_so))
    }

    /// One line, which names the networks if there are several.
    pub(crate) fn summary(&self) -> String {
        let of_each = self.0.iter().map(|(name, status)| (name, status.look(Status::summary)));
        match &*self.0 {
            [(_, status)] => status.look(Status::summary),
            _ => of_each.map(|(name, summary)| format!("{name}: {summary}")).collect::<Vec<_>>().join("; "),
        }
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes(self.statuses().map(StatusWriter::subscribe).collect())
    }
}

/// The changes of all statuses.
pub(crate) struct Changes(Vec<watch::Receiver<Status>>);

impl Changes {
    /// Waits for the next one. For ever, once nobody writes a status any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next(&mut self) {
        let changed = self.0.iter_mut().map(|seen| Box::pin(seen.changed()));
        if let (Err(_), ..) = select_all(changed).await {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_not_named_and_several_are() {
        let of =
            |names: &[&str]| Overview::new(names.iter().map(|name| (name.parse().unwrap(), StatusWriter::default())));
        assert_eq!(of(&["default"]).summary(), "waiting: starting");
        assert_eq!(of(&["default", "blue"]).summary(), "default: waiting: starting; blue: waiting: starting");
    }

    #[tokio::test]
    async fn a_change_of_any_network_is_heard() {
        let (one, two) = (StatusWriter::default(), StatusWriter::default());
        let overview = Overview::new([("one".parse().unwrap(), one.clone()), ("two".parse().unwrap(), two.clone())]);
        let mut changes = overview.changes();
        for status in [&two, &one] {
            status.update(|seen| seen.stopping = true);
            changes.next().await;
        }
        assert!(overview.all(|seen| seen.stopping));
    }
}
