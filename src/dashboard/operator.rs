//! The operator's view: tenants and their money, models and rates, the server's state. Never a tenant's content.

use super::{
    Frame, Heading, Html,
    parts::{Line, badge, bytes, count, empty, faults, icon, money, pager, time},
};
use crate::{
    clock::Time,
    error::FieldError,
    model::{EntryKind, LedgerEntry, List, ModelCard, Tenant, Wallet},
};
use maud::{Markup, html};

/// The server's state.
#[allow(missing_docs, reason = "they are what they are called")]
pub struct State {
    pub version: &'static str,
    pub started_at: Time,
    pub tenants: u64,
    pub tenants_suspended: u64,
    pub tenants_open: usize,
    pub users: u64,
    pub disk_free_bytes: u64,
    /// Providers, and whether calls can be sent to them.
    pub providers: Vec<(String, bool)>,
    /// The newest backup set: when it was made, and where.
    pub backup: Option<(String, String)>,
}

/// The page.
pub fn page(
    frame: &Frame,
    state: &State,
    rows: &List<Tenant>,
    wallets: &[Option<Wallet>],
    models: &[ModelCard],
    newer: Option<&str>,
    older: Option<&str>,
) -> Html {
    let lede = format!("Nimblesite {}", state.version);
    let content = html! {
        dl.stats {
            div.stat { dt { "Tenants" } dd { (count(state.tenants)) } dd.stat-note { (state.tenants_open) " open, " (state.tenants_suspended) " suspended" } }
            div.stat { dt { "Accounts" } dd { (count(state.users)) } }
            div.stat { dt { "Free disk" } dd { (bytes(state.disk_free_bytes)) } }
            div.stat { dt { "Up since" } dd { (time(state.started_at, "ago")) } }
        }
        section.card {
            header.card-head { h2 { "Tenants" } p { "Newest first. What their people say is theirs alone." } }
            @if rows.data.is_empty() {
                (empty("operator", "No tenants yet", "People make them after signing in; so does nimblesite tenant create.", html! {}))
            } @else {
                div.table-wrap tabindex="0" role="region" aria-label="Tenants" {
                    table.table.stacked {
                        thead { tr { th { "Name" } th { "State" } th.num { "Balance" } th.num { "Held" } th.num { "Size" } th { "Made" } } }
                        tbody { @for (tenant, wallet) in rows.data.iter().zip(wallets) { (row(tenant, wallet.as_ref())) } }
                    }
                }
            }
        }
        (pager(newer, older))
        div.grid {
            (providers(state))
            (backup(state))
        }
        (rates(models))
    };
    frame.page(&Heading::new("Operator", lede), content)
}

fn state_badge(tenant: &Tenant) -> Markup {
    if tenant.suspended { badge("bad", "suspended") } else { badge("ok", "active") }
}

fn row(tenant: &Tenant, wallet: Option<&Wallet>) -> Markup {
    html! {
        tr {
            td data-label="Name" { a.row-link href={ "/dashboard/operator/tenants/" (tenant.id) } { (tenant.name) } }
            td data-label="State" { (state_badge(tenant)) }
            @match wallet {
                Some(wallet) => {
                    td.num data-label="Balance" { (money(wallet.balance)) }
                    td.num data-label="Held" { (money(wallet.held)) }
                }
                None => { td.num colspan="2" { (badge("bad", "cannot be opened")) } }
            }
            td.num data-label="Size" { (bytes(tenant.size_bytes)) }
            td data-label="Made" { (time(tenant.created_at, "short")) }
        }
    }
}

fn providers(state: &State) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Providers" } }
            div.card-body {
                dl.facts {
                    @for (name, configured) in &state.providers {
                        div { dt { (name) } dd { @if *configured { (badge("ok", "set up")) } @else { (badge("quiet", "not set up")) } } }
                    }
                }
            }
        }
    }
}

fn backup(state: &State) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Backups" } }
            div.card-body {
                @match &state.backup {
                    Some((at, place)) => { p { "The newest set is of " (at) ", in " code { (place) } "." } }
                    None => { p { "No set is known. " code { "nimblesite backup create" } " makes one beside the running server." } }
                }
            }
        }
    }
}

