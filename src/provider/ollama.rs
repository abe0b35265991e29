//! Ollama's native chat.
use super::{Encoded, Prompt, Wire};

/// The request for this prompt.
pub fn encode(_wire: Wire, _prompt: &Prompt) -> Encoded {
    unimplemented!()
}
