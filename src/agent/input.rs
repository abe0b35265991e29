//! What a chat request says, checked: first by itself, then against the conversation it goes to. Pure.

use crate::{
    config::Limits,
    error::{Error, FieldError, Result},
    ids::MessageId,
    model::{ChatAnswer, ChatInput, Json, Message, Speaker, StoredMessage, ToolCall, ToolResult, ToolResultInput, TurnOutcome},
    storage::{Admission, NewMessage, OpenTurn, Stored},
    template,
};

/// The longest title made of a first message, in characters.
const TITLE_CHARS_MAX: usize = 80;
/// The longest id of an end user, in characters.
const END_USER_CHARS_MAX: usize = 200;

/// What the request adds to the conversation, matched to its open calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Results of the open calls: the client's, or error results of ours when it cancelled them.
    pub results: Vec<ToolResult>,
    /// What the user says after that.
    pub text: Option<String>,
    /// The rendered system prompt.
    pub system: String,
}

impl Admitted {
    /// As messages to be stored.
    pub fn messages(&self) -> Vec<NewMessage> {
        let results = self.results.iter().map(|result| NewMessage {
            id: MessageId::new(),
            role: Speaker::Tool,
            content: result.content.clone(),
            result_of: Some((result.tool_call_id.clone(), result.name.clone(), result.ok)),
            answer: None,
        });
        let text = self.text.iter().map(|text| NewMessage {
            id: MessageId::new(),
            role: Speaker::User,
            content: Json::String(text.clone()),
            result_of: None,
            answer: None,
        });
        results.chain(text).collect()
    }
}

/// Checks a request by itself.
pub fn check(input: &ChatInput, limits: &Limits) -> Result<()> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, message: String| errors.push(FieldError { pointer: pointer.to_owned(), message });
    match (&input.message, &input.tool_results) {
        (None, None) => wrong("/message", "is missing: say something, or post tool_results".to_owned()),
        (Some(_), Some(_)) => wrong("/tool_results", "cannot be posted together with a message: post the results first".to_owned()),
        (Some(message), None) if message.trim().is_empty() => wrong("/message", "is empty".to_owned()),
        (None, Some(results)) if results.is_empty() => wrong("/tool_results", "is empty: give one result for every open call".to_owned()),
        _ => {}
    }
    if input.tool_results.is_some() && input.conversation_id.is_none() {
        wrong("/conversation_id", "is missing: results belong to the conversation whose calls they answer".to_owned());
    }
    if input.user.as_ref().is_some_and(|user| user.is_empty() || user.chars().count() > END_USER_CHARS_MAX) {
        wrong("/user", format!("expected 1–{END_USER_CHARS_MAX} characters"));
    }
    if let Some(metadata) = &input.metadata {
        errors.extend(crate::config_check::metadata_check(metadata, limits));
    }
    if !errors.is_empty() {
        return Err(Error::ValidationFailed { errors });
    }
    template::check_vars(&input.template_vars.clone().unwrap_or_default(), limits)
}

/// The title of a conversation that begins with this.
pub fn title(input: &ChatInput) -> String {
    let line = input.message.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS_MAX) {
        None => line,
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
    }
}

/// Checks a request against its conversation: results answer every open call, once; a message finds no call open or closes them.
/// The same results posted again for the calls just answered give that answer again.
pub fn admit(input: &ChatInput, open: &OpenTurn, system: String) -> Result<Admission<Admitted>> {
    match (&input.message, &input.tool_results) {
        (Some(text), _) => {
            if !open.open_calls.is_empty() && !input.cancel_open_calls {
                let open = open.open_calls.iter().map(|call| (call.id.clone(), call.name.clone())).collect();
                return Err(Error::ToolResultsRequired { open });
            }
            let results = open.open_calls.iter().map(cancelled).collect();
            Ok(Admission::Go(Admitted { results, text: Some(text.clone()), system }, None))
        }
        (None, Some(results)) if open.open_calls.is_empty() => replay(results, open).ok_or_else(|| {
            let message = "no tool call of this conversation is open".to_owned();
            Error::ToolResultsMismatch { errors: vec![FieldError { pointer: "/tool_results".to_owned(), message }] }
        }),
        (None, Some(results)) => match matched(results, &open.open_calls) {
            Ok(results) => Ok(Admission::Go(Admitted { results, text: None, system }, None)),
            // The answer to these may have called further tools, and got lost on its way.
            Err(mismatch) => replay(results, open).ok_or(mismatch),
        },
        (None, None) => Err(Error::invalid("/message", "is missing")),
    }
}

