//! A user's own account: password, and signing out everywhere.

use super::{
    Frame, Heading, Html,
    parts::{Line, notice},
};
use crate::error::FieldError;
use maud::html;

/// The page. `errors` are those of a password that could not be set.
pub fn page(frame: &Frame, errors: &[FieldError]) -> Html {
    let error = |pointer: &str| errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let content = html! {
        section.card {
            header.card-head { h2 { "Password" } p { "Setting a new one ends every session and user token of yours, this one too. API keys stay." } }
            div.card-body {
                form.form method="post" action="/dashboard/account/password" {
                    (frame.token())
                    (Line { name: "current_password", label: "Current password", kind: "password", autocomplete: "current-password", error: error("/current_password"), ..Line::PLAIN }.draw())
                    (Line { name: "new_password", label: "New password", kind: "password", autocomplete: "new-password", hint: "At least 8 characters; a few unrelated words are good.", error: error("/new_password"), ..Line::PLAIN }.draw())
                    div.form-foot { button.button.primary { "Set the password" } }
                }
            }
        }
        section.card {
            header.card-head { h2 { "Sessions" } p { "A session ends by itself when it is not used for some hours, and after some days in any case." } }
            div.card-body {
                (notice("info", "Signed in on a machine that is not yours, or lost one? End every session at once."))
                form method="post" action="/dashboard/sign-out/everywhere" {
                    (frame.token())
                    button.button.danger { "Sign out everywhere" }
                }
            }
        }
    };
    frame.page(&Heading::new("Your account", frame.who.clone()), content)
}
