//! What each endpoint does: one file a resource. A handler parses, asks storage or the agent, and replies; it decides nothing else.

use super::endpoint::Endpoint;

/// Every endpoint of the server.
pub(super) fn endpoints() -> Vec<Endpoint> {
    Vec::new()
}
