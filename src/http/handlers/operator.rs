//! What the command line does beside the data, over HTTP: tenants, credit, the state of the whole. Never a tenant's content.

use crate::{
    clock::Time,
    error::Result,
    http::{
        call::{OperatorCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::TenantId,
    model::{LedgerEntry, List, Order, Tenant, TenantCreated, Wallet},
    storage::CreditInput,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{PartialSchema, ToSchema};

const TAG: &str = "Operator";

/// A tenant to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OperatorTenantInput {
    /// 1–200 characters; need not be unique.
    name: String,
    /// The e-mail address of the account that will own it.
    owner: String,
}

/// How large a tenant may grow.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OperatorLimitInput {
    /// Bytes of the tenant's file; 0 for no limit, `null` for the server's own (`limits.tenant_bytes_max`).
    #[serde(deserialize_with = "Option::deserialize")]
    size_bytes: Option<u64>,
}

/// A tenant's money.
#[derive(Debug, Serialize, ToSchema)]
struct Credit {
    /// The wallet.
    #[serde(flatten)]
    wallet: Wallet,
    /// A page of the ledger, oldest first unless asked otherwise.
    #[schema(schema_with = List::<LedgerEntry>::schema)]
    ledger: List<LedgerEntry>,
}

/// The state of the server.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    /// The version of the program.
    version: &'static str,
    /// Since when it runs.
    started_at: Time,
    /// The seconds since.
    uptime_seconds: u64,
    /// Tenants that are there.
    tenants: u64,
    /// Those of them that were suspended.
    tenants_suspended: u64,
    /// Tenants whose file is open now.
    tenants_open: usize,
    /// Accounts.
    users: u64,
    /// Free bytes on the data directory's disk.
    disk_free_bytes: u64,
    /// The providers by name, and whether calls can be sent to them.
    providers: BTreeMap<String, bool>,
    /// The models on the rate card.
    models: usize,
    /// The newest day of the rate card's figures.
    rates_as_of: Option<String>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("OperatorTenantList", "GET", "/api/v1/operator/tenants", Handler::Operator(tenant_list))
            .about(TAG, "List all tenants")
            .paged()
            .answers::<List<Tenant>>(200)
            .errors(&["validation_failed"]),
        Endpoint::new("OperatorTenantCreate", "POST", "/api/v1/operator/tenants", Handler::Operator(tenant_create))
            .about(TAG, "Make a tenant for an account")
            .describe("Answers the tenant's first key, shown this once.")
            .body::<OperatorTenantInput>()
            .answers::<TenantCreated>(201)
            .errors(&["malformed_json", "not_found", "validation_failed"]),
        Endpoint::new("OperatorCreditGet", "GET", "/api/v1/operator/tenants/{id}/credit", Handler::Operator(credit_get))
            .about(TAG, "Read a tenant's wallet and ledger")
            .paged()
            .answers::<Credit>(200)
            .errors(&["not_found", "validation_failed"]),
        Endpoint::new("OperatorCreditAdd", "POST", "/api/v1/operator/tenants/{id}/credit", Handler::Operator(credit_add))
            .about(TAG, "Add credit, or take some back")
            .describe(
                "A reference counts once a tenant: the same one with the same amount again changes nothing and answers the entry it made. A negative \
                 amount is an adjustment, never below what is spent or held.",
            )
            .body::<CreditInput>()
            .answers::<LedgerEntry>(201)
            .errors(&["malformed_json", "not_found", "validation_failed"]),
        Endpoint::new("OperatorTenantSuspend", "POST", "/api/v1/operator/tenants/{id}/suspend", Handler::Operator(tenant_suspend))
            .about(TAG, "Stop a tenant's chat")
            .describe("Reading goes on. Doing it again changes nothing.")
            .answers::<Tenant>(200)
            .errors(&["not_found"]),
        Endpoint::new("OperatorTenantResume", "POST", "/api/v1/operator/tenants/{id}/resume", Handler::Operator(tenant_resume))
            .about(TAG, "Let a tenant's chat go on")
            .answers::<Tenant>(200)
            .errors(&["not_found"]),
        Endpoint::new("OperatorTenantLimit", "POST", "/api/v1/operator/tenants/{id}/limit", Handler::Operator(tenant_limit))
            .about(TAG, "Set how large a tenant may grow")
            .describe(
                "From its next request on. A tenant at its limit is refused with 507 `tenant_full` before any vendor call; reading, deleting and \
                 exporting go on. A limit below the present size takes nothing away.",
            )
            .body::<OperatorLimitInput>()
            .answers::<Tenant>(200)
            .errors(&["malformed_json", "not_found", "validation_failed"]),
        Endpoint::new("OperatorStatus", "GET", "/api/v1/operator/status", Handler::Operator(status))
            .about(TAG, "Read the state of the server")
            .answers::<Status>(200),
    ]
}

/// The path's tenant.
fn id(request: &Request) -> Result<TenantId> {
    request.id("id", "tenant")
}

fn tenant_list(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.app.storage.tenant_list_all(&call.who, page).await?)
    })
}

fn tenant_create(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: OperatorTenantInput = call.request.json()?;
        Reply::created(&call.app.storage.tenant_create_for(&call.who, &input.name, &input.owner).await?)
    })
}

fn credit_get(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, page) = (id(call.request)?, call.request.page(Order::Asc)?);
        let wallet = call.app.storage.credit_show(&call.who, id).await?;
        let ledger = call.app.storage.credit_ledger(&call.who, id, page).await?;
        Reply::ok(&Credit { wallet, ledger })
    })
}

fn credit_add(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, input) = (id(call.request)?, call.request.json()?);
        Reply::created(&call.app.storage.credit_add(&call.who, id, input).await?)
    })
}

fn tenant_suspend(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.app.storage.tenant_suspend(&call.who, id(call.request)?, true).await?) })
}

fn tenant_resume(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.app.storage.tenant_suspend(&call.who, id(call.request)?, false).await?) })
}

fn tenant_limit(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, input): (_, OperatorLimitInput) = (id(call.request)?, call.request.json()?);
        Reply::ok(&call.app.storage.tenant_limit(&call.who, id, input.size_bytes).await?)
    })
}

fn status(call: OperatorCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let app = call.app;
        let counts = app.storage.counts(&call.who).await?;
        let rates = app.rates.load();
        let uptime_ms = app.clock.now().ms().saturating_sub(app.started.ms());
        Reply::ok(&Status {
            version: env!("CARGO_PKG_VERSION"),
            started_at: app.started,
            uptime_seconds: u64::try_from(uptime_ms / 1_000).unwrap_or(0),
            tenants: counts.tenants,
            tenants_suspended: counts.tenants_suspended,
            tenants_open: counts.tenants_open,
            users: counts.users,
            disk_free_bytes: counts.disk_free_bytes,
            providers: app.config.providers.iter().map(|(name, provider)| (name.clone(), provider.configured())).collect(),
            models: rates.rows().len(),
            rates_as_of: rates.rows().iter().map(|row| row.as_of.clone()).max(),
        })
    })
}
