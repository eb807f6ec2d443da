//! All members behind one service: each call goes to a connected member, while the others are connected in the
//! background.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::client::conn::http2::SendRequest;
use tokio::{sync::watch, time::Instant};
use tonic::body::Body;
use tower::{BoxError, Service};

use super::{
    last_word::Reason,
    member::{Member, MemberError, Open},
    settings::{Endpoint, EtcdSettings},
};

/// All members of etcd.
#[derive(Clone)]
pub(super) struct Members {
    members: Arc<[Member]>,
    links: Arc<watch::Sender<Vec<Link>>>,
    /// Counts the calls, so that they go to the members in turn.
    turn: Arc<AtomicUsize>,
}

/// The state of the connection to a member.
enum Link {
    Untried,
    Dialing,
    Up(Up),
    Down { since: Instant, error: MemberError },
}

/// An open connection.
#[derive(Clone)]
struct Up {
    sender: SendRequest<Body>,
    reason: Reason,
}

/// The pause before a member that is down is tried again, while another one is up.
const AGAIN: Duration = Duration::from_secs(1);

impl Members {
    pub(super) fn new(endpoints: Vec<Endpoint>, settings: &EtcdSettings) -> Self {
        let links = endpoints.iter().map(|_| Link::Untried).collect();
        let member = |endpoint| Member { endpoint, files: settings.tls.clone(), random: settings.random.clone() };
        Self {
            members: endpoints.into_iter().map(member).collect(),
            links: Arc::new(watch::channel(links).0),
            turn: Arc::default(),
        }
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, MemberError> {
        let (at, mut up) = self.connected().await?;
        let member = &self.members[at];
        match up.sender.send_request(member.address(request)).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(member.ended(error, &up.reason)),
        }
    }

    /// Returns a connected member, at once if there is one.
    async fn connected(&self) -> Result<(usize, Up), MemberError> {
        let mut links = self.links.subscribe();
        self.dial(Link::is_due);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(result) = choose(&links.borrow_and_update(), turn) {
                return result;
            }
            // Dial a connection that ended cleanly. One that broke reports its error instead: dialled again, it might
            // break again without end.
            self.dial(|link, _| matches!(link, Link::Untried));
            // The sender cannot be dropped: it is ours.
            let _open = links.changed().await;
        }
    }

    /// Starts to connect to all members that are `due`, given whether any member is up.
    fn dial(&self, due: fn(&Link, bool) -> bool) {
        self.links.send_if_modified(|links| {
            let is_up = links.iter().any(Link::is_up);
            for (at, link) in links.iter_mut().enumerate().filter(|(_, link)| due(link, is_up)) {
                *link = Link::Dialing;
                tokio::spawn(self.clone().connect(at));
            }
            false
        });
    }

    async fn connect(self, at: usize) {
        let Open { sender, driver, reason } = match self.members[at].connect().await {
            Ok(open) => open,
            Err(error) => return self.links.send_modify(|links| links[at] = Link::down(error)),
        };
        self.links.send_modify(|links| links[at] = Link::Up(Up { sender, reason: reason.clone() }));
        let ended = match driver.await {
            Ok(()) => Link::Untried,
            Err(error) => Link::down(self.members[at].ended(error, &reason)),
        };
        // A newer connection may have replaced this one.
        self.links.send_if_modified(|links| {
            let is_current = matches!(&links[at], Link::Up(up) if Arc::ptr_eq(&up.reason, &reason));
            if is_current {
                links[at] = ended;
            }
            is_current
        });
    }
}

impl Service<Request<Body>> for Members {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let members = self.clone();
        Box::pin(async move { members.send(request).await.map_err(BoxError::from) })
    }
}

impl Link {
    fn down(error: MemberError) -> Self {
        Self::Down { since: Instant::now(), error }
    }

    fn is_up(&self) -> bool {
        match self {
            Self::Up(up) => !up.sender.is_closed(),
            Self::Untried | Self::Dialing | Self::Down { .. } => false,
        }
    }

    /// Whether an open connection was closed.
    fn is_lost(&self) -> bool {
        match self {
            Self::Up(up) => up.sender.is_closed(),
            Self::Untried | Self::Dialing | Self::Down { .. } => false,
        }
    }

    /// Whether to connect now. Without another member that is up, there is no pause.
    fn is_due(&self, other_is_up: bool) -> bool {
        match self {
            Self::Untried => true,
            Self::Dialing => false,
            Self::Up(_) => self.is_lost(),
            Self::Down { since, .. } => !other_is_up || since.elapsed() >= AGAIN,
        }
    }
}

/// Chooses the next member in turn that is up, or returns the error if all are down; `None` while some are still
/// connecting.
fn choose(links: &[Link], turn: usize) -> Option<Result<(usize, Up), MemberError>> {
    let mut errors = Vec::new();
    let mut is_open = false;
    for at in (0..links.len()).map(|step| (turn % links.len() + step) % links.len()) {
        match &links[at] {
            Link::Up(up) if !up.sender.is_closed() => return Some(Ok((at, up.clone()))),
            Link::Up(_) | Link::Untried | Link::Dialing => is_open = true,
            Link::Down { error, .. } => errors.push(error),
        }
    }
    if is_open {
        return None;
    }
    // An error that an operator must fix goes before one that may pass.
    let error = errors.iter().find(|error| error.is_refusal()).or(errors.first())?;
    Some(Err(MemberError::clone(error)))
}
