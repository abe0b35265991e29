//! Anthropic's Messages API.
use super::{Encoded, Prompt};

/// The request for this prompt.
pub fn encode(_prompt: &Prompt) -> Encoded {
    unimplemented!()
}
