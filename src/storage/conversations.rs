//! Conversations and their messages, to read, rename and delete. Turns write them (`turns`).

use super::{
    engine::{Param, Row},
    rows,
    select::{Select, Value, id_cursor},
    tenant::{TenantStore, TenantTx},
    trail::{Author, Deed, content_record},
};
use crate::{
    error::{Error, Result},
    ids::*,
    model::{
        Act, Conversation, ConversationDetail, ConversationPatch, Json, JsonObject, List, Message, ModelRef, Order, Page, Role, Speaker,
    },
    storage::Principal,
};
use std::time::Duration;

/// The newest messages that come with one conversation.
const DETAIL_MESSAGES: u32 = 100;

const CONVERSATION: &str = "SELECT id, config_id, user_id, key_id, end_user, title, metadata, message_count, open_calls, created_at, updated_at, \
     (SELECT t.id FROM turns t WHERE t.tenant_id = conversations.tenant_id AND t.conversation_id = conversations.id AND t.state = 'running') \
     FROM conversations WHERE tenant_id = ?1";

/// How many columns [`MESSAGE`] has.
pub(super) const MESSAGE_COLUMNS: usize = 18;

/// The columns that [`message_take`] takes, in its order.
pub(super) const MESSAGE: &str = "id, seq, role, content, content_json, tool_calls, tool_call_id, name, ok, provider, model, config_version, input_tokens, \
     output_tokens, cache_read_tokens, cache_write_tokens, cost, created_at";

/// Which conversations. What is not set filters nothing.
#[derive(Debug, Clone, Default)]
pub struct ConversationFilter {
    /// Of this config.
    pub config_id: Option<ConfigId>,
    /// Begun by a key of this user.
    pub user_id: Option<UserId>,
    /// With these values in the metadata: key and text.
    pub metadata: Vec<(String, String)>,
    /// With a message that has all these words.
    pub q: Option<String>,
}

impl TenantStore {
    /// A page of conversations, by id.
    pub async fn conversation_list(&self, filter: ConversationFilter, page: Page) -> Result<List<Conversation>> {
        let (condition, search) = (self.search_condition(), filter.q.as_deref().map(|typed| self.search(typed)));
        if let Some(Some(_)) = search {
            self.search_fill().await;
        }
        self.read(move |tx| {
            let mut select = Select::new(CONVERSATION);
            match &search {
                None => {}
                Some(Some(search)) => select.and(condition, search.as_str()),
                // Words were asked for, and none was given that a message could have.
                Some(None) => select.and_all("1 = 0", []),
            }
            select.and_some("config_id = ?", filter.config_id.map(|id| id.to_string()));
            select.and_some("user_id = ?", filter.user_id.map(|id| id.to_string()));
            for (key, value) in &filter.metadata {
                select.and_all(
                    "id IN (SELECT m.conversation_id FROM conversation_metadata m WHERE m.tenant_id = ?1 AND m.key = ? AND m.value = ?)",
                    [Value::from(key.as_str()), Value::from(value.as_str())],
                );
            }
            select.page(tx, &page, "id", id_cursor("conversations"), conversation_take, |conversation| conversation.id.to_string())
        })
        .await
    }

    /// One conversation with its newest messages, oldest first.
    pub async fn conversation_get(&self, id: ConversationId) -> Result<ConversationDetail> {
        self.read(move |tx| {
            let conversation = conversation_find(tx, id)?;
            let newest = Page::first(DETAIL_MESSAGES, Order::Desc);
            let mut messages = message_page(tx, id, &newest)?.data;
            messages.reverse();
            Ok(ConversationDetail { conversation, messages })
        })
        .await
    }

