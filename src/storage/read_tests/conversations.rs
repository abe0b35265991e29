//! Conversations and messages.

use super::*;
use crate::{
    model::{ConversationPatch, Json, JsonObject, Message, Speaker},
    storage::{conversations, engine::Param, logs::log_append, rows::json_text},
};

/// Writes a conversation with this many messages, as a turn would have.
async fn conversation(store: &TenantStore, config: ConfigId, user: UserId, metadata: Json, texts: &[&str]) -> ConversationId {
    let id = ConversationId::new();
    let metadata: JsonObject = serde_json::from_value(metadata).unwrap();
    let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
    store
        .write(move |tx| {
            let (id_text, key) = (id.to_string(), KeyId::new().to_string());
            tx.execute(
                "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, title, metadata, template_vars, message_count, created_at, \
                 updated_at) VALUES (?1, ?2, ?3, ?4, ?5, 'hello', ?6, '{}', ?7, 1, 1)",
                &[
                    Param::Text(&id_text),
                    Param::Text(&config.to_string()),
                    Param::Text(&user.to_string()),
                    Param::Text(&key),
                    Param::Text(&json_text(&metadata)?),
                    Param::Int(i64::try_from(texts.len()).map_err(Error::internal)?),
                ],
            )?;
            conversations::metadata_write(tx, id, &metadata)?;
            let turn = TurnId::new().to_string();
            for (n, text) in texts.iter().enumerate() {
                tx.execute(
                    "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, 'user', ?6, 1)",
                    &[
                        Param::Text(&id_text),
                        Param::Int(i64::try_from(n + 1).map_err(Error::internal)?),
                        Param::Text(&MessageId::new().to_string()),
                        Param::Text(&turn),
                        Param::Text(text),
                    ],
                )?;
            }
            Ok(())
        })
        .await
        .unwrap();
    id
}

/// Writes a turn's row.
async fn turn(store: &TenantStore, conversation: ConversationId, state: &'static str) -> TurnId {
    let id = TurnId::new();
    store
        .write(move |tx| {
            tx.execute(
                "INSERT INTO turns (tenant_id, id, conversation_id, config_id, user_id, key_id, request_id, boot_id, state, created_at) \
                 VALUES (?1, ?2, ?3, 'c', 'u', 'k', 'r', 'b', ?4, 1)",
                &[Param::Text(&id.to_string()), Param::Text(&conversation.to_string()), Param::Text(state)],
            )
        })
        .await
        .unwrap();
    id
}

#[tokio::test]
async fn conversations_are_found_by_config_user_metadata_and_words() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let (site, shop) = (config(store, "site").await.id, config(store, "shop").await.id);
    let (ada, bob) = (UserId::new(), UserId::new());
    let one = conversation(store, site, ada, json!({"plan": "pro", "seats": 3}), &["Change my phone number"]).await;
    let two = conversation(store, site, bob, json!({"plan": "free", "beta": true, "tags": ["x"]}), &["Sell the phone"]).await;
    let three = conversation(store, shop, bob, json!({"plan": "pro"}), &["Good morning"]).await;

    let metadata = |pairs: &[(&str, &str)]| ConversationFilter {
        metadata: pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..ConversationFilter::default()
    };
    let words = |q: &str| ConversationFilter { q: Some(q.to_owned()), ..ConversationFilter::default() };
    let none: [ConversationId; 0] = [];
    for (filter, expected) in [
        (ConversationFilter::default(), &[one, two, three][..]),
        (ConversationFilter { config_id: Some(site), ..ConversationFilter::default() }, &[one, two]),
        (ConversationFilter { config_id: Some(site), user_id: Some(bob), ..ConversationFilter::default() }, &[two]),
        (metadata(&[("plan", "pro")]), &[one, three]),
        (metadata(&[("plan", "pro"), ("seats", "3")]), &[one]),
        (metadata(&[("beta", "true")]), &[two]),
        (metadata(&[("tags", "x")]), &none),
        (metadata(&[("plan' OR '1'='1", "pro")]), &none),
        (words("phone"), &[one, two]),
        (words("phone number"), &[one]),
        (words("\"phone* OR morning"), &none),
    ] {
        let list = store.conversation_list(filter.clone(), Page::first(10, Order::Asc)).await.unwrap();
        let found: Vec<_> = list.data.iter().map(|conversation| conversation.id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }

    // Words of another tenant are not even looked at.
    let other = Bench::tenant(&bench.storage).await;
    assert!(other.conversation_list(words("phone"), Page::first(10, Order::Asc)).await.unwrap().data.is_empty());
    assert_eq!(other.conversation_get(one).await.unwrap_err(), Error::not_found("conversation", one));
}

