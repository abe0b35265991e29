//! The frame part; see `provider`.