    /// Changes title or metadata. Members change their own conversations, admins all.
    pub async fn conversation_update(&self, who: &Principal, id: ConversationId, change: ConversationPatch) -> Result<Conversation> {
        let (user, role, now) = (who.user_id(), who.role(), self.clock.now());
        self.write(move |tx| {
            let mut conversation = own(conversation_find(tx, id)?, user, role)?;
            if let Some(title) = &change.title {
                conversation.title.clone_from(title);
            }
            if let Some(metadata) = &change.metadata {
                metadata_write(tx, id, metadata)?;
                conversation.metadata.clone_from(metadata);
            }
            conversation.updated_at = now;
            tx.execute(
                "UPDATE conversations SET title = ?3, metadata = ?4, updated_at = ?5 WHERE tenant_id = ?1 AND id = ?2",
                &[
                    Param::Text(&id.to_string()),
                    Param::Text(&conversation.title),
                    Param::Text(&rows::json_text(&conversation.metadata)?),
                    Param::Int(now.ms()),
                ],
            )?;
            Ok(conversation)
        })
        .await
    }

    /// The turn that runs on a conversation which this caller may delete, so that it can be cancelled first.
    pub async fn conversation_deletable(&self, who: &Principal, id: ConversationId) -> Result<Option<TurnId>> {
        let (user, role) = (who.user_id(), who.role());
        self.read(move |tx| Ok(own(conversation_find(tx, id)?, user, role)?.active_turn_id)).await
    }

    /// Removes a conversation: its messages, turns and stored answers. The log keeps its rows, without what was said. Members delete their
    /// own, admins all. While a turn runs it is [`Error::ConversationBusy`]: cancel the turn first.
    pub async fn conversation_delete(&self, who: &Principal, id: ConversationId) -> Result<()> {
        let (user, role, by, now) = (who.user_id(), who.role(), Author::from(who), self.clock.now());
        self.write(move |tx| {
            if own(conversation_find(tx, id)?, user, role)?.active_turn_id.is_some() {
                return Err(Error::ConversationBusy { retry_after: Duration::from_secs(1) });
            }
            content_record(tx, Deed::new(by.into(), Act::ConversationDelete, now).to(id))?;
            conversation_erase(tx, id)
        })
        .await?;
        self.histories.forget((self.tenant, id));
        Ok(())
    }

    /// A page of a conversation's messages, by sequence. A cursor is a message's id.
    pub async fn message_list(&self, id: ConversationId, page: Page) -> Result<List<Message>> {
        self.read(move |tx| {
            conversation_find(tx, id)?;
            message_page(tx, id, &page)
        })
        .await
    }
}

/// Stores a conversation's metadata once more as rows to filter by; those of before are replaced. Values that are objects or lists cannot be
/// filtered by and get no row.
pub(super) fn metadata_write(tx: &mut TenantTx<'_>, id: ConversationId, metadata: &JsonObject) -> Result<()> {
    let id = id.to_string();
    tx.execute("DELETE FROM conversation_metadata WHERE tenant_id = ?1 AND conversation_id = ?2", &[Param::Text(&id)])?;
    for (key, value) in metadata {
        let value = match value {
            Json::String(text) => text.clone(),
            Json::Number(_) | Json::Bool(_) => value.to_string(),
            Json::Null | Json::Array(_) | Json::Object(_) => continue,
        };
        tx.execute(
            "INSERT INTO conversation_metadata (tenant_id, conversation_id, key, value) VALUES (?1, ?2, ?3, ?4)",
            &[Param::Text(&id), Param::Text(key), Param::Text(&value)],
        )?;
    }
    Ok(())
}

/// Lets a conversation pass that this user may change. That it exists is no secret: every role of the tenant may read it.
fn own(conversation: Conversation, user: UserId, role: Role) -> Result<Conversation> {
    if conversation.user_id == user || role >= Role::Admin { Ok(conversation) } else { Err(Error::InsufficientRole { needed: "admin" }) }
}

