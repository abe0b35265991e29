//! Conversations: search, transcript, delete, and all of one as JSON.

use super::{agents_of, chosen, frame, pages_of};
use crate::{
    dashboard::{Place, conversations},
    error::{Error, Result},
    http::{
        call::{PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
        handlers::conversations::conversation_end,
    },
    ids::ConversationId,
    model::{ConversationDetail, Message, Order, Page, Role},
    storage::{ConversationFilter, TenantStore},
};
use bytes::Bytes;
use tokio::sync::mpsc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::Page(Role::Viewer, run));
    vec![
        page("ConversationsPage", "/dashboard/conversations", list),
        page("ConversationPage", "/dashboard/conversations/{id}", detail),
        page("ConversationExport", "/dashboard/conversations/{id}/export", export),
        Endpoint::new("ConversationEnd", "POST", "/dashboard/conversations/{id}/delete", Handler::Page(Role::Member, delete)),
    ]
}

fn id(request: &Request) -> Result<ConversationId> {
    request.id("id", "conversation")
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let request = call.request;
        let q: String = request.query("q").unwrap_or_default().chars().take(200).collect();
        let config = chosen(request, "config_id");
        let asked = conversations::Asked {
            filtered: !q.trim().is_empty() || config.is_some(),
            config_id: config.unwrap_or_default().to_owned(),
            q: q.clone(),
        };
        let filter = ConversationFilter {
            config_id: config.map(|text| text.parse().map_err(|_| Error::not_found("config", text))).transpose()?,
            user_id: None,
            metadata: Vec::new(),
            q: Some(q).filter(|q| !q.trim().is_empty()),
        };
        let found = call.store.conversation_list(filter, request.page(Order::Desc)?).await?;
        let (newer, older) = pages_of(request, &found, "/dashboard/conversations");
        let (agents, frame) = (agents_of(&call).await?, frame(&call, Place::Conversations).await?);
        Ok(Reply::html(200, conversations::list(&frame, &asked, &agents, &found, newer.as_deref(), older.as_deref())))
    })
}

fn detail(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let mut found: ConversationDetail = call.store.conversation_get(id).await?;
        if let Some(before) = chosen(call.request, "before") {
            let page = Page { limit: Page::LIMIT_MAX, after: None, before: Some(before.to_owned()), order: Order::Asc };
            found.messages = call.store.message_list(id, page).await?.data;
        }
        let first = found.messages.first().filter(|first| first.seq > 1);
        let older = first.map(|first| format!("/dashboard/conversations/{id}?before={}", first.id));
        let (agents, frame) = (agents_of(&call).await?, frame(&call, Place::Conversations).await?);
        Ok(Reply::html(200, conversations::detail(&frame, &found, &agents, older.as_deref())))
    })
}

fn delete(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        conversation_end(call.app, &call.store, &call.who, id(call.request)?).await?;
        Ok(Reply::see_other("/dashboard/conversations?said=conversation-deleted"))
    })
}

fn export(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let conversation = call.store.conversation_get(id).await?.conversation;
        let head = serde_json::to_string(&conversation).map_err(Error::internal)?;
        let (sender, pieces) = mpsc::channel(2);
        let store = call.store.clone();
        tokio::spawn(async move {
            // A file that broke off is no JSON, so nobody takes it for whole.
            if let Err(error) = written(&store, id, head, &sender).await {
                tracing::warn!(%error, "a conversation's export broke off");
            }
        });
        let name = format!("attachment; filename=\"conversation-{id}.json\"");
        let reply = Reply::Pieces { content_type: "application/json", pieces, headers: Vec::new() };
        Ok(reply.with_header("content-disposition", name))
    })
}

/// The conversation as the API shows it, with all of its messages.
async fn written(store: &TenantStore, id: ConversationId, head: String, sender: &mpsc::Sender<Bytes>) -> Result<()> {
    let mut text = head.strip_suffix('}').map_or(head.clone(), |open| format!("{open},\"messages\":["));
    let mut page = Page::first(Page::LIMIT_MAX, Order::Asc);
    let mut first = true;
    loop {
        let list = store.message_list(id, page.clone()).await?;
        for message in &list.data {
            push(&mut text, message, &mut first)?;
        }
        if !list.has_more {
            text.push_str("]}\n");
        }
        if sender.send(std::mem::take(&mut text).into()).await.is_err() || !list.has_more {
            return Ok(());
        }
        page.after = list.last_id;
    }
}

fn push(text: &mut String, message: &Message, first: &mut bool) -> Result<()> {
    if !std::mem::take(first) {
        text.push(',');
    }
    text.push('\n');
    text.push_str(&serde_json::to_string(message).map_err(Error::internal)?);
    Ok(())
}
