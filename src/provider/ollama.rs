//! The ollama part; see `provider`.
