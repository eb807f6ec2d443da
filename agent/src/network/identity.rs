//! The identity of this host: the saved state, if this host wrote it (docs/adr/0009-a-clone-is-a-host-of-its-own.md).

use tracing::warn;
use wire_net::chain;

use super::JoinContext;
use crate::{
    exit::Exit,
    host::Host,
    machine::{Kinship, Machine, Seen},
    ports::Ports,
    state::State,
};

impl<P: Ports> Host<P> {
    /// If another host wrote the state, gives this host a new identity and new MACs, before anything is leased with
    /// them. An agent that has joined once is not checked again.
    pub(super) fn settle(&mut self) -> Result<(), Exit> {
        let kinship = self.kinship()?;
        self.is_proven = kinship == Kinship::Same;
        let Kinship::Other(differs) = kinship else { return Ok(()) };
        let former = std::mem::replace(&mut self.state, State::fresh(self.ports.random()));
        warn!(
            former = former.identity,
            identity = self.state.identity,
            differs,
            "this host is a clone of the host that wrote the state: taking a new identity and new MACs"
        );
        // If devices with these MACs exist here, they need new MACs.
        self.disowned = former.macs;
        self.status.update(|seen| seen.identity.clone_from(&self.state.identity));
        Ok(self.state_file.save(self.ports.disk(), &self.state)?)
    }

    /// Records the properties that a clone of this host does not have. Those that cannot be read now keep their old
    /// values.
    pub(super) fn remember_machine(&mut self, context: &JoinContext) {
        let seen = match Seen::now(&self.ports) {
            Ok(seen) => seen,
            Err(error) => {
                return warn!(error = chain(&error), "cannot read what distinguishes this host from a clone of it");
            }
        };
        let before = std::mem::take(&mut self.state.machine);
        let now = seen.machine(Some(context.underlay.index));
        self.state.machine = Machine {
            links: if now.links.is_empty() { before.links } else { now.links },
            product: now.product.or(before.product),
        };
    }

    /// Compares the saved state with this host.
    pub(crate) fn kinship(&self) -> Result<Kinship, Exit> {
        Ok(Seen::now(&self.ports)?.kinship(&self.state))
    }
}
