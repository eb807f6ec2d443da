//! Against quinn-udp, another implementation of the same, on the loopback.

use std::{io::IoSliceMut, net::UdpSocket, time::Duration};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

use super::*;

/// Datagrams of one size but the last, as one array and as pieces of two arrays.
struct Parcel {
    heads: Vec<u8>,
    bodies: Vec<u8>,
    pieces: Vec<Piece>,
    whole: Vec<u8>,
}

const SIZE: usize = 1000;

impl Parcel {
    fn new(datagrams: usize, last: usize) -> Self {
        let mut parcel = Self { heads: Vec::new(), bodies: Vec::new(), pieces: Vec::new(), whole: Vec::new() };
        for number in 0..datagrams {
            let size = if number + 1 == datagrams { last } else { SIZE };
            let datagram: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
            let (head, body) = datagram.split_at(22);
            parcel.pieces.push(Piece::Head(parcel.heads.len() as u32, 22));
            parcel.pieces.push(Piece::Body(parcel.bodies.len() as u32, body.len() as u32));
            parcel.heads.extend(head);
            parcel.bodies.extend(body);
            parcel.whole.extend(datagram);
        }
        parcel
    }
}

fn ours(join: bool) -> (Udp, SocketAddr) {
    ours_on(join, "127.0.0.1:0")
}

fn ours_on(join: bool, local: &str) -> (Udp, SocketAddr) {
    let socket = Udp::open(local.parse().unwrap(), Role::Listener).unwrap();
    assert_eq!(socket.set_gro(join), join);
    socket.receive_ecn().unwrap();
    let local = socket.local().unwrap();
    (socket, local)
}

fn theirs() -> (UdpSocket, UdpSocketState, SocketAddr) {
    theirs_on("127.0.0.1:0")
}

fn theirs_on(local: &str) -> (UdpSocket, UdpSocketState, SocketAddr) {
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let (state, local) = (UdpSocketState::new((&socket).into()).unwrap(), socket.local_addr().unwrap());
    (socket, state, local)
}

#[test]
fn quinn_receives_what_we_send_in_one_message_or_one_by_one() {
    let (sender, from) = ours(false);
    let (socket, state, to) = theirs();
    let parcel = Parcel::new(12, 333);
    let message = Message { to, pieces: 0..parcel.pieces.len(), segment: Some(SIZE as u16), ecn: Ecn::NotEct };
    for messages in [vec![message.clone()], message.apart(&parcel.pieces)] {
        let (heads, bodies) = (&parcel.heads, &parcel.bodies);
        let sent = sender.send(&messages, &parcel.pieces, heads, bodies, &mut Outbox::default()).unwrap();
        assert_eq!(sent, messages.len());
        let mut whole: Vec<u8> = Vec::new();
        while whole.len() < parcel.whole.len() {
            let mut room = vec![0; 65_536];
            let mut meta = [RecvMeta::default()];
            socket.set_nonblocking(false).unwrap();
            state.recv((&socket).into(), &mut [IoSliceMut::new(&mut room)], &mut meta).unwrap();
            assert_eq!(meta[0].addr, from);
            whole.extend(&room[..meta[0].len]);
        }
        assert!(whole == parcel.whole, "other bytes came");
    }
}

