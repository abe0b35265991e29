//! The one place where an error becomes an answer: RFC 9457 `application/problem+json`. The match is exhaustive, so that a new error cannot
//! reach a client by accident; what is internal becomes a bare 500.

use super::codes::{self, Code};
use crate::{
    error::{Error, FieldError},
    ids::RequestId,
    model::{Json, JsonObject},
};
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;

/// An error as a client may see it.
#[derive(Debug)]
pub struct ProblemParts {
    /// The code, with status and title.
    pub code: &'static Code,
    /// What happened here and what to do about it.
    pub detail: String,
    /// The fields at fault, if any.
    pub errors: Vec<FieldError>,
    /// When to come back, for `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The methods that the path takes, for `Allow`.
    pub allow: Option<String>,
    /// Extension members (RFC 9457 §3.2).
    pub extra: JsonObject,
}

impl ProblemParts {
    fn errors(self, errors: &[FieldError]) -> Self {
        Self { errors: errors.to_vec(), ..self }
    }

    fn retry(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    fn with(mut self, name: &str, value: Json) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.code.status
    }

    /// The problem object. `docs` is the address of the page that explains the codes.
    pub fn json(&self, id: RequestId, docs: &str) -> Json {
        let mut object = JsonObject::new();
        object.insert("type".into(), json!(format!("{docs}#{}", self.code.code)));
        object.insert("title".into(), json!(self.code.title));
        object.insert("status".into(), json!(self.code.status));
        object.insert("detail".into(), json!(self.detail));
        object.insert("code".into(), json!(self.code.code));
        object.insert("request_id".into(), json!(id));
        let errors = self.errors.iter().map(|error| json!({"pointer": error.pointer, "message": error.message}));
        object.insert("errors".into(), errors.collect());
        object.extend(self.extra.clone());
        Json::Object(object)
    }

    /// The same as bytes.
    pub fn body(&self, id: RequestId, docs: &str) -> Bytes {
        self.json(id, docs).to_string().into()
    }
}

/// Whole seconds for `Retry-After`, rounded up, at least one: a client told 0 comes back at once.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn retry_words(wait: Duration) -> String {
    match whole_seconds(wait) {
        1 => "Try again in a second.".to_owned(),
        seconds => format!("Try again in {seconds} seconds."),
    }
}

fn new(code: &'static Code, detail: impl Into<String>) -> ProblemParts {
    ProblemParts { code, detail: detail.into(), errors: Vec::new(), retry_after: None, allow: None, extra: JsonObject::new() }
}

