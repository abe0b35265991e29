//! The tenant's wallet, to read. Credit comes from the operator alone (`operator`).

use crate::{
    http::{
        call::{Reply, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{LedgerEntry, List, Order, Role, Wallet},
};

const TAG: &str = "Wallet";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("WalletGet", "GET", "/api/v1/wallet", Handler::Tenant(Role::Viewer, wallet_get))
            .about(TAG, "Read the balance")
            .describe("`balance` is what was deposited and not yet spent; `held` of it is set aside for running vendor calls.")
            .answers::<Wallet>(200),
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

fn wallet_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.store.wallet_read().await?) })
}

fn ledger_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Asc)?;
        Reply::ok(&call.store.ledger_list(page).await?)
    })
}
