//! Many datagrams in one call, and several in one message if the kernel can segment and join them (`UDP_SEGMENT` and
//! `UDP_GRO` of udp(7)).

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::AsRawFd,
    ptr,
};

use nix::{
    libc,
    sys::socket::{SockaddrIn, SockaddrIn6},
};

use super::{Ecn, Message, Piece, Udp};

/// Room for two control messages with a number each: the size of datagrams, and their ECN codepoint.
// SAFETY: CMSG_SPACE is arithmetic.
const CONTROL: usize = 2 * unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;

/// Buffers for sending, to be used again.
#[derive(Default)]
pub(crate) struct Outbox {
    names: Vec<Name>,
    /// The control messages of each message, and their length.
    controls: Vec<(Control, usize)>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// Buffers for receiving, to be used again, and the received messages.
pub(crate) struct Inbox {
    names: Vec<Name>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    received: Vec<Received>,
}

/// One message that came in.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The sender; `None` for an address of neither family.
    pub(crate) from: Option<IpAddr>,
    /// The range of its bytes in the arena.
    pub(crate) range: Range<usize>,
    /// The size of each datagram in it but the last, if there are several.
    pub(crate) segment: usize,
    /// The codepoint of the outer header: the kernel joins only datagrams with the same one.
    pub(crate) ecn: Ecn,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// An address of either family, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Udp {
    /// Sends messages in order, and returns the number that was sent. If it is less than all, the next message failed;
    /// a call that begins with that one returns its error.
    ///
    /// # Errors
    /// The error of the first message.
    ///
    /// # Panics
    /// If a message or a piece lies outside of the given arrays.
    pub(crate) fn send(
        &self,
        messages: &[Message],
        pieces: &[Piece],
        heads: &[u8],
        bodies: &[u8],
        outbox: &mut Outbox,
    ) -> io::Result<usize> {
        outbox.clear();
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(0) };
        let begin = first.pieces.start;
        outbox.vectors.extend(pieces[begin..last.pieces.end].iter().map(|piece| {
            let bytes = match *piece {
                Piece::Head(start, len) => &heads[start as usize..(start + len) as usize],
                Piece::Body(start, len) => &bodies[start as usize..(start + len) as usize],
            };
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
        outbox.names.extend(messages.iter().map(|message| Name::from(message.to)));
        outbox.controls.extend(messages.iter().map(|message| Control::of(message, message.to.is_ipv4())));
        // Taken once: each would end the life of the one before.
        let (names, controls) = (outbox.names.as_mut_ptr(), outbox.controls.as_mut_slice());
        let vectors = (outbox.vectors.as_mut_ptr(), outbox.vectors.len());
        for (number, message) in messages.iter().enumerate() {
            let pieces = message.pieces.start - begin..message.pieces.end - begin;
            assert!(pieces.start <= pieces.end && pieces.end <= vectors.1, "pieces that are not there");
            let mut header = empty_header();
            header.msg_hdr.msg_name = names.wrapping_add(number).cast();
            header.msg_hdr.msg_namelen = name_len(message.to.is_ipv4());
            header.msg_hdr.msg_iov = vectors.0.wrapping_add(pieces.start);
            header.msg_hdr.msg_iovlen = pieces.len() as _;
            let control = &mut controls[number];
            if control.1 > 0 {
                header.msg_hdr.msg_control = (&raw mut control.0).cast();
                header.msg_hdr.msg_controllen = control.1 as _;
            }
            outbox.headers.push(header);
        }
        // SAFETY: each header points to a name, vectors and a control message in arrays of `outbox` that are not changed
        // until the call is over, and each vector to bytes of `heads` or `bodies`, which the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), outbox.headers.as_mut_ptr(), outbox.headers.len() as u32, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives up to `most` messages at once, each into one of the equal parts of `arena`. There are as many parts as
    /// `inbox` has room for messages.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub(crate) fn receive<'a>(
        &self,
        arena: &mut [u8],
        inbox: &'a mut Inbox,
        most: usize,
    ) -> io::Result<&'a [Received]> {
        let part = arena.len() / inbox.headers.len();
        let most = most.min(inbox.headers.len());
        // Taken once: each would end the life of the one before.
        let (names, controls) = (inbox.names.as_mut_ptr(), inbox.controls.as_mut_ptr());
        let (vectors, rooms) = (inbox.vectors.as_mut_ptr(), arena.as_mut_ptr());
        for (number, header) in inbox.headers.iter_mut().take(most).enumerate() {
            let room = rooms.wrapping_add(number * part);
            // SAFETY: there is a vector for each header, and nothing else looks at it now.
            unsafe { vectors.add(number).write(libc::iovec { iov_base: room.cast(), iov_len: part }) };
            let header = &mut header.msg_hdr;
            header.msg_name = names.wrapping_add(number).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = vectors.wrapping_add(number);
            header.msg_iovlen = 1;
            header.msg_control = controls.wrapping_add(number).cast();
            header.msg_controllen = CONTROL as _;
        }
        inbox.received.clear();
        // SAFETY: each header points to a name, a vector and a control message of its own in arrays of `inbox`, as large as
        // it says, and each vector to its own part of `arena`. None of them is touched until the call is over.
        let count = unsafe {
            let (headers, room) = (inbox.headers.as_mut_ptr(), most as u32);
            libc::recvmmsg(self.socket.as_raw_fd(), headers, room, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for number in 0..count {
            let header = &inbox.headers[number];
            let start = number * part;
            let len = (header.msg_len as usize).min(part);
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let (segment, ecn) = read_control(&header.msg_hdr);
            let segment = segment.filter(|size| *size > 0 && *size < len).unwrap_or(len);
            inbox.received.push(Received {
                from: inbox.names[number].address(),
                // A truncated message is of no use.
                range: start..start + if whole { len } else { 0 },
                segment: segment.max(1),
                ecn,
            });
        }
        Ok(&inbox.received)
    }
}

impl Outbox {
    fn clear(&mut self) {
        self.names.clear();
        self.controls.clear();
        self.vectors.clear();
        self.headers.clear();
    }
}

impl Inbox {
    /// Buffers for this many messages.
    pub(crate) fn new(messages: usize) -> Self {
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            names: vec![Name::EMPTY; messages],
            controls: vec![Control([0; CONTROL]); messages],
            vectors: vec![vector; messages],
            headers: vec![empty_header(); messages],
            received: Vec::with_capacity(messages),
        }
    }
}

// SAFETY: the pointers in these arrays are set before each call and used only by it; between calls they mean nothing.
unsafe impl Send for Outbox {}
// SAFETY: as above.
unsafe impl Send for Inbox {}

impl Control {
    /// The control messages of a message to send, one behind the other, and their total length.
    fn of(message: &Message, ipv4: bool) -> (Self, usize) {
        let (mut control, mut len) = (Self([0; CONTROL]), 0);
        if let Some(size) = message.segment {
            len += control.put(len, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        // Not-ECT is the socket's default.
        if message.ecn != Ecn::NotEct {
            let (level, option) =
                if ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            len += control.put(len, level, option, &libc::c_int::from(message.ecn.bits()).to_ne_bytes());
        }
        (control, len)
    }

    /// Writes a `struct cmsghdr` and its data, and returns the space they take.
    fn put(&mut self, at: usize, level: libc::c_int, option: libc::c_int, data: &[u8]) -> usize {
        // SAFETY: CMSG_LEN and CMSG_SPACE are arithmetic.
        let (len, space) = unsafe {
            let len = data.len() as libc::c_uint;
            (libc::CMSG_LEN(len) as usize, libc::CMSG_SPACE(len) as usize)
        };
        let (header, begin) = (&mut self.0[at..at + space], len - data.len());
        header[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        header[begin - 8..begin - 4].copy_from_slice(&level.to_ne_bytes());
        header[begin - 4..begin].copy_from_slice(&option.to_ne_bytes());
        header[begin..len].copy_from_slice(data);
        space
    }
}

/// Reads the control messages of a received message: the size of joined datagrams, if the kernel has joined some
/// (`UDP_GRO`), and the codepoint of their outer header.
fn read_control(header: &libc::msghdr) -> (Option<usize>, Ecn) {
    let (mut size, mut ecn) = (None, Ecn::NotEct);
    // SAFETY: the kernel has filled `msg_control` up to `msg_controllen` with whole control messages, of these options with an
    // int, and IP_TOS with a byte.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    size = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => ecn = Ecn::of_class(data.read()),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    ecn = Ecn::of_class(data.cast::<libc::c_int>().read_unaligned() as u8);
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    (size, ecn)
}

const fn empty_header() -> libc::mmsghdr {
    // SAFETY: a message header of zeros is an empty one: null pointers with lengths of 0.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

const fn name_len(ipv4: bool) -> libc::socklen_t {
    (if ipv4 { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() }) as libc::socklen_t
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => {
                let mut name = Self::EMPTY;
                name.v4 = *AsRef::<libc::sockaddr_in>::as_ref(&SockaddrIn::from(address));
                name
            }
            SocketAddr::V6(address) => Self { v6: *AsRef::<libc::sockaddr_in6>::as_ref(&SockaddrIn6::from(address)) },
        }
    }
}

impl Name {
    /// The largest of its forms, so that all of it is initialised.
    // SAFETY: zeros are a `struct sockaddr_in6`: numbers and arrays of numbers.
    const EMPTY: Self = Self { v6: unsafe { MaybeUninit::zeroed().assume_init() } };

    fn address(&self) -> Option<IpAddr> {
        // SAFETY: the family is the first field of all of them, and says which of them was written; all were initialised.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => Some(Ipv4Addr::from(u32::from_be(self.v4.sin_addr.s_addr)).into()),
                libc::AF_INET6 => Some(Ipv6Addr::from(self.v6.sin6_addr.s6_addr).into()),
                _ => None,
            }
        }
    }
}
