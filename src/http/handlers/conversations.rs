//! Conversations and their messages. Chatting is `chat`'s.

use crate::{
    app::App,
    config_check::{label_check, metadata_check},
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::ConversationId,
    model::{Conversation, ConversationDetail, ConversationPatch, List, Message, Order, Role},
    storage::{ConversationFilter, Principal, TenantStore},
};

const TAG: &str = "Conversations";
/// The characters of a title.
const TITLE_CHARS_MAX: usize = 200;
/// The metadata filters of one request.
const METADATA_FILTERS_MAX: usize = 8;
/// How often a running turn is cancelled to delete its conversation.
const DELETE_ATTEMPTS: usize = 3;
/// The characters of a full-text search.
const Q_CHARS_MAX: usize = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("ConversationList", "GET", "/api/v1/conversations", Handler::Tenant(Role::Viewer, conversation_list))
            .about(TAG, "List conversations")
            .paged()
            .query("config_id", "only of this config")
            .query("user_id", "only those begun by a key of this user")
            .query("metadata.*", "only those with this value in the metadata, such as metadata.plan=pro; up to 8 of them")
            .query("q", "only those with a message that has all these words")
            .answers::<List<Conversation>>(200)
            .errors(&["validation_failed"]),
        Endpoint::new("ConversationGet", "GET", "/api/v1/conversations/{id}", Handler::Tenant(Role::Viewer, conversation_get))
            .about(TAG, "Read a conversation with its newest 100 messages")
            .answers::<ConversationDetail>(200)
            .errors(&["not_found"]),
        Endpoint::new("ConversationUpdate", "PATCH", "/api/v1/conversations/{id}", Handler::Tenant(Role::Member, conversation_update))
            .about(TAG, "Change title or metadata")
            .describe("Members change their own conversations, admins all.")
            .body::<ConversationPatch>()
            .answers::<Conversation>(200)
            .errors(&["malformed_json", "not_found", "validation_failed"]),
        Endpoint::new("ConversationDelete", "DELETE", "/api/v1/conversations/{id}", Handler::Tenant(Role::Member, conversation_delete))
            .about(TAG, "Delete a conversation with its messages")
            .describe(
                "Members delete their own conversations, admins all. A running turn is cancelled first. Log and ledger keep their rows, without \
                 what was said.",
            )
            .answers_raw(204, "")
            .errors(&["not_found", "conversation_busy"]),
        Endpoint::new("MessageList", "GET", "/api/v1/conversations/{id}/messages", Handler::Tenant(Role::Viewer, message_list))
            .about(TAG, "List a conversation's messages, oldest first")
            .paged()
            .answers::<List<Message>>(200)
            .errors(&["not_found", "validation_failed"]),
    ]
}

/// The path's conversation.
fn id(request: &Request) -> Result<ConversationId> {
    request.id("id", "conversation")
}

fn filter(request: &Request) -> Result<ConversationFilter> {
    let metadata: Vec<(String, String)> =
        request.query_all().iter().filter_map(|(name, value)| Some((name.strip_prefix("metadata.")?.to_owned(), value.clone()))).collect();
    if metadata.len() > METADATA_FILTERS_MAX {
        return Err(Error::invalid("metadata", format!("at most {METADATA_FILTERS_MAX} filters on metadata in one request")));
    }
    let q = request.query("q").map(str::to_owned);
    if q.as_ref().is_some_and(|q| q.chars().count() > Q_CHARS_MAX) {
        return Err(Error::invalid("q", format!("at most {Q_CHARS_MAX} characters")));
    }
    Ok(ConversationFilter {
        config_id: request.query_as("config_id", "a config's id")?,
        user_id: request.query_as("user_id", "a user's id")?,
        metadata,
        q,
    })
}

fn conversation_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (filter, page) = (filter(call.request)?, call.request.page(Order::Desc)?);
        Reply::ok(&call.store.conversation_list(filter, page).await?)
    })
}

fn conversation_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.store.conversation_get(id(call.request)?).await?) })
}

fn conversation_update(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        Reply::ok(&conversation_change(call.app, &call.store, &call.who, id, call.request.json()?).await?)
    })
}

/// Changes title or metadata, once nothing is wrong with them.
pub(super) async fn conversation_change(
    app: &App,
    store: &TenantStore,
    who: &Principal,
    id: ConversationId,
    patch: ConversationPatch,
) -> Result<Conversation> {
    let mut errors = Vec::new();
    errors.extend(patch.title.iter().flat_map(|title| label_check("/title", title, TITLE_CHARS_MAX)));
    errors.extend(patch.metadata.iter().flat_map(|metadata| metadata_check(metadata, &app.config.limits)));
    if errors.is_empty() { store.conversation_update(who, id, patch).await } else { Err(Error::ValidationFailed { errors }) }
}

fn conversation_delete(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        conversation_end(call.app, &call.store, &call.who, id(call.request)?).await?;
        Ok(Reply::Nothing)
    })
}

/// Deletes a conversation, its running turn cancelled first.
pub(super) async fn conversation_end(app: &App, store: &TenantStore, who: &Principal, id: ConversationId) -> Result<()> {
    let mut outcome = Ok(());
    // A request that waited in line may begin a turn between the cancel and the delete.
    for _ in 0..DELETE_ATTEMPTS {
        if let Some(turn) = store.conversation_deletable(who, id).await? {
            match app.agent.turn_cancel(who, turn).await {
                // One that is unknown here has ended meanwhile.
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        outcome = store.conversation_delete(who, id).await;
        if !matches!(outcome, Err(Error::ConversationBusy { .. })) {
            break;
        }
    }
    outcome
}

fn message_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Asc)?;
        Reply::ok(&call.store.message_list(id(call.request)?, page).await?)
    })
}
