//! The models that can be called, and what they cost.

use crate::{
    app::App,
    config::Config,
    http::{
        call::{Reply, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{List, ModelCard, Role},
    rates::CardRow,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("ModelList", "GET", "/api/v1/models", Handler::Tenant(Role::Viewer, model_list))
            .about("Models", "List the rate card in force")
            .describe(
                "Rates are US dollars per million tokens. A model named `*` stands for any of its provider. A model that is not listed cannot be \
                 called; one that is not `configured` waits for the operator to set its provider up.",
            )
            .query("provider", "only models of this provider")
            .answers::<List<ModelCard>>(200),
    ]
}

fn card(row: &CardRow, config: &Config) -> ModelCard {
    ModelCard {
        provider: row.provider.clone(),
        name: row.name.clone(),
        rates: row.rates,
        context_window: row.context_window,
        output_limit: row.output_limit.into(),
        source: row.source.clone(),
        as_of: row.as_of.clone(),
        configured: config.providers.get(&row.provider).is_some_and(crate::config::ProviderConfig::configured),
    }
}

/// The rate card in force, of one provider or of all.
pub(super) fn cards(app: &App, provider: Option<&str>) -> Vec<ModelCard> {
    let rates = app.rates.load();
    let rows = rates.rows().iter().filter(|row| provider.is_none_or(|provider| row.provider == provider));
    rows.map(|row| card(row, &app.config)).collect()
}

fn model_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let data = cards(call.app, call.request.query("provider"));
        Reply::ok(&List { object: "list", data, first_id: None, last_id: None, has_more: false })
    })
}
