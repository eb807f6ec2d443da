//! Connects to one of several addresses: the next is tried as soon as the last has failed or is too slow. As in Happy
//! Eyeballs, RFC 8305 §5.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::net::TcpStream;

/// The time before the next address is tried in parallel: the delay that RFC 8305 §5 recommends.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Returns the connection that is established first.
///
/// # Errors
/// The error of the last address, if none could be connected to.
pub(super) async fn first_to_connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut waiting = addresses.into_iter();
    let mut tried = FuturesUnordered::new();
    tried.extend(waiting.next().map(connect));
    loop {
        tokio::select! {
            result = tried.next() => match result {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(why)) => {
                    error = why;
                    tried.extend(waiting.next().map(connect));
                }
                None => return Err(error),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => tried.extend(waiting.next().map(connect)),
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_or_is_mute_costs_little_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let refused = "127.0.0.1:1".parse().unwrap();
        let started = std::time::Instant::now();
        assert_eq!(first_to_connect(vec![refused, here]).await.unwrap().peer_addr().unwrap(), here);
        assert!(started.elapsed() < ATTEMPT_DELAY, "{:?}", started.elapsed());
        // A listener with a full queue no longer answers.
        let mute = tokio::net::TcpSocket::new_v4().unwrap();
        mute.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mute = mute.listen(1).unwrap();
        let mute_address = mute.local_addr().unwrap();
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(mute_address)).await);
        }
        assert!(held.last().is_some_and(Result::is_err), "its queue is not full");
        let connected = tokio::time::timeout(Duration::from_secs(2), first_to_connect(vec![mute_address, here]));
        assert_eq!(connected.await.unwrap().unwrap().peer_addr().unwrap(), here);
    }

    #[tokio::test]
    async fn where_no_address_connects_the_reason_names_it() {
        let error = first_to_connect(vec!["127.0.0.1:1".parse().unwrap()]).await.unwrap_err();
        assert!(error.to_string().starts_with("127.0.0.1:1: Connection refused"), "{error}");
        assert!(first_to_connect(Vec::new()).await.is_err());
    }
}
