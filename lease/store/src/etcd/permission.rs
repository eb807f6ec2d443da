//! The permission that a refused call lacks.

use std::{collections::BTreeSet, fmt};

/// A call with the keys it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) operation: &'static str,
    needs: BTreeSet<Need>,
}

/// A key or, with `is_prefix`, all keys that begin with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    key: String,
    is_prefix: bool,
    access: &'static str,
}

impl Asked {
    /// A call that uses no key.
    pub(super) const fn nothing(operation: &'static str) -> Self {
        Self { operation, needs: BTreeSet::new() }
    }

    pub(super) fn to_read(operation: &'static str, key: &[u8]) -> Self {
        Self { operation, needs: BTreeSet::from([Need::of(key, "read")]) }
    }

    pub(super) fn to_write<'a>(operation: &'static str, keys: impl Iterator<Item = &'a [u8]>) -> Self {
        Self { operation, needs: keys.map(|key| Need::of(key, "readwrite")).collect() }
    }

    /// Names the missing permission of this user; with `None`, of this host's user.
    pub(super) fn remedy(&self, user: Option<&str>) -> String {
        let user = user.map_or_else(|| "the user of this host".to_owned(), |name| format!("the user {name}"));
        let needs: Vec<String> = self.needs.iter().map(Need::to_string).collect();
        match needs.is_empty() {
            true => format!("{user} has no role that allows it"),
            false => format!("{user} needs a role with {}", needs.join(" and ")),
        }
    }
}

impl Need {
    /// The needed permission, widened to a whole folder: all leases (flannel reads them by a prefix without a trailing
    /// slash), or all keys of wire-agent.
    fn of(key: &[u8], access: &'static str) -> Self {
        let text = String::from_utf8_lossy(key);
        let folder = ["/wire/", "/subnets"].into_iter().find_map(|part| text.find(part).map(|at| at + part.len()));
        match folder {
            // Who reads the leases also writes its own.
            Some(end) => Self { key: text[..end].to_owned(), is_prefix: true, access: "readwrite" },
            None => Self { key: text.into_owned(), is_prefix: false, access },
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, is_prefix, access } = self;
        let option = if *is_prefix { " --prefix=true" } else { "" };
        write!(f, "{access} on {key} (etcdctl role grant-permission ROLE{option} {access} {key})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refused_call_needs_is_told_by_key_and_command() {
        let config = Asked::to_read("get", b"/coreos.com/network/config").remedy(Some("f"));
        assert_eq!(
            config,
            "the user f needs a role with read on /coreos.com/network/config (etcdctl role grant-permission ROLE read /coreos.com/network/config)"
        );
        let guard = Asked::to_read("get", b"/coreos.com/network/wire/guards/10.5.3.0-24").remedy(Some("f"));
        assert!(
            guard.contains("readwrite on /coreos.com/network/wire/ (etcdctl role grant-permission ROLE --prefix=true"),
            "{guard}"
        );
        let keys = [&b"/n/subnets/10.5.3.0-24"[..], b"/n/wire/guards/10.5.3.0-24", b"/n/wire/guards/x"];
        let both = Asked::to_write("write", keys.into_iter()).remedy(None);
        assert!(
            both.starts_with("the user of this host needs a role with readwrite on /n/subnets (")
                && both.contains(" and readwrite on /n/wire/ ("),
            "{both}"
        );
        assert_eq!(both.matches("/n/wire/ (").count(), 1, "{both}");
        assert_eq!(Asked::nothing("grant a lease").remedy(Some("f")), "the user f has no role that allows it");
    }
}
