//! The integration tests: the real server on a port of loopback, a real HTTP client, a vendor that is a real socket. No mocks of our own code.
//!
//! Where a test goes: look at the list.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking and have no readers of documents"
)]
#![cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "some of the harness is for the crash tests alone"))]

// What tests stand on.
mod fake_provider;
mod harness;

mod accounts; // people, tenants, keys, members over HTTP
mod backup; // sets, the way back, and what deletion leaves of them
mod browser; // the pages in a real Chromium, as a person uses them
mod cli; // the command line as the real binary, beside a running server
mod compact; // histories that outgrow the window, summarised
mod conversations; // memory: variables, truncation, open calls, lists
mod crash; // kill -9 in the middle of a turn
mod dashboard; // the dashboard without a browser: sessions, forms, pages
mod differential; // whatever names another tenant is answered as if it named nobody
mod docs; // what the documents show, run and compared
mod edges; // odd answers, odd words, limits that are reached
#[cfg(feature = "encryption")]
mod encryption; // files that nobody reads without a key
mod errors; // every refusal of the contract, with its body
mod export; // a tenant as one file
mod failures; // vendors that fail
mod fairness; // a flood and two hundred attackers do not slow another tenant
mod fake_provider_test; // the vendor itself: a double that lies is worse than none
#[cfg(feature = "failpoints")]
mod faults; // kills at every step and under load, full disks, damage, wrong clocks
mod files; // the files on disk
mod fuzzing; // where bytes come in, with what chance makes of them
mod histories; // no history sent to any vendor is ever invalid
mod http; // the server on the wire: framing, limits, streams, TLS
mod idempotency; // the same request again
mod instructions; // what the functions on a turn's way cost, counted
mod isolation; // nobody sees another tenant's data
mod money; // the proof of docs/money.md: a million operations, a storm of turns, a rule for each way a turn goes
mod quota; // how large a tenant may grow, how long it keeps what it has
mod reads; // configs, logs, usage, models, the ledger, the operator's routes
mod restart; // a new server in the place of the old: nobody is refused
mod sandbox; // the fence around tenants' programs: what must not get out, and what it costs
mod seed; // the walk-through that the product was asked for
mod soak; // a server that is left running, among faults, kills and backups
mod telemetry; // what an OpenTelemetry collector is told
mod thrift; // what a turn costs the database and the disk, counted
mod tidy; // rules about this repository
mod trail; // the audit log: who did what, and nobody changes what was told
mod turns; // one turn at a time: waiting, cancelling, following, clients that go away
mod wallet; // money: held before, settled after, never more than deposited
mod wires; // each vendor's wire: tool loops, parallel calls, bytes cut anywhere
