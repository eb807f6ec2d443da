//! `wire-agent verify` and `wire-agent plan` compare what this host holds with what it should hold. They write nothing, but what
//! `verify --remove-stale` is asked for.
//!
//! A running agent is asked to compare, with the leases that it knows. Without one, the desired state is computed here, from etcd or, with
//! `--offline`, from the network state saved on disk.

mod expected;

use std::path::Path;

use crate::{
    cli::{CompareFlags, EtcdFlags, RunFlags},
    commands::print_json,
    config_command::ConfigCommandError,
    control::{self, proto},
    exit::{Exit, NO, UNAVAILABLE},
    flat::folder_of,
    output::{answer, complain, report},
    reconcile_loop::Answer,
    run::require_capability,
    settings::Settings,
    stale,
};

/// The comparisons of all resources.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) network: Answer,
    pub(crate) firewall: Answer,
    pub(crate) files: Answer,
}

/// The most differences of a resource that a reply lists. After the loss of a large network there are many thousands.
const LISTED: usize = 10_000;

/// The host differs from its desired state, or could not be compared with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The host is not as it should be.
    #[error("{}", counted(*differences, *conflicts, *stale))]
    Differs { differences: usize, conflicts: usize, stale: usize },
    /// A stale route is still there.
    #[error("not every stale route could be removed: {}", failures.join("; "))]
    StaleLeft { failures: Vec<String> },
    /// A resource could not be compared.
    #[error("the {resource} could not be compared: {why}")]
    Unread { resource: String, why: String },
    /// There is nothing to compare with.
    #[error("this host holds no lease in etcd, so it is not known what it should hold: start wire-agent first")]
    NoLease,
    /// There is no network config in etcd. For `config` this is an answer, here it is not.
    #[error(transparent)]
    NoConfig(ConfigCommandError),
    /// There is no saved network state.
    #[error("there is no network state saved in {folder}: without --offline, etcd is asked")]
    NotSaved { folder: String },
    /// A network state is saved, but not the subnet that this host held.
    #[error("no subnet of this host is saved in {folder}: without --offline, etcd is asked")]
    NoSubnetSaved { folder: String },
    /// The saved network state cannot be used.
    #[error("the network state saved on disk cannot be used: {why}")]
    SavedUnusable { why: String },
    /// A clone takes an identity of its own when it starts.
    #[error("this host may be a clone of the one that has written {folder}, and would take a new identity: {differs}")]
    Clone { folder: String, differs: String },
}

impl VerifyError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Differs { .. } | Self::StaleLeft { .. } => NO,
            Self::Unread { .. }
            | Self::NoLease
            | Self::NoConfig(_)
            | Self::NotSaved { .. }
            | Self::NoSubnetSaved { .. }
            | Self::SavedUnusable { .. }
            | Self::Clone { .. } => UNAVAILABLE,
        }
    }
}

/// The form in which differences are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A sentence for each difference.
    Verify,
    /// The operations of the next round, in their order.
    Plan,
    /// As [`Self::Verify`]; the stale routes are removed.
    Remove,
}

/// Compares, and prints what differs.
///
/// # Errors
/// [`VerifyError::Differs`] if anything differs; all others if the host could not be compared.
pub(crate) async fn run(
    form: Form,
    flags: CompareFlags,
    etcd: EtcdFlags,
    run: RunFlags,
    run_dir: &Path,
) -> Result<(), Exit> {
    require_capability()?;
    let running = if flags.offline { None } else { control::compare(&folder_of(&etcd.network, run_dir)).await? };
    let reply = match running {
        Some(reply) => reply,
        None => expected::compare(Settings::new(etcd, run, run_dir)?, flags.offline).await?.to_reply(),
    };
    if flags.json { print_json(&reply) } else { answer(&text(form, &reply)) }?;
    if let Some(unread) = reply.resources.iter().find(|resource| !resource.error.is_empty()) {
        let (resource, why) = (unread.resource.clone(), unread.error.clone());
        return Err(VerifyError::Unread { resource, why }.into());
    }
    let differences: usize = reply.resources.iter().map(number_of_differences).sum();
    let conflicts: usize = reply.resources.iter().map(|resource| resource.conflicts.len()).sum();
    let stale: Vec<proto::StaleRoute> = reply.resources.iter().flat_map(|resource| resource.stale.clone()).collect();
    let stale = match form {
        Form::Verify => stale.len(),
        Form::Plan => 0,
        Form::Remove => {
            // With --json, standard output has the reply alone.
            let failures = stale::remove(&stale, if flags.json { complain } else { report })?;
            if !failures.is_empty() {
                return Err(VerifyError::StaleLeft { failures }.into());
            }
            0
        }
    };
    if differences + conflicts + stale > 0 {
        return Err(VerifyError::Differs { differences, conflicts, stale }.into());
    }
    // On standard error: for scripts, empty standard output means that nothing differs.
    if !flags.json {
        complain("nothing differs");
    }
    Ok(())
}

