//! A netlink socket for requests: dumps, and batches in which only errors are answered.
//!
//! The kernel reports an error for a message whether or not an acknowledgement was requested; the acknowledgements of
//! successes are what costs time (docs/adr/0002). So a batch requests none, and ends with a no-op message that is
//! acknowledged: when that answer arrives, every error of the batch has arrived.

use std::{io, os::fd::OwnedFd};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_NOOP,
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use wire_state::{Attempt, DataplaneError, OpError};

use crate::{
    attribute::{Header, attributes, messages, number, text},
    passed,
};

/// Messages per send: more are not faster, and all errors of one send must fit into the receive buffer.
const CHUNK: usize = 256;
/// Size of the receive buffer in bytes, so that the errors of a batch never overflow it. Exceeding the host's limit
/// needs CAP_NET_ADMIN.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// Size of the send buffer in bytes: enough for the largest transaction, the sets of 65 000 peers.
const SEND_BUFFER: usize = 16 << 20;
/// The kernel answers within the call that sends the request. An answer that takes longer than this is lost.
const TIMEOUT_SECONDS: i64 = 5;
/// Attempts at a dump that the kernel reports as inconsistent (`NLM_F_DUMP_INTR`).
const DUMPS: usize = 8;
/// Bytes to receive in one call; the kernel writes at most 32 KiB at once (`netlink_dump` of net/netlink/af_netlink.c).
pub const LONGEST_DATAGRAM: usize = 64 << 10;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const ERROR_TEXT: u16 = 1;

/// A netlink socket that sends requests and waits for their answers.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Messages that are sent together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// Appends a message. `NLM_F_REQUEST` is added to its flags.
    pub fn push(&mut self, kind: u16, flags: u16, body: &impl Emitable) {
        let start = self.bytes.len();
        let len = 16 + body.buffer_len();
        self.starts.push(start);
        self.bytes.resize(start + len.next_multiple_of(4), 0);
        let message = &mut self.bytes[start..start + len];
        message[..4].copy_from_slice(&u32::try_from(len).expect("a message has a few hundred bytes").to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        body.emit(&mut message[16..]);
    }

    /// Requests an acknowledgement of each message, to compare the cost.
    #[cfg(any(test, feature = "lab"))]
    pub fn ask_for_all_answers(&mut self) {
        for start in &self.starts {
            self.bytes[start + 6] |= u8::try_from(NLM_F_ACK).expect("a bit of the lower byte");
        }
    }

    /// The bodies of all messages, to see what the kernel would read.
    #[cfg(any(test, feature = "lab"))]
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        messages(&self.bytes).map(|(_, body)| body)
    }

    /// The number of messages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.starts.len()
    }
}

/// The body of the no-op message that ends a batch.
struct Nothing;

impl Emitable for Nothing {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl Netlink {
    /// Opens an rtnetlink socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> Result<Self, DataplaneError> {
        Self::of(NETLINK_ROUTE)
    }

    /// Opens a socket of this netlink protocol (`NETLINK_*`).
    pub fn of(protocol: isize) -> Result<Self, DataplaneError> {
        Socket::new(protocol).and_then(Self::over).map_err(DataplaneError::Open)
    }

