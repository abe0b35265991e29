//! Nimblesite: agents as a service in one binary. See `docs/ARCHITECTURE.md`.

pub mod agent;
pub mod app;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod config_check;
pub mod control;
pub mod dashboard;
pub mod error;
mod failpoint;
pub mod fair;
pub mod http;
pub mod ids;
pub mod mail;
pub mod metrics;
pub mod model;
pub mod money;
pub mod provider;
pub mod rates;
pub mod sandbox;
pub mod secret;
pub mod storage;
pub mod telemetry;
pub mod template;
pub mod vault;
pub mod wallet;
