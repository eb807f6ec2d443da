//! Tests on the real kernel, each in a new network namespace of its own. They check the kernel's state through `ip` and `bridge`.

mod contract;
mod devices;
mod foreign;
mod host;
pub(crate) mod lab;
mod namespaces;
mod opened;
mod program;
mod repair;
mod routers;
mod segment;
mod settings;

use super::RouteForm;

/// Tests whose outcome must not depend on the form run with each of these.
const FORMS: [RouteForm; 3] = [RouteForm::Auto, RouteForm::Nexthop, RouteForm::Plain];