fn counted(differences: usize, conflicts: usize, stale: usize) -> String {
    let counted = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let conflicts =
        (conflicts > 0).then(|| format!("{} with entries of other programs", counted(conflicts, "conflict")));
    let stale = (stale > 0).then(|| counted(stale, "stale route"));
    [Some(counted(differences, "difference")), conflicts, stale].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn number_of_differences(resource: &proto::ResourceComparison) -> usize {
    resource.differences.len() + usize::try_from(resource.unlisted).unwrap_or(usize::MAX)
}

/// A line for each difference, then for each conflict.
fn text(form: Form, reply: &proto::CompareReply) -> String {
    let mut text = String::new();
    for resource in &reply.resources {
        let name = &resource.resource;
        let lines: Vec<&String> = match form {
            Form::Verify | Form::Remove => resource.differences.iter().map(|difference| &difference.sentence).collect(),
            Form::Plan => resource.changes.iter().collect(),
        };
        text.extend(lines.into_iter().map(|line| format!("{name}: {line}\n")));
        if resource.unlisted > 0 {
            text.push_str(&format!("{name}: {} more, which are not named here\n", resource.unlisted));
        }
    }
    for resource in &reply.resources {
        text.extend(resource.conflicts.iter().map(|conflict| format!("in the way: {conflict}\n")));
    }
    let stale = reply.resources.iter().flat_map(|resource| &resource.stale);
    match form {
        Form::Verify => text.extend(stale.map(|stale| format!("stale: {}\n", stale.sentence))),
        // The agent removes none by itself; those that are removed here are reported one by one.
        Form::Plan | Form::Remove => {}
    }
    text
}

impl Compared {
    /// The reply of the control socket.
    pub(crate) fn to_reply(&self) -> proto::CompareReply {
        let Self { network, firewall, files } = self;
        let resources = [("network", network), ("firewall", firewall), ("files", files)];
        proto::CompareReply { resources: resources.into_iter().map(|(name, answer)| resource(name, answer)).collect() }
    }
}

fn resource(name: &str, answer: &Answer) -> proto::ResourceComparison {
    let resource = name.to_owned();
    let comparison = match answer {
        Ok(comparison) => comparison,
        Err(error) => return proto::ResourceComparison { resource, error: error.clone(), ..Default::default() },
    };
    let differences = comparison.differences.iter().take(LISTED).map(|difference| proto::Difference {
        kind: difference.kind.name().to_owned(),
        entry: difference.entry.clone(),
        sentence: difference.to_string(),
        consequence: difference.consequence.clone().unwrap_or_default(),
    });
    let unlisted = comparison.differences.len().saturating_sub(LISTED);
    proto::ResourceComparison {
        resource,
        error: String::new(),
        differences: differences.collect(),
        changes: comparison.changes.iter().take(LISTED).cloned().collect(),
        conflicts: comparison.conflicts.clone(),
        unlisted: u32::try_from(unlisted).unwrap_or(u32::MAX),
        stale: comparison.stale.iter().map(proto::StaleRoute::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use wire_state::{Comparison, DesiredFile, Files, Writing};

    use super::*;

    /// A host that lacks these files.
    fn lacking(names: impl IntoIterator<Item = String>) -> Answer {
        let file = || DesiredFile { content: String::new(), writing: Writing::Plain };
        let desired = names.into_iter().map(|name| (name.into(), file())).collect();
        Ok(Comparison::of::<Files>(&Default::default(), &desired))
    }

    #[test]
    fn each_difference_is_a_line_and_conflicts_come_last() {
        let network =
            Ok(Comparison { conflicts: vec!["flannel.1 cannot be made".to_owned()], ..Comparison::default() });
        let files = lacking(["/run/a".to_owned()]);
        let reply = Compared { network, firewall: Ok(Comparison::default()), files }.to_reply();
        let conflict = "in the way: flannel.1 cannot be made\n";
        assert_eq!(text(Form::Verify, &reply), format!("files: file /run/a is missing\n{conflict}"));
        assert_eq!(text(Form::Plan, &reply), format!("files: write file /run/a\n{conflict}"));
    }

    #[test]
    fn of_very_many_differences_the_first_are_listed_and_the_others_counted() {
        let files = lacking((0..LISTED + 5).map(|number| format!("/run/{number}")));
        let resource = resource("files", &files);
        assert_eq!(resource.differences.len(), LISTED);
        assert_eq!(number_of_differences(&resource), LISTED + 5);
    }

    #[test]
    fn only_a_host_that_was_compared_gets_the_status_of_one_that_differs() {
        let missing = ConfigCommandError::Missing { prefix: wire_net::KeyPrefix::new("/other") };
        assert_eq!(VerifyError::NoConfig(missing).status(), UNAVAILABLE);
        assert_eq!(VerifyError::Differs { differences: 1, conflicts: 0, stale: 0 }.status(), NO);
    }

    #[test]
    fn a_resource_that_could_not_be_compared_has_its_reason() {
        let resource = resource("network", &Err("the kernel does not answer".to_owned()));
        assert_eq!(resource.error, "the kernel does not answer");
        assert_eq!(number_of_differences(&resource), 0);
    }
}
