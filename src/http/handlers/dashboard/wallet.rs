//! The wallet's page, and the ledger as a table for other programs.

use super::{frame, pages_of};
use crate::{
    dashboard::{Frame, Place, wallet},
    error::Result,
    http::{
        call::{PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{Order, Page, Role},
    storage::TenantStore,
};
use bytes::Bytes;
use tokio::sync::mpsc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("WalletPage", "GET", "/dashboard/wallet", Handler::Page(Role::Viewer, page)),
        Endpoint::new("LedgerCsv", "GET", "/dashboard/wallet/ledger.csv", Handler::Page(Role::Viewer, csv)),
    ]
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let ledger = call.store.ledger_list(call.request.page(Order::Desc)?).await?;
        let pages = pages_of(call.request, &ledger, "/dashboard/wallet");
        let balance = call.store.wallet_read().await?;
        let frame = Frame { scripts: &["ledger.js"], ..frame(&call, Place::Wallet).await? };
        Ok(Reply::html(200, wallet::page(&frame, &balance, &ledger, &pages)))
    })
}

fn csv(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (sender, pieces) = mpsc::channel(2);
        let store = call.store.clone();
        tokio::spawn(async move {
            if let Err(error) = written(&store, &sender).await {
                tracing::warn!(%error, "a ledger's table broke off");
                // Nobody should take what came for the whole.
                drop(sender.send("the rest could not be read\r\n".into()).await);
            }
        });
        let reply = Reply::Pieces { content_type: "text/csv; charset=utf-8", pieces, headers: Vec::new() };
        Ok(reply.with_header("content-disposition", "attachment; filename=\"ledger.csv\""))
    })
}

async fn written(store: &TenantStore, sender: &mpsc::Sender<Bytes>) -> Result<()> {
    let mut text = wallet::CSV_HEAD.to_owned();
    let mut page = Page::first(Page::LIMIT_MAX, Order::Asc);
    loop {
        let list = store.ledger_list(page.clone()).await?;
        for entry in &list.data {
            wallet::csv_line(&mut text, entry);
        }
        if sender.send(std::mem::take(&mut text).into()).await.is_err() || !list.has_more {
            return Ok(());
        }
        page.after = list.last_id;
    }
}
