//! The agent: what a chat request sets in motion. It asks `storage` for a turn, `wallet` for a bound and `provider` for an answer; it knows no
//! HTTP.
//!
//! - [`turn`]: the pure state machine of a turn;
//! - [`input`], [`prompt`]: from a request and a conversation to a prompt, pure;
//! - [`feed`], [`running`]: what is known in memory of the turns that run;
//! - `drive`: does what the state machine asks for, in a task of its own, so that a lost client loses nothing;
//! - `settle`: the end of a step, tried until it is stored;
//! - [`tools`]: tools that the server runs, in sandboxes.

mod drive;
pub mod feed;
pub mod input;
mod prepare;
pub mod prompt;
pub mod running;
mod settle;
pub mod tools;
pub mod turn;

use crate::{
    clock::Clock,
    config::{Limits, ProviderConfig},
    error::{Error, Result},
    ids::*,
    metrics::Metrics,
    model::{ChatInput, OnBusy, TurnOutcome},
    money::Money,
    provider::client::Client,
    pulse::Pulse,
    rates::RateCard,
    storage::{Admission, Claim, OpenTurn, Opened, Principal, Storage, Stored, TenantStore, TurnAsk},
    telemetry::{Telemetry, TraceParent, TurnFacts, TurnSpan},
    template,
};
use arc_swap::ArcSwap;
use feed::{Event, Feed, Follower};
use input::Admitted;
use prepare::{Draft, Matter};
use running::Running;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tools::Yard;

/// What runs turns. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

/// What an [`Agent`] is made of.
pub struct Parts {
    /// The only door to data.
    pub storage: Storage,
    /// The only way to a vendor.
    pub client: Client,
    /// The rate card in force.
    pub rates: Arc<ArcSwap<RateCard>>,
    /// Providers by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Every limit.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// How providers' calls went lately.
    pub pulse: Pulse,
    /// Who is told of turns and calls.
    pub telemetry: Telemetry,
    /// Where tools run.
    pub yard: Arc<Yard>,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
}

struct Inner {
    parts: Parts,
    running: Arc<Running>,
    /// Models closed for all tenants: provider, model, and the fingerprint of the rate card's row under which they were.
    closed: Mutex<HashSet<(String, String, String)>>,
    /// Tenants with a step that could not be settled yet: no new hold until it is.
    unsettled: Mutex<HashMap<TenantId, usize>>,
    /// Cores for counting tokens.
    counting: Semaphore,
}

/// A chat request whose key was proved.
pub struct Chat {
    /// Who asks.
    pub who: Principal,
    /// The way to the tenant's data.
    pub store: TenantStore,
    /// On which config.
    pub config: ConfigId,
    /// What.
    pub input: ChatInput,
    /// The Idempotency-Key header.
    pub idempotency_key: Option<String>,
    /// The HTTP request.
    pub request: RequestId,
    /// When its head had arrived.
    pub arrived: Instant,
    /// The caller's own trace.
    pub trace: Option<TraceParent>,
}

/// The way to a turn's events.
pub struct Reading {
    /// The events, from the first.
    pub follower: Follower,
    /// The turn.
    pub turn: TurnId,
    /// Whether the answer was given before.
    pub replayed: bool,
    /// What the tenant had left when the turn's money was set aside, where that was before its first event.
    pub available: Option<Money>,
}

/// A turn that is open, and what its driver takes over.
type Begun = (Box<drive::Drive>, Option<prepare::Prepared>, drive::Guards);

/// How long a stop waits for cancelled turns to settle.
const SETTLE_GRACE: Duration = Duration::from_secs(5);
/// How often a stop looks whether all turns have ended.
const DRAIN_STEP: Duration = Duration::from_millis(20);

impl Agent {
    /// An agent that runs nothing yet.
    pub fn new(parts: Parts) -> Self {
        let running = Running::new(&parts.limits);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let counting = Semaphore::new(cores);
        Self { inner: Arc::new(Inner { parts, running, closed: Mutex::default(), unsettled: Mutex::default(), counting }) }
    }

