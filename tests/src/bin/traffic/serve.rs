//! The server: a thread for each connection, each with what its first line asks for.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::{
    bursts,
    control::{Control, Outcome, Request},
    datagrams, streams,
};

/// Answers until it is killed.
pub(crate) fn run(address: SocketAddr) -> Outcome {
    let listener = TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening on {address}");
    for connection in listener.incoming() {
        let connection = connection.map_err(|error| format!("cannot accept: {error}"))?;
        thread::spawn(|| {
            let client = connection.peer_addr();
            if let Err(error) = answer(connection) {
                eprintln!("traffic: client {client:?}: {error}");
            }
        });
    }
    Ok(())
}

fn answer(connection: TcpStream) -> Outcome {
    let mut control = Control::new(connection)?;
    let line = control.hear()?.ok_or("it wanted nothing")?;
    match Request::from_line(&line)? {
        Request::Stream(size) => streams::echo(control, size),
        Request::Datagrams => datagrams::echo(control),
        Request::Bursts => bursts::answer(control),
    }
}
