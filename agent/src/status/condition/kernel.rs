//! Conditions of the kernel's links, routes and other entries.

use wire_state::{Clash, Conflict, Failure, Network, PolicyRule};

use super::{Kind, Log, Message, Rank, Severity, kinds};

#[derive(Clone, Debug)]
pub(crate) enum KernelCondition {
    /// The kernel notifies of no changes: the error.
    NoNotifications(String),
    /// Another program changes our entries again and again: the changes that are corrected, with their counts.
    OtherProgram(Vec<(String, u32)>),
    /// Routes of others take packets for peers: their text.
    Detours(String),
    /// Rules of others lead packets for peers past our routes.
    Bypassed(Vec<PolicyRule>),
    /// A foreign entry prevents ours.
    Conflict(Conflict),
    /// Operations failed: the first of them, and the text.
    OperationFailed { operation: String, text: String },
    /// The kernel could not be read: the error.
    Unreadable(String),
    /// The service manager has no room for so many descriptors of all.
    NotKept { without_room: usize, all: usize },
    /// Several networks of this host want the same keys of the kernel.
    Clashes(Vec<Clash>),
}

/// The ways in which the texts of `wire_state` begin a remedy.
const REMEDIES: [(&str, &str); 4] =
    [(": ", "start wire-agent with --iface="), ("; ", "rename or remove it"), ("; ", "remove "), ("; ", "sysctl -w ")];

impl KernelCondition {
    kinds! {
        NO_NOTIFICATIONS = Kind::fault("no-kernel-notifications", "monitor");
        OTHER_PROGRAM = Kind::warning("changed-by-another-program", "another program").logged(Log::Beginning);
        DETOURS = Kind::warning("detours", "detours").logged(Log::Beginning);
        BYPASSED = Kind::warning("bypassed", "routing rules").logged(Log::Beginning);
        NAME_CONFLICT = conflict("name-conflict");
        VNI_CONFLICT = conflict("vni-conflict");
        PORT_CONFLICT = conflict("port-conflict");
        ROUTE_CONFLICT = conflict("route-conflict");
        FORWARDING_OFF = conflict("forwarding-off");
        LINK_NEEDS = conflict("link-needs");
        OPERATION_FAILED = failure("operation-failed");
        UNREADABLE = failure("kernel-unreadable");
        NOT_KEPT = Kind::warning("descriptors-not-kept", "descriptors").logged(Log::Beginning);
        CLASH = Kind::fault("clash-in-kernel", "clash in the kernel").logged(Log::LinesAndEnd);
    }

    /// The condition of a failure.
    pub(crate) fn of(failure: &Failure<Network>) -> Self {
        match failure {
            Failure::Read(_) => Self::Unreadable(failure.to_string()),
            Failure::Op { op, .. } => Self::OperationFailed { operation: op.to_string(), text: failure.to_string() },
        }
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::NoNotifications(_) => Self::NO_NOTIFICATIONS,
            Self::OtherProgram(_) => Self::OTHER_PROGRAM,
            Self::Detours(_) => Self::DETOURS,
            Self::Bypassed(_) => Self::BYPASSED,
            Self::Conflict(Conflict::Name { .. }) => Self::NAME_CONFLICT,
            Self::Conflict(Conflict::Vni { .. }) => Self::VNI_CONFLICT,
            Self::Conflict(Conflict::Port { .. }) => Self::PORT_CONFLICT,
            Self::Conflict(Conflict::Route { .. }) => Self::ROUTE_CONFLICT,
            Self::Conflict(Conflict::Forwarding { .. }) => Self::FORWARDING_OFF,
            Self::Conflict(Conflict::Needs { .. }) => Self::LINK_NEEDS,
            Self::OperationFailed { .. } => Self::OPERATION_FAILED,
            Self::Unreadable(_) => Self::UNREADABLE,
            Self::NotKept { .. } => Self::NOT_KEPT,
            Self::Clashes(_) => Self::CLASH,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::NoNotifications(error) | Self::Unreadable(error) => Message::plain(error),
            Self::OtherProgram(changes) => other_program(changes),
            Self::NotKept { without_room, all } => not_kept(*without_room, *all),
            Self::Clashes(clashes) => Message::of_clashes(clashes),
            Self::Detours(routes) if routes.matches("; remove the route").count() > 1 => Message::plain(routes),
            Self::Detours(text) => Message::split(text, &REMEDIES),
            Self::Bypassed(rules) => bypassed(rules),
            Self::Conflict(conflict) => Message::split(&conflict.to_string(), &REMEDIES),
            Self::OperationFailed { text, .. } => Message::plain(text),
        }
    }

    pub(super) fn instance(&self) -> String {
        match self {
            Self::Conflict(conflict) => subject(conflict),
            Self::OperationFailed { operation, .. } => operation.clone(),
            Self::NoNotifications(_)
            | Self::OtherProgram(_)
            | Self::Detours(_)
            | Self::Bypassed(_)
            | Self::Unreadable(_)
            | Self::NotKept { .. }
            | Self::Clashes(_) => String::new(),
        }
    }
}

/// All conflicts have one place.
const fn conflict(name: &'static str) -> Kind {
    Kind::bare(name, Severity::Fault, Rank::Conflict).logged(Log::Texts)
}

const fn failure(name: &'static str) -> Kind {
    Kind::bare(name, Severity::Fault, Rank::Failure).logged(Log::Texts)
}

/// The desired link or route that is prevented.
fn subject(conflict: &Conflict) -> String {
    match conflict {
        Conflict::Name { link, .. }
        | Conflict::Vni { link, .. }
        | Conflict::Port { link, .. }
        | Conflict::Needs { link, .. }
        | Conflict::Forwarding { link, .. } => link.to_string(),
        Conflict::Route { namespace, key, .. } => format!("{key}{namespace}"),
    }
}

fn bypassed(rules: &[PolicyRule]) -> Message {
    let named: Vec<String> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
    Message::plain(format!(
        "ip rule has {}, which lead containers' packets for the overlay past the table main, where the routes to other hosts are",
        named.join(" and ")
    ))
    .remedy("; ", "exclude the overlay's networks, with a rule before them: ip rule add to NETWORK lookup main priority NUMBER")
}

fn not_kept(without_room: usize, all: usize) -> Message {
    Message::plain(format!(
        "systemd has no room for {without_room} of {all} descriptors of networks whose packets the agent moves: packets of these are lost while \
         the agent is restarted"
    ))
    .remedy("; ", format!("set FileDescriptorStoreMax={all} or more in the agent's unit (systemctl edit wire-agent)"))
}

fn other_program(changes: &[(String, u32)]) -> Message {
    let named: Vec<String> = changes.iter().map(|(change, count)| format!("{change} ({count} times)")).collect();
    Message::plain(format!(
        "another program changes wire-agent's entries in the kernel again and again, and the agent corrects them each \
         time: {}",
        named.join(", ")
    ))
    .remedy("; ", "configure that program to leave them alone (dhcpcd: denyinterfaces flannel* in dhcpcd.conf)")
}
