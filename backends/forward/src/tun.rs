//! A queue of a TUN device. Here are the ioctls that create one, and no other unsafe code.
#![expect(unsafe_code, reason = "ioctl has no safe form")]

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::libc;
use wire_net::LinkName;

use wire_state::{Capabilities, Framing};

use super::vnet;

/// The numbers of linux/if_tun.h.
mod ioctl {
    nix::ioctl_write_int!(set_interface, b'T', 202);
    nix::ioctl_read!(interface, b'T', 210, u32);
    nix::ioctl_write_int!(set_persist, b'T', 203);
    nix::ioctl_write_int!(set_offload, b'T', 208);
    nix::ioctl_write_ptr!(set_header_size, b'T', 216, i32);
}

/// `TUN_F_*` of linux/if_tun.h.
const CHECKSUM: u64 = 0x01;
const TSO: u64 = 0x02 | 0x04 | 0x08;
const USO: u64 = 0x20 | 0x40;

/// The file through which TUN devices are created.
const CONTROL: &str = "/dev/net/tun";

/// What a device gives and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// IP packets (a TUN device).
    Ip,
    /// Ethernet frames (a TAP device).
    Ethernet,
}

impl Layer {
    pub(crate) const fn of(framing: Framing) -> Self {
        match framing {
            Framing::Raw | Framing::Vxlan { .. } => Self::Ip,
            Framing::Ethernet { .. } => Self::Ethernet,
        }
    }

    const fn flag(self) -> libc::c_int {
        match self {
            Self::Ip => libc::IFF_TUN,
            Self::Ethernet => libc::IFF_TAP,
        }
    }
}

/// One queue: reads packets that the kernel sends through the device, and gives it packets.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
    /// The offloads that the device supports, of those that were asked for.
    pub(crate) capabilities: Capabilities,
}

impl Tun {
    /// Opens one more queue of the device. The device is created if it does not exist, and stays when the queue is
    /// closed.
    ///
    /// # Errors
    /// Without `/dev/net/tun`, without `CAP_NET_ADMIN`, and if somebody else has a device of that name.
    pub(crate) fn open(name: LinkName, layer: Layer, wanted: Capabilities) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(CONTROL)?;
        let flags = layer.flag() | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: flags as libc::c_short, rest: [0; 22] };
        request.name[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
        // SAFETY: TUNSETIFF reads and writes a struct ifreq, which `Request` is laid out as and as large as.
        unsafe { ioctl::set_interface(file.as_raw_fd(), (&raw mut request) as libc::c_ulong) }?;
        // SAFETY: TUNSETPERSIST takes a number.
        unsafe { ioctl::set_persist(file.as_raw_fd(), 1) }?;
        Self::adopt(file.into(), wanted)
    }

    /// Takes over a queue that was opened before.
    ///
    /// # Errors
    /// When the descriptor is no queue of a TUN device.
    pub(crate) fn adopt(queue: OwnedFd, wanted: Capabilities) -> io::Result<Self> {
        let file = File::from(queue);
        let size = vnet::LEN as i32;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which outlives the call.
        unsafe { ioctl::set_header_size(file.as_raw_fd(), &raw const size) }?;
        let mut capabilities = wanted;
        loop {
            let asked = |has: bool, offload: u64| if has { offload } else { 0 };
            let offloads = CHECKSUM | asked(capabilities.tso, TSO) | asked(capabilities.uso, USO);
            // SAFETY: TUNSETOFFLOAD takes a number.
            match unsafe { ioctl::set_offload(file.as_raw_fd(), offloads) } {
                Ok(_) => break,
                // USO since Linux 6.2.
                Err(_) if capabilities.uso => capabilities.uso = false,
                Err(_) if capabilities.tso => capabilities.tso = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { file, capabilities })
    }

    /// The device it is a queue of.
    ///
    /// # Errors
    /// When that device is gone.
    pub(crate) fn name(&self) -> io::Result<LinkName> {
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
        // SAFETY: TUNGETIFF writes a struct ifreq, which `Request` is laid out as and as large as.
        unsafe { ioctl::interface(self.file.as_raw_fd(), (&raw mut request).cast()) }?;
        let name = request.name.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
        name.and_then(|name| name.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads one packet, its [`vnet`] header first.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    #[inline]
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(into)
    }

    /// Gives the kernel one packet, its [`vnet`] header first.
    ///
    /// # Errors
    /// When it does not take it, for example because the device is down.
    #[inline]
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `struct ifreq` of linux/if.h: a name and a union of 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());
