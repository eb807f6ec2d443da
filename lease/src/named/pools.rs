//! The addresses of a network by name, and how they are split among its hosts.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use wire_net::{DualStack, Family, Prefix};

use crate::config::reserved;

/// The addresses of one family of a network. Hosts hold blocks of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// All addresses, as containers see them.
    pub prefix: Prefix,
    /// The length of each block in bits.
    pub block_len: u8,
}

/// The pools of a network.
///
/// With both families, blocks are claimed in IPv4 alone. The IPv6 address that belongs to an IPv4 address has its 32 bits as the last of its own:
/// `fd57::a80:328` belongs to `10.128.3.40`. So a container's MAC follows from either, and no IPv6 block can be of another host than its IPv4 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPools(DualStack<AddressPool>);

/// Pools that no network can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There is no pool at all.
    #[error("a network needs a pool of IPv4 or of IPv6 addresses")]
    None,
    /// The text is no prefix of the family.
    #[error("{text:?} is no {family} prefix like {}", example(*family))]
    Prefix {
        /// The text.
        text: String,
        /// The wanted family.
        family: Family,
    },
    /// The address is not the first one of its prefix.
    #[error("{text} holds host bits: the prefix is {prefix}")]
    HostBits {
        /// The text.
        text: String,
        /// The prefix without them.
        prefix: Prefix,
    },
    /// The pool has too few or too many addresses.
    #[error("{prefix} is no pool of a network: it must be from /{shortest} to /{longest}")]
    Size {
        /// The pool.
        prefix: Prefix,
        /// The shortest length.
        shortest: u8,
        /// The longest length.
        longest: u8,
    },
    /// No container can have these addresses.
    #[error("{prefix} overlaps {reserved}, which is {whose}: take another one")]
    Reserved {
        /// The pool.
        prefix: Prefix,
        /// The addresses.
        reserved: Prefix,
        /// Their use.
        whose: &'static str,
    },
    /// The length of blocks does not fit the pool.
    #[error("blocks of /{block_len} do not fit {prefix}: their length must be from /{shortest} to /{longest}")]
    Block {
        /// The pool.
        prefix: Prefix,
        /// The length.
        block_len: u8,
        /// The shortest length.
        shortest: u8,
        /// The longest length.
        longest: u8,
    },
    /// With both families, an IPv6 address has the 32 bits of an IPv4 address.
    #[error("beside IPv4, an IPv6 pool must be /96 or shorter, which {0} is not")]
    NoRoomForV4(Prefix),
    /// With both families, an IPv6 block belongs to an IPv4 block.
    #[error("beside IPv4 blocks of /{v4}, IPv6 blocks are /{right}, not /{v6}")]
    Pair {
        /// The length of the IPv4 blocks.
        v4: u8,
        /// The length of the IPv6 blocks.
        v6: u8,
        /// The right one.
        right: u8,
    },
}

/// The largest block has 256 addresses: each costs entries on all members.
const BLOCK_BITS: u8 = 8;
/// The length before the 32 bits of a MAC address that follow from an IPv6 address.
const BEFORE_MAC: u8 = 96;

impl AddressPool {
    /// Makes a pool with blocks of the usual length: /27 in a /20 and /120 in a /64, smaller ones in smaller pools.
    ///
    /// # Errors
    /// Names the violated rule.
    pub fn new(prefix: Prefix) -> Result<Self, PoolError> {
        let usual = prefix.family().bits() - 5 - 3 * u8::from(prefix.family() == Family::V6);
        let block_len = usual.max(usable(prefix).len().saturating_add(6)).min(prefix.family().bits());
        Self { prefix, block_len }.checked()
    }

    /// Parses the text of a record.
    pub(super) fn parse(family: Family, text: &str, block_len: Option<u8>) -> Result<Self, PoolError> {
        let prefix = pool_prefix(family, text)?;
        let usual = Self::new(prefix)?;
        Self { block_len: block_len.unwrap_or(usual.block_len), ..usual }.checked()
    }

    fn checked(self) -> Result<Self, PoolError> {
        let Self { prefix, block_len } = self;
        let bits = prefix.family().bits();
        let (shortest, longest) = (bits / 4, bits - 3);
        if !(shortest..=longest).contains(&prefix.len()) {
            return Err(PoolError::Size { prefix, shortest, longest });
        }
        if let Some((reserved, whose)) = reserved().find(|(reserved, _)| reserved.overlaps(prefix)) {
            return Err(PoolError::Reserved { prefix, reserved, whose });
        }
        let usable = usable(prefix).len();
        let (shortest, longest) = ((usable + 2).max(bits - BLOCK_BITS), bits);
        if (shortest..=longest).contains(&block_len) {
            Ok(self)
        } else {
            Err(PoolError::Block { prefix, block_len, shortest, longest })
        }
    }

