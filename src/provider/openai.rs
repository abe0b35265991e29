//! The openai part; see `provider`.
