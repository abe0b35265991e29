//! The pages before one is in: sign in, register, prove an address, set a password, choose a tenant.

use super::{
    Html, Said, brand, head,
    parts::{Line, badge, faults, icon, notice, secret},
    token, token_once,
};
use crate::{
    error::FieldError,
    model::{MeTenant, TenantCreated},
};
use maud::{DOCTYPE, Markup, html};

/// What a form that was sent said, and what was wrong with it.
#[derive(Default)]
pub struct Sent {
    /// The address that was typed.
    pub email: String,
    /// What is wrong with fields.
    pub errors: Vec<FieldError>,
    /// What is wrong with the whole.
    pub refused: Option<String>,
    /// What to say from an earlier form.
    pub said: Option<Said>,
}

impl Sent {
    fn error(&self, pointer: &str) -> Option<&str> {
        self.errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str())
    }

    fn notices(&self) -> Markup {
        html! {
            @if let Some(said) = self.said { (said.notice()) }
            @if let Some(refused) = &self.refused { (notice("bad", refused)) }
        }
    }
}

fn gate(title: &str, form_token: Option<&str>, content: Markup) -> Html {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, form_token, &[]))
            body.gate {
                main.gate-card #main tabindex="-1" { (brand()) (content) }
            }
        }
    }
}

fn email(sent: &Sent) -> Markup {
    let error = sent.error("/email");
    Line { name: "email", label: "E-mail", kind: "email", value: &sent.email, autocomplete: "username", error, ..Line::PLAIN }.draw()
}

fn password(name: &str, label: &str, autocomplete: &str, hint: &str, error: Option<&str>) -> Markup {
    Line { name, label, kind: "password", autocomplete, hint, error, ..Line::PLAIN }.draw()
}

/// How one can be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Address and password.
    Password,
    /// An API key.
    Key,
    /// The operator token.
    Operator,
}

/// Sign in, in one of three ways.
pub fn sign_in(way: Way, sent: &Sent, next: &str, signup_open: bool, has_operator: bool) -> Html {
    let tab = |of: Way, path: &'static str, name: &str| {
        let here = (of == way).then_some("page");
        html! { a href=(path) aria-current=[here] { (name) } }
    };
    let content = html! {
        h1 { "Sign in" }
        p.lede { "See what your agents do, and steer them." }
        nav.tabs aria-label="How to sign in" {
            (tab(Way::Password, "/dashboard/sign-in", "Password"))
            (tab(Way::Key, "/dashboard/sign-in?with=key", "API key"))
            @if has_operator { (tab(Way::Operator, "/dashboard/sign-in?with=operator", "Operator")) }
        }
        (sent.notices())
        @match way {
            Way::Password => {
                form.stack method="post" action="/dashboard/sign-in" {
                    input type="hidden" name="next" value=(next);
                    (email(sent))
                    (password("password", "Password", "current-password", "", sent.error("/password")))
                    button.button.primary { "Sign in" }
                }
                p.gate-foot {
                    a href="/dashboard/forgot" { "Forgot the password?" }
                    @if signup_open { " · " a href="/dashboard/register" { "Make an account" } }
                }
            }
            Way::Key => {
                form.stack method="post" action="/dashboard/sign-in/key" {
                    input type="hidden" name="next" value=(next);
                    (password("api_key", "API key", "off", "The session may what the key may, and ends with it.", sent.error("/api_key")))
                    button.button.primary { "Sign in" }
                }
            }
            Way::Operator => {
                form.stack method="post" action="/dashboard/sign-in/operator" {
                    (password("token", "Operator token", "off", "The one in the server's configuration. It shows tenants and money, never what a tenant's people say.", None))
                    button.button.primary { "Sign in" }
                }
            }
        }
    };
    gate("Sign in", None, content)
}

/// Make an account.
pub fn register(sent: &Sent, open: bool) -> Html {
    let content = html! {
        h1 { "Make an account" }
        p.lede {
            @if open { "A mail asks you to prove the address; then you are in." }
            @else { "This server takes new accounts by invitation: use the address that was invited." }
        }
        (sent.notices())
        form.stack method="post" action="/dashboard/register" {
            (email(sent))
            (password("password", "Password", "new-password", "At least 8 characters; a few unrelated words are good.", sent.error("/password")))
            button.button.primary { "Make the account" }
        }
        p.gate-foot { "Already here? " a href="/dashboard/sign-in" { "Sign in" } }
    };
    gate("Make an account", None, content)
}

/// A mail is on its way.
pub fn mail_sent(title: &str, text: &str) -> Html {
    let content = html! {
        h1 { (title) }
        p.lede { (text) }
        (notice("info", "No mail after some minutes? Look in the spam folder. On a server without a mail server, its operator finds it in the folder outbox."))
        p.gate-foot { a href="/dashboard/sign-in" { "Back to sign in" } }
    };
    gate(title, None, content)
}

