//! Everything that can go wrong, in the product's own words. It knows no HTTP and no library: `http::problem` turns it into an answer.

use crate::money::Money;
use std::{fmt, time::Duration};

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// One thing wrong with one field of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the body, or the name of a query parameter or header.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Why something was not done. Each variant is one `code` of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the contract's codes; API.md and `http::problem` say what each means")]
pub enum Error {
    MalformedJson {
        detail: String,
    },
    MalformedRequest {
        detail: String,
    },

    MissingCredentials,
    InvalidApiKey,
    InvalidToken,
    /// Wrong address or password at sign-in: 401 `invalid_login`, the same for both.
    InvalidLogin,

    InsufficientCredit {
        required: Money,
        available: Money,
    },
    KeySpendLimit {
        limit: Money,
        spent: Money,
    },

    InsufficientRole {
        needed: &'static str,
    },
    /// A key with a spend limit of its own manages no keys.
    KeyIsCapped,
    EmailNotVerified,
    TenantSuspended,
    /// Sign-up is closed by the operator.
    SignupClosed,
    /// A browser sent this with a session, and not from a page of ours.
    CrossSite,
    /// The session has chosen no tenant, or belongs to it no more.
    NoTenantChosen,

    /// Also for what belongs to another tenant: the two cannot be told apart. `what` is a noun, `id` what the caller sent.
    NotFound {
        what: &'static str,
        id: String,
    },
    /// No route has this path.
    NoSuchRoute,

    MethodNotAllowed {
        allowed: String,
    },
    RequestTimeout,
    LengthRequired,
    BodyTooLarge {
        limit_bytes: usize,
    },
    UriTooLong {
        limit_bytes: usize,
    },
    UnsupportedMediaType,
    HeadersTooLarge {
        limit_bytes: usize,
    },

    ConfigNameTaken {
        name: String,
    },
    LastOwner,
    TurnCancelled,
    ConversationBusy {
        retry_after: Duration,
    },
    ConversationConfigMismatch,
    /// The open calls, as `(id, tool name)`.
    ToolResultsRequired {
        open: Vec<(String, String)>,
    },
    IdempotencyInProgress {
        retry_after: Duration,
    },
    /// Something else changed the thing meanwhile, or it is not in the state this needs.
    Conflict {
        detail: String,
    },

    ValidationFailed {
        errors: Vec<FieldError>,
    },
    ToolResultsMismatch {
        errors: Vec<FieldError>,
    },
    TemplateVariableMissing {
        names: Vec<String>,
    },
    IdempotencyKeyReused,
    ContextTooLong {
        detail: String,
    },
    /// What was uploaded is no bundle that could be run; each error names an entry or a field of the manifest.
    BundleRefused {
        errors: Vec<FieldError>,
    },
    /// An image needs a container engine, and this server has none.
    WorkspaceImageUnsupported,
    /// The agent called tools more often than the server lets it in one turn.
    StepsExhausted {
        limit: u32,
    },

    RateLimited {
        retry_after: Duration,
    },
    CreditReserved {
        required: Money,
        available: Money,
        retry_after: Duration,
    },

    /// Logged once with the request's id; the client sees none of `detail`.
    Internal {
        detail: String,
    },

    ProviderError {
        detail: String,
    },
    ProviderOverloaded {
        retry_after: Option<Duration>,
    },
    PricingUnavailable {
        provider: String,
        model: String,
    },
    ProviderNotConfigured {
        provider: String,
        detail: String,
    },
    TenantUnavailable,
    /// The operator's key is missing, or another one; 503 `tenant_unavailable`. `detail` is for the log and the command line.
    Sealed {
        detail: String,
    },
    ShuttingDown,
    /// No sandbox can be started here; there is no other way to run tools.
    SandboxUnavailable {
        detail: String,
    },
    TooManyChecks {
        retry_after: Duration,
    },
    ModelClosed {
        provider: String,
        model: String,
    },
    /// A bounded queue or pool of the server is full.
    Overloaded {
        retry_after: Duration,
    },
    ProviderTimeout {
        detail: String,
    },
    TenantFull,
    DiskFull,
}

impl Error {
    /// One invalid field: `pointer` as in [`FieldError`], `message` says what would be right.
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::ValidationFailed { errors: vec![FieldError { pointer: pointer.into(), message: message.into() }] }
    }

    /// The thing is not there for this caller.
    pub fn not_found(what: &'static str, id: impl fmt::Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// A defect or a failing machine. `detail` is for the log alone.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::Internal { detail: detail.to_string() }
    }
}

impl fmt::Display for Error {
    /// For logs and the command line; HTTP answers come from `http::problem`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal { detail }
            | Self::MalformedJson { detail }
            | Self::MalformedRequest { detail }
            | Self::Conflict { detail }
            | Self::Sealed { detail } => f.write_str(detail),
            Self::ValidationFailed { errors } | Self::ToolResultsMismatch { errors } | Self::BundleRefused { errors } => {
                for (n, error) in errors.iter().enumerate() {
                    write!(f, "{}{}: {}", if n == 0 { "" } else { "; " }, error.pointer, error.message)?;
                }
                Ok(())
            }
            Self::NotFound { what, id } => write!(f, "no {what} {id}"),
            Self::InsufficientCredit { required, available } => write!(f, "needs ${required}, available ${available}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::error::Error for Error {}
