//! Network namespaces, and a value for each of them.

use std::{collections::BTreeMap, fmt};

/// A network namespace (network_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// The one this host's processes run in, and the agent with them.
    Host,
    /// One of a container, by its cookie (`SO_NETNS_COOKIE` of socket(7), Linux 5.14): unlike the number of its inode, the kernel
    /// never uses one again.
    Guest(u64),
}

/// A value for each namespace that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerNamespace<T>(BTreeMap<Namespace, T>);

impl<T> PerNamespace<T> {
    /// The value of the host's namespace alone.
    pub fn host(value: T) -> Self {
        Self([(Namespace::Host, value)].into())
    }

    /// The value of one namespace; `None` if that is not looked at, or is gone.
    #[must_use]
    pub fn get(&self, namespace: Namespace) -> Option<&T> {
        self.0.get(&namespace)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, namespace: Namespace) -> Option<&mut T> {
        self.0.get_mut(&namespace)
    }

    /// All namespaces in their order, the host's first.
    pub fn iter(&self) -> impl Iterator<Item = (Namespace, &T)> {
        self.0.iter().map(|(namespace, value)| (*namespace, value))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Namespace, &mut T)> {
        self.0.iter_mut().map(|(namespace, value)| (*namespace, value))
    }
}

impl<T: Default> Default for PerNamespace<T> {
    fn default() -> Self {
        Self::host(T::default())
    }
}

impl<T> FromIterator<(Namespace, T)> for PerNamespace<T> {
    fn from_iter<I: IntoIterator<Item = (Namespace, T)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Nothing for the host's namespace, which is the usual one; otherwise where it is, to be put behind a sentence.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => Ok(()),
            Self::Guest(cookie) => write!(f, " in namespace {cookie}"),
        }
    }
}
