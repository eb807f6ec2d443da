//! Network namespaces, and a value for each of them.

use std::{collections::BTreeMap, fmt};

/// A network namespace (network_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// The host's own, in which the agent runs.
    Host,
    /// A container's, by its cookie (`SO_NETNS_COOKIE` of socket(7), Linux 5.14): the kernel never uses a cookie twice, unlike an
    /// inode number.
    Guest(u64),
}

/// A value for each namespace that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerNamespace<T>(BTreeMap<Namespace, T>);

impl<T> PerNamespace<T> {
    /// A value for the host's namespace alone.
    pub fn host(value: T) -> Self {
        Self([(Namespace::Host, value)].into())
    }

    /// The value of one namespace; `None` if it is not read, or no longer exists.
    #[must_use]
    pub fn get(&self, namespace: Namespace) -> Option<&T> {
        self.0.get(&namespace)
    }

    /// The value of one namespace, to change it; `None` if it is not read, or no longer exists.
    pub fn get_mut(&mut self, namespace: Namespace) -> Option<&mut T> {
        self.0.get_mut(&namespace)
    }

    /// Sets the value of one namespace; with `None` it is not read any more.
    pub fn set(&mut self, namespace: Namespace, value: Option<T>) {
        match value {
            Some(value) => drop(self.0.insert(namespace, value)),
            None => drop(self.0.remove(&namespace)),
        }
    }

    /// All namespaces in their order, the host's first.
    pub fn iter(&self) -> impl Iterator<Item = (Namespace, &T)> {
        self.0.iter().map(|(namespace, value)| (*namespace, value))
    }

    /// All namespaces with their values, to change these; the host's first.
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

/// Text to append to a sentence: empty for the host's namespace, which is the usual one.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => Ok(()),
            Self::Guest(cookie) => write!(f, " in namespace {cookie}"),
        }
    }
}
