//! Writes rules in the languages of nft and of iptables. Pure.

pub(super) mod iptables;
pub(super) mod nft;
