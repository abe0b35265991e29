//! The soak of `nimblesite-bench`, shortened: the same server, clients, vendor and promises, for less than a minute.
//! `NIMBLESITE_TEST_FULL=1` takes as long as the command does by itself.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::module_inception,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the parts are those of a program to measure with, which uses more of them"
)]

#[path = "../../examples/bench/client.rs"]
mod client;
#[path = "../../examples/bench/probe.rs"]
mod probe;
#[path = "../../examples/bench/soak.rs"]
mod soak;
#[path = "../../examples/bench/soak_client.rs"]
mod soak_client;
#[path = "../../examples/bench/soak_report.rs"]
mod soak_report;
#[path = "../../examples/bench/vendor.rs"]
mod vendor;
#[path = "../../examples/bench/world.rs"]
mod world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_left_running_among_faults_kills_and_backups_keeps_its_promises() {
    let ask = if crate::harness::full() {
        soak::Ask { minutes: 30.0, tenants: 500, rate: 60.0 }
    } else {
        soak::Ask { minutes: 0.6, tenants: 24, rate: 50.0 }
    };
    let binary = std::env::var("NIMBLESITE_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_nimblesite").to_owned());
    let report = soak::run(binary.as_ref(), &ask).await.expect("the soak");
    println!("{report}");
    assert!(report.breaches().is_empty(), "{:#?}", report.breaches());
    // A soak in which nothing goes wrong shows nothing.
    let figures = report.figures.iter().map(|(_, found)| found.as_str()).collect::<Vec<_>>().join("\n");
    for what in ["hung up", "the server ended", "export: 200", "search: 200", "delete: 204"] {
        assert!(figures.contains(what), "{what} did not happen: {figures}");
    }
}
