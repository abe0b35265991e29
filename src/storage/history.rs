//! What was said before a turn, as it is read for its prompt; and long conversations' messages in memory, so that each turn reads what is new
//! and not what the last one read already.

use super::{
    conversations,
    engine::{Param, Row},
    rows,
    tenant::TenantTx,
};
use crate::{
    error::{Error, Result},
    ids::*,
    model::{Json, Message, RawAnswer, Speaker, StoredMessage},
};
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use std::sync::{Arc, LazyLock};

/// Conversations from this many messages on are kept: those that are shorter are read as fast.
const MESSAGES_MIN: usize = 16;

/// About what a message weighs beside what was said, in bytes.
const MESSAGE_BYTES: usize = 768;

/// The newest messages of conversations that went on lately, within a bound.
///
/// A message is never changed once it is stored, and none is put between two others. So the newest known one, found again where it was, says
/// that all before it still stand; and where it is not (a commit that failed, an older file), everything is read anew.
pub(super) struct Histories {
    kept: Option<Cache<(TenantId, ConversationId), Arc<Known>, Weight>>,
}

/// Messages without a gap between them, oldest first; never empty.
struct Known {
    messages: Vec<Arc<StoredMessage>>,
    bytes: usize,
}

#[derive(Clone)]
struct Weight;

impl Weighter<(TenantId, ConversationId), Arc<Known>> for Weight {
    fn weight(&self, _key: &(TenantId, ConversationId), known: &Arc<Known>) -> u64 {
        known.bytes as u64
    }
}

impl Histories {
    /// Keeps at most about so many bytes; 0 keeps nothing.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let options = OptionsBuilder::new()
            // One part: a conversation may take all of it.
            .shards(1)
            .estimated_items_capacity(bytes_max / (MESSAGES_MIN * MESSAGE_BYTES))
            .weight_capacity(bytes_max as u64)
            .build()
            .ok()
            .filter(|_| bytes_max > 0);
        Arc::new(Self {
            kept: options.map(|options| Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default())),
        })
    }

    /// The newest messages with a number above `after`, at most `max`, oldest first: in one statement, but where what is known is wrong.
    pub(super) fn read(
        &self,
        tx: &mut TenantTx<'_>,
        key: (TenantId, ConversationId),
        after: u64,
        max: usize,
    ) -> Result<Vec<Arc<StoredMessage>>> {
        let Some(kept) = &self.kept else { return read(tx, key.1, after, max) };
        let known = kept.get(&key).and_then(|known| known.go_on(tx, key.1, after, max).transpose()).transpose()?;
        let messages = match known {
            Some(messages) => messages,
            None => read(tx, key.1, after, max)?,
        };
        if messages.len() >= MESSAGES_MIN {
            let bytes = messages.iter().map(|message| weight(message)).sum();
            kept.insert(key, Arc::new(Known { messages: messages.clone(), bytes }));
        }
        Ok(messages)
    }

    /// Forgets a conversation that is deleted.
    pub(super) fn forget(&self, key: (TenantId, ConversationId)) {
        if let Some(kept) = &self.kept {
            kept.remove(&key);
        }
    }

    /// Forgets a tenant that is deleted.
    pub(super) fn forget_tenant(&self, tenant: TenantId) {
        if let Some(kept) = &self.kept {
            kept.retain(|(of, _), _| *of != tenant);
        }
    }
}

impl Known {
    /// These and what is newer; nothing where they are not enough, or no longer what is stored.
    fn go_on(
        &self,
        tx: &mut TenantTx<'_>,
        conversation: ConversationId,
        after: u64,
        max: usize,
    ) -> Result<Option<Vec<Arc<StoredMessage>>>> {
        let (Some(first), Some(last)) = (self.messages.first(), self.messages.last()) else { return Ok(None) };
        let (first, last_seq) = (first.message.seq, last.message.seq);
        if last_seq <= after || (first > after + 1 && self.messages.len() < max) {
            return Ok(None);
        }
        let mut newer = read(tx, conversation, last_seq - 1, max)?.into_iter();
        if newer.next().is_none_or(|found| found.message.id != last.message.id || found.message.seq != last_seq) {
            return Ok(None);
        }
        let from = self.messages.partition_point(|known| known.message.seq <= after);
        let mut messages: Vec<_> = self.messages[from..].iter().cloned().chain(newer).collect();
        messages.drain(..messages.len().saturating_sub(max));
        Ok(Some(messages))
    }
}

/// About what a message weighs in memory, in bytes.
fn weight(stored: &StoredMessage) -> usize {
    let called = stored.message.tool_calls.iter().flat_map(|call| call.arguments.values()).map(json_weight).sum::<usize>();
    // A vendor's own message is a tree of values, which weighs about twice its text.
    MESSAGE_BYTES + json_weight(&stored.message.content) + called + stored.raw.as_ref().map_or(0, |raw| 2 * raw.bytes)
}

fn json_weight(json: &Json) -> usize {
    size_of::<Json>()
        + match json {
            Json::String(text) => text.len(),
            Json::Array(items) => items.iter().map(json_weight).sum(),
            Json::Object(members) => members.iter().map(|(name, value)| size_of::<String>() + name.len() + json_weight(value)).sum(),
            Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        }
}

static READ: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, turn_id, raw, prefix_hash, finish_reason FROM messages
         WHERE tenant_id = ?1 AND conversation_id = ?2 AND seq > ?3 ORDER BY seq DESC LIMIT ?4",
        conversations::MESSAGE
    )
});

fn read(tx: &mut TenantTx<'_>, conversation: ConversationId, after: u64, max: usize) -> Result<Vec<Arc<StoredMessage>>> {
    let (after, max) = (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(max).unwrap_or(i64::MAX));
    let params = [Param::Text(&conversation.to_string()), Param::Int(after), Param::Int(max)];
    let mut messages = tx.all(&READ, &params, |row| stored_message(row).map(Arc::new))?;
    messages.reverse();
    Ok(messages)
}

fn stored_message(row: &dyn Row) -> Result<StoredMessage> {
    const EXTRA: usize = conversations::MESSAGE_COLUMNS;
    let message: Message = conversations::message_take(row)?;
    let finish = row.text_opt(EXTRA + 3)?.map(|name| serde_json::Value::String(name.to_owned()));
    Ok(StoredMessage {
        turn_id: rows::parsed(row, EXTRA)?,
        raw: match (&message.model, rows::json_opt(row, EXTRA + 1)?) {
            (Some(model), Some(json)) if message.role == Speaker::Assistant => {
                let bytes = row.text(EXTRA + 1)?.len();
                Some(Arc::new(RawAnswer { model: model.clone(), json, bytes }))
            }
            _ => None,
        },
        prefix_hash: rows::text_opt(row, EXTRA + 2)?,
        finish: finish.map(serde_json::from_value).transpose().map_err(Error::internal)?,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_tool_said_weighs_something_whatever_its_form() {
        let long = "x".repeat(10_000);
        for json in [json!(long), json!([long]), json!({"rows": [{"text": long}]}), json!({long: 1}), json!(vec![1; 1_000])] {
            assert!(json_weight(&json) >= 10_000, "{json}");
        }
    }
}
