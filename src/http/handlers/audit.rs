//! The audit log, for owners to read. Whoever acts writes it (`storage::trail`); nobody changes it.

use crate::{
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{Act, AuditEntry, List, Order, Role},
    storage::AuditFilter,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("AuditList", "GET", "/api/v1/audit", Handler::Tenant(Role::Owner, audit_list))
            .about("Audit", "List who made, changed or ended what, newest first")
            .describe(
                "Keys, members, the tenant itself, configs, deleted conversations, exports, credit. Entries are never changed or removed, and \
                 stand in two chains, `access` and `content`, each kept in the database that its acts change: an entry's `hash` is the SHA-256 \
                 of the line of JSON `[hash before, chain, seq, id, act, actor, user_id, key_id, target, detail, created_at]`, and the hash \
                 before the first is that of `nimblesite audit CHAIN TENANT_ID`. There are no secrets and no content in it.",
            )
            .paged()
            .query("act", "only this act, such as key.revoke")
            .query("user_id", "only what this user did")
            .query("key_id", "only what was done with this key")
            .query("target", "only what was done to the thing of this id")
            .query("since", "from this time on")
            .query("until", "before this time")
            .answers::<List<AuditEntry>>(200)
            .errors(&["validation_failed"]),
    ]
}

fn filter(request: &Request) -> Result<AuditFilter> {
    let act = match request.query("act") {
        None => None,
        Some(name) => Some(Act::from_name(name).ok_or_else(|| {
            let names: Vec<_> = Act::ALL.iter().map(|act| act.name()).collect();
            Error::invalid("act", format!("expected one of {}", names.join(", ")))
        })?),
    };
    Ok(AuditFilter {
        act,
        user_id: request.query_as("user_id", "a user's id")?,
        key_id: request.query_as("key_id", "a key's id")?,
        target: request.query("target").map(str::to_owned),
        since: request.query_as("since", "an RFC 3339 time such as 2026-11-24T08:30:00Z")?,
        until: request.query_as("until", "an RFC 3339 time such as 2026-11-24T08:30:00Z")?,
    })
}

fn audit_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (filter, page) = (filter(call.request)?, call.request.page(Order::Desc)?);
        Reply::ok(&call.app.storage.audit_list(&call.store, filter, page).await?)
    })
}
