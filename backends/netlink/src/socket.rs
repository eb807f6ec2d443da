//! One netlink socket for requests: dumps, and batches without an answer to each message.
//!
//! The kernel reports an error for a message whether or not an answer was asked for; it is the answers to successes that
//! cost (docs/adr/0002). So a batch asks for none, and ends with a message that does nothing but is answered: by then every
//! error of the batch has arrived.

use std::io;

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

use crate::attribute::{Header, attributes, messages, number, text};

/// Messages in one send: more gain nothing, and all errors of a batch have to fit into the receive buffer.
const CHUNK: usize = 256;
/// Forced where we may (CAP_NET_ADMIN), so that a batch of errors never overflows it.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// What the largest transaction needs: the sets of 65 000 peers.
const SEND_BUFFER: usize = 16 << 20;
/// The kernel answers while it is being asked. Longer means that the answer is lost.
const TIMEOUT_SECONDS: i64 = 5;
/// Attempts at a dump while what it lists changes.
const DUMPS: usize = 8;
/// What the kernel writes in one go is at most 32 KiB (`netlink_dump` of net/netlink/af_netlink.c).
pub const LONGEST_DATAGRAM: usize = 64 << 10;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const ERROR_TEXT: u16 = 1;

/// A socket for requests.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Requests to be sent together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// Adds a message: type, flags beside `NLM_F_REQUEST`, body.
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

    /// Asks for an answer to each message, for comparison.
    #[cfg(any(test, feature = "lab"))]
    pub fn ask_for_all_answers(&mut self) {
        for start in &self.starts {
            self.bytes[start + 6] |= u8::try_from(NLM_F_ACK).expect("a bit of the lower byte");
        }
    }

    /// How many messages there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.starts.len()
    }
}

/// A message with nothing in it.
struct Nothing;

impl Emitable for Nothing {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl Netlink {
    /// A socket of rtnetlink, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open() -> Result<Self, DataplaneError> {
        Self::of(NETLINK_ROUTE)
    }

    /// A socket of one of netlink's protocols.
    pub fn of(protocol: isize) -> Result<Self, DataplaneError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            force_buffer(&socket);
            // A transaction is sent whole.
            let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
            let timeout = TimeVal::new(TIMEOUT_SECONDS, 0);
            setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
            setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
            // Linux 4.20 and later filter dumps for us; before, we get all and filter ourselves.
            let _ = socket.set_netlink_get_strict_chk(true);
            // Errors without the message they are about, and with an explanation: Linux 4.12.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(DataplaneError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(LONGEST_DATAGRAM) })
    }

    /// Asks for a list and hands over its entries, all of one moment.
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

    /// Sends one request and hands over the messages of its answer. False where the answer is of no single moment.
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

    /// Sends all of `batch`, in order, and says of each message what became of it.
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

    /// Sends a transaction: a first message that begins it, some that each ask for an answer, and a last that ends it. Says
    /// what became of the whole, which is what the first error says.
    pub fn transact(&mut self, batch: &mut Batch) -> Attempt {
        let begin = self.sequence.wrapping_add(1);
        self.sequence = number_from(self.sequence, &batch.starts, &mut batch.bytes);
        // The kernel answers all when it has done with all. To one that it does not even begin, it says so alone.
        let last = self.sequence.wrapping_sub(1);
        let mut outcome = Ok(());
        self.socket.send(&batch.bytes, 0).map_err(|source| OpError::new(source, None))?;
        loop {
            self.receive().map_err(|source| OpError::new(source, None))?;
            for (header, body) in messages(&self.buffer).filter(|(header, _)| header.kind == NLMSG_ERROR) {
                if header.sequence.wrapping_sub(begin) > last.wrapping_sub(begin) {
                    // To something earlier that was given up.
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
                    // The barrier: all that came before has been dealt with.
                    return Ok(());
                }
                // Beyond it lie answers to something earlier that was given up.
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

/// Gives messages the sequence numbers after `last`, and says the last of them.
fn number_from(last: u32, starts: &[usize], bytes: &mut [u8]) -> u32 {
    starts.iter().fold(last, |last, start| {
        let sequence = last.wrapping_add(1);
        bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        sequence
    })
}

/// Makes the receive buffer large. Without CAP_NET_ADMIN, as large as the host allows.
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
