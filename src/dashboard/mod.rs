//! The dashboard's templates: one function a page, from what storage gave to HTML. They escape whatever they are given, and know neither
//! requests nor storage: handlers fetch, templates show. `assets/` has what pages load.

pub mod account;
mod agent_fields;
pub mod agent_form;
pub mod agents;
pub mod audit;
pub mod conversations;
pub mod gate;
pub mod keys;
mod list;
pub mod logs;
pub mod members;
pub mod operator;
pub mod overview;
mod parts;
pub mod playground;
pub mod refusal;
pub mod sandbox;
pub mod settings;
pub mod wallet;

pub use list::Pages;
pub use parts::{Said, money_text};

use crate::{
    ids::TenantId,
    model::{MeTenant, Role},
};
use maud::{DOCTYPE, Markup, html};
use parts::icon;

/// A finished page or part of one.
pub type Html = Markup;

/// The entries of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Place {
    Overview,
    Agents,
    Playground,
    Conversations,
    Logs,
    Keys,
    Members,
    Audit,
    Wallet,
    Settings,
    Account,
    Operator,
    OperatorModels,
    OperatorAudit,
}

impl Place {
    fn is_operator_s(self) -> bool {
        matches!(self, Self::Operator | Self::OperatorModels | Self::OperatorAudit)
    }
}

/// What stands around every page of someone signed in.
pub struct Frame {
    /// Where in the menu.
    pub place: Place,
    /// Who is signed in: an address, or a name of the credential.
    pub who: String,
    /// Whether it is a user, who has an account and can go to other tenants.
    pub is_user: bool,
    /// The chosen tenant, and the role there.
    pub tenant: Option<(TenantId, String, Role)>,
    /// The user's tenants.
    pub tenants: Vec<MeTenant>,
    /// What forms carry.
    pub form_token: String,
    /// What this page's forms that make something carry besides: sent twice with the same, they make it once.
    pub once: String,
    /// What to say on top, after a form was sent.
    pub said: Option<Said>,
    /// Scripts beyond those of every page.
    pub scripts: &'static [&'static str],
}

/// A page's heading.
pub struct Heading {
    /// The page above it: path and name.
    pub crumb: Option<(String, String)>,
    /// What it is.
    pub title: String,
    /// One quiet sentence.
    pub lede: Markup,
    /// Buttons.
    pub actions: Markup,
}

impl Heading {
    /// A title and a sentence.
    pub fn new(title: impl Into<String>, lede: impl Into<String>) -> Self {
        let lede = lede.into();
        Self { crumb: None, title: title.into(), lede: html! { (lede) }, actions: html! {} }
    }
}

impl Frame {
    /// The hidden field that every form needs.
    fn token(&self) -> Markup {
        token(&self.form_token)
    }

    /// The hidden fields of a form that makes something.
    fn token_once(&self) -> Markup {
        token_once(&self.form_token, &self.once)
    }

    fn role(&self) -> Role {
        self.tenant.as_ref().map_or(Role::Viewer, |(_, _, role)| *role)
    }

    fn may(&self, role: Role) -> bool {
        self.role() >= role
    }

