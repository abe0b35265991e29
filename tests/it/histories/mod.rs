//! No history that is sent to any vendor is ever invalid: random conversations, with calls that are answered late, in part or never, turns that fail,
//! vendors that change, windows that are too small, shown to the fake vendor's strict eye; first the pure functions alone, then the real server.
//!
//! `NIMBLESITE_TEST_FULL=1` tries many more.

mod answers;
mod live;
mod pure;
