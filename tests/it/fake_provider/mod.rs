//! A vendor to test against: a real socket that speaks the three wires (Anthropic Messages, OpenAI Chat Completions, Ollama chat), checks every
//! request it gets, does what a script says, and counts what it would have billed. It knows nothing of this product but its test rate card.
//!
//! It is written on bare TCP so that an answer can be cut, stalled and split at any byte.

mod check;
mod render;
mod script;
mod socket;

pub use script::{At, Finish, Gate, Part, Reply};

use serde_json::Value;
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

/// The credential that the keyed wires expect.
pub const VENDOR_KEY: &str = "vendor-key-canary-6f1d";

/// How long a test waits for something that must happen before it fails. Never reached in a test that passes.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    Anthropic,
    OpenAi,
    Ollama,
}

impl Wire {
    pub const ALL: [Self; 3] = [Self::Anthropic, Self::OpenAi, Self::Ollama];

    /// The provider's name in the test server's configuration.
    pub fn provider(self) -> &'static str {
        match self {
            Self::Anthropic => "fake-anthropic",
            Self::OpenAi => "fake-openai",
            Self::Ollama => "fake-ollama",
        }
    }

    fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/messages" => Some(Self::Anthropic),
            "/v1/chat/completions" => Some(Self::OpenAi),
            "/api/chat" => Some(Self::Ollama),
            _ => None,
        }
    }
}

/// One request that the vendor got.
#[derive(Debug, Clone)]
pub struct Call {
    pub wire: Wire,
    pub body: Value,
    pub body_bytes: usize,
    /// The output limit that was sent, whatever the wire calls it.
    pub output_limit: Option<u64>,
    /// The rendered system prompt.
    pub system: String,
    /// The conversation as `speaker: text` lines, the same for every wire.
    pub said: Vec<String>,
}

/// Decides about a call by itself: it sees the request and may have an answer.
pub type Script = Arc<dyn Fn(&Call) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct State {
    script: Option<Script>,
    count: usize,
    queue: VecDeque<Reply>,
    rules: Vec<(String, Reply)>,
    fallback: Option<Reply>,
    calls: Vec<Call>,
    violations: Vec<String>,
    billed_pico: u128,
    prices: HashMap<(String, String), [u64; 4]>,
    signatures: Vec<String>,
    streams_cut_by_client: usize,
}

/// What the vendor would object to in a request.
pub fn objections(wire: Wire, body: &Value, signatures: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    check::request(wire, body, signatures, &mut wrong);
    wrong
}

/// What a request says, as `speaker: text` lines.
pub fn said(wire: Wire, body: &Value, signatures: &[String]) -> Vec<String> {
    check::request(wire, body, signatures, &mut Vec::new()).said
}

/// The bytes of an answer.
pub fn answer_bytes(wire: Wire, model: &str, reply: &Reply) -> Vec<u8> {
    render::frames(wire, model, reply).into_iter().flat_map(|frame| frame.bytes).collect()
}

/// The vendor. It stops listening when dropped.
pub struct FakeProvider {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: tokio::task::JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Moves at every call, bill and lost client, for tests that wait.
    moved: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn moved(&self) {
        self.moved.send_modify(|count| *count += 1);
    }
}

impl FakeProvider {
    /// Listens on a free port of loopback.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { state: Mutex::default(), moved: watch::Sender::new(0) });
        let accept = tokio::spawn(socket::accept(listener, Arc::clone(&shared)));
        Self { address, shared, accept }
    }

    /// Where it listens, as a provider's base URL of this wire.
    pub fn base_url(&self, wire: Wire) -> String {
        match wire {
            Wire::OpenAi => format!("http://{}/v1", self.address),
            Wire::Anthropic | Wire::Ollama => format!("http://{}", self.address),
        }
    }

    /// Adds an answer behind those that wait; each call takes one.
    pub fn then(&self, reply: Reply) -> &Self {
        self.shared.state().queue.push_back(reply);
        self
    }

    /// Answers every call whose newest message contains this text, before the queue is looked at. For tests whose calls race.
    pub fn when(&self, text: &str, reply: Reply) -> &Self {
        self.shared.state().rules.push((text.to_owned(), reply));
        self
    }

    /// Answers the calls that neither a rule nor the queue answers. Without it such a call is a violation.
    pub fn otherwise(&self, reply: Reply) -> &Self {
        self.shared.state().fallback = Some(reply);
        self
    }

    /// Lets a function answer every call, before rules and queue are looked at. Calls that it answers are counted and billed, not kept: there
    /// may be very many.
    pub fn script(&self, script: Script) {
        self.shared.state().script = Some(script);
    }

    /// What it charges for a model: pico-dollars a token of input, output, cache read, cache write.
    pub fn price(&self, provider: &str, model: &str, pico: [u64; 4]) {
        self.shared.state().prices.insert((provider.to_owned(), model.to_owned()), pico);
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// How many requests so far.
    pub fn call_count(&self) -> usize {
        self.shared.state().count
    }

    /// The newest request.
    pub fn last(&self) -> Call {
        self.shared.state().calls.last().cloned().expect("the vendor was called")
    }

    /// What it would have billed so far, in nano-dollars, rounded up a call.
    pub fn billed_nanos(&self) -> i64 {
        i64::try_from(self.shared.state().billed_pico.div_ceil(1000)).expect("a small bill")
    }

    /// How often a client left before the answer was written.
    pub fn clients_lost(&self) -> usize {
        self.shared.state().streams_cut_by_client
    }

    /// What was wrong with the requests so far; takes them away.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().violations)
    }

    /// Answers that were scripted and never asked for.
    pub fn unused(&self) -> usize {
        self.shared.state().queue.len()
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut moved = self.shared.moved.subscribe();
        let wait = async {
            while !holds(self) {
                moved.changed().await.expect("the vendor lives");
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "the vendor waited in vain for: {what}");
    }

    /// Waits until it was called this often altogether.
    pub async fn called(&self, count: usize) {
        self.until(&format!("call {count}"), |vendor| vendor.call_count() >= count).await;
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accept.abort();
    }
}
