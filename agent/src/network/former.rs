//! The backend of the config that the network was joined with before, spoken beside the new one until no other host needs it
//! (docs/adr/0018-a-former-backend-beside-the-new-one.md).

use tracing::{info, warn};
use wire_backends::{Backend, Reaches, Spoken, WithFormer, why_not_beside};
use wire_lease::{BackendRecord, Entries, FormerBackend, NetworkConfig};

use super::{Chosen, JoinContext};
use crate::{
    exit::Exit,
    host::Host,
    ports::Ports,
    state::{SpokenConfigs, State},
};

impl<P: Ports> Host<P> {
    /// Chooses the backend, with the MACs that this host had before, if any, and with the former one beside it.
    pub(crate) fn backend(&self, context: &JoinContext, listing: &Entries) -> Result<Chosen, Exit> {
        let now = self.backend_alone(context, listing)?;
        let Some((config, json)) = former_config(&self.state, &context.config) else { return Ok(now) };
        let name = Reaches::of(&config);
        if let Some(why) = why_not_beside(&context.config, &config, self.vxlan_by()) {
            warn!(former = %name, why, "the former backend cannot be spoken beside the new one: hosts that are not restarted yet are cut off");
            return Ok(now);
        }
        let context = JoinContext { underlay: context.underlay.clone(), config, public: context.public };
        match self.backend_alone(&context, listing) {
            Ok(former) => {
                info!(former = %name, now = %now.backend.reaches(), "the former backend is spoken beside the new one");
                Ok(both(now, former, json))
            }
            Err(error) => {
                let why = error.report();
                warn!(former = %name, why, "the former backend cannot be spoken any more: hosts that are not restarted yet are cut off");
                Ok(now)
            }
        }
    }

    /// From the next join on, the former backend is not spoken.
    pub(crate) fn forget_former(&mut self) {
        if let Some(spoken) = &mut self.state.spoken {
            spoken.former = None;
        }
    }

    /// Notes the configs whose backends this host speaks once it has joined.
    pub(crate) fn note_spoken(&mut self, joined: &str, former: Option<String>) {
        self.state.spoken = Some(SpokenConfigs { joined: joined.to_owned(), former });
    }
}

/// The config before the last change of backend, also as JSON: hosts that are not restarted yet may speak its backend.
fn former_config(state: &State, now: &NetworkConfig) -> Option<(NetworkConfig, String)> {
    let SpokenConfigs { joined, former } = state.spoken.as_ref()?;
    let parsed = |json: &str| NetworkConfig::from_json(json.as_bytes()).ok();
    let is_same = parsed(joined).is_some_and(|joined| Reaches::of(&joined) == Reaches::of(now));
    let json = if is_same { former.as_ref()? } else { joined };
    let config = parsed(json)?;
    let speaks = |config| Reaches::of(config) != Reaches::Nobody;
    // In another network hosts have other subnets, and there is nobody to be reached by these.
    let is_of_use = config.pools == now.pools && Reaches::of(&config) != Reaches::of(now);
    (is_of_use && speaks(&config) && speaks(now)).then(|| (config, json.clone()))
}

fn both(now: Chosen, former: Chosen, json: String) -> Chosen {
    let record = FormerBackend { data: former.backend.data(), port: former.own_port };
    let record = BackendRecord { port: now.own_port, former: Some(record) };
    let macs = former.macs.into_iter().chain(now.macs).collect();
    let spoken = |backend, port| Spoken { backend, port };
    let backend = WithFormer::new(spoken(now.backend, now.own_port), spoken(former.backend, former.own_port));
    let mut scope = backend.scope();
    for chosen in [now.scope, former.scope] {
        scope.devices.extend(chosen.devices);
        scope.marks.macs.extend(chosen.marks.macs);
    }
    // Each of both backends has its own port: leases carry all.
    let ports = now.ports.into_iter().chain(former.ports).collect();
    Chosen { backend: Box::new(backend), scope, macs, own_port: None, record: Some(record), former: Some(json), ports }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
    const VNI_7: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#;
    const UDP: &str = r#"{"Network":"10.5.0.0/16"}"#;

    fn former(joined: &str, former: Option<&str>, now: &str) -> Option<String> {
        let spoken = SpokenConfigs { joined: joined.to_owned(), former: former.map(str::to_owned) };
        let state = State { spoken: Some(spoken), ..State::default() };
        former_config(&state, &NetworkConfig::from_json(now.as_bytes()).unwrap()).map(|(_, json)| json)
    }

    #[test]
    fn the_former_backend_is_the_one_before_the_last_change_of_type_or_vni() {
        assert_eq!(former(VXLAN, None, VNI_7).as_deref(), Some(VXLAN));
        // After a restart, too.
        assert_eq!(former(VNI_7, Some(VXLAN), VNI_7).as_deref(), Some(VXLAN));
        // Changed back, and changed once more.
        assert_eq!(former(VNI_7, Some(VXLAN), VXLAN).as_deref(), Some(VNI_7));
        assert_eq!(former(VNI_7, Some(VXLAN), UDP).as_deref(), Some(VNI_7));
        assert_eq!(former(VXLAN, None, VXLAN), None);
    }

    #[test]
    fn without_a_change_that_matters_there_is_none() {
        let now = |backend: &str| format!(r#"{{"Network":"10.5.0.0/16","Backend":{{{backend}}}}}"#);
        for backend in [r#""Type":"vxlan","Port":4790"#, r#""Type":"vxlan","MTU":1400"#, r#""Type":"alloc""#] {
            assert_eq!(former(VXLAN, None, &now(backend)), None, "{backend}");
        }
        assert_eq!(former(VXLAN, None, &VNI_7.replace("10.5", "10.6")), None);
        assert_eq!(former(&now(r#""Type":"alloc""#), None, VXLAN), None);
        assert_eq!(former("{", None, VXLAN), None);
        assert_eq!(former_config(&State::default(), &NetworkConfig::from_json(VXLAN.as_bytes()).unwrap()), None);
    }
}
