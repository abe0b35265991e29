//! The audit trail's page, for owners.

use super::{chosen, frame, pages_of};
use crate::{
    dashboard::{Place, audit},
    error::Error,
    http::{
        call::{PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{Act, Order, Page, Role},
    storage::AuditFilter,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new("AuditPage", "GET", "/dashboard/audit", Handler::Page(Role::Owner, page))]
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let act = chosen(call.request, "act").map(|name| Act::from_name(name).ok_or_else(|| Error::invalid("act", "no act is called so")));
        let act = act.transpose()?;
        let filter = AuditFilter { act, ..AuditFilter::default() };
        let entries = call.app.storage.audit_list(&call.store, filter, call.request.page(Order::Desc)?).await?;
        let members = call.app.storage.member_list(&call.who, Page::first(Page::LIMIT_MAX, Order::Desc)).await?;
        let pages = pages_of(call.request, &entries, "/dashboard/audit");
        let frame = frame(&call, Place::Audit).await?;
        Ok(Reply::html(200, audit::page(&frame, act, &members.data, &entries, &pages)))
    })
}
