//! `/healthz` and `/readyz`, for load balancers and people.
//!
//! Anyone may connect, so connections are few and short: open connections must not use up the descriptors that repairs
//! need.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::{
    overview::Overview,
    status::{AgentCondition, Phase, Status},
};

/// The number of connections served at the same time. One more is closed at once.
const CONNECTIONS: usize = 64;
/// The time in which a connection must send its request, and its longest life.
const ASK: Duration = Duration::from_secs(2);
const LIFE: Duration = Duration::from_secs(10);
/// The pause after an error of the listener, which may lack descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until it is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(address: SocketAddr, networks: Overview) -> io::Result<()> {
    answer(TcpListener::bind(address).await?, networks).await;
    Ok(())
}

async fn answer(listener: TcpListener, networks: Overview) {
    let routes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(networks);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // Aborted when this function ends.
    let mut served = JoinSet::new();
    loop {
        while served.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Ok(place) = room.clone().try_acquire_owned() {
            let connection = connection(stream, routes.clone());
            served.spawn(async move {
                // A client that disconnects, or is too slow, gets no answer.
                let _ended = timeout(LIFE, connection).await;
                drop(place);
            });
        }
    }
}

/// Serves one request.
async fn connection(stream: TcpStream, routes: Router) -> hyper::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(ASK).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await
}

/// 200 unless a restart would help: it helps if a part of the agent hangs, but not while the agent waits for etcd.
async fn healthz(State(networks): State<Overview>) -> (StatusCode, String) {
    answer_of(&networks, hangs_nowhere)
}

fn hangs_nowhere(seen: &Status) -> bool {
    !seen.has(AgentCondition::HANGS)
}

/// 200 once all networks are joined, 503 before. A degraded agent is ready, because traffic flows, but not before etcd
/// has answered once.
async fn readyz(State(networks): State<Overview>) -> (StatusCode, String) {
    answer_of(&networks, is_ready)
}

fn is_ready(seen: &Status) -> bool {
    match seen.phase().0 {
        Phase::Ready | Phase::Degraded => seen.as_of.is_none(),
        Phase::Waiting | Phase::Stopping => false,
    }
}

fn answer_of(networks: &Overview, is_well: fn(&Status) -> bool) -> (StatusCode, String) {
    let code = if networks.all(is_well) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", networks.summary()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::status::StatusWriter;

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.unwrap()
    }

    async fn asked(address: SocketAddr) -> String {
        let mut stream = connect(address).await;
        let _closed = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer).await;
        answer
    }

    #[test]
    fn all_networks_must_be_ready_and_one_that_hangs_is_enough() {
        let (default, blue) = (StatusWriter::default(), StatusWriter::default());
        let names = ["default", "blue"].map(|name| name.parse().unwrap());
        let networks = Overview::new(names.into_iter().zip([default.clone(), blue.clone()]));
        let ready = || answer_of(&networks, is_ready).0;
        default.update(|seen| (seen.joined, seen.ready) = (true, true));
        assert_eq!(ready(), StatusCode::SERVICE_UNAVAILABLE);
        blue.update(|seen| (seen.joined, seen.ready) = (true, true));
        assert_eq!(ready(), StatusCode::OK);
        let healthy = || answer_of(&networks, hangs_nowhere).0;
        assert_eq!(healthy(), StatusCode::OK);
        blue.set_all(AgentCondition::HANGS, [AgentCondition::Hangs(crate::pulse::Part::Session)]);
        assert_eq!(healthy(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn connections_that_are_held_are_few_and_make_room_in_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let networks = Overview::new([(wire_net::NetworkName::default(), StatusWriter::default())]);
        let serving = tokio::spawn(answer(listener, networks));
        assert!(asked(address).await.starts_with("HTTP/1.1 200"), "it answers");
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS + 10 {
            held.push(connect(address).await);
        }
        // Surplus connections are closed at once, the others if they send no request for a while.
        let (mut one, mut closed) = ([0; 1], 0);
        for stream in &mut held[CONNECTIONS..] {
            let read = timeout(ASK / 2, stream.read(&mut one)).await;
            closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
        assert_eq!(closed, 10, "connections beyond {CONNECTIONS} are closed");
        tokio::time::sleep(ASK + Duration::from_secs(1)).await;
        assert!(asked(address).await.starts_with("HTTP/1.1 200"), "there is room again");
        serving.abort();
    }
}
