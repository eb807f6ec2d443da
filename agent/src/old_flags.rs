//! flannel's flags without an effect here: those for its log and for Kubernetes are accepted with a warning; those that
//! current flannel no longer has are refused with a message.

use clap::Args;

use crate::{go_syntax, settings::UsageError};

const GO_BOOL: fn(&str) -> Result<bool, String> = go_syntax::parse_bool;

/// The flags of Go's log libraries, glog and klog.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogFlags {
    #[arg(long = "logtostderr", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    logtostderr: Option<bool>,
    #[arg(long = "alsologtostderr", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    alsologtostderr: Option<bool>,
    #[arg(long = "stderrthreshold", hide = true)]
    stderrthreshold: Option<String>,
    #[arg(long = "log_dir", hide = true)]
    log_dir: Option<String>,
    #[arg(long = "log_file", hide = true)]
    log_file: Option<String>,
    #[arg(long = "log_file_max_size", hide = true)]
    log_file_max_size: Option<String>,
    #[arg(long = "log_link", hide = true)]
    log_link: Option<String>,
    #[arg(long = "logbuflevel", hide = true)]
    logbuflevel: Option<String>,
    #[arg(long = "skip_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    skip_headers: Option<bool>,
    #[arg(long = "skip_log_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    skip_log_headers: Option<bool>,
    #[arg(long = "add_dir_header", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    add_dir_header: Option<bool>,
    #[arg(long = "one_output", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = GO_BOOL)]
    one_output: Option<bool>,
    #[arg(long = "vmodule", hide = true)]
    vmodule: Option<String>,
    #[arg(long = "log_backtrace_at", hide = true)]
    log_backtrace_at: Option<String>,
}

/// flannel's flags for Kubernetes.
#[derive(Clone, Debug, Args)]
pub(crate) struct KubernetesFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL)]
    kube_subnet_mgr: bool,
    #[arg(long, hide = true)]
    kube_api_url: Option<String>,
    #[arg(long, hide = true)]
    kubeconfig_file: Option<String>,
    #[arg(long, hide = true)]
    kube_annotation_prefix: Option<String>,
    #[arg(long, hide = true)]
    net_config_path: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL)]
    set_node_network_unavailable: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL)]
    use_multi_cluster_cidr: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL)]
    persistent_mac: bool,
}

/// Flags that flannel had until 0.5: a server for clients without etcd, several networks, subnets in another folder.
#[derive(Clone, Debug, Args)]
pub(crate) struct RemovedFlags {
    #[arg(long, hide = true)]
    remote: Option<String>,
    #[arg(long, hide = true)]
    remote_keyfile: Option<String>,
    #[arg(long, hide = true)]
    remote_certfile: Option<String>,
    #[arg(long, hide = true)]
    remote_cafile: Option<String>,
    #[arg(long, hide = true)]
    listen: Option<String>,
    #[arg(long, hide = true)]
    networks: Option<String>,
    #[arg(long, hide = true)]
    subnet_dir: Option<String>,
}

fn given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn warnings<const N: usize>(flags: [(&str, bool, &str); N]) -> impl Iterator<Item = String> {
    let asked = flags.into_iter().filter(|(_, asked, _)| *asked);
    asked.map(|(flag, _, why)| format!("--{flag} does nothing in this version: {why}"))
}

impl LogFlags {
    /// A warning for each given flag.
    pub(crate) fn warnings(&self) -> Vec<String> {
        const STDERR: &str = "the log goes to standard error, where the program that starts wire-agent collects it";
        const FORM: &str = "see --log-format";
        let all = [
            ("logtostderr", self.logtostderr.is_some(), STDERR),
            ("alsologtostderr", self.alsologtostderr.is_some(), STDERR),
            ("stderrthreshold", given(self.stderrthreshold.as_ref()), STDERR),
            ("log_dir", given(self.log_dir.as_ref()), STDERR),
            ("log_file", given(self.log_file.as_ref()), STDERR),
            ("log_file_max_size", given(self.log_file_max_size.as_ref()), STDERR),
            ("log_link", given(self.log_link.as_ref()), STDERR),
            ("logbuflevel", given(self.logbuflevel.as_ref()), STDERR),
            ("skip_headers", self.skip_headers.is_some(), FORM),
            ("skip_log_headers", self.skip_log_headers.is_some(), FORM),
            ("add_dir_header", self.add_dir_header.is_some(), FORM),
            ("one_output", self.one_output.is_some(), STDERR),
            ("vmodule", self.vmodule.is_some(), "use RUST_LOG, for example RUST_LOG=wire_lease=debug"),
            ("log_backtrace_at", self.log_backtrace_at.is_some(), "errors are logged with all their causes"),
        ];
        warnings(all).collect()
    }
}