#[test]
fn we_receive_what_quinn_sends_joined_or_one_by_one() {
    for join in [true, false] {
        let (receiver, to) = ours(join);
        let (socket, state, from) = theirs();
        let parcel = Parcel::new(12, 333);
        let transmit =
            Transmit { destination: to, ecn: None, contents: &parcel.whole, segment_size: Some(SIZE), src_ip: None };
        state.try_send((&socket).into(), &transmit).unwrap();
        let (mut arena, mut inbox) = (vec![0; 16 * 65_536], Inbox::new(16));
        let (mut whole, mut datagrams, mut messages) = (Vec::<usize>::new(), 0, 0);
        for received in receiver.receive(&mut arena, &mut inbox, 16).unwrap() {
            assert_eq!(received.from, Some(from.ip()));
            datagrams += received.range.len().div_ceil(received.segment);
            messages += 1;
            whole.extend(received.range.clone());
        }
        let whole: Vec<u8> = whole.into_iter().map(|at| arena[at]).collect();
        assert!(whole == parcel.whole, "other bytes came");
        assert_eq!((datagrams, messages), (12, if join { 1 } else { 12 }));
        assert_eq!(receiver.receive(&mut arena, &mut inbox, 16).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn what_is_longer_than_its_room_is_nothing() {
    let (receiver, to) = ours(false);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&[1; 3000], to).unwrap();
    socket.send_to(&[2; 0], to).unwrap();
    socket.send_to(&[3; 10], to).unwrap();
    let (mut arena, mut inbox) = (vec![0; 4 * 1000], Inbox::new(4));
    let received = receiver.receive(&mut arena, &mut inbox, 4).unwrap();
    assert_eq!(received.iter().map(|one| one.range.len()).collect::<Vec<_>>(), [0, 0, 10]);
}

const LOCALS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
const CODEPOINTS: [(Ecn, Option<EcnCodepoint>); 4] = [
    (Ecn::Ce, Some(EcnCodepoint::Ce)),
    (Ecn::NotEct, None),
    (Ecn::Ect0, Some(EcnCodepoint::Ect0)),
    (Ecn::Ect1, Some(EcnCodepoint::Ect1)),
];

#[test]
fn quinn_is_told_the_codepoint_of_each_message_we_send_over_either_family() {
    for local in LOCALS {
        let (sender, _) = ours_on(false, local);
        let (socket, state, to) = theirs_on(local);
        // quinn-udp has no room for all control messages of joined ones.
        setsockopt(&socket, sockopt::UdpGroSegment, &false).unwrap();
        let parcel = Parcel::new(12, 333);
        let (count, pieces) = (parcel.pieces.len(), parcel.pieces.repeat(CODEPOINTS.len()));
        let message = |(number, (ecn, _)): (usize, &(Ecn, _))| Message {
            to,
            pieces: number * count..(number + 1) * count,
            segment: Some(SIZE as u16),
            ecn: *ecn,
        };
        let mut messages: Vec<_> = CODEPOINTS.iter().enumerate().map(message).collect();
        // One of them in the form for links that cannot segment.
        messages.splice(0..1, messages[0].apart(&pieces));
        let (heads, bodies) = (&parcel.heads, &parcel.bodies);
        assert_eq!(sender.send(&messages, &pieces, heads, bodies, &mut Outbox::default()).unwrap(), messages.len());
        socket.set_nonblocking(false).unwrap();
        for (ecn, expected) in CODEPOINTS {
            let mut bytes = 0;
            while bytes < parcel.whole.len() {
                let (mut room, mut meta) = (vec![0; 65_536], [RecvMeta::default()]);
                state.recv((&socket).into(), &mut [IoSliceMut::new(&mut room)], &mut meta).unwrap();
                assert_eq!(meta[0].ecn, expected, "{ecn:?} to {to}");
                bytes += meta[0].len;
            }
            assert_eq!(bytes, parcel.whole.len());
        }
    }
}

#[test]
fn we_are_told_the_codepoint_of_what_quinn_sends_joined_or_one_by_one_over_either_family() {
    for (local, join) in LOCALS.into_iter().flat_map(|local| [(local, true), (local, false)]) {
        let (receiver, to) = ours_on(join, local);
        let (socket, state, _) = theirs_on(local);
        let parcel = Parcel::new(12, 333);
        for (ecn, theirs) in CODEPOINTS {
            let transmit = Transmit {
                destination: to,
                ecn: theirs,
                contents: &parcel.whole,
                segment_size: Some(SIZE),
                src_ip: None,
            };
            state.try_send((&socket).into(), &transmit).unwrap();
            let (mut arena, mut inbox) = (vec![0; 16 * 65_536], Inbox::new(16));
            let received = receiver.receive(&mut arena, &mut inbox, 16).unwrap();
            assert_eq!(received.len(), if join { 1 } else { 12 });
            assert!(received.iter().all(|message| message.ecn == ecn), "{ecn:?}: {received:?}");
        }
    }
}
