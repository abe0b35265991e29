//! Tokens, rates, the wallet and its ledger, logs and usage.

use crate::{
    clock::Time,
    ids::*,
    money::{Money, Rate},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tokens of one or more vendor calls. The four classes do not overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Input tokens that were neither read from nor written to the vendor's cache.
    pub input_tokens: u64,
    /// Output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens read from the vendor's cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the vendor's cache.
    pub cache_write_tokens: u64,
}

impl Usage {
    /// The sum, class by class; it stops at the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
        }
    }

    /// All input tokens, cached or not.
    pub fn input_total(self) -> u64 {
        self.input_tokens.saturating_add(self.cache_read_tokens).saturating_add(self.cache_write_tokens)
    }
}

/// A tenant's prepaid wallet. `balance = held + available`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Wallet {
    /// Deposited and not yet spent.
    pub balance: Money,
    /// Set aside for running vendor calls.
    pub held: Money,
    /// What a new call may use.
    pub available: Money,
    /// Always `USD`.
    pub currency: &'static str,
}

/// Why the balance changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Credit was added.
    Topup,
    /// A vendor call was paid.
    Spend,
    /// Credit given back for a spend.
    Refund,
    /// The operator corrected the balance.
    Adjustment,
}

impl EntryKind {
    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Topup => "topup",
            Self::Spend => "spend",
            Self::Refund => "refund",
            Self::Adjustment => "adjustment",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Topup, Self::Spend, Self::Refund, Self::Adjustment].into_iter().find(|kind| kind.name() == name)
    }
}

/// One line of the ledger. Lines are never changed or removed; each carries the hash of the one before in its own.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LedgerEntry {
    /// The entry's id.
    pub id: EntryId,
    /// 1, 2, 3 … without a gap.
    pub seq: u64,
    /// Why the balance changed.
    pub kind: EntryKind,
    /// By how much: negative for a spend.
    pub amount: Money,
    /// The balance afterwards.
    pub balance: Money,
    /// The operator's reference, once a tenant.
    pub reference: Option<String>,
    /// A remark.
    pub note: Option<String>,
    /// The turn that was paid.
    pub turn_id: Option<TurnId>,
    /// `provider/model` that was paid.
    pub model: Option<String>,
    /// What was used.
    pub usage: Option<Usage>,
    /// The rates it was charged at.
    pub rates: Option<Rates>,
    /// When.
    pub created_at: Time,
    /// The chain: SHA-256, in hex, of the hash before and this entry.
    pub hash: String,
}

/// What a million tokens of each class cost, markup included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Plain input, per million tokens.
    pub input: Rate,
    /// Output, reasoning included, per million tokens.
    pub output: Rate,
    /// Input read from the vendor's cache, per million tokens.
    pub cache_read: Rate,
    /// Input written to the vendor's cache, per million tokens.
    pub cache_write: Rate,
}

/// A model that can be called, and what it costs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// The provider's name.
    pub provider: String,
    /// The model's name, or `*` for any of this provider.
    pub name: String,
    /// What it costs, markup included.
    #[serde(flatten)]
    pub rates: Rates,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// The most tokens of one answer.
    pub output_limit: u64,
    /// Where the figures come from.
    pub source: String,
    /// The day they were true.
    pub as_of: String,
    /// Whether the operator has set this provider up.
    pub configured: bool,
}

/// What a row of the log tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogEvent {
    /// One vendor call of a turn.
    Step,
    /// A request that was refused before any vendor call.
    Refused,
    /// A turn that the server's end cut off.
    Interrupted,
    /// A vendor reported more than the bound.
    HoldBreach,
}

impl LogEvent {
    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
            Self::HoldBreach => "hold_breach",
        }
    }

    /// The event of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Step, Self::Refused, Self::Interrupted, Self::HoldBreach].into_iter().find(|event| event.name() == name)
    }
}

/// One row of the tenant's log: a step of a turn, or a request that was refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogRow {
    /// The row's id.
    pub id: LogId,
    /// The turn it belongs to.
    pub turn_id: Option<TurnId>,
    /// The step of the turn, from 1.
    pub step: Option<u32>,
    /// When it was written.
    pub created_at: Time,
    /// With which key.
    pub key_id: Option<KeyId>,
    /// By whom.
    pub user_id: Option<UserId>,
    /// On which config.
    pub config_id: Option<ConfigId>,
    /// In which conversation.
    pub conversation_id: Option<ConversationId>,
    /// What happened.
    pub event: LogEvent,
    /// The HTTP status of the answer (of this step, were it the last).
    pub status: u16,
    /// The error's code, if it failed.
    pub code: Option<String>,
    /// The provider called.
    pub provider: Option<String>,
    /// The model called.
    pub model: Option<String>,
    /// What the vendor reported, or the estimate.
    pub usage: Option<Usage>,
    /// What the tenant was charged.
    pub cost: Option<Money>,
    /// Whether usage is our estimate, because the vendor's report is missing.
    pub estimated: bool,
    /// From the request's arrival to this row.
    pub latency_ms: Option<u64>,
    /// The vendor's part of it.
    pub provider_ms: Option<u64>,
    /// From sending to the vendor's first output.
    pub time_to_first_token_ms: Option<u64>,
    /// The HTTP request.
    pub request_id: Option<RequestId>,
    /// For `interrupted` and `hold_breach`: the most that fell to the operator.
    pub operator_cost: Option<Money>,
    /// What stood in the way, in a sentence; for failed steps the user's message that was not kept.
    pub detail: Option<String>,
}

/// Usage summed up over one period and one group. Fields that were not grouped by are null.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UsageRow {
    /// The start of the hour or day, in UTC.
    pub period: Time,
    /// Group: the model.
    pub model: Option<String>,
    /// Group: the model's provider.
    pub provider: Option<String>,
    /// Group: the config.
    pub config_id: Option<ConfigId>,
    /// Group: the key.
    pub key_id: Option<KeyId>,
    /// Group: the user.
    pub user_id: Option<UserId>,
    /// Turns that did at least one step.
    pub turns: u64,
    /// Steps that failed and requests that were refused.
    pub errors: u64,
    /// See [`Usage`].
    pub input_tokens: u64,
    /// See [`Usage`].
    pub output_tokens: u64,
    /// See [`Usage`].
    pub cache_read_tokens: u64,
    /// See [`Usage`].
    pub cache_write_tokens: u64,
    /// What was charged.
    pub cost: Money,
}
