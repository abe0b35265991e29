//! One running sandbox and the MCP client that talks to it. What is behind the channel is hostile: every wait has an end, every byte is counted, and
//! whatever it asks of us is refused. The only file that names rmcp.

use super::redact::Redactor;
use crate::{
    agent::lock,
    bundle::manifest::Runtime,
    config::Limits,
    egress::Egress,
    model::{JsonObject, PinnedTool},
    sandbox::{ExitCause, Running, SandboxError, StopReason},
};
#[allow(deprecated, reason = "named to be refused")]
use rmcp::model::ListRootsResult;
use rmcp::{
    ClientHandler, ErrorData, RoleClient,
    model::{
        CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, ContentBlock, ElicitRequestParams, ElicitResult,
        ErrorCode, Implementation, MetaObject, ProtocolVersion, RequestMetaObject,
    },
    service::{ClientLifecycleMode, ClientServiceExt, RequestContext, RunningService, ServiceError},
    transport::async_rw::AsyncRwTransport,
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::JoinHandle,
};
use tracing::{Instrument, Span};

/// The longest message of a tool server.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// How long a process that ended is waited for to say how.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// How long a process may take to end by itself when it is asked to.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the runner ends a call by, called like a tool. No tool has this name: bundles' have no slash.
const END: &str = "nimblesite/end";
/// How long the runner may take to say whether it did.
const END_WAIT: Duration = Duration::from_secs(2);

/// What came of a call.
pub(super) enum Said {
    /// The tool answered; whether it says that it worked.
    Text(String, bool),
    /// It did not, in words for the model.
    Nothing(String),
}

/// What is called.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: JsonObject,
    pub(super) ends: Ends,
}

/// What becomes of a call that nobody waits for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// The runner ends it when it is cancelled: a command of its shell, or what takes no time.
    Alone,
    /// The runner can be asked to end it: a function of Python, which may not obey.
    Asked,
    /// No one can but who ends its process.
    WithProcess,
}

/// A sandbox that runs.
pub(super) struct Session {
    running: Running,
    client: RunningService<RoleClient, Host>,
    /// Takes the secrets that it was started with out of what it says.
    pub(super) redactor: Redactor,
    /// The config's version that it was started for.
    pub(super) version: u32,
    /// The bundle that it runs; none for built-in tools alone.
    pub(super) digest: Option<String>,
    meter: Arc<Meter>,
    open: Mutex<Open>,
    numbers: AtomicU64,
    memory_mb: u64,
    /// What it may reach, and the task that lets it.
    egress: Arc<Egress>,
    reaching: Option<JoinHandle<()>>,
}

/// The calls that a session works on.
#[derive(Default)]
struct Open {
    calls: usize,
    /// One of them was given up and goes on: there are no new ones, and the last ends the process.
    retired: bool,
}

/// One of them, as long as it lives.
struct OpenCall<'a>(&'a Session);

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.0.open);
        open.calls -= 1;
        if open.retired && open.calls == 0 {
            self.0.running.end(StopReason::Deadline);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(reaching) = &self.reaching {
            reaching.abort();
        }
    }
}

/// What a session is begun with.
pub(super) struct Begin {
    pub(super) running: Running,
    pub(super) redactor: Redactor,
    pub(super) version: u32,
    pub(super) digest: Option<String>,
    pub(super) memory_mb: u64,
    pub(super) egress: Arc<Egress>,
    /// What the log says with each thing that it reaches.
    pub(super) label: Span,
}

