//! Conversations: search, transcript, rename, delete, and all of one as JSON.

use super::{agents_of, chosen, frame, pages_of, told};
use crate::{
    dashboard::{
        Place,
        conversations::{self, Around, Known, Renaming},
    },
    error::{Error, Result},
    http::{
        call::{PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
        handlers::conversations::{conversation_change, conversation_end},
    },
    ids::ConversationId,
    model::{ConversationPatch, Message, Order, Page, Role},
    storage::{ConversationFilter, TenantStore},
};
use bytes::Bytes;
use tokio::sync::mpsc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::Page(Role::Viewer, run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Member, run));
    vec![
        page("ConversationsPage", "/dashboard/conversations", list),
        page("ConversationPage", "/dashboard/conversations/{id}", detail),
        page("ConversationExport", "/dashboard/conversations/{id}/export", export),
        form("ConversationRename", "/dashboard/conversations/{id}/rename", rename),
        form("ConversationEnd", "/dashboard/conversations/{id}/delete", delete),
    ]
}

fn id(request: &Request) -> Result<ConversationId> {
    request.id("id", "conversation")
}

async fn known(call: &PageCall<'_>) -> Result<Known> {
    let members = call.app.storage.member_list(&call.who, Page::first(Page::LIMIT_MAX, Order::Desc)).await?.data;
    Ok(Known { agents: agents_of(call).await?, members })
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let request = call.request;
        let q: String = request.query("q").unwrap_or_default().chars().take(200).collect();
        let text = |name| chosen(request, name).unwrap_or_default().to_owned();
        let (config, user, metadata) = (chosen(request, "config_id"), chosen(request, "user_id"), chosen(request, "metadata"));
        let pair = |text: &str| match text.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(Error::invalid("metadata", "expected a key and its value, such as plan=pro")),
        };
        let asked = conversations::Asked {
            filtered: !q.trim().is_empty() || config.is_some() || user.is_some() || metadata.is_some(),
            config_id: text("config_id"),
            user_id: text("user_id"),
            metadata: text("metadata"),
            q: q.clone(),
        };
        let filter = ConversationFilter {
            config_id: config.map(|text| text.parse().map_err(|_| Error::not_found("config", text))).transpose()?,
            user_id: user.map(|text| text.parse().map_err(|_| Error::not_found("user", text))).transpose()?,
            metadata: metadata.map(pair).transpose()?.into_iter().collect(),
            q: Some(q).filter(|q| !q.trim().is_empty()),
        };
        let found = call.store.conversation_list(filter, request.page(Order::Desc)?).await?;
        let pages = pages_of(request, &found, "/dashboard/conversations");
        let (known, frame) = (known(&call).await?, frame(&call, Place::Conversations).await?);
        Ok(Reply::html(200, conversations::list(&frame, &asked, &known, &found.data, &pages)))
    })
}

fn detail(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None).await })
}

/// The newest messages, or those around the one that is named.
async fn shown(call: &PageCall<'_>, status: u16, renaming: Option<&Renaming>) -> Result<Reply> {
    let id = id(call.request)?;
    let mut found = call.store.conversation_get(id).await?;
    let named = |name| chosen(call.request, name).map(str::to_owned);
    let (before, after) = (named("before"), named("after"));
    if before.is_some() || after.is_some() {
        let page = Page { limit: Page::LIMIT_MAX, after, before, order: Order::Asc };
        found.messages = call.store.message_list(id, page).await?.data;
    }
    let path = |name, message: &Message| format!("/dashboard/conversations/{id}?{name}={}", message.id);
    let around = Around {
        earlier: found.messages.first().filter(|first| first.seq > 1).map(|first| path("before", first)),
        later: found.messages.last().filter(|last| last.seq < found.conversation.message_count).map(|last| path("after", last)),
    };
    let (known, frame) = (known(call).await?, frame(call, Place::Conversations).await?);
    Ok(Reply::html(status, conversations::detail(&frame, &found, &known, &around, renaming)))
}

fn rename(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, form) = (id(call.request)?, call.request.form()?);
        let title = form.text("title").trim().to_owned();
        let patch = ConversationPatch { title: Some(title.clone()), metadata: None };
        match conversation_change(call.app, &call.store, &call.who, id, patch).await {
            Ok(_) => Ok(Reply::see_other(format!("/dashboard/conversations/{id}?said=conversation-renamed"))),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, Some(&Renaming { title, errors })).await
            }
        }
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