    /// Uses a netlink socket that another process opened, in its network namespace, and passed to this one. It has to be unbound.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn of_passed(descriptor: OwnedFd) -> Result<Self, DataplaneError> {
        passed::socket(descriptor).and_then(Self::over).map_err(DataplaneError::Open)
    }

    fn over(mut socket: Socket) -> io::Result<Self> {
        prepare(&mut socket)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(LONGEST_DATAGRAM) })
    }

    /// Dumps a list and returns its entries, from one consistent snapshot.
    pub fn dump<T>(
        &mut self,
        what: &'static str,
        request: &dyn Fn(&mut Batch, u16),
        entry: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, DataplaneError> {
        for _ in 0..DUMPS {
            let mut batch = Batch::default();
            request(&mut batch, NLM_F_DUMP);
            let mut entries = Vec::new();
            let asked = self.ask(&mut batch, |body| entries.extend(entry(body)));
            match asked {
                Ok(true) => return Ok(entries),
                Ok(false) => {}
                Err(source) => return Err(DataplaneError::Read { what, source }),
            }
        }
        Err(DataplaneError::Unsteady { what })
    }

    /// Sends one request and passes each message of the answer to `each`. Returns false if the list changed during the
    /// dump.
    pub fn ask(&mut self, batch: &mut Batch, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        batch.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        let is_dump = u16::from_ne_bytes([batch.bytes[6], batch.bytes[7]]) & NLM_F_DUMP == NLM_F_DUMP;
        self.socket.send(&batch.bytes, 0)?;
        let mut steady = true;
        loop {
            self.receive()?;
            for (header, body) in messages(&self.buffer).filter(|(header, _)| header.sequence == sequence) {
                steady &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.kind {
                    NLMSG_DONE => return Ok(steady),
                    NLMSG_ERROR => {
                        let code = error_code(body);
                        return if code == 0 { Ok(steady) } else { Err(io::Error::from_raw_os_error(code)) };
                    }
                    _ => {
                        each(body);
                        if !is_dump {
                            return Ok(steady);
                        }
                    }
                }
            }
        }
    }

    /// Sends all of `batch` in order and returns the outcome of each message.
    pub fn send(&mut self, batch: &mut Batch) -> Vec<Attempt> {
        let mut results: Vec<Attempt> = (0..batch.count()).map(|_| Ok(())).collect();
        let mut chunk = Vec::new();
        let mut barrier = Batch::default();
        barrier.push(NLMSG_NOOP, NLM_F_ACK, &Nothing);
        for (number, results) in results.chunks_mut(CHUNK).enumerate() {
            let first = self.sequence.wrapping_add(1);
            let starts = &batch.starts[number * CHUNK..][..results.len()];
            let end = batch.starts.get(number * CHUNK + results.len()).copied().unwrap_or(batch.bytes.len());
            self.sequence = number_from(self.sequence, starts, &mut batch.bytes);
            self.sequence = self.sequence.wrapping_add(1);
            barrier.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
            chunk.clear();
            chunk.extend_from_slice(&batch.bytes[starts[0]..end]);
            chunk.extend_from_slice(&barrier.bytes);
            if let Err(source) = self.send_chunk(&chunk, first, results) {
                let error = OpError::new(source, None);
                results.fill_with(|| Err(error.again()));
            }
        }
        results
    }

    /// Sends a transaction: a message that begins it, messages that each request an acknowledgement, and one that ends
    /// it. Returns the first error, which is the outcome of the whole.
    pub fn transact(&mut self, batch: &mut Batch) -> Attempt {
        let begin = self.sequence.wrapping_add(1);
        self.sequence = number_from(self.sequence, &batch.starts, &mut batch.bytes);
        // The kernel answers after it has processed the whole transaction. If it refuses to begin, it answers only the
        // first message.
        let last = self.sequence.wrapping_sub(1);
        let mut outcome = Ok(());
        self.socket.send(&batch.bytes, 0).map_err(|source| OpError::new(source, None))?;
        loop {
            self.receive().map_err(|source| OpError::new(source, None))?;
            for (header, body) in messages(&self.buffer).filter(|(header, _)| header.kind == NLMSG_ERROR) {
                if header.sequence.wrapping_sub(begin) > last.wrapping_sub(begin) {
                    // An answer to an earlier request that timed out.
                    continue;
                }
                if error_code(body) != 0 && outcome.is_ok() {
                    outcome = Err(op_error(header, body));
                }
                if header.sequence == last || (header.sequence == begin && outcome.is_err()) {
                    return outcome;
                }
            }
        }
    }

    fn send_chunk(&mut self, chunk: &[u8], first: u32, results: &mut [Attempt]) -> io::Result<()> {
        self.socket.send(chunk, 0)?;
        loop {
            self.receive()?;
            for (header, body) in messages(&self.buffer).filter(|(header, _)| header.kind == NLMSG_ERROR) {
                let index = usize::try_from(header.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if index == results.len() {
                    // The barrier: every message before it has been processed.
                    return Ok(());
                }
                // Any other number is an answer to an earlier request that timed out.
                if let Some(result) = results.get_mut(index)
                    && error_code(body) != 0
                {
                    *result = Err(op_error(header, body));
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn prepare(socket: &mut Socket) -> io::Result<()> {
    let mut address = netlink_sys::SocketAddr::new(0, 0);
    socket.get_address(&mut address)?;
    // One that was passed may be bound already, by an earlier copy of its descriptor.
    if address.port_number() == 0 {
        socket.bind_auto()?;
    }
    force_buffer(socket);
    // A transaction is sent in one call.
    let _ = setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER);
    let timeout = TimeVal::new(TIMEOUT_SECONDS, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &timeout)?;
    setsockopt(socket, sockopt::SendTimeout, &timeout)?;
    // Linux 4.20 and later filter dumps for us; before, we get all and filter ourselves.
    let _ = socket.set_netlink_get_strict_chk(true);
    // Errors do not repeat the request, and carry the kernel's explanation: Linux 4.12.
    let _ = socket.set_cap_ack(true);
    let _ = socket.set_ext_ack(true);
    Ok(())
}

/// Numbers the messages from the one after `last`, and returns the last number.
fn number_from(last: u32, starts: &[usize], bytes: &mut [u8]) -> u32 {
    starts.iter().fold(last, |last, start| {
        let sequence = last.wrapping_add(1);
        bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        sequence
    })
}

/// Enlarges the receive buffer to [`RECEIVE_BUFFER`]; without CAP_NET_ADMIN, to the host's limit.
pub fn force_buffer(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}

fn error_code(body: &[u8]) -> i32 {
    number(body).map_or(Errno::EBADMSG as i32, |code| code.cast_signed().wrapping_neg())
}

fn op_error(header: Header, body: &[u8]) -> OpError {
    let explained = header.flags & NLM_F_ACK_TLVS != 0 && header.flags & NLM_F_CAPPED != 0;
    let detail = explained.then(|| body.get(20..)).flatten().and_then(|bytes| {
        attributes(bytes).find(|(kind, _)| *kind == ERROR_TEXT).and_then(|(_, value)| text(value)).map(str::to_owned)
    });
    OpError::new(io::Error::from_raw_os_error(error_code(body)), detail)
}
