//! What every test stands on: a real server with its own data directory and its own vendor, and the words to talk to it.
//!
//! A test ends with [`Server::done`], which asks the vendor whether every request was right and audits every file.

mod answer;
mod audit;
mod setup;
mod sse;
mod world;

pub use answer::{Answer, mask};
pub use audit::open;
pub use setup::{Process, Server, Settings, free_port};
pub use sse::Events;
pub use world::{OPERATOR, Tenant, config_body};

/// Whether the long variants were asked for, with `NIMBLESITE_TEST_FULL=1`. Empty and `0` ask for nothing.
pub fn full() -> bool {
    std::env::var_os("NIMBLESITE_TEST_FULL").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Status and body of an answer against an inline snapshot, with ids, times and secrets masked.
#[macro_export]
macro_rules! check {
    ($answer:expr, @$snapshot:literal) => {
        insta::assert_snapshot!($answer.shown(), @$snapshot)
    };
}
