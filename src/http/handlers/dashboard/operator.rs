//! The operator's pages: what the operator's routes answer, and never a tenant's content.

use super::{frame_of, pages_of, told};
use crate::{
    dashboard::{Frame, Place, Said, operator},
    error::{Error, FieldError, Result},
    http::{
        call::{OperatorPageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
        handlers::models::cards,
    },
    ids::{RequestId, TenantId},
    model::Order,
    money::Money,
    storage::CreditInput,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::OperatorPage(run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::OperatorPage(run));
    vec![
        page("OperatorPage", "/dashboard/operator", overview),
        page("OperatorTenantPage", "/dashboard/operator/tenants/{id}", tenant),
        form("OperatorCredit", "/dashboard/operator/tenants/{id}/credit", credit),
        form("OperatorSuspend", "/dashboard/operator/tenants/{id}/suspend", suspend),
        form("OperatorResume", "/dashboard/operator/tenants/{id}/resume", resume),
    ]
}

fn id(call: &OperatorPageCall<'_>) -> Result<TenantId> {
    call.request.id("id", "tenant")
}

async fn framed(call: &OperatorPageCall<'_>) -> Result<Frame> {
    let said = call.request.query("said").and_then(Said::named);
    Ok(Frame { said, ..frame_of(call.app, &call.session, Place::Operator).await? })
}

fn overview(call: OperatorPageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let app = call.app;
        let counts = app.storage.counts(&call.who).await?;
        let tenants = app.storage.tenant_list_all(&call.who, call.request.page(Order::Desc)?).await?;
        let mut wallets = Vec::with_capacity(tenants.data.len());
        for tenant in &tenants.data {
            // One broken tenant must not keep the operator from seeing the others.
            wallets.push(app.storage.credit_show(&call.who, tenant.id).await.ok());
        }
        let (newer, older) = pages_of(call.request, &tenants, "/dashboard/operator");
        let state = operator::State {
            version: env!("CARGO_PKG_VERSION"),
            started_at: app.started,
            tenants: counts.tenants,
            tenants_suspended: counts.tenants_suspended,
            tenants_open: counts.tenants_open,
            users: counts.users,
            disk_free_bytes: counts.disk_free_bytes,
            providers: app.config.providers.iter().map(|(name, provider)| (name.clone(), provider.configured())).collect(),
            backup: app.storage.backup_newest(&call.who).await?,
        };
        let page = operator::page(&framed(&call).await?, &state, &tenants, &wallets, &cards(app, None), newer.as_deref(), older.as_deref());
        Ok(Reply::html(200, page))
    })
}

async fn shown(call: &OperatorPageCall<'_>, status: u16, typed: (&str, &str, &str), errors: &[FieldError]) -> Result<Reply> {
    let (id, storage) = (id(call)?, &call.app.storage);
    let tenant = storage.tenant_show(&call.who, id).await?;
    let wallet = storage.credit_show(&call.who, id).await?;
    let ledger = storage.credit_ledger(&call.who, id, call.request.page(Order::Desc)?).await?;
    let (newer, older) = pages_of(call.request, &ledger, &format!("/dashboard/operator/tenants/{id}"));
    let (amount, note, reference) = typed;
    let account = operator::Account { tenant: &tenant, wallet: &wallet, ledger: &ledger, reference, typed: (amount, note), errors };
    Ok(Reply::html(status, operator::tenant(&framed(call).await?, &account, newer.as_deref(), older.as_deref())))
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