    /// The address of the bridge on each member.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.prefix.gateway()
    }

    /// The addresses that blocks are made of. Of an IPv6 pool they are those of its first /96, so that their low 32 bits, and with them the MAC
    /// addresses of containers, differ.
    #[must_use]
    pub fn usable(&self) -> Prefix {
        usable(self.prefix)
    }

    /// True if no container and no host may have an address of the pool: its first one, the gateway's, and the last one of IPv4.
    #[must_use]
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        let is_broadcast = self.prefix.family() == Family::V4 && address == self.prefix.last();
        address == self.prefix.network() || address == self.gateway() || is_broadcast
    }

    /// The prefixes that hold its reserved addresses, one each.
    pub(super) fn reserved(&self) -> impl Iterator<Item = Prefix> {
        let all = [self.prefix.network(), self.gateway(), self.prefix.last()];
        all.into_iter().filter(|address| self.is_reserved(*address)).map(Prefix::host)
    }

    /// True if `block` is one of its blocks, and has an address to give.
    #[must_use]
    pub fn has_block(&self, block: Prefix) -> bool {
        block.len() == self.block_len && self.usable().covers(block) && self.addresses_of(block).next().is_some()
    }

    /// True if hosts and containers may have this address.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.usable().contains(address) && !self.is_reserved(address)
    }

    /// The addresses of a block that hosts and containers may have.
    pub fn addresses_of(&self, block: Prefix) -> impl Iterator<Item = IpAddr> {
        addresses(block).filter(|address| !self.is_reserved(*address))
    }
}

impl NetworkPools {
    /// Puts the pools of both families together.
    ///
    /// # Errors
    /// Names the violated rule.
    pub fn new(pools: DualStack<AddressPool>) -> Result<Self, PoolError> {
        if let (Some(v4), Some(v6)) = (&pools.v4, &pools.v6) {
            let right = BEFORE_MAC + v4.block_len;
            if v6.prefix.len() > BEFORE_MAC {
                return Err(PoolError::NoRoomForV4(v6.prefix));
            }
            if v6.block_len != right {
                return Err(PoolError::Pair { v4: v4.block_len, v6: v6.block_len, right });
            }
        }
        if pools.is_empty() { Err(PoolError::None) } else { Ok(Self(pools)) }
    }

    /// The pools of these prefixes, with blocks of the usual length.
    ///
    /// # Errors
    /// Names the violated rule.
    pub fn of(prefixes: DualStack<Prefix>) -> Result<Self, PoolError> {
        let v4 = prefixes.v4.map(AddressPool::new).transpose()?;
        let mut v6 = prefixes.v6.map(AddressPool::new).transpose()?;
        if let (Some(v4), Some(v6)) = (&v4, &mut v6) {
            v6.block_len = BEFORE_MAC + v4.block_len;
        }
        Self::new(DualStack { v4, v6 })
    }

    /// The pool of one family.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<&AddressPool> {
        self.0.get(family)
    }

    /// The pools, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &AddressPool)> {
        self.0.iter()
    }

    /// The prefixes of its pools.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let pools = self.0;
        Family::ALL.into_iter().filter_map(move |family| pools.get(family).map(|pool| pool.prefix))
    }

    /// The pool whose blocks are claimed: IPv4's, if there is one.
    #[must_use]
    pub fn claimed(&self) -> &AddressPool {
        self.0.v4.as_ref().or(self.0.v6.as_ref()).expect("a network has a pool")
    }

    /// A claimed block or address, of each family: with the IPv6 one that belongs to it.
    #[must_use]
    pub fn of_both(&self, claimed: Prefix) -> DualStack<Prefix> {
        DualStack::from_fn(|family| {
            let pool = self.get(family)?;
            let twin = pool.usable().first_bits() | claimed.first_bits();
            let twin = || Prefix::from_bits(family, twin, BEFORE_MAC + claimed.len()).expect("IPv4 has 32 bits");
            match claimed.family() {
                same if same == family => Some(claimed),
                Family::V4 => Some(twin()),
                Family::V6 => None,
            }
        })
    }

    /// True if an IPv6 address belongs to an IPv4 address of the network.
    #[must_use]
    pub fn belongs_to_v4(&self, address: IpAddr) -> bool {
        let (Some(v4), Some(v6)) = (&self.0.v4, &self.0.v6) else { return false };
        self.of_both(v4.prefix).v6.is_some_and(|twins| twins.contains(address)) && v6.prefix.contains(address)
    }
}

/// The addresses of a block, which has at most 256.
fn addresses(block: Prefix) -> impl Iterator<Item = IpAddr> {
    let count = 1u128 << (block.family().bits() - block.len()).min(BLOCK_BITS);
    let address = move |number| Prefix::from_bits(block.family(), block.first_bits() + number, block.family().bits());
    (0..count).map(move |number| address(number).expect("the length of an address").network())
}

fn usable(pool: Prefix) -> Prefix {
    match pool.family() {
        Family::V4 => pool,
        Family::V6 => Prefix::new(pool.network(), pool.len().max(BEFORE_MAC)).expect("96 bits or more"),
    }
}

/// Parses the prefix of a pool, which may hold no host bits.
///
/// # Errors
/// If it is no prefix of the family, or holds host bits.
pub fn pool_prefix(family: Family, text: &str) -> Result<Prefix, PoolError> {
    let short = || text.chars().take(64).collect::<String>();
    let prefix = text.parse::<Prefix>().ok().filter(|prefix| prefix.family() == family);
    let prefix = prefix.ok_or_else(|| PoolError::Prefix { text: short(), family })?;
    let address = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    if address == Some(prefix.network()) { Ok(prefix) } else { Err(PoolError::HostBits { text: short(), prefix }) }
}

fn example(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.128.0.0/20",
        Family::V6 => "fd57:1::/64",
    }
}

/// A pool as records have it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StoredPool {
    pub(super) pool: String,
    pub(super) block: Option<u8>,
}