    /// Reads what an earlier life of the server learnt of its vendors.
    pub async fn start(&self) -> Result<()> {
        let closed = self.parts().storage.breaches_closed().await?;
        lock(&self.inner.closed).extend(closed);
        Ok(())
    }

    fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    fn limits(&self) -> &Limits {
        &self.inner.parts.limits
    }

    /// Begins a turn, or finds the answer that this request was given before. The turn runs to its end whether or not anyone reads it.
    ///
    /// Fails with whatever refuses the request before a turn is open, the wallet included; then no row of it stays. Where the first call has to
    /// wait for a summary or a count of tokens, what refuses it comes as the first event.
    pub async fn chat(&self, chat: Chat) -> Result<Reading> {
        self.turn_spawn(chat).await.map_err(|_| Error::internal("a turn's beginning panicked"))?
    }

    /// A task of its own from the first write on: a client that goes away must not leave a turn open that nobody drives.
    ///
    /// No async function: the turn's future would lie in the caller's too, for as long as it waits. And its two parts are boxed: what it took to
    /// begin is given back while it is driven, and tokio copies less.
    fn turn_spawn(&self, chat: Chat) -> oneshot::Receiver<Result<Reading>> {
        let agent = self.clone();
        let (told, begun) = oneshot::channel();
        tokio::spawn(async move {
            match Box::pin(agent.begin(chat)).await {
                Ok((reading, running)) => {
                    drop(told.send(Ok(reading)));
                    if let Some((drive, first, guards)) = running {
                        Box::pin(agent.drive(*drive, first, guards)).await;
                    }
                }
                Err(error) => drop(told.send(Err(error))),
            }
        });
        begun
    }

    /// Opens a turn: the way to its events, and what drives it where it is not over already.
    async fn begin(&self, chat: Chat) -> Result<(Reading, Option<Begun>)> {
        let (limits, running, tenant) = (self.limits(), &self.inner.running, chat.who.tenant_id());
        if self.parts().stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        if chat.who.suspended() {
            return Err(Error::TenantSuspended);
        }
        input::check(&chat.input, limits)?;
        let claim = claim_of(&chat, limits)?;
        // The answer that is there already needs no room, no place and no conversation to itself.
        if let Some(claim) = &claim
            && let Some(stored) = chat.store.turn_stored(chat.config, claim.clone()).await?
        {
            return Ok((replayed(stored), None));
        }
        self.disk_check()?;
        chat.store.room_check().await?;
        let slot = running.slot(tenant)?;
        let claim_guard = claim.as_ref().map(|claim| running.claim(tenant, &chat.config.to_string(), claim)).transpose()?;
        let conversation = chat.input.conversation_id.unwrap_or_else(ConversationId::new);
        let wait = match chat.input.on_busy {
            OnBusy::Queue => limits.conversation_wait_ms,
            OnBusy::Reject => Duration::ZERO,
        };
        let busy = Error::ConversationBusy { retry_after: Duration::from_secs(1) };
        let conversation_guard = tokio::select! {
            biased;
            // Whoever would begin only after the turn before it would keep a stopping server from its end.
            () = self.parts().stopping.cancelled() => return Err(Error::ShuttingDown),
            guard = running.conversation(tenant, conversation, wait) => guard.ok_or(busy)?,
        };
        let opened = chat.store.turn_open(turn_ask(&chat, conversation, claim), self.admission(&chat)).await;
        let opened = opened.inspect_err(|error| self.refusal_count(error))?;
        match opened {
            Opened::Replay(stored) => Ok((replayed(stored), None)),
            Opened::Running(open, (admitted, draft), hold) => {
                crate::failpoint::hit("turn-opened");
                let first = match (draft, hold) {
                    (Some(draft), Some(hold)) => Some(draft.held(hold, self.provider(&open.config.model_config.provider)?)),
                    _ => None,
                };
                let available = first.as_ref().map(|first| first.hold.available());
                let turn = open.turn;
                let guard = running.turn_begin(tenant, turn);
                let (feed, cancel) = (Arc::clone(&guard.entry.feed), guard.entry.cancel.clone());
                let follower = Follower::new(Arc::clone(&feed));
                let span = self.turn_span(&chat, &open);
                let drive = drive::Drive {
                    span,
                    who: chat.who,
                    store: chat.store,
                    metadata: chat.input.metadata.filter(|_| !open.conversation_is_new),
                    open,
                    admitted,
                    arrived: chat.arrived,
                    feed,
                    cancel,
                };
                let guards = drive::Guards { turn: guard, slot, claim: claim_guard, conversation: conversation_guard };
                Ok((Reading { follower, turn, replayed: false, available }, Some((Box::new(drive), first, guards))))
            }
        }
    }

