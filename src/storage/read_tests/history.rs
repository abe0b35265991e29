//! Long conversations in memory: whatever happens to the file between two turns, what is read is what a read of the file alone would give.

use super::*;
use crate::storage::{engine::Param, history::Histories};

const ONE: &str = "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, title, metadata, template_vars, message_count, \
     created_at, updated_at) VALUES (?1, ?2, ?3, 'u', 'k', 'hello', '{}', '{}', 0, 1, 1)";

async fn run(store: &TenantStore, sql: &'static str, conversation: ConversationId, more: String) {
    store.write(move |tx| tx.execute(sql, &[Param::Text(&conversation.to_string()), Param::Text(&more)]).map(drop)).await.unwrap();
}

/// Adds messages up to this number.
async fn grow(store: &TenantStore, conversation: ConversationId, from: u64, to: u64) {
    for seq in from..=to {
        store
            .write(move |tx| {
                let sql = "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, 'user', ?6, 1)";
                let (id, turn, text) = (MessageId::new().to_string(), TurnId::new().to_string(), format!("message {seq}"));
                let seq = i64::try_from(seq).map_err(Error::internal)?;
                let conversation = conversation.to_string();
                tx.execute(sql, &[Param::Text(&conversation), Param::Int(seq), Param::Text(&id), Param::Text(&turn), Param::Text(&text)])
            })
            .await
            .unwrap();
    }
}

/// What is read of the newest `max` above `after`: ids and numbers.
async fn read(
    store: &TenantStore,
    histories: &Arc<Histories>,
    conversation: ConversationId,
    after: u64,
    max: usize,
) -> Vec<(MessageId, u64)> {
    let (histories, tenant) = (Arc::clone(histories), store.tenant);
    let read = store.read(move |tx| histories.read(tx, (tenant, conversation), after, max)).await.unwrap();
    read.iter().map(|stored| (stored.message.id, stored.message.seq)).collect()
}

#[tokio::test]
async fn what_is_kept_is_what_the_file_says() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let (kept, none) = (Histories::new(1024 * 1024), Histories::new(0));
    let (config, conversation) = (config(store, "site").await.id, ConversationId::new());
    run(store, ONE, conversation, config.to_string()).await;
    let same = async |after: u64, max: usize, count: usize| {
        let (known, file) = (read(store, &kept, conversation, after, max).await, read(store, &none, conversation, after, max).await);
        assert_eq!(known, file, "after {after}, at most {max}");
        assert_eq!(known.len(), count);
    };
    grow(store, conversation, 1, 40).await;
    same(0, 2_000, 40).await;
    same(0, 2_000, 40).await;
    // It goes on; then a summary stands for the oldest; then fewer are wanted; then more again than are known.
    grow(store, conversation, 41, 43).await;
    same(0, 2_000, 43).await;
    same(10, 2_000, 33).await;
    same(10, 20, 20).await;
    grow(store, conversation, 44, 50).await;
    same(10, 20, 20).await;
    same(0, 2_000, 50).await;
    same(50, 2_000, 0).await;
    same(49, 2_000, 1).await;
    // Another file took this one's place: an older one, and one that went on differently.
    same(0, 2_000, 50).await;
    run(store, "DELETE FROM messages WHERE tenant_id = ?1 AND conversation_id = ?2 AND seq > 30 AND ?3 = ''", conversation, String::new())
        .await;
    same(0, 2_000, 30).await;
    run(store, "DELETE FROM messages WHERE tenant_id = ?1 AND conversation_id = ?2 AND seq > 20 AND ?3 = ''", conversation, String::new())
        .await;
    grow(store, conversation, 21, 60).await;
    same(0, 2_000, 60).await;
}

#[tokio::test]
async fn a_turn_reads_what_is_new_and_nobody_else_s_is_found() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let other = Bench::tenant(&bench.storage).await;
    let kept = Histories::new(1024 * 1024);
    let (config, conversation) = (config(store, "site").await.id, ConversationId::new());
    run(store, ONE, conversation, config.to_string()).await;
    grow(store, conversation, 1, 30).await;
    let first = read(store, &kept, conversation, 0, 2_000).await;
    assert_eq!(first.len(), 30);
    assert_eq!(read(&other, &kept, conversation, 0, 2_000).await, []);
    // What was read before is not read again: a message that went missing before the newest is still known.
    run(store, "DELETE FROM messages WHERE tenant_id = ?1 AND conversation_id = ?2 AND seq = 7 AND ?3 = ''", conversation, String::new())
        .await;
    assert_eq!(read(store, &kept, conversation, 0, 2_000).await, first);
    kept.forget((other.tenant, conversation));
    assert_eq!(read(store, &kept, conversation, 0, 2_000).await.len(), 30);
    kept.forget_tenant(store.tenant);
    assert_eq!(read(store, &kept, conversation, 0, 2_000).await.len(), 29);
}