impl Session {
    /// Shakes hands with what runs in a sandbox that was just started.
    pub(super) async fn begin(begin: Begin, runtime: Option<&Runtime>, limits: &Limits) -> Result<Self, SandboxError> {
        let Begin { mut running, redactor, version, digest, memory_mb, egress, label } = begin;
        let reaching = running.door().map(|door| tokio::spawn(Arc::clone(&egress).serve(door).instrument(label)));
        let Some((read, write)) = running.tool_channel() else {
            return Err(SandboxError::Internal("a sandbox without a channel".to_owned()));
        };
        let meter = Arc::new(Meter::new(limits));
        let transport = AsyncRwTransport::<RoleClient, _, _>::new(Metered { inner: read, meter: Arc::clone(&meter) }, write)
            .with_max_line_length(LINE_BYTES_MAX);
        // Our runner speaks one version; others are asked which.
        let lifecycle = match runtime {
            Some(Runtime::Mcp { .. }) => ClientLifecycleMode::Auto {
                preferred_versions: vec![ProtocolVersion::LATEST],
                legacy_version: Some(ProtocolVersion::V_2025_11_25),
            },
            _ => ClientLifecycleMode::Initialize,
        };
        meter.call_begins();
        let shaking = tokio::time::timeout(limits.sandbox_handshake_ms, Host.serve_with_lifecycle(transport, lifecycle)).await;
        meter.call_ends();
        match shaking {
            Ok(Ok(client)) => {
                let (open, numbers) = (Mutex::default(), AtomicU64::new(0));
                Ok(Self { running, client, redactor, version, digest, meter, open, numbers, memory_mb, egress, reaching })
            }
            Ok(Err(error)) => {
                let ended = tokio::time::timeout(EXIT_WAIT, running.exited()).await.is_ok();
                let tail = redactor.clean(&running.stderr_tail());
                running.kill(StopReason::Deadline).await;
                Err(if ended { SandboxError::Crashed(tail) } else { SandboxError::Protocol(error.to_string()) })
            }
            Err(_) => {
                running.kill(StopReason::Deadline).await;
                Err(SandboxError::Deadline)
            }
        }
    }

    /// The tools that it lists now: asked once, when a bundle is tried out.
    pub(super) async fn tools(&self, limits: &Limits) -> Result<Vec<PinnedTool>, SandboxError> {
        self.meter.call_begins();
        let listing = tokio::time::timeout(limits.sandbox_handshake_ms, self.client.list_all_tools()).await;
        self.meter.call_ends();
        let tools = match listing {
            Err(_) => return Err(SandboxError::Deadline),
            Ok(Err(ServiceError::McpError(error))) => return Err(SandboxError::Protocol(error.message.into_owned())),
            Ok(Err(ServiceError::TransportClosed)) => return Err(SandboxError::Crashed(self.stderr())),
            Ok(Err(error)) => return Err(SandboxError::Protocol(error.to_string())),
            Ok(Ok(tools)) => tools,
        };
        let pinned = tools.into_iter().map(|tool| PinnedTool {
            name: tool.name.into_owned(),
            description: tool.description.map(std::borrow::Cow::into_owned),
            parameters: (*tool.input_schema).clone(),
            timeout_s: None,
        });
        Ok(pinned.collect())
    }

    /// Calls a tool and waits for what it says, for the process's end, or for `stop`. Whatever becomes of it, other calls go on.
    pub(super) async fn call(&self, call: Call<'_>, deadline: Duration, stop: impl Future<Output = ()>) -> Said {
        let Call { name, arguments, ends } = call;
        let mut params = CallToolRequestParams::new(name.to_owned());
        params.arguments = Some(arguments);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        if ends == Ends::Asked {
            let meta = JsonObject::from_iter([("nimblesite/call".to_owned(), number.into())]);
            params.meta = Some(RequestMetaObject(MetaObject(meta)));
        }
        lock(&self.open).calls += 1;
        let open = OpenCall(self);
        self.meter.call_begins();
        let given_up = {
            // Dropped unfinished, it tells the server that the call is cancelled.
            let calling = self.client.call_tool_once(params);
            tokio::select! {
                biased;
                answered = calling => Err(self.answered(answered).await),
                () = stop => Ok("The call was cancelled while the tool ran; whether it did its work is not known.".to_owned()),
                () = tokio::time::sleep(deadline) => Ok(format!("The tool timed out after {} s.", deadline.as_secs_f32().ceil())),
            }
        };
        let said = match given_up {
            Err(said) => said,
            Ok(told) => {
                if !self.ended_alone(ends, number).await {
                    lock(&self.open).retired = true;
                }
                Said::Nothing(told)
            }
        };
        self.meter.call_ends();
        drop(open);
        let last = {
            let open = lock(&self.open);
            open.retired && open.calls == 0
        };
        if last {
            self.running.exited().await;
        }
        said
    }

