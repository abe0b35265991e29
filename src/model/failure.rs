//! Why a turn gave no answer, as it is kept: for its log row, and for the copies of its request that carry the same idempotency key.

use crate::{error::Error, money::Money};
use serde::{Deserialize, Serialize};

/// Why a turn gave no answer after a vendor was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnFailure {
    /// The vendor failed.
    ProviderError {
        /// How, in a sentence.
        detail: String,
    },
    /// The vendor has no room.
    ProviderOverloaded {
        /// When to come back, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// The vendor was too slow.
    ProviderTimeout {
        /// Which limit passed, in a sentence.
        detail: String,
    },
    /// The vendor does not take our credentials.
    ProviderNotConfigured {
        /// Which one.
        provider: String,
        /// What to do.
        detail: String,
    },
    /// The prompt is longer than the model takes.
    ContextTooLong {
        /// What the vendor, or our own estimate, says.
        detail: String,
    },
    /// It was cancelled.
    Cancelled,
    /// A later step of a sandboxed turn could not be paid, or its key was stopped meanwhile: what stood behind that, as its problem says it.
    Stopped(TurnStop),
    /// The agent called tools more often than one turn may.
    StepsExhausted {
        /// How often it may.
        limit: u32,
    },
    /// No sandbox could be had.
    SandboxUnavailable {
        /// Why, in a sentence.
        detail: String,
    },
    /// The answer could not be stored.
    Internal,
}

/// What stops a turn between two of its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnStop {
    /// The balance does not pay the next step.
    InsufficientCredit {
        /// The most that it could cost.
        required: Money,
        /// What there is.
        available: Money,
    },
    /// The key's own limit does not allow it.
    KeySpendLimit {
        /// The limit.
        limit: Money,
        /// What is spent of it.
        spent: Money,
    },
    /// Other turns hold what is left.
    CreditReserved {
        /// The most that it could cost.
        required: Money,
        /// What is free.
        available: Money,
    },
    /// The key was revoked, or ran out.
    InvalidApiKey,
    /// The key may not chat any more.
    InsufficientRole,
    /// The tenant was suspended.
    TenantSuspended,
    /// The model has no price any more, or is closed.
    ModelClosed {
        /// Its provider.
        provider: String,
        /// Its name.
        model: String,
    },
    /// The server has no room.
    Overloaded,
    /// The server's disk is full.
    DiskFull,
    /// The tenant's quota is reached.
    TenantFull,
}

impl TurnFailure {
    /// The status and code that a log row of this failure carries: those of its problem.
    pub const fn log_code(&self) -> (u16, &'static str) {
        match self {
            Self::ProviderError { .. } => (502, "provider_error"),
            Self::ProviderOverloaded { .. } => (503, "provider_overloaded"),
            Self::ProviderTimeout { .. } => (504, "provider_timeout"),
            Self::ProviderNotConfigured { .. } => (503, "provider_not_configured"),
            Self::ContextTooLong { .. } => (422, "context_too_long"),
            Self::Cancelled => (409, "turn_cancelled"),
            Self::Stopped(stop) => stop.log_code(),
            Self::StepsExhausted { .. } => (422, "steps_exhausted"),
            Self::SandboxUnavailable { .. } => (503, "sandbox_unavailable"),
            Self::Internal => (500, "internal"),
        }
    }
}

impl TurnStop {
    const fn log_code(&self) -> (u16, &'static str) {
        match self {
            Self::InsufficientCredit { .. } => (402, "insufficient_credit"),
            Self::KeySpendLimit { .. } => (402, "key_spend_limit"),
            Self::CreditReserved { .. } => (429, "credit_reserved"),
            Self::InvalidApiKey => (401, "invalid_api_key"),
            Self::InsufficientRole => (403, "insufficient_role"),
            Self::TenantSuspended => (403, "tenant_suspended"),
            Self::ModelClosed { .. } => (503, "model_closed"),
            Self::Overloaded => (503, "overloaded"),
            Self::DiskFull => (507, "disk_full"),
            Self::TenantFull => (507, "tenant_full"),
        }
    }
}

impl From<TurnStop> for Error {
    fn from(stop: TurnStop) -> Self {
        let retry_after = std::time::Duration::from_secs(10);
        match stop {
            TurnStop::InsufficientCredit { required, available } => Self::InsufficientCredit { required, available },
            TurnStop::KeySpendLimit { limit, spent } => Self::KeySpendLimit { limit, spent },
            TurnStop::CreditReserved { required, available } => Self::CreditReserved { required, available, retry_after },
            TurnStop::InvalidApiKey => Self::InvalidApiKey,
            TurnStop::InsufficientRole => Self::InsufficientRole { needed: "member" },
            TurnStop::TenantSuspended => Self::TenantSuspended,
            TurnStop::ModelClosed { provider, model } => Self::ModelClosed { provider, model },
            TurnStop::Overloaded => Self::Overloaded { retry_after },
            TurnStop::DiskFull => Self::DiskFull,
            TurnStop::TenantFull => Self::TenantFull,
        }
    }
}

impl TurnFailure {
    /// What an error means that came up between two steps of a turn.
    pub fn between_steps(error: &Error) -> Self {
        Self::Stopped(match error.clone() {
            Error::InsufficientCredit { required, available } => TurnStop::InsufficientCredit { required, available },
            Error::KeySpendLimit { limit, spent } => TurnStop::KeySpendLimit { limit, spent },
            Error::CreditReserved { required, available, .. } => TurnStop::CreditReserved { required, available },
            Error::InvalidApiKey => TurnStop::InvalidApiKey,
            Error::InsufficientRole { .. } => TurnStop::InsufficientRole,
            Error::TenantSuspended => TurnStop::TenantSuspended,
            Error::ModelClosed { provider, model } | Error::PricingUnavailable { provider, model } => {
                TurnStop::ModelClosed { provider, model }
            }
            Error::Overloaded { .. } | Error::TenantUnavailable => TurnStop::Overloaded,
            Error::DiskFull => TurnStop::DiskFull,
            Error::TenantFull => TurnStop::TenantFull,
            Error::SandboxUnavailable { detail } => return Self::SandboxUnavailable { detail },
            Error::ContextTooLong { detail } => return Self::ContextTooLong { detail },
            Error::ProviderNotConfigured { provider, detail } => return Self::ProviderNotConfigured { provider, detail },
            Error::TurnCancelled => return Self::Cancelled,
            _ => return Self::Internal,
        })
    }
}

impl From<TurnFailure> for Error {
    fn from(failure: TurnFailure) -> Self {
        match failure {
            TurnFailure::ProviderError { detail } => Self::ProviderError { detail },
            TurnFailure::ProviderOverloaded { retry_after_ms } => {
                Self::ProviderOverloaded { retry_after: retry_after_ms.map(std::time::Duration::from_millis) }
            }
            TurnFailure::ProviderTimeout { detail } => Self::ProviderTimeout { detail },
            TurnFailure::ProviderNotConfigured { provider, detail } => Self::ProviderNotConfigured { provider, detail },
            TurnFailure::ContextTooLong { detail } => Self::ContextTooLong { detail },
            TurnFailure::Cancelled => Self::TurnCancelled,
            TurnFailure::Stopped(stop) => stop.into(),
            TurnFailure::StepsExhausted { limit } => Self::StepsExhausted { limit },
            TurnFailure::SandboxUnavailable { detail } => Self::SandboxUnavailable { detail },
            TurnFailure::Internal => Self::internal("the turn's answer could not be stored"),
        }
    }
}
