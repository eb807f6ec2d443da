//! The flags of `wire-agent trace`.

use std::net::IpAddr;

use clap::Args;

/// The packet to follow.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Flags {
    /// The destination.
    #[arg(value_name = "ADDRESS")]
    pub(crate) to: IpAddr,
    /// The source. Without it, this host sends the packet. An address of a container: the packet comes in by the container's link, or its port
    /// on the bridge of a network by name. An address of another host's container: it comes out of the overlay device.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,
    /// The UDP destination port, also as 53/udp. Without it, the packet is not UDP.
    #[arg(long, value_parser = parse_udp_port, value_name = "PORT[/udp]")]
    pub(crate) port: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// For `trace --help`.
pub(crate) const HELP: &str = "\
Example, the way from a container of this host to one of another:
  wire-agent trace 10.5.7.2 --from 10.5.3.2

In a network by name an address of it is enough. A packet from a container there begins at its port on the network's bridge; the
container's own routes are not read.

Never looked at: BPF, traffic control, IPsec, others' filters of bridges, masquerading but for that of networks by name, the MTU,
flowtables. What else decides and is not followed on this host is named in the output.

Exit statuses:
   0  the packet is delivered, or leaves for the next host
   1  it is dropped on this host; the last line has the reason
  64  a flag is not valid, or no link leads to --from
  69  the kernel cannot be read, or something decides that is not looked at; the last line names it
  77  no CAP_NET_ADMIN";

fn parse_udp_port(text: &str) -> Result<u16, String> {
    let number = text.strip_suffix("/udp").unwrap_or(text);
    number.parse().map_err(|_| "it must be a UDP port like 53 or 53/udp".to_owned())
}
