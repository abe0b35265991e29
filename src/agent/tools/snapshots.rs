//! Snapshots of workspaces: made when someone asks and when a sandbox was stopped for being idle, and put back in the place of what is there.
//! Archives are packed and laid out by short-lived sandboxes; nothing of them is read here.
//!
//! A restore fills a workspace of another name and then names it the config's, in one transaction: until then the old one is there, from then on
//! the new one, and whichever of the two is nobody's is removed, at the latest by the next start.

use super::{
    files::trouble,
    shelf::{Kept, Shelf},
    slot::Slot,
    workspaces::sandbox_name,
    yard::Yard,
};
use crate::{
    agent::lock,
    error::{Error, Result},
    ids::{ConfigId, SnapshotId, TenantId},
    model::{Act, List, Order, Page, Snapshot, SnapshotMade},
    sandbox::{SandboxError, SandboxId, SandboxSpec, StopReason},
    storage::{Principal, Storage, TenantStore},
};
use std::{fs::File, io, sync::Arc, sync::atomic::Ordering, time::Duration};
use tokio::io::{AsyncWriteExt, BufWriter};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 * 1024;

impl Yard {
    /// A page of a config's snapshots.
    pub async fn snapshot_list(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, page: &Page) -> Result<List<Snapshot>> {
        store.config_get(config).await?;
        let mut all: Vec<Snapshot> = self.kept(tenant, config)?.iter().map(|kept| kept.shown(config)).collect();
        if page.order == Order::Desc {
            all.reverse();
        }
        cut(all, page)
    }

    /// One of them.
    pub async fn snapshot_get(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, id: SnapshotId) -> Result<Snapshot> {
        Ok(self.kept_one(tenant, store, config, id).await?.shown(config))
    }

    /// Its archive, a gzipped tar, and how long that is.
    pub async fn snapshot_open(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, id: SnapshotId) -> Result<(File, u64)> {
        let kept = self.kept_one(tenant, store, config, id).await?;
        Ok((kept.open().map_err(|error| gone(&error, id))?, kept.size_bytes))
    }

    /// Makes one. What is being written meanwhile is in it as it is read.
    pub async fn snapshot_make(&self, who: &Principal, store: &TenantStore, storage: &Storage, config: ConfigId) -> Result<Snapshot> {
        let spec = self.files_of(store, config).await?.ok_or_else(nothing_there)?;
        let made = self.pack_one(who.tenant_id(), config, &spec, SnapshotMade::Asked, storage).await?;
        let kept = made.ok_or_else(|| Error::internal("a snapshot that was asked for was not made"))?;
        if let Err(error) = store.snapshot_note(who, Act::SnapshotCreate, config, kept.id).await {
            // Nothing is made that is not written down.
            Shelf::remove(&kept).map_err(Error::internal)?;
            return Err(error);
        }
        Ok(kept.shown(config))
    }

    /// Removes one.
    pub async fn snapshot_remove(&self, who: &Principal, store: &TenantStore, config: ConfigId, id: SnapshotId) -> Result<()> {
        let kept = self.kept_one(who.tenant_id(), store, config, id).await?;
        if !Shelf::remove(&kept).map_err(Error::internal)? {
            return Err(Error::not_found("snapshot", id));
        }
        store.snapshot_note(who, Act::SnapshotDelete, config, id).await
    }

    /// Puts one in the place of the config's workspace, whose process is stopped first. [`Error::Conflict`] while a tool runs in it; calls that
    /// come meanwhile wait. Not to be dropped unfinished, which would leave a workspace that is nobody's until the next start.
    pub async fn snapshot_restore(
        &self,
        who: &Principal,
        store: &TenantStore,
        storage: &Storage,
        config: ConfigId,
        id: SnapshotId,
    ) -> Result<()> {
        let tenant = who.tenant_id();
        let archive = self.kept_one(tenant, store, config, id).await?.open().map_err(|error| gone(&error, id))?;
        let slot = self.slot(tenant, config);
        slot.disturb();
        let _turn = self.snapshot_turns.enter(tenant).await.map_err(|_| busy())?;
        let mut up = slot.up.lock().await;
        if slot.in_flight.load(Ordering::SeqCst) > 0 {
            let detail = "A tool runs in the sandbox; restore when it is done, or stop the sandbox first.".to_owned();
            return Err(Error::Conflict { detail });
        }
        if let Some(up) = up.take() {
            up.session.stop(StopReason::Idle).await;
        }
        slot.saved();
        let body = store.config_get(config).await?.body;
        let (image, kit) = (self.image_of(&body)?, store.kit(config).await?);
        let limits = self.limits_of(kit.as_ref().map(|kit| &kit.manifest));
        let before = self.standing(store, config).await?;
        let needed = limits.workspace_bytes.saturating_add(self.limits.disk_free_bytes_min as u64);
        if storage.disk_free_bytes()? < needed {
            return Err(Error::DiskFull);
        }
        let name = sandbox_name(tenant);
        let new = SandboxId::new(&name).ok_or_else(|| Error::internal("a workspace's name names none"))?;
        let restored = async {
            let spec = self.plain_spec(new, image.as_deref(), limits);
            let mut archive = tokio::fs::File::from_std(archive);
            let laying = tokio::time::timeout(self.limits.sandbox_snapshot_ms, self.sandboxes.restore(&spec, &mut archive)).await;
            laying.unwrap_or(Err(SandboxError::Deadline)).map_err(told)?;
            crate::failpoint::hit("snapshot-laid");
            store.sandbox_restored(who, config, id, before.clone(), name.clone()).await
        };
        if let Err(error) = restored.await {
            self.destroy(&name).await?;
            return Err(error);
        }
        crate::failpoint::hit("snapshot-restored");
        // What an import brought was for the workspace that is gone.
        if let Some(waiting) = store.workspace_waiting(config) {
            tokio::fs::remove_file(waiting).await.map_err(Error::internal)?;
        }
        if let Some(before) = before
            && let Err(error) = self.destroy(&before).await
        {
            tracing::error!(%tenant, %config, %error, "a workspace that a snapshot replaced could not be removed; the next start tries again");
        }
        Ok(())
    }

