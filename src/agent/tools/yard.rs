//! Which sandboxes there are: one a config, started at its first call, stopped when nobody called for a while, bounded a tenant and a server, left
//! alone after crashes, removed with its config or tenant. A workspace outlives its processes, and this server.

use super::{
    intake::start_of,
    offer,
    redact::Redactor,
    session::{Begin, Call, Ends, Said, Session},
    shelf::Shelf,
    slot::{InFlight, Slot, is_up, stop_idle},
    workspaces::tag,
};
use crate::{
    agent::lock,
    bundle::manifest::Runtime,
    config::{Config, Limits, SandboxSettings},
    egress::{Egress, resolve_here},
    error::{Error, Result},
    fair::{Fair, Places},
    ids::{ConfigId, TenantId},
    model::{ConfigBody, PinnedTool, ToolCall},
    sandbox::{ExitCause, SandboxError, SandboxLimits, SandboxSpec, Sandboxes, StopReason},
    storage::{Kit, Principal, Storage, TenantStore},
};
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Of the machine's memory, this much may be promised to sandboxes, in hundredths.
const MEMORY_SHARE: u64 = 60;
/// How often idle sandboxes are looked for, at most.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);

/// All sandboxes of this server.
pub struct Yard {
    pub(super) sandboxes: Sandboxes,
    pub(super) limits: Limits,
    pub(super) settings: SandboxSettings,
    /// Unpacked bundles of this life of the server.
    pub(super) bundles: PathBuf,
    pub(super) unpacked: tokio::sync::Mutex<HashSet<PathBuf>>,
    /// Looks at workspaces' files, a tenant's one behind the other.
    pub(super) file_turns: Arc<Fair<TenantId>>,
    /// Snapshots that are made or laid out, a tenant's one behind the other.
    pub(super) snapshot_turns: Arc<Fair<TenantId>>,
    pub(super) shelf: Shelf,
    pub(super) slots: Mutex<HashMap<(TenantId, ConfigId), Arc<Slot>>>,
    places: Mutex<HashMap<TenantId, usize>>,
    freed: Notify,
    running_max: usize,
}

/// A sandbox that runs, and its place among them.
pub(super) struct Up {
    pub(super) session: Session,
    _place: Place,
}

/// A place among the running sandboxes; given back when dropped.
struct Place {
    yard: Arc<Yard>,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.yard.places);
        if let Some(count) = places.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.tenant);
            }
        }
        drop(places);
        self.yard.freed.notify_waiters();
    }
}

/// A call and whose it is.
pub(super) struct ToolAsk<'a> {
    pub(super) tenant: TenantId,
    pub(super) store: &'a TenantStore,
    pub(super) config: ConfigId,
    pub(super) version: u32,
    /// What that version says.
    pub(super) body: &'a ConfigBody,
    pub(super) kit: Option<&'a Kit>,
    pub(super) offered: &'a [PinnedTool],
    pub(super) call: &'a ToolCall,
    /// The most time that is paid for.
    pub(super) time_max: Duration,
    pub(super) stop: &'a CancellationToken,
}

/// What came of a call.
pub(super) struct ToolDone {
    /// What the model is told.
    pub(super) text: String,
    pub(super) ok: bool,
    /// How long it took, its sandbox's start included.
    pub(super) took: Duration,
    /// What ends the turn, too.
    pub(super) failure: Option<Error>,
}

/// Who may look at files at once, and wait to.
const FILE_TURNS: Places = Places { at_once: 4, at_once_each: 1, waiting: 64, waiting_each: 8 };
/// Who may make or lay out snapshots at once, and wait to: each takes a processor for as long as it reads the workspace.
const SNAPSHOT_TURNS: Places = Places { at_once: 2, at_once_each: 1, waiting: 256, waiting_each: 8 };