/// Takes away a conversation and every word of it. Log rows stay, without what was said.
pub(super) fn conversation_erase(tx: &mut TenantTx<'_>, id: ConversationId) -> Result<()> {
    let id = id.to_string();
    for sql in [
        "DELETE FROM idempotency WHERE tenant_id = ?1 AND turn_id IN \
         (SELECT t.id FROM turns t WHERE t.tenant_id = ?1 AND t.conversation_id = ?2)",
        "DELETE FROM turns WHERE tenant_id = ?1 AND conversation_id = ?2",
        "DELETE FROM messages WHERE tenant_id = ?1 AND conversation_id = ?2",
        "DELETE FROM conversation_metadata WHERE tenant_id = ?1 AND conversation_id = ?2",
        "DELETE FROM conversations WHERE tenant_id = ?1 AND id = ?2",
        "UPDATE logs SET detail = NULL WHERE tenant_id = ?1 AND conversation_id = ?2",
    ] {
        tx.execute(sql, &[Param::Text(&id)])?;
    }
    Ok(())
}

pub(super) fn conversation_find(tx: &mut TenantTx<'_>, id: ConversationId) -> Result<Conversation> {
    let sql = format!("{CONVERSATION} AND id = ?2");
    tx.first(&sql, &[Param::Text(&id.to_string())], conversation_take)?.ok_or_else(|| Error::not_found("conversation", id))
}

fn conversation_take(row: &dyn Row) -> Result<Conversation> {
    Ok(Conversation {
        id: rows::parsed(row, 0)?,
        config_id: rows::parsed(row, 1)?,
        user_id: rows::parsed(row, 2)?,
        key_id: rows::parsed(row, 3)?,
        user: rows::text_opt(row, 4)?,
        title: row.text(5)?.to_owned(),
        metadata: rows::json(row, 6)?,
        message_count: rows::number(row, 7)?,
        open_tool_calls: rows::json_opt(row, 8)?.unwrap_or_default(),
        created_at: rows::time(row, 9)?,
        updated_at: rows::time(row, 10)?,
        active_turn_id: rows::parsed_opt(row, 11)?,
    })
}

fn message_page(tx: &mut TenantTx<'_>, id: ConversationId, page: &Page) -> Result<List<Message>> {
    let id = id.to_string();
    let mut select = Select::new(&format!("SELECT {MESSAGE} FROM messages WHERE tenant_id = ?1"));
    select.and("conversation_id = ?", id.as_str());
    let cursor = |tx: &mut TenantTx<'_>, message: &str| {
        let sql = "SELECT seq FROM messages WHERE tenant_id = ?1 AND id = ?2 AND conversation_id = ?3";
        tx.first(sql, &[Param::Text(message), Param::Text(&id)], |row| Ok(row.int(0)?.into()))
    };
    select.page(tx, page, "seq", cursor, message_take, |message| message.id.to_string())
}

pub(super) fn message_take(row: &dyn Row) -> Result<Message> {
    let role = row.text(2)?;
    let content = match row.text_opt(3)? {
        None => Json::Null,
        Some(_) if row.int(4)? != 0 => rows::json(row, 3)?,
        Some(text) => Json::String(text.to_owned()),
    };
    let model = match (row.text_opt(9)?, row.text_opt(10)?) {
        (Some(provider), Some(model)) => Some(ModelRef { provider: provider.to_owned(), model: model.to_owned() }),
        _ => None,
    };
    Ok(Message {
        id: rows::parsed(row, 0)?,
        seq: rows::number(row, 1)?,
        role: Speaker::from_name(role).ok_or_else(|| Error::internal(format!("a message is by {role}")))?,
        content,
        tool_calls: rows::json_opt(row, 5)?.unwrap_or_default(),
        tool_call_id: rows::text_opt(row, 6)?,
        name: rows::text_opt(row, 7)?,
        ok: row.int_opt(8)?.map(|ok| ok != 0),
        model,
        config_version: rows::number_opt(row, 11)?,
        usage: rows::usage_opt(row, 12)?,
        cost: rows::money_opt(row, 16)?,
        created_at: rows::time(row, 17)?,
    })
}
