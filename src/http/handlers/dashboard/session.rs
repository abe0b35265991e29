//! The session itself: choose or make a tenant, set the password, sign out.

use super::{
    frame_of,
    once::{Made, once},
    said, tenants_of, told,
};
use crate::{
    dashboard::{Frame, Place, account, gate},
    error::{Error, FieldError, Result},
    http::{
        call::{Reply, SessionCall},
        cookie,
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::{RequestId, TenantId},
    secret::Password,
    storage::{SignedIn, Visitor},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::Session(run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Session(run));
    vec![
        page("TenantsPage", "/dashboard/tenants", tenants),
        form("TenantMake", "/dashboard/tenants", tenant_make),
        form("TenantChoose", "/dashboard/tenants/choose", tenant_choose),
        page("AccountPage", "/dashboard/account", account_page),
        form("AccountPassword", "/dashboard/account/password", account_password).guessable(),
        form("SignOut", "/dashboard/sign-out", sign_out),
        form("SignOutEverywhere", "/dashboard/sign-out/everywhere", sign_out_everywhere),
    ]
}

/// Keys and the operator have no account, no other tenants, and learn nothing of anyone's.
fn user<'a>(call: &'a SessionCall<'_>) -> Result<&'a SignedIn> {
    call.session.user().ok_or(Error::NoSuchRoute)
}

fn tenants(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        if matches!(call.session.visitor(), Visitor::Operator(_)) {
            return Ok(Reply::see_other("/dashboard/operator"));
        }
        tenants_shown(&call, 200, "", &[]).await
    })
}

async fn tenants_shown(call: &SessionCall<'_>, status: u16, name: &str, errors: &[FieldError]) -> Result<Reply> {
    user(call)?;
    let tenants = tenants_of(call.app, &call.session).await?;
    let once = RequestId::new().to_string();
    Ok(Reply::html(status, gate::tenants(call.session.form_token(), &once, &tenants, name, errors)))
}

fn tenant_make(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (user, form) = (user(&call)?.clone(), call.request.form()?);
        let (storage, session, name) = (call.app.storage.clone(), call.session.clone(), form.text("name").to_owned());
        let making = async move {
            let made = storage.tenant_create(&user, &name).await?;
            storage.session_choose(&session, made.id).await?;
            Ok(made)
        };
        match once(call.app, &call.session, call.request, |_| "/dashboard?said=tenant-made-before".to_owned(), making).await {
            Ok(Made::Now(made)) => Ok(Reply::html(201, gate::tenant_made(call.session.form_token(), &made))),
            Ok(Made::Before(at)) => Ok(Reply::see_other(at)),
            Err(error) => {
                let (errors, status) = told(error)?;
                tenants_shown(&call, status, form.text("name"), &errors).await
            }
        }
    })
}

fn tenant_choose(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        user(&call)?;
        let form = call.request.form()?;
        let text = form.text("tenant_id");
        let tenant: TenantId = text.parse().map_err(|_| Error::not_found("tenant", text))?;
        call.app.storage.session_choose(&call.session, tenant).await?;
        Ok(Reply::see_other("/dashboard"))
    })
}

async fn account_frame(call: &SessionCall<'_>) -> Result<Frame> {
    let tenant = call.session.principal().map(|who| (who.tenant_id(), who.tenant_name().to_owned(), who.role()));
    Ok(Frame { tenant, said: said(call), ..frame_of(call.app, &call.session, Place::Account).await? })
}

fn account_page(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        user(&call)?;
        Ok(Reply::html(200, account::page(&account_frame(&call).await?, &[])))
    })
}

fn account_password(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (user, form) = (user(&call)?, call.request.form()?);
        let password = |name| Password::new(form.text(name).to_owned());
        match call.app.storage.password_change(user, &password("current_password"), &password("new_password")).await {
            Ok(()) => Ok(Reply::see_other("/dashboard/sign-in?said=reset").with(cookie::taken(&call.app.config))),
            Err(error) => {
                let (errors, status): (Vec<FieldError>, u16) = told(error)?;
                Ok(Reply::html(status, account::page(&account_frame(&call).await?, &errors)))
            }
        }
    })
}

fn sign_out(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        call.app.storage.session_end(&call.session).await?;
        Ok(Reply::see_other("/dashboard/sign-in?said=signed-out").with(cookie::taken(&call.app.config)))
    })
}

fn sign_out_everywhere(call: SessionCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        call.app.storage.session_end_all(&call.session).await?;
        Ok(Reply::see_other("/dashboard/sign-in?said=signed-out").with(cookie::taken(&call.app.config)))
    })
}
