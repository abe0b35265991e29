//! A tenant's settings and its end.

use super::{frame, told};
use crate::{
    dashboard::{
        Place,
        settings::{self, Fields},
    },
    error::{Error, FieldError, Result},
    http::{
        call::{Form, PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{RetentionPatch, Role, TenantPatch},
    storage::Visitor,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("SettingsPage", "GET", "/dashboard/settings", Handler::Page(Role::Viewer, page)),
        Endpoint::new("SettingsSave", "POST", "/dashboard/settings", Handler::Page(Role::Owner, save)),
        Endpoint::new("TenantEnd", "POST", "/dashboard/settings/delete", Handler::Page(Role::Owner, delete)),
    ]
}

async fn shown(call: &PageCall<'_>, status: u16, typed: Option<Fields>, errors: &[FieldError]) -> Result<Reply> {
    let tenant = call.app.storage.tenant_read(&call.who).await?;
    let fields = typed.unwrap_or_else(|| Fields::of(&tenant));
    Ok(Reply::html(status, settings::page(&frame(call, Place::Settings).await?, &tenant, &fields, errors)))
}

/// Days as they were typed; nothing is for ever.
fn days(form: &Form, name: &str) -> Result<Option<u32>> {
    let number = form.filled(name).map(str::parse).transpose();
    number.map_err(|_| Error::invalid(format!("/retention/{name}"), "expected a whole number of days"))
}

fn patch(form: &Form) -> Result<TenantPatch> {
    Ok(TenantPatch {
        name: Some(form.text("name").to_owned()),
        time_zone: Some(form.text("time_zone").trim().to_owned()),
        retention: Some(RetentionPatch {
            conversations_days: Some(days(form, "conversations_days")?),
            logs_days: Some(days(form, "logs_days")?),
        }),
    })
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None, &[]).await })
}

fn save(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let saved = match patch(&form) {
            Ok(patch) => call.app.storage.tenant_update(&call.who, patch).await,
            Err(error) => Err(error),
        };
        match saved {
            Ok(_) => Ok(Reply::see_other("/dashboard/settings?said=settings-saved")),
            Err(error) => {
                let (errors, status) = told(error)?;
                let text = |name| form.text(name).to_owned();
                let typed = Fields {
                    name: text("name"),
                    time_zone: text("time_zone"),
                    conversations_days: text("conversations_days"),
                    logs_days: text("logs_days"),
                };
                shown(&call, status, Some(typed), &errors).await
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
