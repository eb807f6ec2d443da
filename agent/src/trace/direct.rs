//! What the rules for packets without encapsulation compare, from the files of the agent: it need not run.

use wire_lease::NetworkConfig;
use wire_net::{LinkName, Pool};
use wire_state::DirectNetwork;

use crate::{
    files::RealDisk,
    last_known::LastKnownFile,
    ports::System,
    settings::Settings,
    state::{State, StateFile},
};

/// It for each family; empty if no agent has saved it.
pub(super) fn known(settings: &Settings) -> Vec<DirectNetwork> {
    let folder = &settings.folders.state_dir;
    let Ok(State { subnet, underlay: Some(underlay), .. }) = StateFile::in_folder(folder).peek(&System::default())
    else {
        return Vec::new();
    };
    let saved = LastKnownFile::in_folder(folder, settings.prefix.clone()).load(&RealDisk).ok().flatten();
    let config = saved.and_then(|(known, _)| NetworkConfig::from_json(known.config.as_bytes()).ok());
    let (Some(config), Ok(link)) = (config, underlay.link.parse::<LinkName>()) else { return Vec::new() };
    let owned = config.pools.iter().filter_map(|(family, pool)| Some((*subnet.get(family)?, pool)));
    owned.map(|(own, pool)| DirectNetwork { link, own, leased: leased(pool) }).collect()
}

/// The first and the last address that hosts lease, as the rules have them.
fn leased(pool: &Pool) -> [std::net::IpAddr; 2] {
    if pool.is_bounded() {
        [pool.min.network(), pool.max.last()]
    } else {
        [pool.network.network(), pool.network.last()]
    }
}
