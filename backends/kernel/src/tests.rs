//! On the real kernel, each test in a fresh network namespace of its own. What is there is checked through `ip` and `bridge`.

mod foreign;
mod host;
pub(crate) mod lab;
mod namespaces;
mod program;
mod repair;
mod routers;
mod settings;

use super::RouteForm;

/// Every test whose outcome must not depend on it runs with each.
const FORMS: [RouteForm; 3] = [RouteForm::Auto, RouteForm::Nexthop, RouteForm::Plain];
