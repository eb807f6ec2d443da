//! UDP datagrams: each is echoed, and what comes back is compared with what was sent, byte for byte.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    control::{Control, Outcome, Request},
    pattern::{bytes, difference},
};

/// How many are on their way at once: enough to be batched, too few to overflow a socket's buffer.
const WINDOW: usize = 24;
/// The largest payload UDP over IPv4 has.
const LARGEST: usize = 65_507;

/// How often the server looks whether its client is gone.
const GLANCE: Duration = Duration::from_millis(100);

/// Sends one datagram of each size. They are told apart by their sizes, so each may be given once in a window.
pub(crate) fn run(server: SocketAddr, sizes: &[u32], flow: u16) -> Outcome {
    let mut control = Control::connect(server, Request::Datagrams)?;
    let socket = control.udp_client()?;
    for window in sizes.chunks(WINDOW) {
        let mut sent = BTreeMap::new();
        for size in window {
            let len = *size as usize;
            let datagram = bytes(u64::from(*size) << 16 | u64::from(flow), len);
            let done = socket.send(&datagram).map_err(|error| format!("a datagram of {len} bytes: {error}"))?;
            if done != len || sent.insert(len, datagram).is_some() {
                return Err(format!("{done} of {len} bytes were sent, or that size is given twice in {window:?}"));
            }
        }
        receive(&socket, sent)?;
    }
    Ok(())
}

fn receive(socket: &UdpSocket, mut sent: BTreeMap<usize, Vec<u8>>) -> Outcome {
    let mut buffer = vec![0; LARGEST + 1];
    while !sent.is_empty() {
        let waited_for = format!("datagrams of {:?} bytes", sent.keys().collect::<Vec<_>>());
        let len = socket.recv(&mut buffer).map_err(|error| format!("{waited_for} did not return: {error}"))?;
        let want =
            sent.remove(&len).ok_or_else(|| format!("a datagram of {len} bytes came instead of {waited_for}"))?;
        if let Some(difference) = difference(&want, &buffer[..len]) {
            return Err(format!("a datagram came back changed: {difference}"));
        }
    }
    Ok(())
}

/// Echoes datagrams until the connection ends.
pub(crate) fn echo(mut control: Control) -> Outcome {
    let socket = control.udp_server()?;
    socket.set_read_timeout(Some(GLANCE)).map_err(|error| format!("no timeout: {error}"))?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; LARGEST + 1];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((len, client)) = socket.recv_from(&mut buffer) {
                    // What cannot be sent does not return, which the client notices.
                    let _ = socket.send_to(&buffer[..len], client);
                }
            }
        });
        control.wait_end();
        ended.store(true, Ordering::Relaxed);
    });
    Ok(())
}