impl Yard {
    /// A yard with nothing in it. What an earlier life unpacked is removed.
    pub fn new(sandboxes: Sandboxes, config: &Config) -> Arc<Self> {
        let (limits, bundles) = (config.limits.clone(), config.data.join("bundles"));
        match std::fs::remove_dir_all(&bundles) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tracing::warn!(%error, "unpacked bundles of an earlier run stay"),
            _ => {}
        }
        let each = SandboxLimits::usual(&limits).memory_bytes.max(1);
        let by_memory = memory_bytes().map_or(usize::MAX, |bytes| usize::try_from(bytes / 100 * MEMORY_SHARE / each).unwrap_or(usize::MAX));
        let running_max = limits.sandboxes_running_max.min(by_memory).max(1);
        Arc::new(Self {
            sandboxes,
            limits,
            settings: config.sandbox.clone(),
            bundles,
            unpacked: tokio::sync::Mutex::default(),
            file_turns: Fair::new(FILE_TURNS),
            snapshot_turns: Fair::new(SNAPSHOT_TURNS),
            shelf: Shelf::new(&config.data),
            slots: Mutex::default(),
            places: Mutex::default(),
            freed: Notify::new(),
            running_max,
        })
    }

    pub(super) fn slot(&self, tenant: TenantId, config: ConfigId) -> Arc<Slot> {
        Arc::clone(lock(&self.slots).entry((tenant, config)).or_insert_with(|| Arc::new(Slot::new(&self.limits))))
    }

    /// Runs a call; whatever becomes of it, there is something that the model can be told.
    pub(super) async fn call(self: &Arc<Self>, ask: ToolAsk<'_>) -> ToolDone {
        let begun = Instant::now();
        let done = |text: String, ok: bool, failure: Option<Error>| ToolDone { text, ok, took: begun.elapsed(), failure };
        let tool = match offer::admit(ask.call, ask.offered) {
            Ok(tool) => tool,
            Err(told) => return done(told, false, None),
        };
        let slot = self.slot(ask.tenant, ask.config);
        if let Some(left) = slot.left_alone(&self.limits) {
            return done(format!("The tools crashed too often; they are tried again in {} s.", left.as_secs() + 1), false, None);
        }
        let _flight = InFlight::new(&slot);
        let Ok(_turn) = slot.calls.acquire().await else { return done("The tools are unavailable.".to_owned(), false, None) };
        let up = tokio::select! {
            biased;
            () = ask.stop.cancelled() => return done("The call was cancelled; the tool did not run.".to_owned(), false, None),
            up = self.up(&slot, &ask) => up,
        };
        let up = match up {
            Ok(up) => up,
            Err(error) => {
                tracing::warn!(tenant = %ask.tenant, config = %ask.config, %error, "a tool could not be run");
                let (told, failure) = unusable(&error);
                return done(told, false, failure);
            }
        };
        let limit = tool.timeout_s.map_or(self.limits.sandbox_call_ms, |seconds| Duration::from_secs(seconds.into()));
        let deadline = limit.min(self.limits.sandbox_call_ms_max).min(ask.time_max.saturating_sub(begun.elapsed()));
        let ends = match ask.kit.map(|kit| &kit.manifest.runtime) {
            _ if offer::is_built_in(&tool.name, ask.kit) => Ends::Alone,
            Some(Runtime::Mcp { .. }) => Ends::WithProcess,
            _ => Ends::Asked,
        };
        let call = Call { name: &tool.name, arguments: ask.call.arguments.clone(), ends };
        let said = up.session.call(call, deadline, ask.stop.cancelled()).await;
        let (text, ok, answered) = match said {
            Said::Text(text, ok) => (text, ok, true),
            Said::Nothing(told) => (told, false, false),
        };
        // Cleaned before it is cut: half a secret would not be found.
        let text = offer::cut(up.session.redactor.clean(&text), self.limits.sandbox_result_bytes_max);
        if !answered {
            tracing::warn!(tenant = %ask.tenant, config = %ask.config, tool = tool.name, told = text, "a tool gave no answer");
        }
        done(text, ok, None)
    }

    /// The config's running sandbox, started where it does not run.
    async fn up(self: &Arc<Self>, slot: &Arc<Slot>, ask: &ToolAsk<'_>) -> Result<Arc<Up>> {
        let digest = ask.kit.map(|kit| kit.digest.clone());
        let mut state = slot.up.lock().await;
        if let Some(up) = state.take() {
            let session = &up.session;
            let retired = session.is_retired();
            if !retired && !session.is_over() && session.version >= ask.version && session.digest == digest {
                *state = Some(Arc::clone(&up));
                return Ok(up);
            }
            if retired {
                // Its other calls go on, and end it.
                let mut others = lock(&slot.retired);
                others.retain(|other| other.strong_count() > 0);
                others.push(Arc::downgrade(&up));
            } else {
                // Secrets, bundle or settings changed: the next call begins anew.
                session.stop(StopReason::Idle).await;
            }
        }
        slot.booting.store(true, Ordering::SeqCst);
        let booted = self.boot(slot, ask, digest).await;
        slot.booting.store(false, Ordering::SeqCst);
        let up = booted?;
        *state = Some(Arc::clone(&up));
        drop(state);
        let (slot, watched) = (Arc::clone(slot), Arc::clone(&up));
        tokio::spawn(async move {
            let cause = watched.session.exited().await;
            slot.ended(cause, watched.session.stderr());
            let mut state = slot.up.lock().await;
            if state.as_ref().is_some_and(|up| Arc::ptr_eq(up, &watched)) {
                *state = None;
            }
        });
        Ok(up)
    }

    async fn boot(self: &Arc<Self>, slot: &Arc<Slot>, ask: &ToolAsk<'_>, digest: Option<String>) -> Result<Arc<Up>> {
        let place = self.place(ask.tenant, slot).await?;
        let manifest = ask.kit.map(|kit| &kit.manifest);
        let image = self.image_of(ask.body)?;
        let row = self.workspace(ask, image.as_deref()).await?;
        let bundle = match ask.kit {
            Some(kit) => Some(self.unpacked(ask.store, ask.tenant, &kit.digest).await?),
            None => None,
        };
        let secrets = ask.store.secrets_open(ask.config).await?;
        let limits = self.limits_of(manifest);
        self.filled(ask.store, ask.config, &row, image.as_deref(), limits).await?;
        lock(&slot.facts).plain = Some(self.plain_spec(row.clone(), image.as_deref(), limits));
        let granted = self.granted(manifest, image.as_deref()).await;
        let spec = SandboxSpec {
            id: row,
            bundle,
            start: start_of(manifest),
            limits,
            network: !granted.is_empty(),
            built_ins: offer::built_ins(ask.offered, ask.kit),
            secrets_in_shell: false,
            result_bytes_max: self.limits.sandbox_result_bytes_max,
            image,
        };
        let redactor = Redactor::new(&secrets);
        let booted = self.sandboxes.boot(&spec, secrets).await;
        let running = booted.map_err(|error| self.boot_failed(slot, &error, &redactor))?;
        let memory_mb = spec.limits.memory_bytes / 1024 / 1024;
        let egress = Egress::new(granted, self.settings.network_private.clone(), &self.limits, resolve_here(), Arc::clone(&slot.news));
        let label = tracing::info_span!("egress", tenant = %ask.tenant, config = %ask.config);
        let begin = Begin { running, redactor: redactor.clone(), version: ask.version, digest, memory_mb, egress, label };
        let session = Session::begin(begin, manifest.map(|manifest| &manifest.runtime), &self.limits).await;
        let session = session.map_err(|error| self.boot_failed(slot, &error, &redactor))?;
        Ok(Arc::new(Up { session, _place: place }))
    }

    /// A bundle that does not start counts like one that crashed.
    fn boot_failed(&self, slot: &Slot, error: &SandboxError, redactor: &Redactor) -> Error {
        match error {
            SandboxError::Unavailable(_) => Error::SandboxUnavailable { detail: "No sandbox can be started on this server.".to_owned() },
            SandboxError::Capacity(_) => Error::Overloaded { retry_after: self.limits.sandbox_wait_ms },
            SandboxError::Internal(why) => Error::internal(why),
            other => {
                let stderr = if let SandboxError::Crashed(stderr) = other { redactor.clean(stderr) } else { String::new() };
                slot.ended(ExitCause::Exit(1), stderr);
                Error::Conflict { detail: "The tools could not be started.".to_owned() }
            }
        }
    }

    /// A place among the running sandboxes: where there is none, the one of this tenant that was idle the longest makes room, then the one of any;
    /// then this waits.
    async fn place(self: &Arc<Self>, tenant: TenantId, own: &Arc<Slot>) -> Result<Place> {
        let until = tokio::time::Instant::now() + self.limits.sandbox_wait_ms;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let (full, tenant_full) = {
                let mut places = lock(&self.places);
                let all: usize = places.values().sum();
                let tenant_full = places.get(&tenant).is_some_and(|count| *count >= self.limits.sandboxes_running_per_tenant_max);
                if all < self.running_max && !tenant_full {
                    *places.entry(tenant).or_default() += 1;
                    return Ok(Place { yard: Arc::clone(self), tenant });
                }
                (all >= self.running_max, tenant_full)
            };
            let idle = self.idlest(|of| of == tenant, own).or_else(|| if full && !tenant_full { self.idlest(|_| true, own) } else { None });
            if let Some(slot) = idle
                && stop_idle(&slot, Duration::ZERO).await
            {
                continue;
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(Error::Overloaded { retry_after: self.limits.sandbox_wait_ms });
            }
        }
    }

    /// The sandbox that waits for a call the longest.
    fn idlest(&self, whose: impl Fn(TenantId) -> bool, but: &Arc<Slot>) -> Option<Arc<Slot>> {
        let slots = lock(&self.slots);
        let idle = slots.iter().filter(|((tenant, _), slot)| whose(*tenant) && !Arc::ptr_eq(slot, but) && is_up(slot));
        let idle = idle.filter_map(|(_, slot)| Some((slot.idle_for()?, slot)));
        idle.max_by_key(|(idle, _)| *idle).map(|(_, slot)| Arc::clone(slot))
    }

    /// Stops a config's sandbox; the next call starts it anew.
    pub async fn stop(&self, tenant: TenantId, config: ConfigId) {
        let slot = lock(&self.slots).get(&(tenant, config)).cloned();
        let Some(slot) = slot else { return };
        slot.end_retired(StopReason::Idle).await;
        if let Some(up) = slot.up.lock().await.take() {
            up.session.stop(StopReason::Idle).await;
        }
    }

    /// Removes a config's workspace and all that runs in it. A call that runs in it fails.
    pub async fn reset(&self, who: &Principal, store: &TenantStore, config: ConfigId) -> Result<()> {
        let doomed = store.sandbox_doom(who, config).await?;
        self.end(who.tenant_id(), config).await;
        if let Some(name) = doomed {
            self.destroy(&name).await?;
            store.sandbox_gone(config).await?;
        }
        if let Some(archive) = store.workspace_waiting(config) {
            tokio::fs::remove_file(archive).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Ends whatever runs for a config, and forgets it.
    async fn end(&self, tenant: TenantId, config: ConfigId) {
        let Some(slot) = lock(&self.slots).remove(&(tenant, config)) else { return };
        slot.saved();
        slot.disturb();
        slot.end_retired(StopReason::Revoked).await;
        if let Some(up) = slot.up.lock().await.take() {
            up.session.kill(StopReason::Revoked).await;
        }
    }

    /// Ends whatever runs for a tenant that goes, and removes its workspaces and unpacked bundles.
    pub async fn tenant_end(&self, tenant: TenantId, workspaces: &[String]) {
        let configs: Vec<ConfigId> = lock(&self.slots).keys().filter(|(of, _)| *of == tenant).map(|(_, config)| *config).collect();
        for config in configs {
            self.end(tenant, config).await;
        }
        for name in workspaces {
            if let Err(error) = self.destroy(name).await {
                tracing::error!(%tenant, name, %error, "a workspace of a deleted tenant could not be removed; the next start tries again");
            }
        }
        if let Err(error) = self.shelf.remove_tenant(tenant) {
            tracing::error!(%tenant, %error, "snapshots of a deleted tenant could not be removed; the next start tries again");
        }
        let (bundles, tag) = (self.bundles.clone(), tag(tenant));
        let mut unpacked = self.unpacked.lock().await;
        unpacked.retain(|place| !place.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&tag)));
        let removing = move || {
            for entry in std::fs::read_dir(bundles).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&tag) {
                    drop(std::fs::remove_dir_all(entry.path()));
                }
            }
        };
        drop(tokio::task::spawn_blocking(removing).await);
    }

    /// Stops sandboxes that nobody called for a while, and has snapshots made of what they changed, until the server ends.
    pub async fn keep_watch(self: Arc<Self>, storage: Storage, ending: CancellationToken) {
        let every = (self.limits.sandbox_idle_ms / 4).clamp(Duration::from_millis(50), LOOK_EVERY_MAX);
        loop {
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            self.reached_note(&storage).await;
            let slots: Vec<_> = lock(&self.slots).iter().map(|(whose, slot)| (*whose, Arc::clone(slot))).collect();
            for ((tenant, config), slot) in slots {
                stop_idle(&slot, self.limits.sandbox_idle_ms).await;
                if self.limits.sandbox_snapshots_idle_max > 0 && lock(&slot.facts).unsaved {
                    tokio::spawn(Arc::clone(&self).snapshot_idle(storage.clone(), tenant, config, slot));
                }
            }
        }
    }

    /// Writes down what tools asked for over the network since the last time.
    async fn reached_note(&self, storage: &Storage) {
        let slots: Vec<_> = lock(&self.slots).iter().map(|(whose, slot)| (*whose, Arc::clone(&slot.news))).collect();
        for ((tenant, config), news) in slots {
            let taken = news.take();
            if taken.is_empty() {
                continue;
            }
            if let Err(error) = storage.egress_note(tenant, config, taken.clone()).await {
                tracing::warn!(%tenant, %config, %error, "what tools asked for over the network could not be written down; it is tried again");
                news.put_back(taken);
            }
        }
    }

    /// Ends everything that runs; workspaces stay.
    pub async fn close(&self, storage: &Storage) {
        self.reached_note(storage).await;
        let slots: Vec<_> = lock(&self.slots).drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            if let Some(up) = slot.up.lock().await.take() {
                up.session.kill(StopReason::Idle).await;
            }
        }
    }
}

/// What the model is told of a sandbox that could not be had, and what ends the turn.
fn unusable(error: &Error) -> (String, Option<Error>) {
    let told = "The tools are unavailable.".to_owned();
    match error {
        // A bundle that does not start any more, or was replaced: the model may say so.
        Error::BundleRefused { errors } => (errors.first().map_or(told, |error| error.message.clone()), None),
        Error::Conflict { detail } => (detail.clone(), None),
        other => (told, Some(other.clone())),
    }
}

/// The machine's memory, where it says.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
