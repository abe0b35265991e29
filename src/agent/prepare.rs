//! From "call this model" to a held, encoded request: price, credentials, prompt, bound, hold. Whatever is missing is found here, before a vendor
//! can cost anything.

use super::{
    Agent,
    drive::{Drive, Memory},
    input::Admitted,
    lock,
    prompt::{BYTES_PER_TOKEN, Exchanges, Fitted, beside_bytes, hashes, seal},
    tools::offer,
};
use crate::{
    config::ProviderConfig,
    error::{Error, Result},
    model::{AgentType, ContextPolicy, ContextReport, JsonObject, ModelRef, PinnedTool, Role, StoredMessage, Tokenizer, ToolSpec},
    provider::{self, Encoded, Prompt, PromptMessage},
    rates::CardRow,
    storage::{Hold, HoldAsk, OpenTurn, Principal},
    wallet::Wish,
};
use std::{borrow::Cow, sync::Arc};

/// What a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// The turn's answer.
    Answer {
        /// The history is cut by a quarter more each time the vendor found the prompt too long.
        shrink: u32,
    },
    /// A summary of the oldest turns.
    Summary {
        /// As above.
        shrink: u32,
    },
}

/// What a prompt is made of.
#[derive(Clone, Copy)]
pub(super) struct Matter<'a> {
    pub(super) who: &'a Principal,
    pub(super) open: &'a OpenTurn,
    pub(super) admitted: &'a Admitted,
}

/// A request that is priced, bounded and encoded, and waits for its money.
pub(super) struct Draft {
    pub(super) ask: HoldAsk,
    prompt: Prompt,
    encoded: Encoded,
    purpose: Purpose,
}

/// A request that may be sent.
pub(super) struct Prepared {
    pub(super) hold: Hold,
    pub(super) encoded: Encoded,
    pub(super) purpose: Purpose,
}

impl Draft {
    /// With its money, it may be sent. The limit may have been lowered to what the balance buys; what is sent is what was held for.
    pub(super) fn held(mut self, hold: Hold, provider: &ProviderConfig) -> Prepared {
        if hold.output_tokens() != self.prompt.max_tokens {
            self.prompt.max_tokens = hold.output_tokens();
            self.encoded = provider::encode(provider, &self.prompt);
        }
        Prepared { hold, encoded: self.encoded, purpose: self.purpose }
    }
}

/// What becomes of a call's answer.
pub(super) enum Purpose {
    /// It is the turn's answer.
    Answer {
        /// The hash of what the vendor will see.
        prefix_hash: String,
        /// What it will not see.
        report: ContextReport,
    },
    /// It stands for the oldest turns from now on.
    Summary {
        /// The last message that it stands for.
        until_seq: u64,
        /// How many turns it stands for.
        turns: u32,
    },
}

/// What a model is told to do with the oldest turns.
const SUMMARISE: &str = "You keep the memory of a conversation between a user and an assistant. Write down what someone needs who carries the \
     conversation on: facts, names, numbers, decisions, what tools returned that still matters, what is open. Plain text, in the language of the \
     conversation, at most 400 words. Write the summary and nothing else.";

/// The output limit of a summary, in tokens.
const SUMMARY_TOKENS: u32 = 1_024;

/// A prompt up to this length has its tokens counted inside the transaction that opens the turn, in well under a millisecond; others wait
/// behind it there.
const COUNTED_AT_ONCE_BYTES_MAX: usize = 8 * 1024;

impl Agent {
    /// The turn's first call, to be held for in the commit that opens the turn; nothing where that has to wait: for a summary, or until the
    /// tokens of a long prompt are counted. Blocks for as long as it takes to write the prompt.
    pub(super) fn first_draft(&self, matter: Matter<'_>) -> Result<Option<Draft>> {
        let model = matter.open.config.model_config.primary();
        let Some(mut draft) = self.draft(matter, &Memory::begun(matter.open), &model, Aim::Answer { shrink: 0 })? else { return Ok(None) };
        if let Some(tokenizer) = draft.ask.row.facts.tokenizer {
            if draft.encoded.body.len() > COUNTED_AT_ONCE_BYTES_MAX {
                return Ok(None);
            }
            draft.ask.wish.input_tokens_max = provider::input_tokens_counted(&draft.encoded, tokenizer);
        }
        Ok(Some(draft))
    }

    /// Makes a call ready; nothing when the prompt does not fit and the policy is to summarise first.
    pub(super) async fn prepare(&self, drive: &Drive, memory: &Memory, model: &ModelRef, aim: Aim) -> Result<Option<Prepared>> {
        let Some(mut draft) = self.draft(drive.matter(), memory, model, aim)? else { return Ok(None) };
        draft.ask.wish.input_tokens_max = self.input_tokens_max(&draft.encoded, draft.ask.row.facts.tokenizer).await;
        let hold = drive.store.wallet_hold(draft.ask.clone()).await?;
        Ok(Some(draft.held(hold, self.provider(&model.provider)?)))
    }

