//! The tenant's wallet, to read. Credit comes from the operator alone (`operator`).

use crate::{
    http::{
        call::{Reply, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{LedgerEntry, List, Order, Role},
};

const TAG: &str = "Wallet";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("LedgerList", "GET", "/api/v1/wallet/ledger", Handler::Tenant(Role::Viewer, ledger_list))
            .about(TAG, "List the ledger, oldest first")
            .describe(
                "Entries are never changed or removed. Each carries the balance after it, and the hash of the entry before it in its own.",
            )
            .paged()
            .answers::<List<LedgerEntry>>(200)
            .errors(&["validation_failed"]),
    ]
}

fn ledger_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Asc)?;
        Reply::ok(&call.store.ledger_list(page).await?)
    })
}
