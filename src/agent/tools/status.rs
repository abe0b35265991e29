//! What a config's sandbox is doing, as the API shows it. Asking keeps none awake.

use super::yard::Yard;
use crate::{
    agent::lock,
    error::{Error, Result},
    ids::{ConfigId, TenantId},
    model::{SandboxState, SandboxStatus},
    storage::TenantStore,
};
use std::sync::atomic::Ordering;

impl Yard {
    /// What a config's sandbox is doing.
    pub async fn status(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, machine_second: String) -> Result<SandboxStatus> {
        let body = store.config_get(config).await?.body;
        let (row, kit) = (store.sandbox_get(config).await?, store.kit(config).await?);
        let slot = lock(&self.slots).get(&(tenant, config)).cloned();
        let up = slot.as_ref().and_then(|slot| slot.up.try_lock().ok().and_then(|up| up.clone()));
        let booting = slot.as_ref().is_some_and(|slot| slot.booting.load(Ordering::SeqCst));
        let left_alone = slot.as_ref().is_some_and(|slot| slot.left_alone(&self.limits).is_some());
        let state = match (&up, &row) {
            _ if booting => SandboxState::Booting,
            (Some(up), _) if !up.session.is_over() => SandboxState::Running,
            _ if left_alone => SandboxState::BackingOff,
            (_, Some(_)) => SandboxState::Stopped,
            (_, None) => SandboxState::Absent,
        };
        let (last_exit, old_stderr) = slot.as_ref().map_or((None, String::new()), |slot| {
            let facts = lock(&slot.facts);
            (facts.last_exit.clone(), facts.stderr.clone())
        });
        let (stderr, memory_bytes, reached) = match &up {
            Some(up) => (up.session.stderr(), up.session.memory_bytes().await, up.session.reached()),
            None => (old_stderr, 0, Vec::new()),
        };
        Ok(SandboxStatus {
            state,
            isolation: serde_json::to_value(self.rung(&body).await).map_err(Error::internal)?,
            bundle: kit.map(|kit| kit.digest),
            last_used_at: row.map(|row| row.used_at),
            last_exit,
            stderr,
            memory_bytes,
            reached,
            machine_second,
        })
    }
}
