//! From "call this model" to a held, encoded request: price, credentials, prompt, bound, hold. Whatever is missing is found here, before a vendor
//! can cost anything.

use super::{
    Agent,
    drive::{Drive, Memory},
    lock,
    prompt::{BYTES_PER_TOKEN, Exchanges, Fitted, beside_bytes, hashes, seal},
};
use crate::{
    config::ProviderConfig,
    error::{Error, Result},
    model::{ContextPolicy, ContextReport, JsonObject, ModelRef, Role, Tokenizer, ToolSpec},
    provider::{self, Encoded, Prompt, PromptMessage},
    rates::CardRow,
    storage::{Hold, HoldAsk, Principal},
    wallet::Wish,
};
use std::sync::Arc;

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

/// A request that may be sent.
pub(super) struct Prepared<'a> {
    pub(super) hold: Hold,
    pub(super) provider: &'a ProviderConfig,
    pub(super) encoded: Encoded,
    pub(super) purpose: Purpose,
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

impl Agent {
    /// Makes a call ready; nothing when the prompt does not fit and the policy is to summarise first.
    pub(super) async fn prepare(&self, drive: &Drive, memory: &Memory, model: &ModelRef, aim: Aim) -> Result<Option<Prepared<'_>>> {
        let provider = self.provider(&model.provider)?;
        let row = self.price(model)?;
        let who = self.standing(drive)?;
        let made = match aim {
            Aim::Answer { shrink } => self.prompt(drive, memory, model, provider, &row, shrink)?,
            Aim::Summary { shrink } => Some(summary_prompt(drive, memory, model, &row, shrink)?),
        };
        let Some((mut prompt, purpose)) = made else { return Ok(None) };
        let encoded = provider::encode(provider, &prompt);
        let wish = Wish {
            input_tokens_max: self.input_tokens_max(&encoded, row.facts.tokenizer).await,
            cache_writes: encoded.cache_writes,
            output_tokens: prompt.max_tokens,
            output_above: provider::thinking_budget(&prompt.params),
        };
        let ask = HoldAsk {
            turn: drive.open.turn,
            step: memory.step,
            key: who.key_id(),
            spend_limit: who.spend_limit(),
            model: model.clone(),
            row,
            wish,
        };
        crate::failpoint::hit("before-hold");
        let hold = drive.store.wallet_hold(ask).await?;
        crate::failpoint::hit("after-hold");
        // The limit may have been lowered to what the balance buys; what is sent is what was held for.
        let encoded = if hold.output_tokens() == prompt.max_tokens {
            encoded
        } else {
            prompt.max_tokens = hold.output_tokens();
            provider::encode(provider, &prompt)
        };
        Ok(Some(Prepared { hold, provider, encoded, purpose }))
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
    fn standing(&self, drive: &Drive) -> Result<Principal> {
        let who = self.parts().storage.principal_again(&drive.who)?;
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

    fn provider(&self, name: &str) -> Result<&ProviderConfig> {
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
        let closed = lock(&self.inner.closed).contains(&(provider.clone(), name.clone(), row.fingerprint()));
        if closed { Err(Error::ModelClosed { provider, model: name }) } else { Ok(row) }
    }

    fn prompt(
        &self,
        drive: &Drive,
        memory: &Memory,
        model: &ModelRef,
        provider: &ProviderConfig,
        row: &CardRow,
        shrink: u32,
    ) -> Result<Option<(Prompt, Purpose)>> {
        let config = &drive.open.config;
        let tools: Arc<[ToolSpec]> = config.tools_config.iter().map(crate::model::ToolEntry::spec).collect();
        if row.facts.tools_refused && !tools.is_empty() {
            let message = format!("{} takes no tools over this API; choose another model or remove tools_config", model.model);
            return Err(Error::invalid("/model_config/model", message));
        }
        let (limit, params) = provider::split_output_limit(&self.params_for(drive, model, provider));
        let default = u32::try_from(self.limits().output_tokens_default).unwrap_or(u32::MAX);
        // The default is room for the answer; thinking comes on top of it.
        let max_tokens = limit.unwrap_or(default.saturating_add(provider::thinking_budget(&params))).clamp(1, row.output_limit);
        let system = system(drive, memory);
        let beside = beside_bytes(&system, &tools);
        let Some(Fitted { mut messages, report, .. }) = fit(drive, memory, beside, row, max_tokens, shrink)? else { return Ok(None) };
        let report = ContextReport { turns_summarised: memory.summary.as_ref().map_or(0, |summary| summary.turns), ..report };
        let known = hashes(&drive.open.history, &messages);
        let prefix_hash = seal(&system, &tools, &mut messages, &known);
        let (model, facts, context_window) = (model.clone(), row.facts, row.context_window);
        let prompt = Prompt { model, system, tools, messages, params, max_tokens, facts, context_window };
        Ok(Some((prompt, Purpose::Answer { prefix_hash, report })))
    }

    /// The config's parameters; a fallback on another wire takes those that it knows.
    fn params_for(&self, drive: &Drive, model: &ModelRef, provider: &ProviderConfig) -> JsonObject {
        let config = &drive.open.config.model_config;
        let primary_wire = self.parts().providers.get(&config.provider).map_or(provider.wire, |primary| primary.wire);
        if *model == config.primary() {
            return config.params.clone();
        }
        provider::params_for_fallback(&config.params, primary_wire, provider.wire, &provider.extra_params)
    }
}

/// The system prompt, with what stands for the oldest turns.
fn system(drive: &Drive, memory: &Memory) -> String {
    let system = &drive.admitted.system;
    match &memory.summary {
        None => system.clone(),
        Some(summary) => {
            format!("{system}\n\nWhat was said earlier in this conversation, in short:\n{}", summary.text).trim_start().to_owned()
        }
    }
}

fn exchanges(drive: &Drive, memory: &Memory) -> Exchanges {
    Exchanges::new(&drive.open.history[memory.from..], &drive.admitted)
}

/// Tokens of the window beside the answer; with each `shrink` a quarter less.
fn window(row: &CardRow, max_tokens: u32, shrink: u32) -> u64 {
    (0..shrink).fold(row.context_window.saturating_sub(u64::from(max_tokens)), |tokens, _| tokens / 4 * 3)
}

/// The messages that fit the model's window beside the answer; nothing when they do not and the policy is to summarise.
fn fit(drive: &Drive, memory: &Memory, beside: u64, row: &CardRow, max_tokens: u32, shrink: u32) -> Result<Option<Fitted>> {
    let (exchanges, policy) = (exchanges(drive, memory), drive.open.config.context_policy);
    let tokens_max = window(row, max_tokens, shrink);
    let fitted = exchanges.fit(beside, tokens_max, policy == ContextPolicy::Truncate);
    if policy == ContextPolicy::Compact && fitted.tokens > tokens_max && exchanges.can_be_summarised() {
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
fn summary_prompt(drive: &Drive, memory: &Memory, model: &ModelRef, row: &CardRow, shrink: u32) -> Result<(Prompt, Purpose)> {
    let max_tokens = SUMMARY_TOKENS.min(row.output_limit);
    let beside = beside_bytes(&system(drive, memory), &[]) / BYTES_PER_TOKEN;
    let tokens_max = window(row, max_tokens, shrink).saturating_sub(beside);
    let Some(oldest) = exchanges(drive, memory).oldest(tokens_max) else {
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
