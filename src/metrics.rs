//! What is counted, for Prometheus. No label ever names a tenant, a key, a user, a model or anything else that a caller or the rate card
//! chose: labels come from small fixed sets, so that neither secrets nor more than 200 series can get in, however many tenants there are.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

/// All metrics of one server. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    group: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NameLabel {
    name: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    wire: &'static str,
    outcome: &'static str,
}

struct Inner {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    turns: Family<OutcomeLabel, Counter>,
    steps: Family<OutcomeLabel, Counter>,
    holds: Family<OutcomeLabel, Counter>,
    vendor_calls: Family<CallLabels, Counter>,
    vendor_seconds: Histogram,
    key_checks: Family<OutcomeLabel, Counter>,
    tool_calls: Family<OutcomeLabel, Counter>,
    levels: Family<NameLabel, Gauge>,
    streams: Gauge,
    connections: Gauge,
    breaches: Counter,
    interrupted: Counter,
    statements: Counter,
    commits: Counter,
    panics: Counter,
    abandoned: Counter,
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let inner = Inner {
            registry: Mutex::new(Registry::with_prefix("nimblesite")),
            requests: Family::default(),
            request_seconds: seconds(),
            turns: Family::default(),
            steps: Family::default(),
            holds: Family::default(),
            vendor_calls: Family::default(),
            vendor_seconds: seconds(),
            key_checks: Family::default(),
            tool_calls: Family::default(),
            levels: Family::default(),
            streams: Gauge::default(),
            connections: Gauge::default(),
            breaches: Counter::default(),
            interrupted: Counter::default(),
            statements: Counter::default(),
            commits: Counter::default(),
            panics: Counter::default(),
            abandoned: Counter::default(),
        };
        inner.register();
        Self { inner: Arc::new(inner) }
    }

    /// A request was answered. `group` is that of its endpoint in the documentation, or `none`.
    pub fn request(&self, group: &'static str, status: u16, took: Duration) {
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.inner.requests.get_or_create(&RequestLabels { group, status: class }).inc();
        self.inner.request_seconds.observe(took.as_secs_f64());
    }

    /// A turn ended: `completed`, `tool_calls`, `failed`, `cancelled`, `refused`.
    pub fn turn(&self, outcome: &'static str) {
        self.inner.turns.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A step ended: `settled`, `estimated`, `free`.
    pub fn step(&self, outcome: &'static str) {
        self.inner.steps.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Something happened to a hold: `taken`, `refused`, `settled`, `released`.
    pub fn hold(&self, outcome: &'static str) {
        self.inner.holds.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A vendor call ended. `outcome` is a fixed word such as `ok`, `overloaded`, `refused`, `broken`, `timeout`. Models are no labels: a rate
    /// card has hundreds.
    pub fn vendor_call(&self, wire: &'static str, outcome: &'static str, took: Duration) {
        self.inner.vendor_calls.get_or_create(&CallLabels { wire, outcome }).inc();
        self.inner.vendor_seconds.observe(took.as_secs_f64());
    }

    /// A credential was looked at: `ok`, `refused`, `busy`.
    pub fn key_check(&self, outcome: &'static str) {
        self.inner.key_checks.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A tool ran on the server: `ok`, `failed`.
    pub fn tool_call(&self, outcome: &'static str) {
        self.inner.tool_calls.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// How many there are now of something that runs, waits or is open.
    pub fn level(&self, name: &'static str, count: usize) {
        self.inner.levels.get_or_create(&NameLabel { name }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A stream of events opened; it counts as open until the guard is dropped.
    pub fn stream_opened(&self) -> Up {
        Up::new(&self.inner.streams)
    }

    /// A connection opened; it counts as open until the guard is dropped.
    pub fn connection_opened(&self) -> Up {
        Up::new(&self.inner.connections)
    }

    /// A vendor reported more usage than its call's bound.
    pub fn hold_breached(&self) {
        self.inner.breaches.inc();
    }

    /// So many turns of an earlier run of the server were found cut off and closed in all of this run.
    pub fn interrupted(&self, turns_in_all: u64) {
        self.inner.interrupted.inner().fetch_max(turns_in_all, Ordering::Relaxed);
    }

    /// So many statements and commits storage has done in all of this run.
    pub fn storage(&self, statements_in_all: u64, commits_in_all: u64) {
        self.inner.statements.inner().fetch_max(statements_in_all, Ordering::Relaxed);
        self.inner.commits.inner().fetch_max(commits_in_all, Ordering::Relaxed);
    }

    /// A request's connection broke before it was answered.
    pub fn abandoned(&self) {
        self.inner.abandoned.inc();
    }

    /// A request's handler panicked and was answered 500.
    pub fn panicked(&self) {
        self.inner.panics.inc();
    }

    /// Everything in the OpenMetrics text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

impl Inner {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("http_requests", "Requests answered, by group of endpoints and class of status", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer's head",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register("turns", "Turns ended", self.turns.clone());
        registry.register("steps", "Steps ended", self.steps.clone());
        registry.register("holds", "What happened to holds", self.holds.clone());
        registry.register("vendor_calls", "Calls to vendors, by wire and outcome", self.vendor_calls.clone());
        registry.register_with_unit("vendor_call_duration", "Time of calls to vendors", Unit::Seconds, self.vendor_seconds.clone());
        registry.register("key_checks", "Credentials looked at", self.key_checks.clone());
        registry.register("tool_calls", "Calls of tools that the server runs", self.tool_calls.clone());
        registry.register("level", "What runs, waits or is open now, by name", self.levels.clone());
        registry.register("streams_open", "Streams of events open now", self.streams.clone());
        registry.register("connections_open", "Connections open now", self.connections.clone());
        registry.register("hold_breaches", "Vendor reports above the bound", self.breaches.clone());
        registry.register("turns_interrupted", "Turns that an end of the server cut off", self.interrupted.clone());
        registry.register("storage_statements", "Statements run inside transactions", self.statements.clone());
        registry.register("storage_commits", "Commits of writes, each shared by what waited for it", self.commits.clone());
        registry.register("http_requests_abandoned", "Requests whose connection broke before their answer", self.abandoned.clone());
        registry.register("panics", "Requests answered 500 because their handler panicked", self.panics.clone());
    }
}

/// Something that is open as long as this lives.
#[must_use]
pub struct Up(Gauge);

impl Up {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::new();
        metrics.request("Configs", 204, Duration::from_millis(3));
        metrics.vendor_call("openai", "ok", Duration::from_secs(2));
        metrics.interrupted(2);
        metrics.interrupted(2);
        let stream = metrics.stream_opened();
        let text = metrics.text().unwrap();
        assert!(text.contains("nimblesite_http_requests_total{group=\"Configs\",status=\"2xx\"} 1"), "{text}");
        assert!(text.contains("nimblesite_vendor_calls_total{wire=\"openai\",outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("nimblesite_streams_open 1") && text.contains("nimblesite_turns_interrupted_total 2"), "{text}");
        drop(stream);
        assert!(metrics.text().unwrap().contains("nimblesite_streams_open 0"));
    }
}
