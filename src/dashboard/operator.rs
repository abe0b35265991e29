//! The operator's view: tenants and their money, models and rates, the server's state and its own audit log. Never a tenant's content.

use super::{
    Frame, Heading, Html, audit,
    list::{Head, Pages, table},
    overview::duration,
    parts::{Line, badge, bytes, count, empty, faults, icon, money, secret, time},
};
use crate::{
    clock::Time,
    error::FieldError,
    model::{AuditEntry, EntryKind, LedgerEntry, List, ModelCard, Tenant, TenantCreated, Wallet},
    pulse::Vital,
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
    pub providers: Vec<Provider>,
    /// The newest backup set: when it was made, and where.
    pub backup: Option<(Option<Time>, String)>,
}

/// A provider, as the last hour showed it.
#[allow(missing_docs, reason = "they are what they are called")]
pub struct Provider {
    pub name: String,
    pub configured: bool,
    pub vital: Vital,
}

/// What the form for a new tenant says, and what is wrong with it.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the form's fields")]
pub struct Sent {
    pub name: String,
    pub owner: String,
    pub errors: Vec<FieldError>,
}

/// A page of tenants, each with its wallet if it can be opened.
pub struct Tenants<'a> {
    /// The tenants.
    pub rows: &'a List<Tenant>,
    /// Their wallets, in the same order.
    pub wallets: &'a [Option<Wallet>],
    /// The ways to the others.
    pub pages: &'a Pages,
}

const TENANT_HEADS: [Head; 6] = [
    Head::Words("Name"),
    Head::Words("State"),
    Head::Figures("Balance"),
    Head::Figures("Held"),
    Head::Figures("Size"),
    Head::Words("Made"),
];

/// The page. `made` is a tenant just made, whose first key is shown this once.
pub fn page(frame: &Frame, state: &State, tenants: &Tenants<'_>, made: Option<&TenantCreated>, sent: &Sent) -> Html {
    let rows = tenants.rows.data.iter().zip(tenants.wallets);
    let content = html! {
        @if let Some(made) = made {
            section.card {
                header.card-head { h2 { "The first key of " (made.name) } p { "For its owner alone. Copy it now: it is shown this once, and stored as a hash." } }
                div.card-body { (secret("first-key", &made.api_key)) }
            }
        }
        dl.stats {
            div.stat { dt { "Tenants" } dd { (count(state.tenants)) } dd.stat-note { (state.tenants_open) " open, " (state.tenants_suspended) " suspended" } }
            div.stat { dt { "Accounts" } dd { (count(state.users)) } }
            div.stat { dt { "Free disk" } dd { (bytes(state.disk_free_bytes)) } }
            div.stat { dt { "Up since" } dd { (time(state.started_at, "ago")) } dd.stat-note { "Nimblesite " (state.version) } }
        }
        div.split {
            div.stack {
                section.card {
                    header.card-head { h2 { "Tenants" } p { "Newest first. What their people say is theirs alone." } }
                    @if tenants.rows.data.is_empty() {
                        (empty("operator", "No tenants yet", "People make them after signing in; so does the form beside this.", html! {}))
                    } @else {
                        (table("Tenants", &TENANT_HEADS, rows.map(|(tenant, wallet)| row(tenant, wallet.as_ref()))))
                    }
                }
                (tenants.pages.draw())
                (providers(state))
            }
            aside.stack {
                section.card {
                    header.card-head { h2 { "New tenant" } }
                    div.card-body { (tenant_form(frame, sent)) }
                }
                (backup(state))
            }
        }
    };
    frame.page(&Heading::new("Server", "Tenants, their money, and what the server stands on."), content)
}

fn tenant_form(frame: &Frame, sent: &Sent) -> Markup {
    let error = |pointer: &str| sent.errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let others: Vec<FieldError> =
        sent.errors.iter().filter(|error| !["/name", "/owner"].contains(&error.pointer.as_str())).cloned().collect();
    html! {
        form.form method="post" action="/dashboard/operator/tenants" {
            (frame.token_once())
            (faults(&others))
            (Line { name: "name", label: "Name", value: &sent.name, error: error("/name"), ..Line::PLAIN }.draw())
            (Line { name: "owner", label: "Its owner's e-mail", kind: "email", hint: "An account that is here already.", value: &sent.owner, error: error("/owner"), ..Line::PLAIN }.draw())
            div.form-foot { button.button.primary { (icon("plus")) "Make the tenant" } }
        }
    }
}