    /// Price, credentials, prompt and bound of a call; nothing when the prompt does not fit and the policy is to summarise first.
    fn draft(&self, matter: Matter<'_>, memory: &Memory, model: &ModelRef, aim: Aim) -> Result<Option<Draft>> {
        let provider = self.provider(&model.provider)?;
        let row = self.price(model)?;
        let who = self.standing(matter.who)?;
        let made = match aim {
            Aim::Answer { shrink } => self.prompt(matter, memory, model, provider, &row, shrink)?,
            Aim::Summary { shrink } => Some(summary_prompt(matter, memory, model, &row, shrink)?),
        };
        let Some((prompt, purpose)) = made else { return Ok(None) };
        let encoded = provider::encode(provider, &prompt);
        let wish = Wish {
            input_tokens_max: encoded.input_tokens_max,
            cache_writes: encoded.cache_writes,
            output_tokens: prompt.max_tokens,
            output_above: provider::thinking_budget(&prompt.params),
        };
        let ask = HoldAsk {
            turn: matter.open.turn,
            step: memory.step,
            key: who.key_id(),
            spend_limit: who.spend_limit(),
            model: model.clone(),
            row,
            wish,
        };
        Ok(Some(Draft { ask, prompt, encoded, purpose }))
    }

    /// The bound of a request's input: by the vendor's tokenizer where it is public, else by bytes.
    async fn input_tokens_max(&self, encoded: &Encoded, tokenizer: Option<Tokenizer>) -> u64 {
        let Some(tokenizer) = tokenizer else { return encoded.input_tokens_max };
        // Counting keeps a core busy: as many at once as there are, so that a crowd of long prompts leaves the threads to those who store.
        let Ok(_core) = self.inner.counting.acquire().await else { return encoded.input_tokens_max };
        let counting = encoded.clone();
        let counted = tokio::task::spawn_blocking(move || provider::input_tokens_counted(&counting, tokenizer)).await;
        counted.unwrap_or(encoded.input_tokens_max)
    }

    /// The key once more: one that was revoked, weakened or outlived while the turn waited gets no further vendor call.
    pub(super) fn standing(&self, who: &Principal) -> Result<Principal> {
        let who = self.parts().storage.principal_again(who)?;
        if who.suspended() {
            return Err(Error::TenantSuspended);
        }
        if who.role() < Role::Member {
            return Err(Error::InsufficientRole { needed: "member" });
        }
        // What could not be settled yet is not in the wallet yet.
        if lock(&self.inner.unsettled).contains_key(&who.tenant_id()) {
            return Err(Error::TenantUnavailable);
        }
        Ok(who)
    }

    pub(super) fn provider(&self, name: &str) -> Result<&ProviderConfig> {
        let provider = self.parts().providers.get(name).ok_or_else(|| Error::ProviderNotConfigured {
            provider: name.to_owned(),
            detail: "it is not in this server's configuration".to_owned(),
        })?;
        if provider.configured() {
            return Ok(provider);
        }
        Err(Error::ProviderNotConfigured { provider: name.to_owned(), detail: "the operator has set no API key for it".to_owned() })
    }

    fn price(&self, model: &ModelRef) -> Result<Arc<CardRow>> {
        let (provider, name) = (model.provider.clone(), model.model.clone());
        let Some(row) = self.parts().rates.load().find(&provider, &name).cloned() else {
            return Err(Error::PricingUnavailable { provider, model: name });
        };
        let closed = lock(&self.inner.closed);
        // Hardly ever is one: only then is it worth to know the row's fingerprint.
        if !closed.is_empty() && closed.contains(&(provider.clone(), name.clone(), row.fingerprint())) {
            Err(Error::ModelClosed { provider, model: name })
        } else {
            Ok(row)
        }
    }

    fn prompt(
        &self,
        matter: Matter<'_>,
        memory: &Memory,
        model: &ModelRef,
        provider: &ProviderConfig,
        row: &CardRow,
        shrink: u32,
    ) -> Result<Option<(Prompt, Purpose)>> {
        let config = &matter.open.config;
        let tools: Arc<[ToolSpec]> = match config.agent_type {
            AgentType::ClientSide => config.tools_config.iter().map(crate::model::ToolEntry::spec).collect(),
            AgentType::Sandboxed => offer::offered(config, matter.open.kit.as_ref()).iter().map(PinnedTool::spec).collect(),
        };
        if row.facts.tools_refused && !tools.is_empty() {
            let message = format!("{} takes no tools over this API; choose another model or remove tools_config", model.model);
            return Err(Error::invalid("/model_config/model", message));
        }
        let (limit, params) = provider::split_output_limit(&self.params_for(matter, model, provider));
        let default = u32::try_from(self.limits().output_tokens_default).unwrap_or(u32::MAX);
        // The default is room for the answer; thinking comes on top of it.
        let max_tokens = limit.unwrap_or(default.saturating_add(provider::thinking_budget(&params))).clamp(1, row.output_limit);
        let system = system(matter, memory);
        let beside = beside_bytes(&system, &tools);
        let Some(Fitted { mut messages, report, .. }) = fit(matter, memory, beside, row, max_tokens, shrink)? else { return Ok(None) };
        let report = ContextReport { turns_summarised: memory.summary.as_ref().map_or(0, |summary| summary.turns), ..report };
        let said = history(matter, memory);
        let known = hashes(&said, &messages);
        let prefix_hash = seal(&system, &tools, &mut messages, &known);
        let (model, facts, context_window) = (model.clone(), row.facts, row.context_window);
        let prompt = Prompt { model, system, tools, messages, params, max_tokens, facts, context_window };
        Ok(Some((prompt, Purpose::Answer { prefix_hash, report })))
    }