#[tokio::test]
async fn a_conversation_shows_its_newest_messages_oldest_first() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let config = config(store, "one").await.id;
    let texts: Vec<String> = (1..=103).map(|n| format!("message {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let id = conversation(store, config, UserId::new(), json!({}), &texts).await;
    let running = turn(store, id, "running").await;

    let detail = store.conversation_get(id).await.unwrap();
    let seqs = |messages: &[Message]| messages.iter().map(|message| message.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&detail.messages), (4..=103).collect::<Vec<_>>());
    assert_eq!((detail.conversation.message_count, detail.conversation.active_turn_id), (103, Some(running)));
    assert_eq!((detail.messages[0].role, detail.messages[0].content.clone()), (Speaker::User, json!("message 4")));

    let first = store.message_list(id, page(2, None, None, Order::Asc)).await.unwrap();
    assert_eq!((seqs(&first.data), first.has_more), (vec![1, 2], true));
    let next = store.message_list(id, page(2, first.last_id.as_deref(), None, Order::Asc)).await.unwrap();
    assert_eq!(seqs(&next.data), [3, 4]);
    // A message of another conversation is no cursor of this one.
    let other = conversation(store, config, UserId::new(), json!({}), &["x"]).await;
    assert!(store.message_list(other, page(2, first.last_id.as_deref(), None, Order::Asc)).await.is_err());
    // A deleted config leaves its conversations readable.
    store.config_delete(UserId::new(), config).await.unwrap();
    assert_eq!(store.conversation_get(id).await.unwrap().messages.len(), 100);
}

#[tokio::test]
async fn members_change_and_delete_their_own_conversations_and_admins_all() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let config = config(store, "one").await.id;
    let (ada, bob) = (principal(Role::Member, UserId::new()), principal(Role::Member, UserId::new()));
    let admin = principal(Role::Admin, UserId::new());
    let id = conversation(store, config, ada.user_id, json!({"plan": "free"}), &["a secret"]).await;
    let patch = ConversationPatch { title: Some("new".into()), metadata: serde_json::from_value(json!({"plan": "pro"})).unwrap() };

    let refused = Error::InsufficientRole { needed: "admin" };
    assert_eq!(store.conversation_update(&bob, id, patch.clone()).await.unwrap_err(), refused);
    assert_eq!(store.conversation_delete(&bob, id).await.unwrap_err(), refused);
    assert_eq!(store.conversation_deletable(&bob, id).await.unwrap_err(), refused);
    store.conversation_update(&ada, id, patch).await.unwrap();
    let changed = store.conversation_get(id).await.unwrap().conversation;
    assert_eq!((changed.title.as_str(), changed.metadata["plan"].clone()), ("new", json!("pro")));
    let by_plan = |plan: &str| ConversationFilter { metadata: vec![("plan".into(), plan.into())], ..ConversationFilter::default() };
    assert_eq!(store.conversation_list(by_plan("pro"), Page::first(1, Order::Asc)).await.unwrap().data.len(), 1);
    assert_eq!(store.conversation_list(by_plan("free"), Page::first(1, Order::Asc)).await.unwrap().data.len(), 0);

    let running = turn(store, id, "running").await;
    assert_eq!(store.conversation_deletable(&admin, id).await.unwrap(), Some(running));
    assert!(matches!(store.conversation_delete(&admin, id).await, Err(Error::ConversationBusy { .. })));
    let kept = log(|row| {
        row.conversation_id = Some(id);
        row.detail = Some("a secret".into());
    });
    let (log_id, row) = (kept.id, kept);
    store
        .write(move |tx| {
            log_append(tx, &row)?;
            tx.execute("UPDATE turns SET state = 'done' WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(&running.to_string())])?;
            tx.execute(
                "INSERT INTO idempotency (tenant_id, route, key, fingerprint, turn_id, boot_id, answer, created_at) \
                 VALUES (?1, 'r', 'k', 'f', ?2, 'b', 'a secret', 1)",
                &[Param::Text(&running.to_string())],
            )
        })
        .await
        .unwrap();
    store.conversation_delete(&admin, id).await.unwrap();
    assert_eq!(store.conversation_get(id).await.unwrap_err(), Error::not_found("conversation", id));
    assert_eq!(store.conversation_delete(&admin, id).await.unwrap_err(), Error::not_found("conversation", id));
    let log = store.log_get(log_id).await.unwrap();
    assert_eq!((log.conversation_id, log.detail), (Some(id), None));
    for table in ["messages", "turns", "idempotency", "conversation_metadata"] {
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE tenant_id = ?1");
        let left = store.read(move |tx| tx.first(&sql, &[], |row| row.int(0))).await.unwrap();
        assert_eq!(left, Some(0), "{table}");
    }
    assert!(
        store
            .conversation_list(ConversationFilter { q: Some("secret".into()), ..Default::default() }, Page::first(1, Order::Asc))
            .await
            .unwrap()
            .data
            .is_empty()
    );
}
