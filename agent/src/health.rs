//! `/healthz` and `/readyz`, for load balancers and people.

use std::{io, net::SocketAddr};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use crate::observed::{Board, Phase};

/// Answers until it is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(address: SocketAddr, board: Board) -> io::Result<()> {
    let routes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(board);
    axum::serve(TcpListener::bind(address).await?, routes).await
}

/// 200 while nothing is wrong that a restart could mend: waiting for etcd is no such thing, a part of the agent that hangs is.
async fn healthz(State(board): State<Board>) -> (StatusCode, String) {
    let seen = board.now();
    let code = if seen.hung.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", seen.summary()))
}

/// 200 once the network is there, 503 before. A degraded agent is ready, for traffic flows, but not before etcd has answered once.
async fn readyz(State(board): State<Board>) -> (StatusCode, String) {
    let seen = board.now();
    let code = match seen.phase().0 {
        Phase::Ready | Phase::Degraded if seen.as_of.is_some() => StatusCode::SERVICE_UNAVAILABLE,
        Phase::Ready | Phase::Degraded => StatusCode::OK,
        Phase::Waiting | Phase::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{}\n", seen.summary()))
}
