//! The operator's pages: what the operator's routes answer, and never a tenant's content.

use super::{
    frame_of,
    once::{Made, once},
    pages_of, told,
};
use crate::{
    dashboard::{
        Frame, Place, Said,
        operator::{self, Provider, Sent, State, Tenants},
    },
    error::{Error, FieldError, Result},
    http::{
        call::{OperatorPageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
        handlers::models::cards,
    },
    ids::{RequestId, TenantId},
    model::{Order, TenantCreated},
    money::Money,
    storage::{CreditInput, Operator},
};
use std::time::Duration;

/// How far back providers' health looks.
const HEALTH_SPAN: Duration = Duration::from_secs(3600);

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::OperatorPage(run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::OperatorPage(run));
    vec![
        page("OperatorPage", "/dashboard/operator", overview),
        page("OperatorModelsPage", "/dashboard/operator/models", models),
        page("OperatorAuditPage", "/dashboard/operator/audit", audit),
        form("OperatorTenantMake", "/dashboard/operator/tenants", tenant_make),
        page("OperatorTenantPage", "/dashboard/operator/tenants/{id}", tenant),
        form("OperatorCredit", "/dashboard/operator/tenants/{id}/credit", credit),
        form("OperatorSuspend", "/dashboard/operator/tenants/{id}/suspend", suspend),
        form("OperatorResume", "/dashboard/operator/tenants/{id}/resume", resume),
    ]
}

fn id(call: &OperatorPageCall<'_>) -> Result<TenantId> {
    call.request.id("id", "tenant")
}

async fn framed(call: &OperatorPageCall<'_>, place: Place) -> Result<Frame> {
    let said = call.request.query("said").and_then(Said::named);
    Ok(Frame { said, ..frame_of(call.app, &call.session, place).await? })
}

fn overview(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move { server(&call, 200, None, &Sent::default()).await })
}

async fn state(call: &OperatorPageCall<'_>) -> Result<State> {
    let app = call.app;
    let (counts, since) = (app.storage.counts(&call.who).await?, app.clock.now().minus(HEALTH_SPAN));
    let provider = |(name, provider): (&String, &crate::config::ProviderConfig)| Provider {
        name: name.clone(),
        configured: provider.configured(),
        vital: app.pulse.since(name, since),
    };
    Ok(State {
        version: env!("CARGO_PKG_VERSION"),
        started_at: app.started,
        tenants: counts.tenants,
        tenants_suspended: counts.tenants_suspended,
        tenants_open: counts.tenants_open,
        users: counts.users,
        disk_free_bytes: counts.disk_free_bytes,
        providers: app.config.providers.iter().map(provider).collect(),
        backup: app.storage.backup_newest(&call.who).await?.map(|(at, place)| (at.parse().ok(), place)),
    })
}

async fn server(call: &OperatorPageCall<'_>, status: u16, made: Option<&TenantCreated>, sent: &Sent) -> Result<Reply> {
    let storage = &call.app.storage;
    let rows = storage.tenant_list_all(&call.who, call.request.page(Order::Desc)?).await?;
    let mut wallets = Vec::with_capacity(rows.data.len());
    for tenant in &rows.data {
        // One broken tenant must not keep the operator from seeing the others.
        wallets.push(storage.credit_show(&call.who, tenant.id).await.ok());
    }
    let pages = pages_of(call.request, &rows, "/dashboard/operator");
    let tenants = Tenants { rows: &rows, wallets: &wallets, pages: &pages };
    let page = operator::page(&framed(call, Place::Operator).await?, &state(call).await?, &tenants, made, sent);
    Ok(Reply::html(status, page))
}

fn tenant_make(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let text = |name| form.text(name).to_owned();
        let (storage, operator): (_, Operator) = (call.app.storage.clone(), call.who.clone());
        let (name, owner) = (text("name"), text("owner"));
        let making = async move { storage.tenant_create_for(&operator, &name, &owner).await };
        let led = |made: &TenantCreated| format!("/dashboard/operator/tenants/{}?said=tenant-made", made.id);
        let made = match once(call.app, &call.session, call.request, led, making).await {
            // The address belongs to nobody: it is that field which is wrong.
            Err(Error::NotFound { .. }) => Err(Error::invalid("/owner", "nobody has an account with this address")),
            made => made,
        };
        match made {
            Ok(Made::Now(made)) => server(&call, 201, Some(&made), &Sent::default()).await,
            Ok(Made::Before(at)) => Ok(Reply::see_other(at)),
            Err(error) => {
                let (errors, status) = told(error)?;
                server(&call, status, None, &Sent { name: text("name"), owner: text("owner"), errors }).await
            }
        }
    })
}

fn models(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, operator::models(&framed(&call, Place::OperatorModels).await?, &cards(call.app, None)))) })
}

fn audit(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let entries = call.app.storage.audit_list_server(&call.who, call.request.page(Order::Desc)?).await?;
        let pages = pages_of(call.request, &entries, "/dashboard/operator/audit");
        Ok(Reply::html(200, operator::audit_log(&framed(&call, Place::OperatorAudit).await?, &entries, &pages)))
    })
}

async fn shown(call: &OperatorPageCall<'_>, status: u16, typed: (&str, &str, &str), errors: &[FieldError]) -> Result<Reply> {
    let (id, storage) = (id(call)?, &call.app.storage);
    let tenant = storage.tenant_show(&call.who, id).await?;
    let wallet = storage.credit_show(&call.who, id).await?;
    let ledger = storage.credit_ledger(&call.who, id, call.request.page(Order::Desc)?).await?;
    let pages = pages_of(call.request, &ledger, &format!("/dashboard/operator/tenants/{id}"));
    let (amount, note, reference) = typed;
    let account = operator::Account { tenant: &tenant, wallet: &wallet, ledger: &ledger, reference, typed: (amount, note), errors };
    Ok(Reply::html(status, operator::tenant(&framed(call, Place::Operator).await?, &account, &pages)))
}

fn tenant(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        // Each page's form has a reference of its own, so that the form counts once however often it is sent.
        shown(&call, 200, ("", "", &format!("dashboard-{}", RequestId::new())), &[]).await
    })
}

fn credit(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, form) = (id(&call)?, call.request.form()?);
        let (amount, note, reference) = (form.text("amount").trim(), form.text("note"), form.text("reference"));
        let added = match amount.parse::<Money>() {
            Ok(amount) if !reference.is_empty() => {
                let input = CreditInput { amount, reference: Some(reference.to_owned()), note: form.filled("note").map(str::to_owned) };
                call.app.storage.credit_add(&call.who, id, input).await
            }
            Ok(_) => Err(Error::invalid("", "The form came without its reference. Load the page again.")),
            Err(_) => Err(Error::invalid("/amount", "expected dollars such as 10.00")),
        };
        match added {
            Ok(_) => Ok(Reply::see_other(format!("/dashboard/operator/tenants/{id}?said=credit-added"))),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, (amount, note, reference), &errors).await
            }
        }
    })
}

fn suspend(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(&call)?;
        call.app.storage.tenant_suspend(&call.who, id, true).await?;
        Ok(Reply::see_other(format!("/dashboard/operator/tenants/{id}?said=suspended")))
    })
}

fn resume(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(&call)?;
        call.app.storage.tenant_suspend(&call.who, id, false).await?;
        Ok(Reply::see_other(format!("/dashboard/operator/tenants/{id}?said=resumed")))
    })
}
