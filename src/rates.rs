//! The rate card: which models can be called and what they cost. Pure.

use crate::model::Rates;

/// One priced model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRow {
    /// The provider's name.
    pub provider: String,
    /// The model's name, or `*`.
    pub name: String,
    /// The rates, markup included.
    pub rates: Rates,
    /// Rates of a call whose input is longer than `.0` tokens, for vendors that charge such calls more.
    pub long: Option<(u64, Rates)>,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// The most tokens of one answer.
    pub output_limit: u32,
    /// A lowered output limit below this is not useful.
    pub output_min: u32,
    /// Whether the model takes `max_completion_tokens` and refuses sampling parameters.
    pub reasoning: bool,
    /// Where the figures come from.
    pub source: String,
    /// The day they were true.
    pub as_of: String,
}

/// All priced models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateCard {
    rows: Vec<CardRow>,
}
