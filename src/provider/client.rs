//! The one place that sends to vendors, and the only file that names reqwest. A call consumes a proof that its money is set aside.

/// Connections to all providers, pooled.
pub struct Client {}