/// What a client may see of an error.
pub fn problem_of(error: &Error) -> ProblemParts {
    match error {
        Error::MalformedJson { detail } => new(codes::MALFORMED_JSON, detail),
        Error::MalformedRequest { detail } => new(codes::MALFORMED_REQUEST, detail),

        Error::MissingCredentials => new(
            codes::MISSING_CREDENTIALS,
            "Send your API key as `X-API-Key: ns_live_…`; on /api/v1/auth and /api/v1/tenants, a user token as `Authorization: Bearer nu_…`; on /api/v1/operator, the operator token as `Authorization: Bearer …`.",
        ),
        Error::InvalidApiKey => new(codes::INVALID_API_KEY, "The API key is unknown, wrong, revoked or expired. Check that it was copied whole, or make a new one."),
        Error::InvalidLogin => new(codes::INVALID_LOGIN, "The address or the password is wrong. If you forgot it, POST /api/v1/auth/password/forgot."),
        Error::InvalidToken => new(codes::INVALID_TOKEN, "The token is unknown, already used, revoked or expired. Sign in again, or ask for a new mail; on /api/v1/operator, check the server's operator_token."),

        Error::InsufficientCredit { required, available } => {
            new(codes::INSUFFICIENT_CREDIT, format!("This call may cost up to ${required}, and ${available} is available. Add credit, lower max_tokens, or choose a cheaper model."))
                .with("required", json!(required))
                .with("available", json!(available))
        }
        Error::KeySpendLimit { limit, spent } => {
            new(codes::KEY_SPEND_LIMIT, format!("This key may spend ${limit} in all and has spent ${spent}; the call does not fit below the limit. Raise the key's spend_limit or use another key."))
                .with("spend_limit", json!(limit))
                .with("spent", json!(spent))
        }

        Error::InsufficientRole { needed } => {
            new(codes::INSUFFICIENT_ROLE, format!("This needs the role {needed} or a stronger one. An admin can make such a key, if your membership allows it.")).with("required_role", json!(needed))
        }
        Error::KeyIsCapped => new(
            codes::INSUFFICIENT_ROLE,
            "A key with a spend_limit of its own makes and changes no keys: each new one would begin to count at zero. Use a key without a limit, or a user token.",
        ),
        Error::EmailNotVerified => new(codes::EMAIL_NOT_VERIFIED, "POST the token from the verification mail to /api/v1/auth/verify first; registering again sends a new one."),
        Error::TenantSuspended => new(codes::TENANT_SUSPENDED, "The operator has suspended this tenant: reading works, chat does not. Ask the operator."),
        Error::SignupClosed => new(codes::SIGNUP_CLOSED, "Sign-up is closed on this server. Ask its operator, or a tenant's admin, for an invitation."),

        Error::CrossSite => new(codes::CROSS_SITE, "A session of the dashboard writes from the dashboard's own pages alone, with their token. Load the page again; programs use an API key."),
        Error::NoTenantChosen => new(codes::CONFLICT, "This session has chosen no tenant that it belongs to. Choose one at /dashboard/tenants."),

        Error::NotFound { what, id } => new(codes::NOT_FOUND, format!("There is no {what} with the id {id:?}.")),
        Error::NoSuchRoute => new(codes::NOT_FOUND, "No route has this path. /openapi.json and /docs list them all; paths have no trailing slash."),

        Error::MethodNotAllowed { allowed } => ProblemParts {
            allow: Some(allowed.clone()),
            ..new(codes::METHOD_NOT_ALLOWED, format!("This path takes {allowed}."))
        },
        Error::RequestTimeout => new(codes::REQUEST_TIMEOUT, "The body did not arrive in time. Send it again, without pauses."),
        Error::LengthRequired => new(codes::LENGTH_REQUIRED, "Send the JSON body with a Content-Length, or with Transfer-Encoding: chunked."),
        Error::BodyTooLarge { limit_bytes } => new(codes::BODY_TOO_LARGE, format!("The body may have {limit_bytes} bytes.")).with("limit_bytes", json!(limit_bytes)),
        Error::UriTooLong { limit_bytes } => new(codes::URI_TOO_LONG, format!("Path and query together may have {limit_bytes} bytes.")).with("limit_bytes", json!(limit_bytes)),
        Error::UnsupportedMediaType => new(codes::UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON: no multipart form, no Content-Encoding."),
        Error::HeadersTooLarge { limit_bytes } => {
            new(codes::HEADERS_TOO_LARGE, format!("All headers together may have {limit_bytes} bytes, and there may not be too many of them.")).with("limit_bytes", json!(limit_bytes))
        }

        Error::ConfigNameTaken { name } => new(codes::CONFIG_NAME_TAKEN, format!("Another config of this tenant is called {name:?}. Choose another name.")),
        Error::LastOwner => new(codes::LAST_OWNER, "A tenant keeps at least one owner. Make another member an owner first."),
        Error::TurnCancelled => new(codes::TURN_CANCELLED, "The turn was cancelled. What the vendor did so far was charged; the conversation can go on."),
        Error::ConversationBusy { retry_after } => {
            new(codes::CONVERSATION_BUSY, format!("Another turn runs on this conversation. {}", retry_words(*retry_after))).retry(*retry_after)
        }
        Error::ConversationConfigMismatch => new(codes::CONVERSATION_CONFIG_MISMATCH, "The conversation was begun on another config. Use that one, or leave conversation_id out to begin a new one."),
        Error::ToolResultsRequired { open } => {
            let calls: Json = open.iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
            let names: Vec<_> = open.iter().map(|(id, name)| format!("{name} ({id})")).collect();
            new(codes::TOOL_RESULTS_REQUIRED, format!("Post tool_results for {} first, or pass \"cancel_open_calls\": true.", names.join(", "))).with("open_tool_calls", calls)
        }
        Error::IdempotencyInProgress { retry_after } => {
            new(codes::IDEMPOTENCY_IN_PROGRESS, format!("The first request with this Idempotency-Key is not answered yet. {}", retry_words(*retry_after))).retry(*retry_after)
        }
        Error::Conflict { detail } => new(codes::CONFLICT, detail),

        Error::ValidationFailed { errors } => new(codes::VALIDATION_FAILED, in_words(errors)).errors(errors),
        Error::ToolResultsMismatch { errors } => new(codes::TOOL_RESULTS_MISMATCH, in_words(errors)).errors(errors),
        Error::TemplateVariableMissing { names } => {
            let errors: Vec<_> = names
                .iter()
                .map(|name| FieldError { pointer: format!("/template_vars/{name}"), message: "the prompt uses this variable and it has no value".to_owned() })
                .collect();
            new(codes::TEMPLATE_VARIABLE_MISSING, format!("Pass {} in template_vars.", names.join(", "))).errors(&errors)
        }
        Error::IdempotencyKeyReused => new(codes::IDEMPOTENCY_KEY_REUSED, "This Idempotency-Key was used for a different request. Send a new key."),
        Error::ContextTooLong { detail } => {
            new(codes::CONTEXT_TOO_LONG, format!("{detail} Begin a new conversation, or set context_policy to truncate or compact."))
        }
        Error::BundleRefused { errors } => new(codes::BUNDLE_REFUSED, in_words(errors)).errors(errors),
        Error::WorkspaceImageUnsupported => new(
            codes::WORKSPACE_IMAGE_UNSUPPORTED,
            "This server has no container engine to run an image with. Leave workspace_image out, or send null, to run in its own sandbox.",
        ),
        Error::StepsExhausted { limit } => {
            new(codes::STEPS_EXHAUSTED, format!("The agent took {limit} steps and still wanted to call tools. They are stored; send another message to let it go on."))
        }

        Error::RateLimited { retry_after } => new(codes::RATE_LIMITED, format!("Too many requests. {}", retry_words(*retry_after))).retry(*retry_after),
        Error::CreditReserved { required, available, retry_after } => {
            new(codes::CREDIT_RESERVED, format!("This call may cost up to ${required}; ${available} is free while running turns hold the rest. {}", retry_words(*retry_after)))
                .retry(*retry_after)
                .with("required", json!(required))
                .with("available", json!(available))
        }

        // The detail went to the log; here it stops.
        Error::Internal { detail: _ } => new(codes::INTERNAL, "The server failed. Tell its operator the request_id; trying again may help."),

        Error::ProviderError { detail } => new(codes::PROVIDER_ERROR, detail),
        Error::ProviderOverloaded { retry_after } => ProblemParts {
            retry_after: *retry_after,
            ..new(codes::PROVIDER_OVERLOADED, format!("The provider had no room. {}", retry_after.map_or_else(|| "Try again later.".to_owned(), retry_words)))
        },
        Error::PricingUnavailable { provider, model } => {
            new(codes::PRICING_UNAVAILABLE, format!("The rate card has no price for {provider}/{model}, so it is not called. GET /api/v1/models lists the models that can be."))
        }
        Error::ProviderNotConfigured { provider, detail } => new(codes::PROVIDER_NOT_CONFIGURED, format!("The provider {provider:?} cannot be used: {detail}")),
        Error::TenantUnavailable | Error::Sealed { detail: _ } => new(codes::TENANT_UNAVAILABLE, "This tenant's data cannot be opened. The operator has to look at it."),
        Error::ShuttingDown => new(codes::SHUTTING_DOWN, "The server is stopping. Try again in a moment.").retry(Duration::from_secs(5)),
        Error::SandboxUnavailable { detail } => {
            new(codes::SANDBOX_UNAVAILABLE, format!("{detail} Tools are never run outside a sandbox: ask the operator, or use agent_type client-side."))
        }
        Error::TooManyChecks { retry_after } => new(codes::TOO_MANY_CHECKS, format!("Too many credentials wait to be checked. {}", retry_words(*retry_after))).retry(*retry_after),
        Error::ModelClosed { provider, model } => {
            new(codes::MODEL_CLOSED, format!("{provider}/{model} is closed: its vendor reported more usage than can be billed. Use another model, or ask the operator."))
        }
        Error::Overloaded { retry_after } => new(codes::OVERLOADED, format!("The server has no room for this now. {}", retry_words(*retry_after))).retry(*retry_after),
        Error::ProviderTimeout { detail } => new(codes::PROVIDER_TIMEOUT, detail),
        Error::TenantFull => new(codes::TENANT_FULL, "The tenant's size quota is reached. Delete conversations, or ask the operator for more."),
        Error::DiskFull => new(codes::DISK_FULL, "The server's disk is full. Nothing was charged; ask the operator."),
    }
}

/// The first things that are wrong, as a sentence.
fn in_words(errors: &[FieldError]) -> String {
    const SHOWN: usize = 3;
    let mut words: Vec<_> = errors
        .iter()
        .take(SHOWN)
        .map(|error| if error.pointer.is_empty() { error.message.clone() } else { format!("{}: {}", error.pointer, error.message) })
        .collect();
    if errors.len() > SHOWN {
        words.push(format!("and {} more", errors.len() - SHOWN));
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Money;
    use std::{collections::BTreeSet, fmt::Write};

    /// One of each.
    fn samples() -> Vec<Error> {
        let (detail, wait) = ("What happened.".to_owned(), Duration::from_millis(1_500));
        let money = |text: &str| text.parse::<Money>().unwrap();
        let errors = || vec![FieldError { pointer: "/name".to_owned(), message: "expected 1 to 200 characters".to_owned() }];
        let (provider, model) = ("openai".to_owned(), "gpt".to_owned());
        vec![
            Error::MalformedJson { detail: detail.clone() },
            Error::MalformedRequest { detail: detail.clone() },
            Error::MissingCredentials,
            Error::InvalidApiKey,
            Error::InvalidToken,
            Error::InvalidLogin,
            Error::InsufficientCredit { required: money("0.5"), available: money("0.1") },
            Error::KeySpendLimit { limit: money("1"), spent: money("0.9") },
            Error::InsufficientRole { needed: "admin" },
            Error::KeyIsCapped,
            Error::EmailNotVerified,
            Error::TenantSuspended,
            Error::SignupClosed,
            Error::CrossSite,
            Error::not_found("config", "x\"<script>"),
            Error::NoSuchRoute,
            Error::MethodNotAllowed { allowed: "GET, HEAD".to_owned() },
            Error::RequestTimeout,
            Error::LengthRequired,
            Error::BodyTooLarge { limit_bytes: 10 },
            Error::UriTooLong { limit_bytes: 10 },
            Error::UnsupportedMediaType,
            Error::HeadersTooLarge { limit_bytes: 10 },
            Error::ConfigNameTaken { name: "Site Editor".to_owned() },
            Error::LastOwner,
            Error::TurnCancelled,
            Error::ConversationBusy { retry_after: wait },
            Error::ConversationConfigMismatch,
            Error::ToolResultsRequired { open: vec![("call_01".to_owned(), "write_file".to_owned())] },
            Error::IdempotencyInProgress { retry_after: wait },
            Error::Conflict { detail: detail.clone() },
            Error::ValidationFailed { errors: errors() },
            Error::ToolResultsMismatch { errors: errors() },
            Error::TemplateVariableMissing { names: vec!["customer".to_owned()] },
            Error::IdempotencyKeyReused,
            Error::ContextTooLong { detail: detail.clone() },
            Error::BundleRefused { errors: errors() },
            Error::WorkspaceImageUnsupported,
            Error::StepsExhausted { limit: 32 },
            Error::SandboxUnavailable { detail: detail.clone() },
            Error::RateLimited { retry_after: wait },
            Error::CreditReserved { required: money("0.5"), available: money("0.1"), retry_after: wait },
            Error::internal("SELECT secret FROM keys"),
            Error::ProviderError { detail: detail.clone() },
            Error::ProviderOverloaded { retry_after: None },
            Error::PricingUnavailable { provider: provider.clone(), model: model.clone() },
            Error::ProviderNotConfigured { provider: provider.clone(), detail: "it has no key.".to_owned() },
            Error::TenantUnavailable,
            Error::ShuttingDown,
            Error::TooManyChecks { retry_after: wait },
            Error::ModelClosed { provider, model },
            Error::Overloaded { retry_after: wait },
            Error::ProviderTimeout { detail },
            Error::TenantFull,
            Error::DiskFull,
        ]
    }

    #[test]
    fn every_code_is_some_errors_and_every_error_says_what_to_do() {
        let mut table = String::new();
        let mut seen = BTreeSet::new();
        for error in samples() {
            let parts = problem_of(&error);
            seen.insert(parts.code.code);
            assert!(parts.detail.ends_with('.') || !parts.errors.is_empty() || parts.allow.is_some(), "{error:?}: {}", parts.detail);
            let retry = parts.retry_after.map(|wait| format!(" (again in {})", whole_seconds(wait))).unwrap_or_default();
            let extra = if parts.extra.is_empty() { String::new() } else { format!(" {}", Json::Object(parts.extra.clone())) };
            writeln!(table, "{} {}{retry}: {}{extra}", parts.status(), parts.code.code, parts.detail).unwrap();
        }
        assert_eq!(seen, codes::ALL.iter().map(|code| code.code).collect());
        insta::assert_snapshot!("problems", table);
    }

    #[test]
    fn what_is_internal_stays_inside() {
        let id = RequestId::new();
        let body = problem_of(&Error::internal("SELECT secret FROM keys")).body(id, "http://x/docs/errors");
        let text = std::str::from_utf8(&body).unwrap();
        assert!(!text.contains("SELECT") && text.contains(&id.to_string()) && text.contains("http://x/docs/errors#internal"), "{text}");
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        let seconds = [0, 1, 999, 1_000, 1_001].map(|ms| whole_seconds(Duration::from_millis(ms)));
        assert_eq!(seconds, [1, 1, 1, 1, 2]);
    }
}