    /// Tells the collector, if there is one, that a turn begins.
    fn turn_span(&self, chat: &Chat, open: &OpenTurn) -> Option<TurnSpan> {
        let Parts { telemetry, clock, .. } = self.parts();
        telemetry.turn(chat.trace, clock.now(), || TurnFacts {
            agent_id: open.config_id.to_string(),
            agent_name: &open.config.name,
            provider: &open.config.model_config.provider,
            model: &open.config.model_config.model,
            conversation: open.conversation.to_string(),
            turn: open.turn.to_string(),
            request: open.request.to_string(),
            tenant: chat.who.tenant_id().to_string(),
        })
    }

    /// What is checked inside the transaction that opens the turn, and the call that it begins with.
    fn admission(&self, chat: &Chat) -> impl Fn(&OpenTurn) -> Result<Admission<(Admitted, Option<Draft>)>> + Send + 'static {
        let (agent, input, who) = (self.clone(), chat.input.clone(), chat.who.clone());
        let date = self.parts().clock.now().date_in(who.time_zone());
        move |open| {
            let built_ins = template::BuiltIns { tenant_name: who.tenant_name(), agent_name: &open.config.name, date: &date };
            let bytes_max = agent.limits().rendered_prompt_bytes_max;
            let system = template::render(&open.config.system_prompt, &built_ins, &open.template_vars, bytes_max)?;
            match input::admit(&input, open, system)? {
                Admission::Replay(stored) => Ok(Admission::Replay(stored)),
                Admission::Go(admitted, _) => {
                    let draft = agent.first_draft(Matter { who: &who, open, admitted: &admitted })?;
                    let hold = draft.as_ref().map(|draft| Box::new(draft.ask.clone()));
                    Ok(Admission::Go((admitted, draft), hold))
                }
            }
        }
    }

    /// A turn that the wallet did not let begin counts like one that it stopped later.
    fn refusal_count(&self, error: &Error) {
        if let Error::InsufficientCredit { .. } | Error::KeySpendLimit { .. } | Error::CreditReserved { .. } = error {
            self.parts().metrics.hold("refused");
            self.parts().metrics.turn("failed");
        }
    }

    /// No turn starts on a disk that may not hold its answer.
    fn disk_check(&self) -> Result<()> {
        let free = self.parts().storage.disk_free_bytes()?;
        if free < self.limits().disk_free_bytes_min as u64 { Err(Error::DiskFull) } else { Ok(()) }
    }

    /// Follows a turn of this tenant that runs or ended not long ago, from behind an event's sequence number.
    pub fn turn_follow(&self, who: &Principal, turn: TurnId, after: usize) -> Result<Follower> {
        let entry = self.inner.running.turn_find(who.tenant_id(), turn).ok_or_else(|| Error::not_found("turn", turn))?;
        Ok(Follower::after(Arc::clone(&entry.feed), after))
    }

    /// Stops a turn and waits for its end; answers whether it still ran.
    pub async fn turn_cancel(&self, who: &Principal, turn: TurnId) -> Result<bool> {
        let entry = self.inner.running.turn_find(who.tenant_id(), turn).ok_or_else(|| Error::not_found("turn", turn))?;
        let ran = !entry.feed.is_over();
        entry.cancel.cancel();
        let mut follower = Follower::new(Arc::clone(&entry.feed));
        let ended = async { while follower.next().await.is_some() {} };
        // What does not end in time is still cancelled; its settle goes on.
        let _ = tokio::time::timeout(SETTLE_GRACE, ended).await;
        Ok(ran)
    }

    /// Does something that needs a tenant without turns, such as deleting it: cancels its turns, and whichever slip in, until the work is done.
    pub async fn without_turns<T>(&self, tenant: TenantId, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            self.inner.running.cancel_tenant(tenant);
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(DRAIN_STEP) => {}
            }
        }
    }

    /// Waits so long for running turns, then cancels what still runs and lets it settle. Answers how many turns had to be cancelled.
    pub async fn drain(&self, wait: Duration) -> usize {
        let running = &self.inner.running;
        let none_left = || async {
            while running.turns_running() > 0 {
                tokio::time::sleep(DRAIN_STEP).await;
            }
        };
        if tokio::time::timeout(wait, none_left()).await.is_ok() {
            return 0;
        }
        let cancelled = running.turns_running();
        running.cancel_all();
        let _ = tokio::time::timeout(SETTLE_GRACE, none_left()).await;
        cancelled
    }

    /// How many turns run.
    pub fn turns_running(&self) -> usize {
        self.inner.running.turns_running()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Changed by single calls only; a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn turn_ask(chat: &Chat, conversation: ConversationId, claim: Option<Claim>) -> TurnAsk {
    TurnAsk {
        turn: TurnId::new(),
        request: chat.request,
        who: chat.who.clone(),
        config: chat.config,
        conversation,
        conversation_is_new: chat.input.conversation_id.is_none(),
        title: input::title(&chat.input),
        metadata: chat.input.metadata.clone().unwrap_or_default(),
        end_user: chat.input.user.clone(),
        template_vars: chat.input.template_vars.clone().unwrap_or_default(),
        claim,
        may_be_again: chat.input.tool_results.is_some(),
    }
}

/// The idempotency key with a hash of all that the request says, its mode included.
fn claim_of(chat: &Chat, limits: &Limits) -> Result<Option<Claim>> {
    let Some(key) = &chat.idempotency_key else { return Ok(None) };
    if key.is_empty() || key.len() > limits.idempotency_key_bytes_max || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let message = format!("expected 1–{} printable ASCII characters", limits.idempotency_key_bytes_max);
        return Err(Error::invalid("Idempotency-Key", message));
    }
    let body = serde_json::to_vec(&chat.input).map_err(Error::internal)?;
    Ok(Some(Claim { key: key.clone(), fingerprint: blake3::hash(&body).to_hex()[..32].to_owned() }))
}

/// The events of a turn that ended before.
fn replayed(stored: Stored) -> Reading {
    let Stored { outcome, turn, conversation } = stored;
    let mut events = vec![Event::Started { conversation_id: conversation, turn_id: turn }];
    match outcome {
        TurnOutcome::Answered(answer) => {
            events.extend(answer.response.as_deref().filter(|text| !text.is_empty()).map(|text| Event::Delta(text.into())));
            events.extend(answer.tool_calls.iter().map(|call| Event::ToolCall(Arc::new(call.clone()))));
            events.push(Event::Completed(Arc::from(answer), None));
        }
        TurnOutcome::Failed(failure) => events.push(Event::Failed(failure.into())),
    }
    Reading { follower: Follower::new(Feed::replayed(events)), turn, replayed: true, available: None }
}