/// The result of a call that the client gave up.
fn cancelled(call: &ToolCall) -> ToolResult {
    ToolResult {
        tool_call_id: call.id.clone(),
        name: call.name.clone(),
        content: Json::String("The call was cancelled; the tool did not run.".to_owned()),
        ok: false,
    }
}

/// Gives each result its call: by id, or by name where that names one call alone. In the order of the calls.
fn matched(results: &[ToolResultInput], calls: &[ToolCall]) -> Result<Vec<ToolResult>> {
    let mut errors = Vec::new();
    let mut found: Vec<Option<ToolResult>> = vec![None; calls.len()];
    for (n, result) in results.iter().enumerate() {
        let mut wrong = |field: &str, message: String| errors.push(FieldError { pointer: format!("/tool_results/{n}{field}"), message });
        let at = match (&result.tool_call_id, &result.name) {
            (Some(id), _) => match calls.iter().position(|call| call.id == *id) {
                Some(at) => at,
                None => {
                    wrong("/tool_call_id", format!("{id} is not an open call"));
                    continue;
                }
            },
            (None, Some(name)) => {
                let mut of_name = calls.iter().enumerate().filter(|(_, call)| call.name == *name).map(|(at, _)| at);
                match (of_name.next(), of_name.next()) {
                    (Some(at), None) => at,
                    (None, _) => {
                        wrong("/name", format!("no open call of {name}"));
                        continue;
                    }
                    (Some(_), Some(_)) => {
                        wrong("/tool_call_id", format!("is missing: several calls of {name} are open"));
                        continue;
                    }
                }
            }
            (None, None) => {
                wrong("/tool_call_id", "is missing".to_owned());
                continue;
            }
        };
        if result.name.as_ref().is_some_and(|name| *name != calls[at].name) {
            wrong("/name", format!("call {} is of {}", calls[at].id, calls[at].name));
        } else if found[at].is_some() {
            wrong("/tool_call_id", format!("{} is answered twice", calls[at].id));
        } else {
            let (tool_call_id, name) = (calls[at].id.clone(), calls[at].name.clone());
            found[at] = Some(ToolResult { tool_call_id, name, content: result.content.clone(), ok: result.ok });
        }
    }
    for (call, _) in calls.iter().zip(&found).filter(|(_, result)| result.is_none()) {
        let message = format!("no result for call {} of {}; every open call needs one", call.id, call.name);
        errors.push(FieldError { pointer: "/tool_results".to_owned(), message });
    }
    if errors.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(Error::ToolResultsMismatch { errors }) }
}

/// The newest answer again, if these are the results that it answered.
fn replay(results: &[ToolResultInput], open: &OpenTurn) -> Option<Admission<Admitted>> {
    let (answer, before) = open.history.split_last().filter(|(last, _)| last.message.role == Speaker::Assistant)?;
    let tail = before.iter().rev().take_while(|stored| stored.message.role == Speaker::Tool).count();
    let answered = &before[before.len() - tail..];
    let calls: Vec<ToolCall> = answered.iter().filter_map(|stored| call_of(stored)).collect();
    let matched = matched(results, &calls).ok().filter(|matched| !matched.is_empty())?;
    let same = matched.iter().zip(answered).all(|(new, old)| new.content == old.message.content && Some(new.ok) == old.message.ok);
    let again = if same { answer_again(answer, open)? } else { return None };
    Some(Admission::Replay(Stored {
        outcome: TurnOutcome::Answered(Box::new(again)),
        turn: answer.turn_id,
        conversation: open.conversation,
    }))
}

/// The call that a stored result answered, as far as a result tells.
fn call_of(stored: &StoredMessage) -> Option<ToolCall> {
    let Message { tool_call_id: Some(id), name: Some(name), .. } = &stored.message else { return None };
    Some(ToolCall { id: id.clone(), name: name.clone(), arguments: crate::model::JsonObject::new() })
}

/// A stored answer as it was given.
fn answer_again(stored: &StoredMessage, open: &OpenTurn) -> Option<ChatAnswer> {
    let (message, report) = (&stored.message, open.last_report?);
    Some(ChatAnswer {
        response: message.content.as_str().map(str::to_owned),
        conversation_id: open.conversation,
        tool_calls: message.tool_calls.clone(),
        message_id: message.id,
        turn_id: stored.turn_id,
        finish_reason: stored.finish?,
        model: message.model.clone()?,
        usage: report.usage,
        cost: report.cost,
        balance: report.balance,
        max_tokens_applied: report.max_tokens_applied,
        context: report.context,
    })
}