/// The models that can be called, and what they cost.
pub fn models(frame: &Frame, models: &[ModelCard]) -> Html {
    let lede = "Dollars per million tokens, markup included. data/models.toml sets them, and counts without a restart.";
    frame.page(&Heading::new("Models and rates", lede), html! { section.card { (rates(models)) } })
}

/// The server's own audit log: what operators did to tenants and accounts.
pub fn audit_log(frame: &Frame, entries: &List<AuditEntry>, pages: &Pages) -> Html {
    let lede = "What was done to tenants and accounts. Entries are never changed or removed; each holds the hash of the one before.";
    frame.page(&Heading::new("Audit log", lede), audit::trail(entries, &[], None, pages))
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

const PROVIDER_HEADS: [Head; 6] = [
    Head::Words("Provider"),
    Head::Words("Health"),
    Head::Figures("Calls"),
    Head::Figures("Failed"),
    Head::Figures("Median"),
    Head::Figures("p95"),
];

fn providers(state: &State) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Providers" } p { "Calls of the last hour, as this server saw them. What a caller asked wrongly is no provider's fault." } }
            (table("Providers", &PROVIDER_HEADS, state.providers.iter().map(provider)))
        }
    }
}

/// A provider is ill when this part of its calls fails: one in so many.
const ILL_FROM: usize = 5;

fn provider(it: &Provider) -> Markup {
    let vital = &it.vital;
    let (kind, word) = match (it.configured, vital.calls, vital.failed) {
        (false, ..) => ("quiet", "not set up"),
        (true, 0, _) => ("quiet", "no calls"),
        (true, _, 0) => ("ok", "well"),
        (true, calls, failed) if failed * ILL_FROM >= calls => ("bad", "failing"),
        (true, ..) => ("warn", "some fail"),
    };
    html! {
        tr {
            td data-label="Provider" { code { (it.name) } }
            td data-label="Health" {
                (badge(kind, word))
                @if let Some(last) = vital.last_failure { span.cell-note { (last.outcome) ", " (time(last.at, "ago")) } }
            }
            td.num data-label="Calls" { (vital.calls) }
            td.num data-label="Failed" { (vital.failed) }
            @match vital.latency_ms {
                Some([half, most]) => { td.num data-label="Median" { (duration(half)) } td.num data-label="p95" { (duration(most)) } }
                None => { td.num data-label="Median" { "–" } td.num data-label="p95" { "–" } }
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
                    Some((at, place)) => {
                        dl.facts {
                            div { dt { "Newest set" } dd { @match at { Some(at) => { (time(*at, "ago")) } None => { "of an unknown day" } } } }
                            div { dt { "In" } dd { code { (place) } } }
                        }
                    }
                    None => { p { "No set is known. " code { "nimblesite backup DIR" } " makes one beside the running server." } }
                }
            }
        }
    }
}

const RATE_HEADS: [Head; 6] = [
    Head::Words("Model"),
    Head::Figures("Input"),
    Head::Figures("Output"),
    Head::Figures("Cache read"),
    Head::Figures("Cache write"),
    Head::Words("As of"),
];

fn rates(models: &[ModelCard]) -> Markup {
    table(
        "Models and rates",
        &RATE_HEADS,
        models.iter().map(|model| {
            html! {
                tr {
                    td data-label="Model" { code { (model.provider) "/" (model.name) } @if !model.configured { " " (badge("quiet", "not set up")) } }
                    td.num data-label="Input" { (model.rates.input) }
                    td.num data-label="Output" { (model.rates.output) }
                    td.num data-label="Cache read" { (model.rates.cache_read) }
                    td.num data-label="Cache write" { (model.rates.cache_write) }
                    td data-label="As of" { span title=(model.source) { (model.as_of) } }
                }
            }
        }),
    )
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
pub fn tenant(frame: &Frame, it: &Account<'_>, pages: &Pages) -> Html {
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
        crumb: Some(("/dashboard/operator".to_owned(), "Server".to_owned())),
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
        (pages.draw())
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
            (table("Ledger", &LEDGER_HEADS, ledger.data.iter().map(ledger_row)))
        }
    }
}

const LEDGER_HEADS: [Head; 6] = [
    Head::Figures("No."),
    Head::Words("When"),
    Head::Words("Kind"),
    Head::Words("Reference"),
    Head::Figures("Amount"),
    Head::Figures("Balance"),
];

fn ledger_row(entry: &LedgerEntry) -> Markup {
    html! {
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