    /// A whole page.
    fn page(&self, heading: &Heading, content: Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                (head(&heading.title, Some(&self.form_token), self.scripts))
                body hx-headers={ "{\"X-CSRF-Token\":\"" (self.form_token) "\"}" } {
                    a.skip href="#main" { "Skip to content" }
                    div.shell {
                        (self.side())
                        main #main tabindex="-1" {
                            (header(heading))
                            @if let Some(said) = self.said { (said.notice()) }
                            (content)
                        }
                    }
                }
            }
        }
    }

    fn side(&self) -> Markup {
        html! {
            nav.side aria-label="Dashboard" {
                div.side-top {
                    (brand())
                    button.icon-button.menu-button type="button" data-menu="side-body" aria-expanded="false" aria-controls="side-body" aria-label="Menu" {
                        (icon("menu"))
                    }
                }
                div.side-body #side-body {
                    @if let Some((id, name, _)) = &self.tenant { (self.chooser(*id, name)) }
                    ul.nav {
                        @if self.tenant.is_some() { (self.menu()) }
                        @if self.place.is_operator_s() { (self.operator_menu()) }
                    }
                    div.side-foot {
                        @if self.is_user {
                            a.who href="/dashboard/account" title="Your account" { (self.who) }
                        } @else {
                            span.who { (self.who) }
                        }
                        button.icon-button type="button" data-theme-toggle aria-label="Change theme" { (icon("theme")) }
                        form method="post" action="/dashboard/sign-out" {
                            (self.token())
                            button.icon-button aria-label="Sign out" title="Sign out" { (icon("sign-out")) }
                        }
                    }
                }
            }
        }
    }

    fn menu(&self) -> Markup {
        html! {
            (self.entry(Place::Overview, "/dashboard", "overview", "Overview"))
            li.nav-label { "Build" }
            (self.entry(Place::Agents, "/dashboard/agents", "agents", "Agents"))
            (self.entry(Place::Playground, "/dashboard/playground", "playground", "Playground"))
            li.nav-label { "Operate" }
            (self.entry(Place::Conversations, "/dashboard/conversations", "conversations", "Conversations"))
            (self.entry(Place::Logs, "/dashboard/logs", "logs", "Logs"))
            (self.entry(Place::Wallet, "/dashboard/wallet", "wallet", "Wallet"))
            li.nav-label { "Manage" }
            @if self.may(Role::Member) { (self.entry(Place::Keys, "/dashboard/keys", "keys", "API keys")) }
            (self.entry(Place::Members, "/dashboard/members", "members", "Members"))
            @if self.may(Role::Owner) { (self.entry(Place::Audit, "/dashboard/audit", "audit", "Audit trail")) }
            (self.entry(Place::Settings, "/dashboard/settings", "settings", "Settings"))
        }
    }

    fn operator_menu(&self) -> Markup {
        html! {
            (self.entry(Place::Operator, "/dashboard/operator", "operator", "Server"))
            (self.entry(Place::OperatorModels, "/dashboard/operator/models", "wallet", "Models and rates"))
            (self.entry(Place::OperatorAudit, "/dashboard/operator/audit", "audit", "Audit log"))
        }
    }

    fn entry(&self, place: Place, path: &str, symbol: &str, name: &str) -> Markup {
        let here = (place == self.place).then_some("page");
        html! { li { a href=(path) aria-current=[here] { (icon(symbol)) (name) } } }
    }

    fn chooser(&self, id: TenantId, name: &str) -> Markup {
        let initial: String = name.chars().next().into_iter().flat_map(char::to_uppercase).collect();
        html! {
            details.chooser {
                summary {
                    span.avatar aria-hidden="true" { (initial) }
                    span.chooser-name { (name) }
                    (icon("chevrons"))
                }
                div.chooser-list {
                    @for tenant in self.tenants.iter().filter(|tenant| tenant.id != id) {
                        form method="post" action="/dashboard/tenants/choose" {
                            (self.token())
                            input type="hidden" name="tenant_id" value=(tenant.id);
                            button { (tenant.name) " " small { (tenant.role.name()) } }
                        }
                    }
                    @if self.is_user {
                        a href="/dashboard/tenants" { (icon("plus")) "All tenants, or a new one" }
                    } @else {
                        p.hint { "Signed in with a key: it belongs to this tenant." }
                    }
                }
            }
        }
    }
}

fn token(text: &str) -> Markup {
    html! { input type="hidden" name="_csrf" value=(text); }
}

fn token_once(text: &str, once: &str) -> Markup {
    html! { (token(text)) input type="hidden" name="once" value=(once); }
}

fn brand() -> Markup {
    html! {
        a.brand href="/dashboard" {
            svg.logo aria-hidden="true" { use href="/dashboard/assets/icons.svg#logo" {} }
            "Nimblesite"
        }
    }
}

fn head(title: &str, form_token: Option<&str>, scripts: &[&str]) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            meta name="robots" content="noindex";
            meta name="htmx-config" content=r#"{"includeIndicatorStyles":false,"allowEval":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
            @if let Some(token) = form_token { meta name="csrf-token" content=(token); }
            title { (title) " · Nimblesite" }
            link rel="icon" type="image/svg+xml" href="/dashboard/assets/logo.svg";
            @for script in scripts.iter().filter(|script| **script == "uPlot.iife.min.js") {
                link rel="stylesheet" href={ "/dashboard/assets/" (script.replace("iife.min.js", "min.css")) };
            }
            link rel="stylesheet" href="/dashboard/assets/app.css";
            script src="/dashboard/assets/theme.js" {}
            script src="/dashboard/assets/htmx.min.js" defer {}
            script src="/dashboard/assets/app.js" defer {}
            @for script in scripts { script src={ "/dashboard/assets/" (script) } defer {} }
        }
    }
}

fn header(heading: &Heading) -> Markup {
    html! {
        header.head {
            div {
                @if let Some((path, name)) = &heading.crumb {
                    nav.crumbs aria-label="Breadcrumb" { a href=(path) { (name) } }
                }
                h1 { (heading.title) }
                p.lede { (heading.lede) }
            }
            div.actions { (heading.actions) }
        }
    }
}
