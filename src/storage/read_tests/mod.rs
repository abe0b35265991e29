//! Configs, conversations, logs and the ledger of a real tenant file, as the API reads and changes them.

mod configs;
mod conversations;
mod history;
mod logs;

use super::*;
use crate::{
    clock::Time,
    ids::*,
    model::{Config, ConfigBody, LogEvent, LogRow, Order, Page, Role, Usage},
    money::Money,
};
use serde_json::json;

/// One data directory with one tenant, and what leads to it.
struct Bench {
    storage: Storage,
    tenant: TenantStore,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path(), Mode::Server, &conformance::limits()).unwrap();
        let tenant = Self::tenant(&storage).await;
        Self { storage, tenant, _dir: dir }
    }

    async fn tenant(storage: &Storage) -> TenantStore {
        let id = TenantId::new();
        storage.tenant_file_create(id, "acme").await.unwrap();
        storage.tenant_open(id, None).await.unwrap()
    }
}

fn principal(role: Role, user_id: UserId) -> Principal {
    Principal {
        key_id: KeyId::new(),
        user_id,
        tenant_id: TenantId::new(),
        role,
        spend_limit: None,
        expires_at: None,
        tenant_name: "acme".into(),
        time_zone: "UTC".into(),
        suspended: false,
        bytes_max: None,
        public_id: "x".into(),
        session: None,
    }
}

fn body(name: &str) -> ConfigBody {
    serde_json::from_value(json!({"name": name, "system_prompt": "{date} {who}", "model_config": {"provider": "echo", "model": "echo"}}))
        .unwrap()
}

async fn config(store: &TenantStore, name: &str) -> Config {
    store.config_create(UserId::new(), body(name)).await.unwrap()
}

fn page(limit: u32, after: Option<&str>, before: Option<&str>, order: Order) -> Page {
    Page { limit, after: after.map(str::to_owned), before: before.map(str::to_owned), order }
}

fn log(change: impl FnOnce(&mut LogRow)) -> LogRow {
    let mut row = LogRow {
        id: LogId::new(),
        turn_id: Some(TurnId::new()),
        step: Some(1),
        created_at: Time::from_ms(0),
        key_id: Some(KeyId::new()),
        user_id: Some(UserId::new()),
        config_id: Some(ConfigId::new()),
        conversation_id: None,
        event: LogEvent::Step,
        status: 200,
        code: None,
        provider: Some("echo".into()),
        model: Some("echo".into()),
        usage: Some(Usage { input_tokens: 10, output_tokens: 2, cache_read_tokens: 1, cache_write_tokens: 0 }),
        cost: Some(Money::from_nanos(5)),
        estimated: false,
        latency_ms: Some(7),
        provider_ms: Some(6),
        time_to_first_token_ms: None,
        request_id: Some(RequestId::new()),
        operator_cost: None,
        detail: None,
    };
    change(&mut row);
    row
}
