//! Before one is in: sign in, register, prove an address, set a password, use a link. No session is there yet, so what guards these forms is
//! where they come from.

use crate::{
    config::{Secret, Signup},
    dashboard::{
        Html, Said,
        gate::{self, Sent, Way},
    },
    error::{Error, Result},
    http::{
        call::{Form, OpenCall, Reply},
        cookie,
        endpoint::{Answer, Endpoint, Handler},
        problem::problem_of,
    },
    secret::Password,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, run| Endpoint::new(name, "GET", path, Handler::Open(run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Credentials(run));
    vec![
        page("SignInPage", "/dashboard/sign-in", sign_in_page),
        form("SignIn", "/dashboard/sign-in", sign_in),
        form("SignInByKey", "/dashboard/sign-in/key", sign_in_by_key),
        form("SignInOperator", "/dashboard/sign-in/operator", sign_in_operator),
        page("RegisterPage", "/dashboard/register", register_page),
        form("Register", "/dashboard/register", register),
        page("VerifyPage", "/dashboard/verify", verify_page),
        form("Verify", "/dashboard/verify", verify),
        page("ForgotPage", "/dashboard/forgot", forgot_page),
        form("Forgot", "/dashboard/forgot", forgot),
        page("ResetPage", "/dashboard/reset", reset_page),
        form("Reset", "/dashboard/reset", reset),
        page("LinkPage", "/dashboard/link", link_page),
        form("SignInByLink", "/dashboard/link", sign_in_by_link),
    ]
}

/// The form that was sent, from a page of ours.
fn form(call: &OpenCall<'_>) -> Result<Form> {
    cookie::form_is_ours(&call.app.config, call.request)?;
    call.request.form()
}

fn password(form: &Form) -> Password {
    Password::new(form.text("password").to_owned())
}

/// The form again, with what is wrong; what has nothing to do with it is the door's to show.
fn again(email: &str, error: Error, page: impl FnOnce(&Sent) -> Html) -> Result<Reply> {
    let parts = problem_of(&error);
    let mut sent = Sent { email: email.to_owned(), ..Sent::default() };
    match error {
        Error::ValidationFailed { errors } => sent.errors = errors,
        Error::InvalidLogin => sent.refused = Some("The address or the password is wrong.".to_owned()),
        Error::InvalidApiKey => {
            sent.refused = Some("This key is unknown, wrong, revoked or expired. Check that it was copied whole.".to_owned());
        }
        Error::InvalidToken => sent.refused = Some("This token is unknown, was used, or has expired. Ask for a new one.".to_owned()),
        Error::EmailNotVerified => {
            sent.refused = Some("The address is not proved yet. Open the link in the mail; registering again sends a new one.".to_owned());
        }
        Error::SignupClosed => sent.refused = Some(parts.detail.clone()),
        error => return Err(error),
    }
    Ok(Reply::html(parts.status(), page(&sent)))
}

fn sign_in_html(call: &OpenCall<'_>, way: Way, sent: &Sent, next: &str) -> Html {
    let config = &call.app.config;
    gate::sign_in(way, sent, next, config.signup == Signup::Open, config.operator_token.is_some())
}

/// In: with the cookie, to where one wanted to go. Only a path of the dashboard is followed.
fn entered(call: &OpenCall<'_>, session: &Secret, next: &str) -> Reply {
    let ours = next.starts_with("/dashboard/") && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    Reply::see_other(if ours { next } else { "/dashboard" }).with(cookie::given(&call.app.config, session))
}

fn sign_in_page(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let way = match call.request.query("with") {
            Some("key") => Way::Key,
            Some("operator") if call.app.config.operator_token.is_some() => Way::Operator,
            _ => Way::Password,
        };
        let sent = Sent { said: call.request.query("said").and_then(Said::named), ..Sent::default() };
        Ok(Reply::html(200, sign_in_html(&call, way, &sent, call.request.query("next").unwrap_or_default())))
    })
}

fn sign_in(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.session_by_login(form.text("email"), &password(&form)).await {
            Ok(session) => Ok(entered(&call, &session, form.text("next"))),
            Err(error) => again(form.text("email"), error, |sent| sign_in_html(&call, Way::Password, sent, form.text("next"))),
        }
    })
}

fn sign_in_by_key(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.session_by_key(form.text("api_key")).await {
            Ok(session) => Ok(entered(&call, &session, form.text("next"))),
            Err(error) => again("", error, |sent| sign_in_html(&call, Way::Key, sent, form.text("next"))),
        }
    })
}

fn sign_in_operator(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        let configured = call.app.config.operator_token.as_ref().ok_or(Error::NoSuchRoute)?;
        match call.app.storage.session_by_operator_token(form.text("token"), configured).await {
            Ok(session) => Ok(entered(&call, &session, "/dashboard/operator")),
            Err(error) => again("", error, |sent| sign_in_html(&call, Way::Operator, sent, "")),
        }
    })
}

fn register_page(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, gate::register(&Sent::default(), call.app.config.signup == Signup::Open))) })
}

fn register(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (form, signup) = (form(&call)?, call.app.config.signup);
        match call.app.storage.user_register(form.text("email"), &password(&form), signup).await {
            Ok(letter) => {
                if let Some(letter) = letter {
                    call.app.mailer.post(letter);
                }
                Ok(Reply::html(
                    202,
                    gate::mail_sent(
                        "Look into your mail",
                        "If this address can have an account here, a mail is on its way to it. Open its link to prove the address.",
                    ),
                ))
            }
            Err(error) => again(form.text("email"), error, |sent| gate::register(sent, signup == Signup::Open)),
        }
    })
}

fn verify_page(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, gate::verify(call.request.query("token").unwrap_or_default(), &Sent::default()))) })
}

fn verify(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.user_verify(form.text("token").trim()).await {
            Ok(_) => Ok(Reply::see_other("/dashboard/sign-in?said=verified")),
            Err(error) => again("", error, |sent| gate::verify(form.text("token"), sent)),
        }
    })
}

fn forgot_page(_: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, gate::forgot(&Sent::default()))) })
}

fn forgot(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.password_forgot(form.text("email")).await {
            Ok(letter) => {
                if let Some(letter) = letter {
                    call.app.mailer.post(letter);
                }
                Ok(Reply::html(
                    202,
                    gate::mail_sent(
                        "Look into your mail",
                        "If this address has an account, a mail is on its way to it. Open its link to set a new password.",
                    ),
                ))
            }
            Err(error) => again(form.text("email"), error, gate::forgot),
        }
    })
}

fn reset_page(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, gate::reset(call.request.query("token").unwrap_or_default(), &Sent::default()))) })
}

fn reset(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.password_reset(form.text("token").trim(), &password(&form)).await {
            Ok(()) => Ok(Reply::see_other("/dashboard/sign-in?said=reset")),
            Err(error) => again("", error, |sent| gate::reset(form.text("token"), sent)),
        }
    })
}

fn link_page(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, gate::link(call.request.query("token").unwrap_or_default(), &Sent::default()))) })
}

fn sign_in_by_link(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = form(&call)?;
        match call.app.storage.session_by_link(form.text("token").trim()).await {
            Ok(session) => Ok(entered(&call, &session, "")),
            Err(error) => again("", error, |sent| gate::link("", sent)),
        }
    })
}
