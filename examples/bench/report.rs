//! From rounds to lines: medians over rounds, as a table and as JSON.

use super::load::Tally;
use serde_json::{Value, json};

/// One round of one side.
pub struct Round {
    pub tally: Tally,
    pub cpu_us: u64,
    pub written_bytes: u64,
    pub rss_kib: u64,
}

/// The value below which this share of a list lies; 0 of an empty one.
pub fn quantile(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64) * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A scenario of one side as JSON.
pub fn line(scenario: &str, side: &str, rounds: &[Round], fsyncs_a_turn: Option<f64>) -> Value {
    let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let a_turn = |figure: &dyn Fn(&Round) -> u64| of(&|round| figure(round) as f64 / (round.tally.turns_us.len().max(1)) as f64);
    let ms = |share: f64| of(&|round| quantile(&round.tally.turns_us, share) as f64 / 1000.0);
    let list = |pick: &dyn Fn(&Round) -> Vec<u64>, share: f64| of(&|round| quantile(&pick(round), share) as f64 / 1000.0);
    let behind = |round: &Round| round.tally.behind_vendor_us.clone();
    let reads = |round: &Round| round.tally.reads_us.clone();
    json!({
        "scenario": scenario,
        "side": side,
        "turns_a_second": of(&|round| round.tally.turns_us.len() as f64 / round.tally.took.as_secs_f64()).round(),
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
        "p999_ms": ms(0.999),
        "cpu_us_a_turn": a_turn(&|round| round.cpu_us).round(),
        "written_kib_a_turn": (a_turn(&|round| round.written_bytes) / 102.4).round() / 10.0,
        "fsyncs_a_turn": fsyncs_a_turn.map(|count| (count * 100.0).round() / 100.0),
        "rss_mib": of(&|round| (round.rss_kib / 1024) as f64),
        "behind_vendor_p50_ms": list(&behind, 0.5),
        "behind_vendor_p99_ms": list(&behind, 0.99),
        "reads_p50_ms": list(&reads, 0.5),
        "reads_p99_ms": list(&reads, 0.99),
        "failed": rounds.iter().map(|round| round.tally.failed).sum::<u64>(),
    })
}

/// The head of the table.
pub fn head() {
    println!(
        "{:<16} {:<12} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>6} {:>8} {:>8} {:>8} {:>6}",
        "scenario",
        "side",
        "turns/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs",
        "KiB/turn",
        "fsyncs",
        "MiB",
        "ttfb p50",
        "ttfb p99",
        "read p50",
        "failed"
    );
}

/// A line of it.
pub fn show(line: &Value) {
    let number = |name: &str, digits: usize| line[name].as_f64().map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    println!(
        "{:<16} {:<12} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>6} {:>8} {:>8} {:>8} {:>6}",
        line["scenario"].as_str().unwrap_or_default(),
        line["side"].as_str().unwrap_or_default(),
        number("turns_a_second", 0),
        number("p50_ms", 2),
        number("p99_ms", 2),
        number("p999_ms", 2),
        number("cpu_us_a_turn", 0),
        number("written_kib_a_turn", 1),
        number("fsyncs_a_turn", 2),
        number("rss_mib", 0),
        number("behind_vendor_p50_ms", 2),
        number("behind_vendor_p99_ms", 2),
        number("reads_p50_ms", 2),
        line["failed"],
    );
}
