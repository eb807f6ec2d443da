//! Commands about attachments, on the control socket.

use std::{fmt, net::IpAddr, path::Path, str::FromStr, time::Duration};

use tokio::sync::oneshot;
use tonic::{Code, Response, Status};
use wire_net::{DualStack, Family};

use super::{ControlService, connect, proto, refused};
use crate::{
    attach::{self, AttachmentId, FindError, Selector},
    exit::Exit,
    named::{AttachRequest, AttachWish, NewAttachment, Noted, Which},
};

/// The time after which a command is answered though not all is as wished: it waits.
const PATIENCE: Duration = Duration::from_secs(5);

impl ControlService {
    pub(super) async fn attach_guest(
        &self,
        request: proto::AttachRequest,
    ) -> Result<Response<proto::AttachReply>, Status> {
        let mut new = new_attachment(&request)?;
        let (_, watched) = self.attaching()?;
        let kept = if request.when_started { watched.keep(new.guest).await } else { watched.find(new.guest).await };
        let found = kept.map_err(|error| match error {
            FindError::NotThere(_) | FindError::Gone(_) => Status::not_found(error.to_string()),
            FindError::Refused(_) => Status::failed_precondition(error.to_string()),
            FindError::Unknown(_) => Status::unavailable(error.to_string()),
        })?;
        (new.guest, new.namespace) = (found.selector, found.namespace);
        let (Noted { ids, is_already }, waits) = self.wish_attached(AttachWish::Attach(new)).await?;
        if let Some(Err(why)) = waits {
            return Err(Status::failed_precondition(why));
        }
        let seen = |id: AttachmentId| self.status.look(|seen| seen.attachment(id));
        let attachment = ids.first().and_then(|id| seen(*id));
        let attachment = attachment.ok_or_else(|| Status::unavailable("it was detached meanwhile"))?;
        Ok(Response::new(proto::AttachReply { attachment: Some(attachment), already: is_already }))
    }

    pub(super) async fn detach_guest(
        &self,
        request: proto::DetachRequest,
    ) -> Result<Response<proto::DetachReply>, Status> {
        let which = Which {
            guest: parsed(&request.guest)?,
            network: optional(&request.network)?,
            interface: optional(&request.name)?,
        };
        let (Noted { ids, .. }, done) = self.wish_attached(AttachWish::Detach(which)).await?;
        let detached = ids.iter().map(ToString::to_string).collect();
        Ok(Response::new(proto::DetachReply { detached, waits: done.is_none() }))
    }

    fn attaching(&self) -> Result<&(tokio::sync::mpsc::Sender<AttachRequest>, attach::Watched), Status> {
        let attaching = self.running.as_ref().and_then(|running| running.attaching.as_ref());
        attaching.ok_or_else(|| Status::unavailable("the default network is not joined by this agent"))
    }

    /// Has the task do something. Returns what came of it, `None` if that is not known yet.
    async fn wish_attached(&self, wish: AttachWish) -> Result<(Noted, Option<Result<(), String>>), Status> {
        let (requests, _) = self.attaching()?;
        let ((noted, told), (done, finished)) = (oneshot::channel(), oneshot::channel());
        let asked = async {
            requests.send(AttachRequest { wish, noted, done }).await.ok()?;
            told.await.ok()
        };
        let noted = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(Ok(noted))) => noted,
            Ok(Some(Err(why))) => return Err(Status::failed_precondition(why)),
            Ok(None) => return Err(Status::unavailable("the agent is about to end")),
            Err(_) => return Err(Status::unavailable("the agent's disk does not answer: try again")),
        };
        let outcome = tokio::time::timeout(PATIENCE, finished).await.ok();
        Ok((noted, outcome.and_then(Result::ok)))
    }
}

fn new_attachment(request: &proto::AttachRequest) -> Result<NewAttachment, Status> {
    let proto::AttachRequest { guest, network, ip, ip6, mac, name, when_started: _ } = request;
    let addresses = DualStack { v4: address(Family::V4, ip)?, v6: address(Family::V6, ip6)? };
    let invalid = |error: attach::Refused| Status::invalid_argument(error.to_string());
    let network: wire_net::NetworkName = parsed(network)?;
    if network.is_default() {
        return Err(Status::invalid_argument("\"default\" is the flat network: Docker itself puts containers on it"));
    }
    Ok(NewAttachment {
        guest: parsed::<Selector>(guest)?,
        namespace: None,
        network,
        interface: given(name).map(attach::interface).transpose().map_err(invalid)?,
        addresses,
        mac: given(mac).map(attach::mac).transpose().map_err(invalid)?,
    })
}

fn address(family: Family, text: &str) -> Result<Option<IpAddr>, Status> {
    let address: Option<IpAddr> = optional(text)?;
    match address.filter(|address| Family::of(*address) != family) {
        Some(other) => Err(Status::invalid_argument(format!("{other} is no {family} address"))),
        None => Ok(address),
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| Status::invalid_argument(format!("{text}: {error}")))
}

fn optional<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<Option<T>, Status> {
    given(text).map(parsed).transpose()
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Has the agent that runs with this folder attach a guest.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers, [`Exit::NoGuest`] if the guest does not run, [`Exit::Refused`] if it cannot be attached.
pub(crate) async fn attach(run_dir: &Path, request: proto::AttachRequest) -> Result<proto::AttachReply, Exit> {
    let reply = connect(run_dir).await?.attach(request).await;
    reply.map(Response::into_inner).map_err(|status| refusal(&status))
}

/// Has the agent that runs with this folder detach a guest.
///
/// # Errors
/// As [`attach`].
pub(crate) async fn detach(run_dir: &Path, request: proto::DetachRequest) -> Result<proto::DetachReply, Exit> {
    let reply = connect(run_dir).await?.detach(request).await;
    reply.map(Response::into_inner).map_err(|status| refusal(&status))
}

fn refusal(status: &Status) -> Exit {
    let message = status.message().to_owned();
    let code = status.code();
    if code == Code::NotFound {
        Exit::NoGuest { message }
    } else if code == Code::FailedPrecondition || code == Code::InvalidArgument {
        Exit::NotAttached { message }
    } else {
        refused(status)
    }
}
