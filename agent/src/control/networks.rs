//! Commands about networks by name, on the control socket.

use std::path::Path;

use tonic::{Response, Status};
use wire_net::{NetworkName, NetworkNameError};

use super::{ControlService, connect, proto, refused};
use crate::{
    exit::Exit,
    named::{Wish, WishError},
};

impl ControlService {
    /// Has a network joined or left.
    pub(super) async fn wish(&self, name: &str, wish: Wish) -> Result<Response<proto::NetworkReply>, Status> {
        let network: NetworkName =
            name.parse().map_err(|error: NetworkNameError| Status::invalid_argument(error.to_string()))?;
        let networks = self.running.as_ref().and_then(|running| running.networks.as_ref());
        let networks =
            networks.ok_or_else(|| Status::unavailable("the default network is not joined by this agent"))?;
        networks.wish(&network, wish).await.map_err(Status::from)?;
        Ok(Response::new(proto::NetworkReply { part: self.status.look(|seen| seen.network_part(&network)) }))
    }
}

impl From<WishError> for Status {
    fn from(error: WishError) -> Self {
        let sentence = error.to_string();
        match error {
            WishError::Default => Self::invalid_argument(sentence),
            WishError::Refused(_) => Self::failed_precondition(sentence),
            WishError::Ending | WishError::Silent => Self::unavailable(sentence),
        }
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
