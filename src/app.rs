//! Everything a request may use, wired once at start.

use crate::{clock::Clock, config::Config, mail::Mailer, provider::client::Client, rates::RateCard, storage::Storage};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// What the server is made of. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Parts>,
}

/// The parts of an [`App`].
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// The only door to data.
    pub storage: Storage,
    /// The rate card in force; replaced when its file changes.
    pub rates: ArcSwap<RateCard>,
    /// The only way to a vendor.
    pub client: Client,
    /// How mails leave.
    pub mailer: Mailer,
    /// The time.
    pub clock: Clock,
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.inner
    }
}

impl App {
    /// Wires the parts together.
    pub fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(parts) }
    }
}
