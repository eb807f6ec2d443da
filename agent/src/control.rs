//! The control socket: gRPC on `run-dir/control.sock`, for `wire-agent status`, `peers` and other clients.

mod attachments;
mod networks;

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, Uri},
};
use wire_forward::Fault;

use crate::{
    attach::Watched,
    exit::Exit,
    loops::{COMPARE_TIMEOUT, Loops},
    named::{self, NetworkWishes, Wish},
    pulse::{Part, Watchdog},
    status::StatusWriter,
};

/// The messages, made from `proto/control.proto`.
pub(crate) mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("wire.control.v1");
}

use proto::control_client::ControlClient;

pub(crate) use self::{
    attachments::{attach, detach},
    networks::{expose, hide},
};

/// The path of the control socket.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Opens the socket, replacing one that a dead agent left: the lock of the run folder proves that no other agent runs.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let path = socket(run_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The parts of a running agent that answer.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) loops: Loops,
    /// Takes commands about networks by name, if the agent is the default network's.
    pub(crate) networks: Option<NetworkWishes>,
    /// Takes commands about attachments, likewise.
    pub(crate) attaching: Option<(mpsc::Sender<named::AttachRequest>, Watched)>,
}

/// Answers on the socket until it is dropped. `running` is the agent, if one runs.
///
/// # Errors
/// When the socket breaks.
pub(crate) async fn serve(
    listener: UnixListener,
    status: StatusWriter,
    watchdog: Watchdog,
    running: Option<Running>,
) -> Result<(), tonic::transport::Error> {
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    Server::builder()
        .add_service(proto::control_server::ControlServer::new(ControlService { status, watchdog, running }))
        .serve_with_incoming(incoming)
        .await
}

struct ControlService {
    status: StatusWriter,
    watchdog: Watchdog,
    running: Option<Running>,
}

#[tonic::async_trait]
impl proto::control_server::Control for ControlService {
    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Ok(Response::new(self.status.now().to_status()))
    }

    async fn peers(&self, _: Request<proto::PeersRequest>) -> Result<Response<proto::PeersReply>, Status> {
        Ok(Response::new(self.status.now().to_peers()))
    }

    async fn compare(&self, _: Request<proto::CompareRequest>) -> Result<Response<proto::CompareReply>, Status> {
        let running = self.running.as_ref().ok_or_else(|| Status::unavailable("the network is not joined"))?;
        Ok(Response::new(running.loops.compare().await.to_reply()))
    }

    async fn expose(&self, request: Request<proto::NetworkRequest>) -> Result<Response<proto::NetworkReply>, Status> {
        self.wish(&request.into_inner().network, Wish::Expose).await
    }

    async fn hide(&self, request: Request<proto::NetworkRequest>) -> Result<Response<proto::NetworkReply>, Status> {
        self.wish(&request.into_inner().network, Wish::Hide).await
    }

    async fn attach(&self, request: Request<proto::AttachRequest>) -> Result<Response<proto::AttachReply>, Status> {
        self.attach_guest(request.into_inner()).await
    }

    async fn detach(&self, request: Request<proto::DetachRequest>) -> Result<Response<proto::DetachReply>, Status> {
        self.detach_guest(request.into_inner()).await
    }

    async fn fail(&self, request: Request<proto::FailRequest>) -> Result<Response<proto::FailReply>, Status> {
        let proto::FailRequest { part: name, panic } = request.into_inner();
        let fault = if panic { Fault::Panic } else { Fault::Hang };
        match Part::named(&name) {
            Some(Part::Worker) if self.running.as_ref().is_some_and(|running| running.loops.tunnels.fail(fault)) => {}
            Some(part @ (Part::Dataplane | Part::Firewall | Part::Follower | Part::Holder | Part::Session)) => {
                self.watchdog.fail(part, fault);
            }
            Some(Part::Worker) | None => return Err(Status::invalid_argument(format!("there is no {name}"))),
        }
        Ok(Response::new(proto::FailReply {}))
    }
}

/// The status of the agent that runs with this folder.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers.
pub(crate) async fn status(run_dir: &Path) -> Result<proto::StatusReply, Exit> {
    let mut client = connect(run_dir).await?;
    client.status(proto::StatusRequest {}).await.map(Response::into_inner).map_err(|status| refused(&status))
}

/// The peers of the agent that runs with this folder.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers.
pub(crate) async fn peers(run_dir: &Path) -> Result<proto::PeersReply, Exit> {
    let mut client = connect(run_dir).await?;
    client.peers(proto::PeersRequest {}).await.map(Response::into_inner).map_err(|status| refused(&status))
}

/// An agent that runs answers within [`COMPARE_TIMEOUT`], though one of its loops may hang.
const REPLY_TIMEOUT: Duration = COMPARE_TIMEOUT.saturating_add(Duration::from_secs(10));

/// The comparison of the agent that runs with this folder with its host; `None` if no agent runs.
///
/// # Errors
/// [`Exit::SilentAgent`] when it does not answer, [`Exit::NoAgent`] when nobody can be asked whether one runs.
pub(crate) async fn compare(run_dir: &Path) -> Result<Option<proto::CompareReply>, Exit> {
    match UnixStream::connect(socket(run_dir)).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Ok(_) | Err(_) => {}
    }
    let asked = async {
        let mut client = connect(run_dir).await?;
        let reply = client.compare(proto::CompareRequest {}).await;
        reply.map(|reply| Some(reply.into_inner())).map_err(|status| refused(&status))
    };
    let silent = |_| Exit::SilentAgent { socket: socket(run_dir), waited: REPLY_TIMEOUT };
    tokio::time::timeout(REPLY_TIMEOUT, asked).await.map_err(silent)?
}

/// Lets a part of the agent that runs with this folder fail.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers, [`Exit::Refused`] if it has no such part.
pub(crate) async fn fail(run_dir: &Path, part: Part, fault: Fault) -> Result<(), Exit> {
    let mut client = connect(run_dir).await?;
    let request = proto::FailRequest { part: part.name().to_owned(), panic: fault == Fault::Panic };
    client.fail(request).await.map(drop).map_err(|status| refused(&status))
}

/// 65 000 peers of under 250 bytes each.
const LARGEST_REPLY: usize = 32 << 20;

async fn connect(run_dir: &Path) -> Result<ControlClient<Channel>, Exit> {
    let path = socket(run_dir);
    let named = path.clone();
    let dial = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://control").connect_with_connector(dial).await;
    let channel = channel.map_err(|source| Exit::NoAgent { socket: named, source })?;
    Ok(ControlClient::new(channel).max_decoding_message_size(LARGEST_REPLY))
}

fn refused(status: &Status) -> Exit {
    Exit::Refused { message: status.message().to_owned() }
}
