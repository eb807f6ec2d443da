//! TCP streams: what is sent is echoed, and both ways have their own SHA-256, so that an error says which way it came from.

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

use sha2::{Digest, Sha256};

use crate::{
    control::{Control, Outcome, Request},
    pattern::Pattern,
};

/// How much is written at once; a multiple of 8, as [`Pattern::fill`] wants it.
const CHUNK: usize = 64 * 1024;

type Hash = [u8; 32];

/// Sends a stream of each size, one after the other, each on a connection of its own.
pub(crate) fn run(server: SocketAddr, sizes: &[u32], flow: u16) -> Outcome {
    for size in sizes {
        let seed = u64::from(*size) << 16 | u64::from(flow);
        stream(server, u64::from(*size), seed).map_err(|error| format!("a stream of {size} bytes: {error}"))?;
    }
    Ok(())
}

fn stream(server: SocketAddr, size: u64, seed: u64) -> Outcome {
    let (reader, writer) = Control::connect(server, Request::Stream(size))?.into_halves()?;
    let (sent, returned) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(writer, size, seed));
        let returned = receive(reader, size);
        (sender.join(), returned)
    });
    let sent = sent.map_err(|_| "the sending thread panicked")??;
    let (returned, arrived) = returned?;
    if arrived != sent {
        return Err(format!("on the way there: SHA-256 {} was sent, {} arrived", hex(&sent), hex(&arrived)));
    }
    if returned != sent {
        return Err(format!("on the way back: SHA-256 {} was sent, {} arrived", hex(&sent), hex(&returned)));
    }
    Ok(())
}

fn send(mut writer: TcpStream, size: u64, seed: u64) -> Outcome<Hash> {
    let (mut pattern, mut hash, mut left) = (Pattern::new(seed), Sha256::new(), size);
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let len = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        pattern.fill(&mut chunk[..len]);
        hash.update(&chunk[..len]);
        writer.write_all(&chunk[..len]).map_err(|error| format!("{left} bytes cannot be sent: {error}"))?;
        left -= len as u64;
    }
    writer.shutdown(Shutdown::Write).map_err(|error| format!("cannot end: {error}"))?;
    Ok(hash.finalize().into())
}

/// The hash of what came back, and the server's of what arrived there.
fn receive(mut reader: BufReader<TcpStream>, size: u64) -> Outcome<(Hash, Hash)> {
    let returned = through(&mut reader, size, |_| Ok(()))?;
    let mut arrived = [0; 32];
    reader.read_exact(&mut arrived).map_err(|error| format!("no SHA-256 from the server: {error}"))?;
    match reader.read(&mut [0]) {
        Ok(0) => Ok((returned, arrived)),
        Ok(_) => Err("more came back than was sent".to_owned()),
        Err(error) => Err(format!("no end came back: {error}")),
    }
}

/// Echoes so many bytes, then sends their hash.
pub(crate) fn echo(control: Control, size: u64) -> Outcome {
    let (mut reader, mut writer) = control.into_halves()?;
    let arrived =
        through(&mut reader, size, |bytes| writer.write_all(bytes).map_err(|error| format!("cannot echo: {error}")))?;
    match reader.read(&mut [0]) {
        Ok(0) => writer.write_all(&arrived).map_err(|error| format!("cannot send the SHA-256: {error}")),
        Ok(_) => Err("more came than was said".to_owned()),
        Err(error) => Err(format!("no end came: {error}")),
    }
}

/// Hashes exactly so many bytes and hands them on.
fn through(reader: &mut impl Read, size: u64, mut forward: impl FnMut(&[u8]) -> Outcome) -> Outcome<Hash> {
    let (mut hash, mut left) = (Sha256::new(), size);
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let len = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let read = match reader.read(&mut chunk[..len]) {
            Ok(0) => return Err(format!("it ends with {left} bytes to come")),
            Ok(read) => read,
            Err(error) => return Err(format!("{left} bytes do not come: {error}")),
        };
        hash.update(&chunk[..read]);
        forward(&chunk[..read])?;
        left -= read as u64;
    }
    Ok(hash.finalize().into())
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one_of_abc() {
        let hash = through(&mut b"abc".as_slice(), 3, |_| Ok(())).unwrap();
        assert_eq!(hex(&hash), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        assert!(through(&mut b"ab".as_slice(), 3, |_| Ok(())).is_err());
    }
}