    /// Makes one of a sandbox that was stopped for being idle, if its files changed since the last. A call that comes meanwhile is not kept
    /// waiting: it ends this, and the next stop tries again.
    pub(super) async fn snapshot_idle(self: Arc<Self>, storage: Storage, tenant: TenantId, config: ConfigId, slot: Arc<Slot>) {
        let disturbed = slot.disturbed.notified();
        tokio::pin!(disturbed);
        disturbed.as_mut().enable();
        let Some(spec) = slot.take_unsaved(self.limits.sandbox_idle_ms) else { return };
        let making = self.pack_one(tenant, config, &spec, SnapshotMade::Idle, &storage);
        tokio::select! {
            biased;
            () = disturbed => {}
            made = making => match made {
                Ok(Some(kept)) => tracing::info!(%tenant, %config, snapshot = %kept.id, bytes = kept.size_bytes, "made a snapshot of an idle workspace"),
                Ok(None) => {}
                Err(error) => tracing::warn!(%tenant, %config, %error, "no snapshot could be made of an idle workspace"),
            }
        }
    }

    /// Packs a workspace. None where that was not asked for and nothing changed, or there is no room among those that someone asked for.
    async fn pack_one(
        &self,
        tenant: TenantId,
        config: ConfigId,
        spec: &SandboxSpec,
        made: SnapshotMade,
        storage: &Storage,
    ) -> Result<Option<Kept>> {
        let _turn = self.snapshot_turns.enter(tenant).await.map_err(|_| busy())?;
        // Removed or replaced since it was named: looking would make it anew.
        if !self.sandboxes.has_place(&spec.id) {
            return if made == SnapshotMade::Idle { Ok(None) } else { Err(nothing_there()) };
        }
        let most = self.limits.sandbox_snapshots_max;
        let there = self.kept(tenant, config)?;
        if there.iter().filter(|kept| kept.made == SnapshotMade::Asked).count() >= most {
            if made == SnapshotMade::Idle {
                return Ok(None);
            }
            let detail = format!("The workspace has {most} snapshots, as many as it may; delete one that is not needed.");
            return Err(Error::Conflict { detail });
        }
        let mark = self.sandboxes.mark(spec).await.map_err(told)?;
        if made == SnapshotMade::Idle && there.last().is_some_and(|newest| newest.mark == mark) {
            return Ok(None);
        }
        let used = self.shelf.bytes(tenant).map_err(Error::internal)?;
        let left = (self.limits.sandbox_snapshots_tenant_bytes_max as u64).saturating_sub(used);
        let room = storage.disk_free_bytes()?.saturating_sub(self.limits.disk_free_bytes_min as u64);
        let full = if left <= room { Error::TenantFull } else { Error::DiskFull };
        let draft = self.shelf.begin(tenant, config).map_err(Error::internal)?;
        let file = tokio::fs::File::from_std(draft.file.try_clone().map_err(Error::internal)?);
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
        let packing = self.sandboxes.snapshot_packed(spec, &mut writer, left.min(room));
        match tokio::time::timeout(self.limits.sandbox_snapshot_ms, packing).await {
            Ok(Err(SandboxError::TooLong(_))) => return Err(full),
            packed => packed.unwrap_or(Err(SandboxError::Deadline)).map_err(told)?,
        };
        writer.flush().await.map_err(Error::internal)?;
        crate::failpoint::hit("snapshot-packed");
        let keeping = tokio::task::spawn_blocking(move || draft.keep(made, &mark)).await.map_err(Error::internal)?;
        let kept = keeping.map_err(Error::internal)?;
        self.make_room(tenant, config, made)?;
        Ok(Some(kept))
    }

