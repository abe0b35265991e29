//! From rounds to lines: medians over rounds, as a table and as JSON.

use super::{Ask, load::Tally};
use serde_json::{Value, json};

/// One round of one side.
pub struct Round {
    pub tally: Tally,
    pub cpu_us: u64,
    pub written_bytes: u64,
    pub rss_kib: u64,
    pub fsyncs: Option<u64>,
}

/// What a table shows: its head, the field of a line, and the digits behind the point.
const COLUMNS: [(&str, &str, usize); 13] = [
    ("turns/s", "turns_a_second", 0),
    ("of yardstick", "ratio", 2),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("p99.9 ms", "p999_ms", 2),
    ("CPU µs/turn", "cpu_us_a_turn", 0),
    ("KiB/turn", "written_kib_a_turn", 1),
    ("fsyncs/turn", "fsyncs_a_turn", 2),
    ("RSS MiB", "rss_mib", 0),
    ("first byte p50", "behind_vendor_p50_ms", 2),
    ("p99 ms", "behind_vendor_p99_ms", 2),
    ("reads p50 ms", "reads_p50_ms", 2),
    ("failed", "failed", 0),
];

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

/// Our turns a second in the yardstick's, round by round and then the median: what slows both alike falls out.
pub fn ratio(ours: &[Round], yardstick: &[Round]) -> f64 {
    let pace = |round: &Round| round.tally.turns_us.len() as f64 / round.tally.took.as_secs_f64();
    let ratios = ours.iter().zip(yardstick).filter(|(_, other)| pace(other) > 0.0).map(|(one, other)| pace(one) / pace(other));
    (median(ratios.collect()) * 100.0).round() / 100.0
}

/// A scenario of one side as JSON. What was not there to be measured is null.
pub fn line(scenario: &str, side: &str, rounds: &[Round]) -> Value {
    let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let turns = |round: &Round| (round.tally.turns_us.len().max(1)) as f64;
    let ms = |share: f64| of(&|round| quantile(&round.tally.turns_us, share) as f64 / 1000.0);
    let list = |pick: fn(&Round) -> &Vec<u64>, share: f64| {
        let measured = rounds.iter().any(|round| !pick(round).is_empty());
        measured.then(|| of(&|round| quantile(pick(round), share) as f64 / 1000.0))
    };
    let fsyncs = || of(&|round| round.fsyncs.unwrap_or(0) as f64 / turns(round));
    json!({
        "scenario": scenario,
        "side": side,
        "turns_a_second": of(&|round| round.tally.turns_us.len() as f64 / round.tally.took.as_secs_f64()).round(),
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
        "p999_ms": ms(0.999),
        "cpu_us_a_turn": of(&|round| round.cpu_us as f64 / turns(round)).round(),
        "written_kib_a_turn": (of(&|round| round.written_bytes as f64 / turns(round)) / 102.4).round() / 10.0,
        "fsyncs_a_turn": rounds.iter().all(|round| round.fsyncs.is_some()).then(|| (fsyncs() * 100.0).round() / 100.0),
        "rss_mib": of(&|round| (round.rss_kib / 1024) as f64),
        "behind_vendor_p50_ms": list(|round| &round.tally.behind_vendor_us, 0.5),
        "behind_vendor_p99_ms": list(|round| &round.tally.behind_vendor_us, 0.99),
        "reads_p50_ms": list(|round| &round.tally.reads_us, 0.5),
        "reads_p99_ms": list(|round| &round.tally.reads_us, 0.99),
        "failed": rounds.iter().map(|round| round.tally.failed).sum::<u64>(),
    })
}

/// The head of the table.
pub fn head() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    format!("| {:<12} | {:<12} | {} |\n|---|---|{}", "scenario", "side", names.join(" | "), "--:|".repeat(COLUMNS.len()))
}

/// A line of it.
pub fn row(line: &Value) -> String {
    let cell = |(name, field, digits): &(&str, &str, usize)| {
        let text = line[*field].as_f64().map_or(String::new(), |value| format!("{value:.digits$}"));
        format!("{text:>width$}", width = name.chars().count())
    };
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
    format!("| {:<12} | {:<12} | {} |", text("scenario"), text("side"), cells.join(" | "))
}

/// The whole run, to be put into a document.
pub fn markdown(ask: &Ask, lines: &[Value]) -> String {
    let rows: Vec<String> = lines.iter().map(row).collect();
    let medians = format!("Medians of {} rounds of {} s or longer, interleaved; {} tenants.", ask.rounds, ask.seconds, ask.tenants);
    format!("{medians}\n\n{}\n{}\n", head(), rows.join("\n"))
}
