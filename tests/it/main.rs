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

mod accounts;
mod cli;
mod docs;
mod fake_provider;
mod fake_provider_test;
mod harness;
mod http;
mod reads;
mod seed;