    /// The config's parameters; a fallback on another wire takes those that it knows.
    fn params_for(&self, matter: Matter<'_>, model: &ModelRef, provider: &ProviderConfig) -> JsonObject {
        let config = &matter.open.config.model_config;
        let primary_wire = self.parts().providers.get(&config.provider).map_or(provider.wire, |primary| primary.wire);
        if *model == config.primary() {
            return config.params.clone();
        }
        provider::params_for_fallback(&config.params, primary_wire, provider.wire, &provider.extra_params)
    }
}

/// The system prompt, with what stands for the oldest turns.
fn system(matter: Matter<'_>, memory: &Memory) -> String {
    let system = &matter.admitted.system;
    match &memory.summary {
        None => system.clone(),
        Some(summary) => {
            format!("{system}\n\nWhat was said earlier in this conversation, in short:\n{}", summary.text).trim_start().to_owned()
        }
    }
}

/// What was said before this step, oldest first: before the turn, and in its earlier steps.
fn history<'a>(matter: Matter<'a>, memory: &'a Memory) -> Cow<'a, [Arc<StoredMessage>]> {
    let before = &matter.open.history[memory.from..];
    if memory.said.is_empty() { Cow::Borrowed(before) } else { Cow::Owned(before.iter().chain(&memory.said).cloned().collect()) }
}

fn exchanges(matter: Matter<'_>, memory: &Memory) -> Exchanges {
    // What was asked is stored with the first step, and so part of the history from then on.
    let nothing = Admitted { results: Vec::new(), text: None, system: String::new() };
    let admitted = if memory.said.is_empty() { matter.admitted } else { &nothing };
    Exchanges::new(&history(matter, memory), admitted)
}

/// Tokens of the window beside the answer; with each `shrink` a quarter less.
fn window(row: &CardRow, max_tokens: u32, shrink: u32) -> u64 {
    (0..shrink).fold(row.context_window.saturating_sub(u64::from(max_tokens)), |tokens, _| tokens / 4 * 3)
}

/// The messages that fit the model's window beside the answer; nothing when they do not and the policy is to summarise.
fn fit(matter: Matter<'_>, memory: &Memory, beside: u64, row: &CardRow, max_tokens: u32, shrink: u32) -> Result<Option<Fitted>> {
    let (exchanges, policy) = (exchanges(matter, memory), matter.open.config.context_policy);
    let tokens_max = window(row, max_tokens, shrink);
    let can_be_summarised = exchanges.can_be_summarised();
    let fitted = exchanges.fit(beside, tokens_max, policy == ContextPolicy::Truncate);
    if policy == ContextPolicy::Compact && fitted.tokens > tokens_max && can_be_summarised {
        return Ok(None);
    }
    // The estimate counts generously, so it refuses only where even a sparing count is too much; the vendor has the last word.
    if fitted.tokens / 2 > window(row, max_tokens, 0) {
        let detail = format!("The prompt has about {} tokens, more than {} takes besides the answer.", fitted.tokens, row.name);
        return Err(Error::ContextTooLong { detail });
    }
    Ok(Some(fitted))
}

/// Asks for a summary of the oldest turns and of what stood for those before them.
fn summary_prompt(matter: Matter<'_>, memory: &Memory, model: &ModelRef, row: &CardRow, shrink: u32) -> Result<(Prompt, Purpose)> {
    let max_tokens = SUMMARY_TOKENS.min(row.output_limit);
    let beside = beside_bytes(&system(matter, memory), &[]) / BYTES_PER_TOKEN;
    let tokens_max = window(row, max_tokens, shrink).saturating_sub(beside);
    let Some(oldest) = exchanges(matter, memory).oldest(tokens_max) else {
        let detail = format!("The last message alone is longer than {} takes.", row.name);
        return Err(Error::ContextTooLong { detail });
    };
    let (before, turns) =
        memory.summary.as_ref().map_or((String::new(), 0), |summary| (format!("Summary so far:\n{}\n\n", summary.text), summary.turns));
    let prompt = Prompt {
        model: model.clone(),
        system: SUMMARISE.to_owned(),
        tools: Arc::from([]),
        messages: vec![PromptMessage::User { text: format!("{before}What was said then:\n{}", oldest.transcript) }],
        params: JsonObject::new(),
        max_tokens,
        facts: row.facts,
        context_window: row.context_window,
    };
    Ok((prompt, Purpose::Summary { until_seq: oldest.until_seq, turns: turns.saturating_add(oldest.turns) }))
}
