//! What each endpoint does: one file a resource. A handler parses, asks storage or the agent, and replies; it decides nothing else.

mod health;
mod pages;

use super::endpoint::Endpoint;

/// Every endpoint of the server, in the order of the documentation.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let resources = [health::endpoints(), pages::endpoints()];
    resources.into_iter().flatten().collect()
}
