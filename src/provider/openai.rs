//! OpenAI's Chat Completions, and what is compatible with it.
use super::{Encoded, Prompt};
use crate::config::ProviderConfig;

/// What differs between vendors that speak this wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI itself: `max_completion_tokens`.
    OpenAi,
    /// DeepSeek: reasoning goes back with tool calls.
    DeepSeek,
    /// Moonshot: reasoning goes back with tool calls.
    Moonshot,
    /// Any other server.
    Other,
}

impl Dialect {
    /// By the provider's built-in name, else by its host.
    pub fn of(_provider: &ProviderConfig) -> Self {
        Self::Other
    }
}

/// The request for this prompt.
pub fn encode(_dialect: Dialect, _prompt: &Prompt) -> Encoded {
    unimplemented!()
}
