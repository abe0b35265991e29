//! Everything a request may use, wired once at start.

use crate::{
    agent::{self, Agent, tools::Yard},
    clock::{Clock, Time},
    config::Config,
    mail::Mailer,
    metrics::Metrics,
    once::Once,
    provider::client::Client,
    pulse::Pulse,
    rates::RateCard,
    sandbox::Sandboxes,
    storage::Storage,
    telemetry::Telemetry,
};
use arc_swap::ArcSwap;
use std::{ops::Deref, sync::Arc};
use tokio_util::sync::CancellationToken;

/// What the server is made of. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Wired>,
}

/// The parts of an [`App`] that are made outside.
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// The only door to data.
    pub storage: Storage,
    /// The rate card in force; replaced when its file changes.
    pub rates: Arc<ArcSwap<RateCard>>,
    /// The only way to a vendor.
    pub client: Client,
    /// How mails leave.
    pub mailer: Mailer,
    /// The time.
    pub clock: Clock,
    /// Who is told of turns and calls, besides our own counters.
    pub telemetry: Telemetry,
}

/// The parts, and what they share while they run.
pub struct Wired {
    parts: Parts,
    /// What runs turns.
    pub agent: Agent,
    /// Where tools run.
    pub yard: Arc<Yard>,
    /// What is counted.
    pub metrics: Metrics,
    /// How providers' calls went lately.
    pub pulse: Pulse,
    /// The forms that made something, so that each makes it once.
    pub once: Arc<Once>,
    /// When the server was wired together.
    pub started: Time,
    /// Cancelled when the server begins to stop: no new turn may start, and whoever waits for something idle may give up.
    pub stopping: CancellationToken,
}

impl Deref for App {
    type Target = Wired;
    fn deref(&self) -> &Wired {
        &self.inner
    }
}

impl Deref for Wired {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl App {
    /// Wires the parts together.
    pub fn new(parts: Parts) -> Self {
        let (metrics, stopping) = (Metrics::new(), CancellationToken::new());
        let pulse = Pulse::new(parts.config.limits.provider_calls_remembered_max);
        let yard = Yard::new(Sandboxes::new(&parts.config), &parts.config);
        let agent = Agent::new(agent::Parts {
            storage: parts.storage.clone(),
            client: parts.client.clone(),
            rates: Arc::clone(&parts.rates),
            providers: parts.config.providers.clone(),
            limits: parts.config.limits.clone(),
            clock: parts.clock,
            metrics: metrics.clone(),
            pulse: pulse.clone(),
            telemetry: parts.telemetry.clone(),
            yard: Arc::clone(&yard),
            stopping: stopping.clone(),
        });
        let (started, once) = (parts.clock.now(), Once::new(parts.config.limits.forms_remembered_max));
        Self { inner: Arc::new(Wired { parts, agent, yard, metrics, pulse, once, started, stopping }) }
    }
}
