//! Requests of a known tenant that the door turned away.

use super::{door::Seen, problem};
use crate::{app::App, error::Error, storage::Principal};

/// Notes a refusal where the tenant's own people can see it.
pub(super) async fn note(_app: &App, seen: &Seen, who: &Principal, error: &Error) {
    let endpoint = seen.endpoint.map_or("none", |endpoint| endpoint.name);
    let code = problem::problem_of(error).code.code;
    tracing::debug!(endpoint, code, key = %who.key_id(), "refused at the door");
}
