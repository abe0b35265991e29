//! What people see in place of a page that they cannot have.

use super::{
    Html, brand, head,
    parts::{icon, notice},
};
use maud::{DOCTYPE, html};

/// What went wrong, for people.
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What happened.
    pub title: String,
    /// What to do.
    pub detail: String,
    /// Names the request to the operator.
    pub request_id: String,
}

/// A part of a page: the sentence alone.
pub fn part(refusal: &Refusal) -> Html {
    notice("bad", &format!("{}. {}", refusal.title, refusal.detail))
}

/// A page.
pub fn page(refusal: &Refusal) -> Html {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(&refusal.title, None, &[]))
            body.gate {
                main.gate-card #main tabindex="-1" {
                    (brand())
                    h1 { (refusal.title) }
                    p.lede { (refusal.detail) }
                    p.gate-foot { "Status " (refusal.status) ", request " code { (refusal.request_id) } }
                    p { a.button href="/dashboard" { (icon("arrow-left")) "To the dashboard" } }
                }
            }
        }
    }
}
