//! Commands about networks by name, on the control socket.

use std::{path::Path, time::Duration};

use tokio::sync::oneshot;
use tonic::{Response, Status};
use wire_net::{NetworkName, NetworkNameError};

use super::{ControlService, connect, proto, refused};
use crate::{
    exit::Exit,
    named::{NetworkState, Request, Wish},
};

/// The time after which a command is answered though the network is not yet as wished: it waits.
const PATIENCE: Duration = Duration::from_secs(5);

impl ControlService {
    /// Has a network joined or left.
    pub(super) async fn wish(&self, name: &str, wish: Wish) -> Result<Response<proto::NetworkReply>, Status> {
        let network: NetworkName =
            name.parse().map_err(|error: NetworkNameError| Status::invalid_argument(error.to_string()))?;
        if network.is_default() {
            return Err(Status::invalid_argument("\"default\" is the flat network: every host is in it"));
        }
        let networks = self.running.as_ref().and_then(|running| running.networks.as_ref());
        let networks =
            networks.ok_or_else(|| Status::unavailable("the default network is not joined by this agent"))?;
        let (done, told) = oneshot::channel();
        let request = Request { network: network.clone(), wish, done };
        let asked = async {
            networks.send(request).await.ok()?;
            told.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(Ok(()))) => self.until_noted(&network, wish).await,
            Ok(Some(Err(why))) => return Err(Status::failed_precondition(why)),
            Ok(None) => return Err(Status::unavailable("the agent is about to end")),
            // What is wished is in the document, or the disk does not answer.
            Err(_) if self.is_noted(&network, wish) => {}
            Err(_) => return Err(Status::unavailable("the agent's disk does not answer: try again")),
        }
        Ok(Response::new(proto::NetworkReply { part: self.status.look(|seen| seen.network_part(&network)) }))
    }

    /// Waits until the status has what the task has just told.
    async fn until_noted(&self, network: &NetworkName, wish: Wish) {
        let mut status = self.status.subscribe();
        let is_so = |seen: &crate::status::Status| match (wish, seen.networks.get(network)) {
            (Wish::Expose, part) => part.is_some_and(|part| part.state == NetworkState::Joined),
            (Wish::Hide, part) => part.is_none_or(|part| !part.is_exposed && part.state == NetworkState::Joined),
        };
        let _noted = tokio::time::timeout(PATIENCE, status.wait_for(is_so)).await;
    }

    /// Whether the task has taken a wish.
    fn is_noted(&self, network: &NetworkName, wish: Wish) -> bool {
        self.status.look(|seen| seen.networks.get(network).is_some_and(|part| part.is_wished(wish)))
    }
}

/// Has the agent that runs with this folder join a network. Returns its part in it.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers, [`Exit::Refused`] if it cannot be joined.
pub(crate) async fn expose(run_dir: &Path, network: &NetworkName) -> Result<Option<proto::NetworkPart>, Exit> {
    let request = proto::NetworkRequest { network: network.to_string() };
    let reply = connect(run_dir).await?.expose(request).await;
    reply.map(|reply| reply.into_inner().part).map_err(|status| refused(&status))
}

/// Has the agent that runs with this folder leave a network. Returns what is left of its part.
///
/// # Errors
/// As [`expose`].
pub(crate) async fn hide(run_dir: &Path, network: &NetworkName) -> Result<Option<proto::NetworkPart>, Exit> {
    let request = proto::NetworkRequest { network: network.to_string() };
    let reply = connect(run_dir).await?.hide(request).await;
    reply.map(|reply| reply.into_inner().part).map_err(|status| refused(&status))
}