fn rates(models: &[ModelCard]) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Models and rates" } p { "Dollars per million tokens, markup included. data/models.toml sets them, and counts without a restart." } }
            div.table-wrap tabindex="0" role="region" aria-label="Models and rates" {
                table.table.stacked {
                    thead { tr { th { "Model" } th.num { "Input" } th.num { "Output" } th.num { "Cache read" } th.num { "Cache write" } th { "As of" } } }
                    tbody {
                        @for model in models {
                            tr {
                                td data-label="Model" { code { (model.provider) "/" (model.name) } @if !model.configured { " " (badge("quiet", "not set up")) } }
                                td.num data-label="Input" { (model.rates.input) }
                                td.num data-label="Output" { (model.rates.output) }
                                td.num data-label="Cache read" { (model.rates.cache_read) }
                                td.num data-label="Cache write" { (model.rates.cache_write) }
                                td data-label="As of" { span title=(model.source) { (model.as_of) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a tenant's page shows.
pub struct Account<'a> {
    /// The tenant.
    pub tenant: &'a Tenant,
    /// Its wallet.
    pub wallet: &'a Wallet,
    /// A page of its ledger.
    pub ledger: &'a List<LedgerEntry>,
    /// The reference that the form for credit carries: sent twice it counts once.
    pub reference: &'a str,
    /// The amount and note that were typed.
    pub typed: (&'a str, &'a str),
    /// What was wrong with them.
    pub errors: &'a [FieldError],
}

/// A tenant: its money, and whether it may chat.
pub fn tenant(frame: &Frame, it: &Account<'_>, newer: Option<&str>, older: Option<&str>) -> Html {
    let tenant = it.tenant;
    let (path, words, confirm) = if tenant.suspended {
        ("resume", "Let it chat again", "Let this tenant's chat go on?")
    } else {
        ("suspend", "Suspend", "Stop this tenant's chat? Reading goes on.")
    };
    let actions = html! {
        form method="post" action={ "/dashboard/operator/tenants/" (tenant.id) "/" (path) } data-confirm=(confirm) data-confirm-label=(words) {
            (frame.token())
            button.button.danger[!tenant.suspended] { (words) }
        }
    };
    let heading = Heading {
        crumb: Some(("/dashboard/operator".to_owned(), "Operator".to_owned())),
        lede: html! { (state_badge(tenant)) " " code { (tenant.id) } },
        actions,
        ..Heading::new(tenant.name.clone(), "")
    };
    let content = html! {
        dl.stats {
            div.stat { dt { "Balance" } dd { (money(it.wallet.balance)) } }
            div.stat { dt { "Held" } dd { (money(it.wallet.held)) } }
            div.stat { dt { "Size" } dd { (bytes(tenant.size_bytes)) } }
        }
        div.split {
            section.card {
                header.card-head { h2 { "Ledger" } }
                (ledger(it.ledger))
            }
            aside { (credit(frame, it)) }
        }
        (pager(newer, older))
    };
    frame.page(&heading, content)
}

fn credit(frame: &Frame, it: &Account<'_>) -> Markup {
    let error = |pointer: &str| it.errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let others: Vec<FieldError> =
        it.errors.iter().filter(|error| !["/amount", "/note"].contains(&error.pointer.as_str())).cloned().collect();
    html! {
        section.card {
            header.card-head { h2 { "Add credit" } p { "A negative amount takes some back, never below what is spent or held." } }
            div.card-body {
                form.form method="post" action={ "/dashboard/operator/tenants/" (it.tenant.id) "/credit" } {
                    (frame.token())
                    (faults(&others))
                    input type="hidden" name="reference" value=(it.reference);
                    (Line { name: "amount", label: "Dollars", hint: "Such as 10.00", value: it.typed.0, error: error("/amount"), ..Line::PLAIN }.draw())
                    (Line { name: "note", label: "Note", hint: "The tenant sees it.", value: it.typed.1, required: false, error: error("/note"), ..Line::PLAIN }.draw())
                    div.form-foot { button.button.primary { (icon("plus")) "Add credit" } }
                }
            }
        }
    }
}

/// Sums and references: a spend says no more than what it cost.
fn ledger(ledger: &List<LedgerEntry>) -> Markup {
    html! {
        @if ledger.data.is_empty() {
            (empty("wallet", "No entries yet", "The first credit makes the first entry.", html! {}))
        } @else {
            div.table-wrap tabindex="0" role="region" aria-label="Ledger" {
                table.table.stacked {
                    thead { tr { th.num { "No." } th { "When" } th { "Kind" } th { "Reference" } th.num { "Amount" } th.num { "Balance" } } }
                    tbody {
                        @for entry in &ledger.data {
                            tr {
                                td.num data-label="No." { (entry.seq) }
                                td data-label="When" { (time(entry.created_at, "short")) }
                                td data-label="Kind" { (badge(if entry.kind == EntryKind::Spend { "quiet" } else { "info" }, entry.kind.name())) }
                                td data-label="Reference" { (entry.reference.as_deref().unwrap_or_default()) " " (entry.note.as_deref().unwrap_or_default()) }
                                td.num data-label="Amount" { (money(entry.amount)) }
                                td.num data-label="Balance" { (money(entry.balance)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
