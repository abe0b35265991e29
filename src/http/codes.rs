//! The codes of the contract: each with its status, its title, and what it means to whoever meets it. `problem` picks one for each error,
//! `openapi` and the page `/docs/errors` show them all.

/// One code of the contract's table "Errors".
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable and machine-readable.
    pub code: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
    /// What happened, in a few words; the same for every occurrence (RFC 9457 §3.1.3).
    pub title: &'static str,
    /// What it means and what to do, for the documentation.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:literal $code:literal $title:literal $meaning:literal;)*) => {
        $(pub(super) const $name: &Code = &Code { code: $code, status: $status, title: $title, meaning: $meaning };)*
        /// All codes, by status.
        pub const ALL: &[&Code] = &[$($name),*];
    };
}

codes! {
    MALFORMED_JSON 400 "malformed_json" "The body is not JSON"
        "The body could not be parsed. Send one JSON value in UTF-8.";
    MALFORMED_REQUEST 400 "malformed_request" "The request could not be parsed"
        "Something other than the body could not be parsed: the query string, a header, or two different credentials in one request.";
    MISSING_CREDENTIALS 401 "missing_credentials" "No credential was sent"
        "Send `X-API-Key: ns_…` on tenant routes, `Authorization: Bearer nu_…` on user routes, the operator token as bearer on operator routes.";
    INVALID_API_KEY 401 "invalid_api_key" "The API key does not work"
        "The key is unknown, wrong, revoked or expired: one answer for all of them. Copy it again, or make a new one.";
    INVALID_TOKEN 401 "invalid_token" "The token does not work"
        "The token is unknown, used, revoked or expired. Sign in again, or ask for a new mail.";
    INVALID_LOGIN 401 "invalid_login" "The address or the password is wrong"
        "One answer for both. A forgotten password is set anew by mail.";
    INSUFFICIENT_CREDIT 402 "insufficient_credit" "The balance does not cover this call"
        "Nothing was sent to a vendor. `required` is the most the call could cost, `available` what there is. The operator adds credit.";
    KEY_SPEND_LIMIT 402 "key_spend_limit" "The key's own spend limit is reached"
        "Nothing was sent to a vendor. An admin raises the key's `spend_limit`, or another key is used.";
    INSUFFICIENT_ROLE 403 "insufficient_role" "The key's role may not do this"
        "The route needs a stronger role than the key or its user's membership has.";
    EMAIL_NOT_VERIFIED 403 "email_not_verified" "The e-mail address is not verified"
        "POST the token from the verification mail to `/api/v1/auth/verify`, or register again to get a new one.";
    TENANT_SUSPENDED 403 "tenant_suspended" "The tenant is suspended"
        "The operator stopped this tenant's chat. Reading still works.";
    SIGNUP_CLOSED 403 "signup_closed" "Sign-up is closed"
        "This server takes new accounts by invitation or from its operator only.";
    CROSS_SITE 403 "cross_site" "The request does not come from the dashboard's own page"
        "A session's cookie is taken from the dashboard's own pages alone. Load the page again; programs use an API key.";
    NOT_FOUND 404 "not_found" "There is no such thing"
        "No route has this path, or nothing of this tenant has this id.";
    METHOD_NOT_ALLOWED 405 "method_not_allowed" "The path does not take this method"
        "The `Allow` header lists the methods that it takes.";
    REQUEST_TIMEOUT 408 "request_timeout" "The request took too long to arrive"
        "Send the whole body sooner.";
    CONFIG_NAME_TAKEN 409 "config_name_taken" "Another config has this name"
        "Names of configs are unique in a tenant. Choose another.";
    LAST_OWNER 409 "last_owner" "The last owner stays"
        "Make someone else an owner first.";
    TURN_CANCELLED 409 "turn_cancelled" "The turn was cancelled"
        "Someone cancelled the turn while this request waited for it. The conversation is valid; what the vendor did was charged.";
    CONVERSATION_BUSY 409 "conversation_busy" "Another turn runs on this conversation"
        "Wait for it, follow it, or cancel it; with `on_busy: \"queue\"` the server waits.";
    CONVERSATION_CONFIG_MISMATCH 409 "conversation_config_mismatch" "The conversation belongs to another config"
        "Chat on the config that the conversation was begun with.";
    TOOL_RESULTS_REQUIRED 409 "tool_results_required" "Tool calls wait for their results"
        "Post `tool_results` for every call in `open_tool_calls`, or pass `\"cancel_open_calls\": true`.";
    IDEMPOTENCY_IN_PROGRESS 409 "idempotency_in_progress" "The first request with this Idempotency-Key still runs"
        "Ask again after `Retry-After`.";
    CONFLICT 409 "conflict" "The thing is not in a state that allows this"
        "Something else changed it meanwhile, or it has to be in another state first. Read it again.";
    LENGTH_REQUIRED 411 "length_required" "The body's length is missing"
        "Send `Content-Length`, or `Transfer-Encoding: chunked`.";
    BODY_TOO_LARGE 413 "body_too_large" "The body is too large"
        "The detail names the limit.";
    URI_TOO_LONG 414 "uri_too_long" "Path and query are too long"
        "The detail names the limit.";
    UNSUPPORTED_MEDIA_TYPE 415 "unsupported_media_type" "Bodies are plain JSON"
        "Send JSON, not multipart, without a Content-Encoding.";
    VALIDATION_FAILED 422 "validation_failed" "Something in the request is not acceptable"
        "`errors` names each field by JSON pointer (or the query parameter by name) and says what would be right.";
    TOOL_RESULTS_MISMATCH 422 "tool_results_mismatch" "The tool results do not match the open calls"
        "Every open call is answered exactly once. `errors` names what is missing, unknown or repeated.";
    TEMPLATE_VARIABLE_MISSING 422 "template_variable_missing" "The prompt uses variables that have no value"
        "Pass them in `template_vars`.";
    IDEMPOTENCY_KEY_REUSED 422 "idempotency_key_reused" "The Idempotency-Key was used for another request"
        "Use a new key for a new request.";
    CONTEXT_TOO_LONG 422 "context_too_long" "The conversation does not fit the model's context window"
        "Start a new conversation, shorten the prompt, or set `context_policy` to `truncate` or `compact`.";
    BUNDLE_REFUSED 422 "bundle_refused" "The bundle is not acceptable"
        "`errors` names the entry of the archive, or the field of its manifest, and the rule that it broke. Nothing of it was kept.";
    WORKSPACE_IMAGE_UNSUPPORTED 422 "workspace_image_unsupported" "This server runs no images"
        "Leave `workspace_image` out: tools run in the server's own sandbox. Images need a container engine.";
    STEPS_EXHAUSTED 422 "steps_exhausted" "The agent called tools too often in one turn"
        "What it did so far is stored and charged. Send another message to let it go on, or ask for less at once.";
    RATE_LIMITED 429 "rate_limited" "Too many requests"
        "Come back after `Retry-After`. `RateLimit` and `RateLimit-Policy` tell the limits.";
    CREDIT_RESERVED 429 "credit_reserved" "All credit that is left is reserved by running turns"
        "Come back after `Retry-After`: what those turns do not use is released.";
    HEADERS_TOO_LARGE 431 "headers_too_large" "The headers are too large"
        "The detail names the limit.";
    INTERNAL 500 "internal" "The server failed"
        "It is logged under `request_id`. Trying again may help.";
    PROVIDER_ERROR 502 "provider_error" "The model's provider failed"
        "The vendor refused the call or broke off its answer.";
    PROVIDER_OVERLOADED 503 "provider_overloaded" "The model's provider is overloaded"
        "The vendor was asked more than once and had no room. Come back later, or give the config `fallbacks`.";
    PRICING_UNAVAILABLE 503 "pricing_unavailable" "The model has no published rate"
        "A model without a rate cannot be billed, so it is not called. `GET /api/v1/models` lists those that can.";
    PROVIDER_NOT_CONFIGURED 503 "provider_not_configured" "The provider is not set up on this server"
        "The operator has to set the provider and its credentials up.";
    TENANT_UNAVAILABLE 503 "tenant_unavailable" "The tenant's data cannot be opened"
        "The operator has to look at it. Other tenants are not affected.";
    SHUTTING_DOWN 503 "shutting_down" "The server is stopping"
        "Come back in a moment.";
    SANDBOX_UNAVAILABLE 503 "sandbox_unavailable" "No sandbox can be started"
        "Tools run in a sandbox or not at all. The operator looks at `nimblesite doctor`; `agent_type: \"client-side\"` needs none.";
    TOO_MANY_CHECKS 503 "too_many_checks" "Too many keys wait to be checked"
        "Come back after `Retry-After`.";
    MODEL_CLOSED 503 "model_closed" "The model is closed"
        "Its vendor reported more usage than the bound allows, so that calls could not be billed right. The operator opens it again.";
    OVERLOADED 503 "overloaded" "The server has no room"
        "Come back after `Retry-After`.";
    PROVIDER_TIMEOUT 504 "provider_timeout" "The model's provider took too long"
        "What the vendor may have done was charged, at most the hold.";
    TENANT_FULL 507 "tenant_full" "The tenant's size quota is reached"
        "Delete conversations, or ask the operator for more.";
    DISK_FULL 507 "disk_full" "The server's disk is full"
        "Nothing was sent to a vendor. The operator has to make room.";
}

/// The code of this name.
pub(super) fn named(name: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.code == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_of_status_and_each_stands_once() {
        assert!(ALL.is_sorted_by_key(|code| code.status));
        for code in ALL {
            assert_eq!(ALL.iter().filter(|other| other.code == code.code).count(), 1, "{}", code.code);
            assert_eq!(named(code.code), Some(*code));
        }
    }
}