/// Prove an address with the token from the mail: a button, so that no program that looks at links uses it up.
pub fn verify(known: &str, sent: &Sent) -> Html {
    let content = html! {
        h1 { "Prove your address" }
        p.lede { "The token stands in the mail that you got." }
        (sent.notices())
        form.stack method="post" action="/dashboard/verify" {
            (Line { name: "token", label: "Token", value: known, ..Line::PLAIN }.draw())
            button.button.primary { "This is my address" }
        }
        p.gate-foot { a href="/dashboard/sign-in" { "Back to sign in" } }
    };
    gate("Prove your address", None, content)
}

/// Ask for a mail to set a new password.
pub fn forgot(sent: &Sent) -> Html {
    let content = html! {
        h1 { "Set a new password" }
        p.lede { "We send a mail with a link, if the address has an account." }
        (sent.notices())
        form.stack method="post" action="/dashboard/forgot" {
            (email(sent))
            button.button.primary { "Send the mail" }
        }
        p.gate-foot { a href="/dashboard/sign-in" { "Back to sign in" } }
    };
    gate("Set a new password", None, content)
}

/// Set a new password with the token from the mail.
pub fn reset(known: &str, sent: &Sent) -> Html {
    let content = html! {
        h1 { "Set a new password" }
        p.lede { "It ends every session and token of yours. API keys stay." }
        (sent.notices())
        form.stack method="post" action="/dashboard/reset" {
            (Line { name: "token", label: "Token from the mail", value: known, error: sent.error("/token"), ..Line::PLAIN }.draw())
            (password("password", "New password", "new-password", "At least 8 characters; a few unrelated words are good.", sent.error("/password")))
            button.button.primary { "Set it" }
        }
    };
    gate("Set a new password", None, content)
}

/// A link that signs in once: a button, so that no program that looks at links uses it up.
pub fn link(token: &str, sent: &Sent) -> Html {
    let content = html! {
        h1 { "You have a sign-in link" }
        p.lede { "It works once, and not for long." }
        (sent.notices())
        form.stack method="post" action="/dashboard/link" {
            input type="hidden" name="token" value=(token);
            button.button.primary { "Sign in" }
        }
        p.gate-foot { a href="/dashboard/sign-in" { "Sign in another way" } }
    };
    gate("Sign in", None, content)
}

/// Choose a tenant, or make one. `once` is what the form for a new one carries.
pub fn tenants(form_token: &str, once: &str, tenants: &[MeTenant], name: &str, errors: &[FieldError]) -> Html {
    let error = errors.iter().find(|error| error.pointer == "/name").map(|error| error.message.as_str());
    let others: Vec<FieldError> = errors.iter().filter(|error| error.pointer != "/name").cloned().collect();
    let content = html! {
        h1 { @if tenants.is_empty() { "Make your first tenant" } @else { "Choose a tenant" } }
        p.lede { "A tenant is a database of its own: agents, conversations, keys, members and a wallet, apart from everyone else's." }
        (faults(&others))
        @if !tenants.is_empty() {
            ul.choices {
                @for tenant in tenants {
                    li {
                        form method="post" action="/dashboard/tenants/choose" {
                            (token(form_token))
                            input type="hidden" name="tenant_id" value=(tenant.id);
                            button.button { span { (tenant.name) } " " (badge("quiet", tenant.role.name())) }
                        }
                    }
                }
            }
        }
        form.stack method="post" action="/dashboard/tenants" {
            (token_once(form_token, once))
            (Line { name: "name", label: "Name of a new tenant", value: name, hint: "Your company or project. It can be changed.", error, ..Line::PLAIN }.draw())
            button.button.primary { "Make the tenant" }
        }
        form.gate-foot method="post" action="/dashboard/sign-out" {
            (token(form_token))
            button.button.ghost.small { "Sign out" }
        }
    };
    gate("Choose a tenant", Some(form_token), content)
}

/// A tenant was made: its first key, shown this once.
pub fn tenant_made(form_token: &str, made: &TenantCreated) -> Html {
    let content = html! {
        h1 { (made.name) " is ready" }
        p.lede { "This is its first API key. Copy it now: it is shown this once." }
        (secret("first-key", &made.api_key))
        (notice("info", "The balance is zero until the operator adds credit. The model echo costs nothing, so you can begin at once."))
        p { a.button.primary href="/dashboard/agents/new" { (icon("plus")) "Make an agent" } " " a.button href="/dashboard" { "To the overview" } }
    };
    gate("A new tenant", Some(form_token), content)
}
