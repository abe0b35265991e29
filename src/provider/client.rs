//! The one place that sends to vendors, and the only file that names reqwest. A call consumes a proof that its money is set aside.

use super::{Answer, Broken, Encoded, Piece, Progress, Refusal};
use crate::{
    config::{Limits, ProviderConfig},
    error::Result,
    wallet::Held,
};
use std::time::Duration;

/// Connections to all providers, pooled.
#[derive(Debug, Clone)]
pub struct Client {}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A whole answer. Its usage may be missing; then it is estimated.
    Answered(Answer),
    /// The vendor certainly did not accept the call; it is free.
    Refused(Refusal),
    /// The vendor may have accepted the call; it is estimated from [`Ended::progress`].
    Broken(Broken),
    /// We let go before the end. Estimated like a broken one, unless nothing was [`Ended::sent`].
    Cancelled,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// What came of it.
    pub outcome: Outcome,
    /// What had been received.
    pub progress: Progress,
    /// Whether anything of the request may have left this machine.
    pub sent: bool,
    /// From sending to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// From sending to the end.
    pub total: Duration,
    /// The vendor's own id of the request, for the operator's questions to the vendor.
    pub vendor_request_id: Option<String>,
}

/// A vendor call under way. Dropping it cancels the call; [`Call::end`] gives the hold back, which must be settled.
#[must_use = "a call's hold comes back only from `end`"]
pub struct Call<H: Held> {
    hold: H,
}

impl Client {
    /// A client within these limits.
    pub fn new(_limits: &Limits) -> Result<Self> {
        Ok(Self {})
    }

    /// Begins a call. Nothing is sent before the first [`Call::next`].
    pub fn send<H: Held>(&self, hold: H, _provider: &ProviderConfig, _encoded: Encoded) -> Call<H> {
        Call { hold }
    }
}

impl<H: Held> Call<H> {
    /// The next piece; `None` when the call is over, whatever came of it. Safe to drop half way, as `select!` does.
    pub async fn next(&mut self) -> Option<Piece> {
        unimplemented!()
    }

    /// Ends the call, cancelling it if it was not over, and gives the hold back.
    pub fn end(self) -> (Ended, H) {
        let _ = self.hold;
        unimplemented!()
    }
}