    /// Whether a call that nobody waits for any more is over. One that is not would go on behind everyone's back: its process has to end.
    async fn ended_alone(&self, ends: Ends, number: u64) -> bool {
        if ends != Ends::Asked {
            // A command of the runner's own shell is a process of its own, which the runner has killed by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return ends == Ends::Alone;
        }
        let mut params = CallToolRequestParams::new(END);
        params.arguments = Some(JsonObject::from_iter([("call".to_owned(), number.into())]));
        let asking = tokio::time::timeout(END_WAIT, self.client.call_tool_once(params)).await;
        let Ok(Ok(CallToolResponse::Complete(result))) = asking else { return false };
        result.content.iter().any(|block| text_of(block) == "ended")
    }

    /// Whether it takes no new calls: one that was given up goes on in it, until the last of the others is done.
    pub(super) fn is_retired(&self) -> bool {
        lock(&self.open).retired
    }

    async fn answered(&self, answered: Result<CallToolResponse, ServiceError>) -> Said {
        match answered {
            Ok(CallToolResponse::Complete(result)) => {
                let mut texts: Vec<String> = result.content.iter().map(text_of).collect();
                if texts.is_empty() {
                    texts.extend(result.structured_content.iter().map(ToString::to_string));
                }
                Said::Text(texts.join("\n"), !result.is_error.unwrap_or(false))
            }
            Ok(_) => Said::Nothing("The tool asked for more input, which no one is there to give.".to_owned()),
            Err(ServiceError::McpError(error)) => Said::Nothing(format!("The tool failed: {}", error.message)),
            Err(_) if self.meter.over() => {
                self.running.kill(StopReason::Deadline).await;
                Said::Nothing("The tool wrote more than a tool may.".to_owned())
            }
            Err(ServiceError::TransportClosed | ServiceError::TransportSend(_)) => self.ended().await,
            Err(error) => Said::Nothing(format!("The tool did not answer as agreed: {error}")),
        }
    }

    /// What the model is told of a process that ended during its call.
    async fn ended(&self) -> Said {
        let cause = tokio::time::timeout(EXIT_WAIT, self.running.exited()).await;
        Said::Nothing(match cause {
            Ok(ExitCause::Oom | ExitCause::Stopped(StopReason::Oom)) => format!("The tool ran out of memory ({} MiB).", self.memory_mb),
            Ok(ExitCause::Exit(code)) => format!("The tool's process exited (code {code})."),
            Ok(ExitCause::Signal(signal)) => format!("The tool's process was ended by signal {signal}."),
            Ok(ExitCause::Stopped(StopReason::DiskFull)) => "The tool filled its workspace.".to_owned(),
            Ok(ExitCause::Stopped(StopReason::Revoked)) => "The tool's sandbox was removed.".to_owned(),
            Ok(ExitCause::Stopped(_)) => "The tool's sandbox was stopped.".to_owned(),
            Err(_) => {
                self.running.kill(StopReason::Deadline).await;
                "The tool closed its channel.".to_owned()
            }
        })
    }

    /// Whether nothing can be asked any more.
    pub(super) fn is_over(&self) -> bool {
        self.client.is_transport_closed() || self.client.is_closed()
    }

    /// How its process ended, when it has.
    pub(super) async fn exited(&self) -> ExitCause {
        self.running.exited().await
    }

    /// Lets the process end, or ends it.
    pub(super) async fn stop(&self, why: StopReason) -> ExitCause {
        // The transport goes with the service, and with it the process's stdin.
        self.client.cancellation_token().cancel();
        match tokio::time::timeout(STOP_GRACE, self.running.exited()).await {
            Ok(cause) if why == StopReason::Idle => cause,
            _ => self.running.kill(why).await,
        }
    }

    /// Ends the process at once.
    pub(super) async fn kill(&self, why: StopReason) {
        self.running.kill(why).await;
    }

    /// The end of what it wrote to stderr, without its secrets.
    pub(super) fn stderr(&self) -> String {
        self.redactor.clean(&self.running.stderr_tail())
    }

    /// What its process reached of late, or was refused.
    pub(super) fn reached(&self) -> Vec<String> {
        self.egress.told()
    }

