//! API keys. The answer to making one is the page that shows its text this once; the same form again leads to the list.

use super::{
    chosen, frame,
    once::{Made, once},
    pages_of, told,
};
use crate::{
    dashboard::{Place, keys},
    error::{Error, FieldError, Result},
    http::{
        call::{Form, PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::KeyId,
    model::{KeyCreated, KeyInput, KeyPatch, Order, Role},
    money::Money,
};
use std::time::Duration;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Member, run));
    vec![
        Endpoint::new("KeysPage", "GET", "/dashboard/keys", Handler::Page(Role::Member, list)),
        form("KeyMake", "/dashboard/keys", make),
        form("KeyChange", "/dashboard/keys/{id}", change),
        form("KeyRotatePage", "/dashboard/keys/{id}/rotate", rotate),
        form("KeyRevokePage", "/dashboard/keys/{id}/revoke", revoke),
    ]
}

/// Where the second of two same forms leads: the text was in the answer to the first.
const MADE_BEFORE: &str = "/dashboard/keys?said=key-made-before";

fn id(request: &Request) -> Result<KeyId> {
    request.id("id", "key")
}

async fn shown(call: &PageCall<'_>, status: u16, made: Option<&KeyCreated>, sent: &keys::Sent) -> Result<Reply> {
    let list = call.app.storage.key_list(&call.who, call.request.page(Order::Desc)?).await?;
    let pages = pages_of(call.request, &list, "/dashboard/keys");
    let edited = chosen(call.request, "edit").filter(|_| made.is_none() && sent.edited.is_none());
    let edited = edited.and_then(|id| list.data.iter().find(|key| key.id.to_string() == id && key.revoked_at.is_none()));
    let editing = edited.map(|key| keys::Sent {
        edited: Some(key.id.to_string()),
        name: key.name.clone(),
        spend_limit: key.spend_limit.map(|limit| limit.to_string()).unwrap_or_default(),
        ..keys::Sent::default()
    });
    let frame = frame(call, Place::Keys).await?;
    let page = keys::page(&frame, &list, call.app.clock.now(), made, editing.as_ref().unwrap_or(sent), &pages);
    Ok(Reply::html(status, page))
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None, &keys::Sent::default()).await })
}

fn lasts(form: &Form) -> Result<Option<Duration>> {
    let days = form.filled("days").filter(|text| *text != "never");
    let days = days.map(|text| text.parse::<u64>().map_err(|_| Error::invalid("/expires_at", "expected a number of days"))).transpose()?;
    Ok(days.map(|days| Duration::from_secs(days.min(36_500) * 24 * 3600)))
}

fn spend_limit(form: &Form) -> Result<Option<Money>> {
    let limit = form.filled("spend_limit").map(str::parse::<Money>).transpose();
    limit.map_err(|_| Error::invalid("/spend_limit", "expected dollars such as 10.00"))
}

fn input(call: &PageCall<'_>, form: &Form) -> Result<KeyInput> {
    let role = form.filled("role").map(|name| Role::from_name(name).ok_or_else(|| Error::invalid("/role", "no role is called so")));
    Ok(KeyInput {
        name: form.text("name").to_owned(),
        role: role.transpose()?,
        expires_at: lasts(form)?.map(|lasts| call.app.clock.now().plus(lasts)),
        spend_limit: spend_limit(form)?,
        tenant_id: None,
        user_id: None,
    })
}

fn patch(call: &PageCall<'_>, form: &Form) -> Result<KeyPatch> {
    let ends = lasts(form)?.map(|lasts| call.app.clock.now().plus(lasts));
    Ok(KeyPatch {
        name: Some(form.text("name").to_owned()),
        // What is left as it is, is not sent.
        expires_at: form.filled("days").map(|_| ends),
        spend_limit: Some(spend_limit(form)?),
    })
}

/// The form again, with what is wrong.
async fn again(call: &PageCall<'_>, form: &Form, edited: Option<KeyId>, error: Error) -> Result<Reply> {
    let (errors, status): (Vec<FieldError>, u16) = told(error)?;
    let text = |name| form.text(name).to_owned();
    let edited = edited.map(|id| id.to_string());
    let sent = keys::Sent { edited, name: text("name"), role: text("role"), days: text("days"), spend_limit: text("spend_limit"), errors };
    shown(call, status, None, &sent).await
}

/// The page with a new key's text, or, for a form that was sent before, the list.
async fn made(call: &PageCall<'_>, made: Made<KeyCreated>) -> Result<Reply> {
    match made {
        Made::Now(made) => shown(call, 201, Some(&made), &keys::Sent::default()).await,
        Made::Before(at) => Ok(Reply::see_other(at)),
    }
}

fn make(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let input = match input(&call, &form) {
            Ok(input) => input,
            Err(error) => return again(&call, &form, None, error).await,
        };
        let (storage, who) = (call.app.storage.clone(), call.who.clone());
        let key = async move { storage.key_create(&who, input).await };
        match once(call.app, &call.session, call.request, |_| MADE_BEFORE.to_owned(), key).await {
            Ok(key) => made(&call, key).await,
            Err(error) => again(&call, &form, None, error).await,
        }
    })
}

fn change(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, form) = (id(call.request)?, call.request.form()?);
        let changed = match patch(&call, &form) {
            Ok(patch) => call.app.storage.key_update(&call.who, id, patch).await,
            Err(error) => Err(error),
        };
        match changed {
            Ok(_) => Ok(Reply::see_other("/dashboard/keys?said=key-changed")),
            Err(error) => again(&call, &form, Some(id), error).await,
        }
    })
}

fn rotate(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, storage, who) = (id(call.request)?, call.app.storage.clone(), call.who.clone());
        let key = async move { storage.key_rotate(&who, id).await };
        match once(call.app, &call.session, call.request, |_| MADE_BEFORE.to_owned(), key).await {
            Ok(key) => made(&call, key).await,
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
