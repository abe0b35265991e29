//! The echo part; see `provider`.