    /// Removes the oldest of those that were made unasked, until there are no more than may be.
    fn make_room(&self, tenant: TenantId, config: ConfigId, made: SnapshotMade) -> Result<()> {
        let all = self.kept(tenant, config)?;
        let unasked: Vec<&Kept> = all.iter().filter(|kept| kept.made == SnapshotMade::Idle).collect();
        let beyond = all.len().saturating_sub(self.limits.sandbox_snapshots_max);
        let too_many = if made == SnapshotMade::Idle { unasked.len().saturating_sub(self.limits.sandbox_snapshots_idle_max) } else { 0 };
        unasked.into_iter().take(beyond.max(too_many)).try_for_each(|kept| Shelf::remove(kept).map(drop)).map_err(Error::internal)
    }

    /// Removes a deleted config's workspace and its snapshots.
    pub async fn config_end(&self, who: &Principal, store: &TenantStore, config: ConfigId) -> Result<()> {
        self.reset(who, store, config).await?;
        self.shelf.remove_config(who.tenant_id(), config).map_err(Error::internal)
    }

    /// At a start: removes snapshots of tenants and configs that are gone, and what an earlier life did not finish.
    pub async fn snapshots_sweep(&self, storage: &Storage) -> Result<()> {
        let there = self.shelf.tenants().map_err(Error::internal)?;
        if there.is_empty() {
            return Ok(());
        }
        let known = storage.tenants_known().await?;
        for tenant in there {
            let tidied = match storage.configs_alive(tenant).await {
                _ if !known.contains(&tenant) => self.shelf.remove_tenant(tenant),
                Some(configs) => self.shelf.tidy(tenant, &configs),
                None => Ok(()),
            };
            if let Err(error) = tidied {
                tracing::warn!(%tenant, %error, "snapshots of an earlier run could not be looked through");
            }
        }
        Ok(())
    }

    fn kept(&self, tenant: TenantId, config: ConfigId) -> Result<Vec<Kept>> {
        self.shelf.list(tenant, config).map_err(Error::internal)
    }

    async fn kept_one(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, id: SnapshotId) -> Result<Kept> {
        store.config_get(config).await?;
        self.kept(tenant, config)?.into_iter().find(|kept| kept.id == id).ok_or_else(|| Error::not_found("snapshot", id))
    }
}

/// A page of rows that are all there, in the order that was asked for.
fn cut(mut all: Vec<Snapshot>, page: &Page) -> Result<List<Snapshot>> {
    let place = |name: &'static str, id: &Option<String>| match id {
        None => Ok(None),
        Some(id) => match all.iter().position(|row| row.id.to_string() == *id) {
            Some(place) => Ok(Some(place)),
            None => Err(Error::invalid(name, "no row of this list has this id; take it from first_id or last_id of an earlier answer")),
        },
    };
    let (after, before) = (place("after", &page.after)?, place("before", &page.before)?);
    let limit = page.limit as usize;
    let end = before.unwrap_or(all.len());
    let begin = match (after, before) {
        (Some(after), _) => (after + 1).min(end),
        (None, Some(_)) => end.saturating_sub(limit),
        (None, None) => 0,
    };
    all.truncate(end);
    let mut list = List::from_rows(all.split_off(begin), page.limit, |row| row.id.to_string());
    if after.is_none() && before.is_some() {
        list.has_more = begin > 0;
    }
    Ok(list)
}

fn nothing_there() -> Error {
    Error::Conflict { detail: "There is no workspace: the next call of a tool makes it.".to_owned() }
}

fn busy() -> Error {
    Error::Overloaded { retry_after: Duration::from_secs(5) }
}

/// Someone else removed it just now.
fn gone(error: &io::Error, id: SnapshotId) -> Error {
    if error.kind() == io::ErrorKind::NotFound { Error::not_found("snapshot", id) } else { Error::internal(error) }
}

/// What went wrong, for whoever asked.
fn told(error: SandboxError) -> Error {
    match error {
        SandboxError::DiskFull => Error::Conflict { detail: "The snapshot does not fit into the workspace.".to_owned() },
        other => trouble(other, "packed or laid out"),
    }
}

impl Slot {
    /// Someone is about to use the workspace: a snapshot that nobody asked for ends.
    pub(super) fn disturb(&self) {
        self.disturbed.notify_waiters();
    }

    /// There is nothing that a snapshot would have to keep.
    pub(super) fn saved(&self) {
        lock(&self.facts).unsaved = false;
    }

    /// What to make a snapshot of, once: where nothing runs, nobody called for so long, and tools ran since the last.
    fn take_unsaved(&self, idle: Duration) -> Option<SandboxSpec> {
        let stopped = self.up.try_lock().is_ok_and(|up| up.is_none());
        if !stopped || self.idle_for().is_none_or(|for_| for_ < idle) {
            return None;
        }
        let mut facts = lock(&self.facts);
        std::mem::take(&mut facts.unsaved).then(|| facts.plain.clone()).flatten()
    }
}
