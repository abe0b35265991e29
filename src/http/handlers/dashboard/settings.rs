//! A tenant's settings and its end.

use super::{frame, told};
use crate::{
    dashboard::{Place, settings},
    error::{Error, FieldError, Result},
    http::{
        call::{PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{Role, TenantPatch},
    storage::Visitor,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("SettingsPage", "GET", "/dashboard/settings", Handler::Page(Role::Viewer, page)),
        Endpoint::new("SettingsSave", "POST", "/dashboard/settings", Handler::Page(Role::Owner, save)),
        Endpoint::new("TenantEnd", "POST", "/dashboard/settings/delete", Handler::Page(Role::Owner, delete)),
    ]
}

async fn shown(call: &PageCall<'_>, status: u16, typed: Option<(&str, &str)>, errors: &[FieldError]) -> Result<Reply> {
    let mut tenant = call.app.storage.tenant_read(&call.who).await?;
    if let Some((name, zone)) = typed {
        (tenant.name, tenant.time_zone) = (name.to_owned(), zone.to_owned());
    }
    Ok(Reply::html(status, settings::page(&frame(call, Place::Settings).await?, &tenant, errors)))
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None, &[]).await })
}

fn save(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let (name, zone) = (form.text("name"), form.text("time_zone").trim());
        let patch = TenantPatch { name: Some(name.to_owned()), time_zone: Some(zone.to_owned()), ..TenantPatch::default() };
        match call.app.storage.tenant_update(&call.who, patch).await {
            Ok(_) => Ok(Reply::see_other("/dashboard/settings?said=settings-saved")),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, Some((name, zone)), &errors).await
            }
        }
    })
}

fn delete(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let confirm = form.text("confirm").trim();
        if confirm != call.who.tenant_name() {
            let errors = [FieldError { pointer: "/confirm".to_owned(), message: "Expected the name, exactly as it is.".to_owned() }];
            return shown(&call, 422, None, &errors).await;
        }
        let PageCall { app, session, who, store, .. } = call;
        // A store keeps the file open, and it is the file that goes.
        drop(store);
        app.agent.without_turns(who.tenant_id(), app.storage.tenant_delete(&who, confirm)).await?;
        match session.visitor() {
            Visitor::User { .. } => Ok(Reply::see_other("/dashboard/tenants")),
            Visitor::Key(_) => Ok(Reply::see_other("/dashboard/sign-in")),
            Visitor::Operator(_) => Err(Error::internal("an operator's session in a tenant")),
        }
    })
}
