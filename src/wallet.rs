//! The wallet as a pure machine, the bound of a call's cost, and the proof type that a vendor call needs.

mod sealed {
    /// Only what storage made inside a committed transaction may open the way to a vendor.
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// A proof that money is durably set aside for one vendor call. `provider::client::Client::send` consumes one.
/// Only `storage::Hold` implements it.
pub trait Held: Sealed + Send + 'static {}
