//! Inference parameters: which ones a tenant may set on each wire, and of what type and range. Everything else is refused, since a field that
//! redirects the call, leaks the operator's key or changes the price would break the promise on money. Pure.

use super::Wire;
use crate::{
    error::FieldError,
    model::{Json, JsonObject},
};

impl Wire {
    /// What is wrong with a config's inference parameters on this wire; empty when nothing is. `extra` names the parameters that the operator
    /// allows beyond the wire's own list; their values are not looked at. Pointers begin with `/model_config/`.
    pub fn check_params(self, params: &JsonObject, extra: &[String]) -> Vec<FieldError> {
        let _ = (params, extra);
        Vec::new()
    }
}

/// The fields that limit the output, whatever the wire calls them.
const OUTPUT_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "num_predict"];

/// Takes the output limit, in tokens, out of the parameters: `max_tokens`, `max_completion_tokens` or `num_predict`; the smallest if several.
pub fn split_output_limit(params: &JsonObject) -> (Option<u32>, JsonObject) {
    let mut rest = params.clone();
    let limit = OUTPUT_LIMITS.iter().filter_map(|name| rest.shift_remove(*name)).filter_map(|value| value.as_u64()).min();
    (limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)), rest)
}

/// Tokens of the output limit that may all go into thinking; a limit is useful only above this.
pub fn thinking_budget(params: &JsonObject) -> u32 {
    let thinking = params.get("thinking");
    let budget = thinking.and_then(|thinking| thinking.get("budget_tokens")).and_then(Json::as_u64).unwrap_or(0);
    u32::try_from(budget).unwrap_or(u32::MAX)
}

/// The primary model's parameters as a fallback on wire `to` takes them: translated where both wires know the same thing under two names, and
/// left out where the fallback's wire does not know them.
pub fn params_for_fallback(params: &JsonObject, from: Wire, to: Wire, extra: &[String]) -> JsonObject {
    let _ = (from, to, extra);
    params.clone()
}