impl KubernetesFlags {
    /// The reason why the agent cannot start with them: it keeps leases in etcd, not in Kubernetes.
    pub(crate) fn refusal(&self) -> Option<UsageError> {
        let asked = [("kube-subnet-mgr", self.kube_subnet_mgr), ("kube-api-url", given(self.kube_api_url.as_ref()))];
        let (flag, _) = asked.into_iter().find(|(_, asked)| *asked)?;
        Some(UsageError::Kubernetes { flag })
    }

    /// A warning for each given flag that flannel also ignores if it keeps its leases in etcd.
    pub(crate) fn warnings(&self) -> Vec<String> {
        const IDLE: &str = "it is for Kubernetes, and leases are kept in etcd";
        let all = [
            ("kubeconfig-file", given(self.kubeconfig_file.as_ref()), IDLE),
            ("kube-annotation-prefix", given(self.kube_annotation_prefix.as_ref()), IDLE),
            ("net-config-path", given(self.net_config_path.as_ref()), IDLE),
            ("set-node-network-unavailable", self.set_node_network_unavailable, IDLE),
            ("use-multi-cluster-cidr", self.use_multi_cluster_cidr, IDLE),
            (
                "persistent-mac",
                self.persistent_mac,
                "the MAC of a VXLAN device always outlives a reboot, see --state-dir",
            ),
        ];
        warnings(all).collect()
    }
}

impl RemovedFlags {
    /// The reason why the agent cannot start with them.
    pub(crate) fn refusal(&self) -> Option<UsageError> {
        const SERVER: &str = "the server in front of etcd was removed with flannel 0.7: name etcd's members with \
                              --etcd-endpoints";
        const NETWORKS: &str = "a host belongs to one network: name it with --etcd-prefix";
        let all = [
            ("remote", &self.remote, SERVER),
            ("remote-keyfile", &self.remote_keyfile, SERVER),
            ("remote-certfile", &self.remote_certfile, SERVER),
            ("remote-cafile", &self.remote_cafile, SERVER),
            ("listen", &self.listen, SERVER),
            ("networks", &self.networks, NETWORKS),
            ("subnet-dir", &self.subnet_dir, "a host has one subnet: name its file with --subnet-file"),
        ];
        let (flag, _, instead) = all.into_iter().find(|(_, value, _)| given(value.as_ref()))?;
        Some(UsageError::Removed { flag, instead })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{cli::Cli, settings::Settings};

    #[test]
    fn without_any_flag_flannels_defaults_hold() {
        let cli = Cli::read(["wire-agent".into()]).unwrap();
        assert_eq!(cli.etcd.etcd_endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
        assert_eq!((cli.etcd.etcd_prefix.as_str(), cli.run.verbosity), ("/coreos.com/network", 0));
        assert_eq!(cli.run.subnet_file, Path::new("/run/flannel/subnet.env"));
        assert_eq!((cli.run.subnet_lease_renew_margin, cli.run.iptables_resync), (60, 5));
        assert!(cli.run.iptables_forward_rules && !cli.run.ip_masq && !cli.run.ip_masq_fully_random_disable);
        assert!(!cli.run.ip_blackhole_route && cli.run.healthz_ip.is_unspecified());
        let settings = Settings::new(cli.etcd, cli.run, &cli.run_dir).unwrap();
        assert!(settings.health.is_none() && settings.underlay.is_empty() && settings.warnings.is_empty());
    }

    #[test]
    fn each_given_flag_without_an_effect_is_named_in_a_warning_and_no_other_is() {
        let flags = [
            "logtostderr",
            "alsologtostderr",
            "stderrthreshold=x",
            "log_dir=x",
            "log_file=x",
            "log_file_max_size=1",
            "log_link=x",
            "logbuflevel=0",
            "skip_headers",
            "skip_log_headers",
            "add_dir_header",
            "one_output",
            "vmodule=a=1",
            "log_backtrace_at=a:1",
            "kubeconfig-file=x",
            "kube-annotation-prefix=x",
            "net-config-path=x",
            "set-node-network-unavailable",
            "use-multi-cluster-cidr",
            "persistent-mac",
            "ip-masq-fully-random-disable",
        ];
        for flag in flags {
            let cli = Cli::read(["wire-agent".into(), format!("-{flag}").into()]).unwrap();
            let warnings = Settings::new(cli.etcd, cli.run, &cli.run_dir).unwrap().warnings;
            let name = flag.split('=').next().unwrap();
            let is_named = warnings.iter().all(|warning| warning.starts_with(&format!("--{name} does nothing")));
            assert!(warnings.len() == 1 && is_named, "{flag}: {warnings:?}");
        }
    }
}
