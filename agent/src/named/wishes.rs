//! Commands about this host's part in networks by name, as the control socket and the simulation give them.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wire_net::NetworkName;

use super::{NetworkState, Request, Wish};
use crate::status::{Status, StatusWriter};

/// The time after which a command is answered though the network is not yet as wished: it waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has an agent that runs take part in networks by name, as `wire-agent network expose` and `hide` do.
#[derive(Clone, Debug)]
pub struct NetworkWishes {
    requests: mpsc::Sender<Request>,
    status: StatusWriter,
}

/// A wish was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// The flat network is no network by name.
    #[error("\"default\" is the flat network: every host is in it")]
    Default,
    /// It can never be as wished, or the disk cannot keep it.
    #[error("{0}")]
    Refused(String),
    /// The agent has ended, or is about to.
    #[error("the agent is about to end")]
    Ending,
    /// Nothing was answered.
    #[error("the agent's disk does not answer: try again")]
    Silent,
}

impl NetworkWishes {
    pub(crate) const fn new(requests: mpsc::Sender<Request>, status: StatusWriter) -> Self {
        Self { requests, status }
    }

    /// Takes part in a network, or waits until it can. The wish is on disk.
    ///
    /// # Errors
    /// When it is not.
    pub async fn expose(&self, network: &NetworkName) -> Result<(), WishError> {
        self.wish(network, Wish::Expose).await
    }

    /// Leaves a network, or waits until it can. The wish is on disk.
    ///
    /// # Errors
    /// When it is not.
    pub async fn hide(&self, network: &NetworkName) -> Result<(), WishError> {
        self.wish(network, Wish::Hide).await
    }

    pub(crate) async fn wish(&self, network: &NetworkName, wish: Wish) -> Result<(), WishError> {
        if network.is_default() {
            return Err(WishError::Default);
        }
        let (done, told) = oneshot::channel();
        let request = Request { network: network.clone(), wish, done };
        let asked = async {
            self.requests.send(request).await.ok()?;
            told.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(Ok(()))) => {
                self.until_noted(network, wish).await;
                Ok(())
            }
            Ok(Some(Err(why))) => Err(WishError::Refused(why)),
            Ok(None) => Err(WishError::Ending),
            // It is in the document, or the disk does not answer.
            Err(_) if self.is_noted(network, wish) => Ok(()),
            Err(_) => Err(WishError::Silent),
        }
    }

    /// Waits until the status has what the task has just told.
    async fn until_noted(&self, network: &NetworkName, wish: Wish) {
        let mut status = self.status.subscribe();
        let is_so = |seen: &Status| match (wish, seen.networks.get(network)) {
            (Wish::Expose, part) => part.is_some_and(|part| part.state == NetworkState::Joined),
            (Wish::Hide, part) => part.is_none_or(|part| !part.is_exposed && part.state == NetworkState::Joined),
        };
        let _noted = tokio::time::timeout(PATIENCE, status.wait_for(is_so)).await;
    }

    /// True if the task has taken a wish.
    fn is_noted(&self, network: &NetworkName, wish: Wish) -> bool {
        self.status.look(|seen| seen.networks.get(network).is_some_and(|part| part.is_wished(wish)))
    }
}
