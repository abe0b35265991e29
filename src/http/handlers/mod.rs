//! What each endpoint does: one file a resource. A handler parses, asks storage or the agent, and replies; it decides nothing else.

mod audit;
mod auth;
mod chat;
mod configs;
mod conversations;
mod dashboard;
mod health;
mod keys;
mod logs;
mod members;
mod models;
mod operator;
mod pages;
mod sandboxes;
mod snapshots;
mod tenants;
mod usage;
mod wallet;

pub(super) use dashboard::refusal_page;

use super::endpoint::Endpoint;

/// Every endpoint of the server, in the order of the documentation.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let resources = [
        auth::endpoints(),
        tenants::endpoints(),
        keys::endpoints(),
        members::endpoints(),
        configs::endpoints(),
        sandboxes::endpoints(),
        snapshots::endpoints(),
        chat::endpoints(),
        conversations::endpoints(),
        models::endpoints(),
        wallet::endpoints(),
        usage::endpoints(),
        logs::endpoints(),
        audit::endpoints(),
        operator::endpoints(),
        health::endpoints(),
        pages::endpoints(),
        dashboard::endpoints(),
    ];
    resources.into_iter().flatten().collect()
}
