//! From "call this model" to a held, encoded request: price, credentials, prompt, bound, hold. Whatever is missing is found here, before a vendor
//! can cost anything.

use super::{
    Agent,
    drive::Drive,
    lock,
    prompt::{Exchanges, Fitted, beside_bytes, seal},
};
use crate::{
    config::ProviderConfig,
    error::{Error, Result},
    model::{ContextPolicy, ContextReport, JsonObject, ModelRef, Role, Speaker, ToolSpec},
    provider::{self, Encoded, Prompt},
    rates::CardRow,
    storage::{Hold, HoldAsk},
    wallet::Wish,
};
use std::sync::Arc;

/// A request that may be sent.
pub(super) struct Prepared<'a> {
    pub(super) hold: Hold,
    pub(super) provider: &'a ProviderConfig,
    pub(super) encoded: Encoded,
    /// The hash of what the vendor will see.
    pub(super) prefix_hash: String,
    pub(super) report: ContextReport,
}

impl Agent {
    /// Makes a call ready. `shrink` leaves out more of the history each time the vendor found the prompt too long.
    pub(super) async fn prepare(&self, drive: &Drive, model: &ModelRef, shrink: u32) -> Result<Prepared<'_>> {
        let provider = self.provider(&model.provider)?;
        let row = self.price(model)?;
        // A key that was revoked, weakened or outlived while the turn waited gets no further vendor call.
        let who = self.parts().storage.principal_again(&drive.who)?;
        if who.suspended() {
            return Err(Error::TenantSuspended);
        }
        if who.role() < Role::Member {
            return Err(Error::InsufficientRole { needed: "member" });
        }
        if lock(&self.inner.unsettled).contains_key(&who.tenant_id()) {
            return Err(Error::TenantUnavailable);
        }
        let (mut prompt, report, prefix_hash) = self.prompt(drive, model, provider, &row, shrink)?;
        let encoded = provider::encode(provider, &prompt);
        let hold = drive
            .store
            .wallet_hold(HoldAsk {
                turn: drive.open.turn,
                step: 1,
                key: who.key_id(),
                spend_limit: who.spend_limit(),
                model: model.clone(),
                row,
                wish: Wish {
                    input_tokens_max: encoded.input_tokens_max,
                    output_tokens: prompt.max_tokens,
                    output_above: provider::thinking_budget(&prompt.params),
                },
            })
            .await?;
        // The limit may have been lowered to what the balance buys; what is sent is what was held for.
        let encoded = if hold.output_tokens() == prompt.max_tokens {
            encoded
        } else {
            prompt.max_tokens = hold.output_tokens();
            provider::encode(provider, &prompt)
        };
        Ok(Prepared { hold, provider, encoded, prefix_hash, report })
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
        model: &ModelRef,
        provider: &ProviderConfig,
        row: &CardRow,
        shrink: u32,
    ) -> Result<(Prompt, ContextReport, String)> {
        let config = &drive.open.config;
        let tools: Arc<[ToolSpec]> = config.tools_config.iter().map(crate::model::ToolEntry::spec).collect();
        if row.facts.tools_refused && !tools.is_empty() {
            let message = format!("{} takes no tools over this API; choose another model or remove tools_config", model.model);
            return Err(Error::invalid("/model_config/model", message));
        }
        let params = self.params_for(drive, model, provider);
        let (limit, params) = provider::split_output_limit(&params);
        let default = u32::try_from(self.limits().output_tokens_default).unwrap_or(u32::MAX);
        // A thinking budget above the default limit would leave no room for an answer.
        let default = default.max(provider::thinking_budget(&params).saturating_add(default));
        let max_tokens = limit.unwrap_or(default).clamp(1, row.output_limit);
        let Fitted { mut messages, report, .. } = fit(drive, &tools, row, max_tokens, shrink)?;
        let skipped = drive.open.history.iter().filter(|stored| stored.message.role == Speaker::Assistant).count()
            - messages.iter().filter(|message| matches!(message, provider::PromptMessage::Assistant { .. })).count();
        let hashes: Vec<_> = drive
            .open
            .history
            .iter()
            .filter(|stored| stored.message.role == Speaker::Assistant)
            .skip(skipped)
            .map(|stored| stored.prefix_hash.clone())
            .collect();
        let prefix_hash = seal(&drive.admitted.system, &tools, &mut messages, &hashes);
        let prompt = Prompt {
            model: model.clone(),
            system: drive.admitted.system.clone(),
            tools,
            messages,
            params,
            max_tokens,
            facts: row.facts,
            context_window: row.context_window,
        };
        Ok((prompt, report, prefix_hash))
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

/// The newest exchanges that fit the model's window beside the answer; with each `shrink` a quarter less.
fn fit(drive: &Drive, tools: &[ToolSpec], row: &CardRow, max_tokens: u32, shrink: u32) -> Result<Fitted> {
    let exchanges = Exchanges::new(&drive.open.history, &drive.admitted);
    let beside = beside_bytes(&drive.admitted.system, tools);
    let window = row.context_window.saturating_sub(u64::from(max_tokens));
    let tokens_max = (0..shrink).fold(window, |tokens, _| tokens / 4 * 3);
    let may_leave_out = drive.open.config.context_policy == ContextPolicy::Truncate;
    let fitted = exchanges.fit(beside, tokens_max, may_leave_out);
    // The estimate counts generously, so it refuses only where even a sparing count is too much; the vendor has the last word.
    if fitted.tokens / 2 > window {
        let detail = format!("The prompt has about {} tokens and {} takes {} besides the answer.", fitted.tokens, row.name, window);
        return Err(Error::ContextTooLong { detail });
    }
    Ok(fitted)
}
