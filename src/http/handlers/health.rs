//! Whether the server lives, can serve, and what it counted.

use crate::{
    app::App,
    error::Error,
    http::{
        call::{OpenCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

/// `ok`, or what is wrong.
#[derive(Serialize, ToSchema)]
struct Health {
    /// Always `ok`: what is not ok answers with an error.
    status: &'static str,
}

/// Which build answers.
#[derive(Serialize, ToSchema)]
struct Version {
    /// Always `nimblesite`.
    name: &'static str,
    /// The version of the program.
    version: &'static str,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("Healthz", "GET", "/healthz", Handler::Open(healthz))
            .about("Operations", "Whether the process lives")
            .answers::<Health>(200),
        Endpoint::new("Readyz", "GET", "/readyz", Handler::Open(readyz))
            .about("Operations", "Whether requests can be served: the catalog takes writes and the disk is above its floor")
            .answers::<Health>(200)
            .errors(&["overloaded", "disk_full", "shutting_down"]),
        Endpoint::new("Version", "GET", "/version", Handler::Open(version))
            .about("Operations", "Which build answers")
            .answers::<Version>(200),
        Endpoint::new("Metrics", "GET", "/metrics", Handler::Ops(metrics))
            .about("Operations", "Counters in the OpenMetrics text format")
            .answers_raw(200, "application/openmetrics-text"),
    ]
}

fn healthz(_call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async { Reply::ok(&Health { status: "ok" }) })
}

fn readyz(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        if call.app.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let floor = u64::try_from(call.app.config.limits.disk_free_bytes_min).unwrap_or(u64::MAX);
        if call.app.storage.disk_free_bytes()? < floor {
            return Err(Error::DiskFull);
        }
        call.app.storage.ready().await?;
        Reply::ok(&Health { status: "ok" })
    })
}

fn version(_call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async { Reply::ok(&Version { name: "nimblesite", version: env!("CARGO_PKG_VERSION") }) })
}

fn metrics(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        observe(call.app);
        let body = call.app.metrics.text().map_err(Error::internal)?.into();
        Ok(Reply::Page { content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8", body, headers: Vec::new() })
    })
}

/// Numbers that are looked at, not counted as they change.
fn observe(app: &App) {
    let vitals = app.storage.vitals();
    app.metrics.level("tenants_open", vitals.tenants_open);
    app.metrics.level("key_checks", vitals.key_checks);
    app.metrics.level("key_checks_made", usize::try_from(vitals.key_checks_made).unwrap_or(usize::MAX));
    app.metrics.level("password_checks", vitals.password_checks);
    app.metrics.level("turns", app.agent.turns_running());
    app.metrics.interrupted(vitals.turns_interrupted);
    app.metrics.storage(vitals.statements, vitals.commits);
}
