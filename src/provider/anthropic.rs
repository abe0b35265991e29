//! The anthropic part; see `provider`.