    /// Bytes of memory that it uses now.
    pub(super) async fn memory_bytes(&self) -> u64 {
        self.running.usage().await.map_or(0, |usage| usage.memory_bytes)
    }
}

fn text_of(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        other => match serde_json::to_value(other) {
            Ok(value) => format!("[{} content, which is not passed on]", value["type"].as_str().unwrap_or("unknown")),
            Err(_) => "[content that is not passed on]".to_owned(),
        },
    }
}

/// Our side of the protocol: no capability, nothing to ask us for. A bundle must not spend the tenant's model budget, nor ask its users.
#[derive(Clone, Copy)]
struct Host;

fn refused(method: &'static str) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("this host offers no {method}"), None)
}

#[allow(deprecated, reason = "what is refused here is refused whatever its future")]
impl ClientHandler for Host {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("nimblesite", env!("CARGO_PKG_VERSION")))
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Err(refused("roots/list"))
    }

    async fn create_elicitation(&self, _: ElicitRequestParams, _: RequestContext<RoleClient>) -> Result<ElicitResult, ErrorData> {
        Err(refused("elicitation/create"))
    }
}

/// Counts what comes out of a sandbox: each call begins anew, and so does each minute.
struct Meter {
    calls: AtomicUsize,
    since_call: AtomicU64,
    over: std::sync::atomic::AtomicBool,
    minute: Mutex<(Instant, u64)>,
    call_bytes_max: u64,
    minute_bytes_max: u64,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        Self {
            calls: AtomicUsize::new(0),
            since_call: AtomicU64::new(0),
            over: false.into(),
            minute: Mutex::new((Instant::now(), 0)),
            call_bytes_max: limits.sandbox_call_bytes_max as u64,
            minute_bytes_max: limits.sandbox_bytes_per_minute as u64,
        }
    }

    fn call_begins(&self) {
        // Calls share one channel, so that they share one sum: each adds its part.
        if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
            self.since_call.store(0, Ordering::SeqCst);
        }
    }

    fn call_ends(&self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether so many more bytes are still within bounds.
    fn take(&self, bytes: u64) -> bool {
        let sum = self.since_call.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let calls = self.calls.load(Ordering::SeqCst).max(1) as u64;
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.0.elapsed() >= Duration::from_secs(60) {
            *minute = (Instant::now(), 0);
        }
        minute.1 += bytes;
        let fine = sum <= self.call_bytes_max.saturating_mul(calls) && minute.1 <= self.minute_bytes_max;
        if !fine {
            self.over.store(true, Ordering::SeqCst);
        }
        fine
    }
}

/// A reader that ends when too much came out of it.
struct Metered<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, into);
        let read = into.filled().len() - before;
        if read > 0 && !self.meter.take(read as u64) {
            return Poll::Ready(Err(io::Error::other("a sandbox wrote more than it may")));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_flood_ends_the_channel_at_its_bound() {
        let limits = Limits { sandbox_call_bytes_max: 1_000, ..Limits::default() };
        let meter = Arc::new(Meter::new(&limits));
        let mut flood = Metered { inner: tokio::io::repeat(b'x'), meter: Arc::clone(&meter) };
        let mut sink = vec![0; 400];
        meter.call_begins();
        assert!(flood.read_exact(&mut sink).await.is_ok());
        meter.call_ends();
        meter.call_begins();
        assert!(flood.read_exact(&mut sink).await.is_ok() && flood.read_exact(&mut sink).await.is_ok());
        assert!(flood.read_exact(&mut sink).await.is_err() && meter.over());
    }

    #[tokio::test]
    async fn many_small_calls_are_bounded_by_the_minute() {
        let limits = Limits { sandbox_call_bytes_max: 1_000, sandbox_bytes_per_minute: 1_000, ..Limits::default() };
        let meter = Arc::new(Meter::new(&limits));
        let mut flood = Metered { inner: tokio::io::repeat(b'x'), meter: Arc::clone(&meter) };
        let mut sink = vec![0; 400];
        let mut answered = Vec::new();
        for _ in 0..3 {
            meter.call_begins();
            answered.push(flood.read_exact(&mut sink).await.is_ok());
            meter.call_ends();
        }
        assert_eq!(answered, [true, true, false]);
    }
}
