//! API keys. The answer to making one is the page that shows its text this once; a reload of it asks before it sends the form again.

use super::{frame, pages_of, told};
use crate::{
    dashboard::{Place, keys},
    error::{Error, FieldError, Result},
    http::{
        call::{Form, PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::KeyId,
    model::{KeyCreated, KeyInput, Order, Role},
    money::Money,
};
use std::time::Duration;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Member, run));
    vec![
        Endpoint::new("KeysPage", "GET", "/dashboard/keys", Handler::Page(Role::Member, list)),
        form("KeyMake", "/dashboard/keys", make),
        form("KeyRotatePage", "/dashboard/keys/{id}/rotate", rotate),
        form("KeyRevokePage", "/dashboard/keys/{id}/revoke", revoke),
    ]
}

fn id(request: &Request) -> Result<KeyId> {
    request.id("id", "key")
}

async fn shown(call: &PageCall<'_>, status: u16, made: Option<&KeyCreated>, sent: &keys::Sent) -> Result<Reply> {
    let list = call.app.storage.key_list(&call.who, call.request.page(Order::Desc)?).await?;
    let (newer, older) = pages_of(call.request, &list, "/dashboard/keys");
    let frame = frame(call, Place::Keys).await?;
    Ok(Reply::html(status, keys::page(&frame, &list, call.app.clock.now(), made, sent, newer.as_deref(), older.as_deref())))
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None, &keys::Sent::default()).await })
}

fn input(call: &PageCall<'_>, form: &Form) -> Result<KeyInput> {
    let days = form.filled("days").map(|text| text.parse::<u64>().map_err(|_| Error::invalid("/expires_at", "expected a number of days")));
    let lasts = days.transpose()?.map(|days| Duration::from_secs(days.min(36_500) * 24 * 3600));
    let limit = form.filled("spend_limit").map(str::parse::<Money>);
    Ok(KeyInput {
        name: form.text("name").to_owned(),
        role: form
            .filled("role")
            .map(|name| Role::from_name(name).ok_or_else(|| Error::invalid("/role", "no role is called so")))
            .transpose()?,
        expires_at: lasts.map(|lasts| call.app.clock.now().plus(lasts)),
        spend_limit: limit.transpose().map_err(|_| Error::invalid("/spend_limit", "expected dollars such as 10.00"))?,
        tenant_id: None,
        user_id: None,
    })
}

fn make(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let made = match input(&call, &form) {
            Ok(input) => call.app.storage.key_create(&call.who, input).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => shown(&call, 201, Some(&made), &keys::Sent::default()).await,
            Err(error) => {
                let (errors, status): (Vec<FieldError>, u16) = told(error)?;
                let text = |name| form.text(name).to_owned();
                let sent =
                    keys::Sent { name: text("name"), role: text("role"), days: text("days"), spend_limit: text("spend_limit"), errors };
                shown(&call, status, None, &sent).await
            }
        }
    })
}

fn rotate(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        match call.app.storage.key_rotate(&call.who, id(call.request)?).await {
            Ok(made) => shown(&call, 201, Some(&made), &keys::Sent::default()).await,
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, None, &keys::Sent { errors, ..keys::Sent::default() }).await
            }
        }
    })
}

fn revoke(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        call.app.storage.key_revoke(&call.who, id(call.request)?).await?;
        Ok(Reply::see_other("/dashboard/keys?said=key-revoked"))
    })
}
