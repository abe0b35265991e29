//! Accounts: register, prove the address, sign in, passwords, tokens. What is told to whom is storage's; mails leave in the background.

use crate::{
    config::Signup,
    error::Result,
    http::{
        call::{OpenCall, Reply, UserCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::TokenId,
    model::{AccessToken, List, Me, Order, User, UserToken},
    secret::Password,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Address and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LoginInput {
    /// The e-mail address; upper and lower case are the same.
    email: String,
    /// The password, at least 8 characters.
    password: Password,
}

/// A token from a mail.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenInput {
    /// The token, as it stands in the mail.
    token: String,
}

/// An address.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmailInput {
    /// The e-mail address; upper and lower case are the same.
    email: String,
}

/// A token from a mail, and the password to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordResetInput {
    /// The token, as it stands in the mail.
    token: String,
    /// The new password, at least 8 characters.
    password: Password,
}

/// The password in force, and the one to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChangeInput {
    /// The password in force.
    current_password: Password,
    /// The new password, at least 8 characters.
    new_password: Password,
}

/// What was asked for is on its way, if it can be: the answer is the same in any case.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// Always `accepted`.
    pub(super) status: &'static str,
    /// What happens next.
    pub(super) detail: &'static str,
}

impl Accepted {
    /// 202 with these words.
    pub(super) fn reply(detail: &'static str) -> Result<Reply> {
        Reply::json(202, &Self { status: "accepted", detail })
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let credentials = |name, path, run| Endpoint::new(name, "POST", path, Handler::Credentials(run));
    vec![
        credentials("UserRegister", "/api/v1/auth/register", register)
            .about("Accounts", "Make an account")
            .describe("Sends a verification mail. The answer is the same whether or not the address has an account.")
            .body::<LoginInput>()
            .answers::<Accepted>(202)
            .errors(&["signup_closed"]),
        credentials("UserVerify", "/api/v1/auth/verify", verify)
            .about("Accounts", "Prove an address with the token from the mail")
            .describe("Also lets the user into the tenants that invited the address.")
            .body::<TokenInput>()
            .answers::<User>(200)
            .errors(&["invalid_token"]),
        credentials("UserLogin", "/api/v1/auth/login", login)
            .about("Accounts", "Sign in: a user token for address and password")
            .body::<LoginInput>()
            .answers::<AccessToken>(200)
            .errors(&["invalid_login", "email_not_verified"]),
        Endpoint::new("UserLogout", "POST", "/api/v1/auth/logout", Handler::User(logout))
            .about("Accounts", "End the token that the request came with")
            .answers_raw(204, ""),
        credentials("PasswordForgot", "/api/v1/auth/password/forgot", forgot)
            .about("Accounts", "Ask for a mail to set a new password")
            .describe("The answer is the same whether or not the address has an account.")
            .body::<EmailInput>()
            .answers::<Accepted>(202),
        credentials("PasswordReset", "/api/v1/auth/password/reset", reset)
            .about("Accounts", "Set a new password with the token from the mail")
            .describe("Ends every token of the user. API keys stay.")
            .body::<PasswordResetInput>()
            .answers_raw(204, "")
            .errors(&["invalid_token"]),
        Endpoint::new("PasswordChange", "POST", "/api/v1/auth/password/change", Handler::User(change))
            .about("Accounts", "Set a new password, knowing the old one")
            .describe("Ends every token of the user, the one of this request too. API keys stay.")
            .body::<PasswordChangeInput>()
            .answers_raw(204, "")
            .errors(&["too_many_checks"])
            .guessable(),
        Endpoint::new("UserGet", "GET", "/api/v1/auth/me", Handler::User(me))
            .about("Accounts", "The user and the tenants they belong to")
            .answers::<Me>(200),
        Endpoint::new("UserTokenList", "GET", "/api/v1/auth/tokens", Handler::User(token_list))
            .about("Accounts", "The user's tokens that have not ended")
            .paged()
            .answers::<List<UserToken>>(200),
        Endpoint::new("UserTokenRevoke", "DELETE", "/api/v1/auth/tokens/{id}", Handler::User(token_revoke))
            .about("Accounts", "End one of the user's tokens")
            .answers_raw(204, ""),
    ]
}

fn register(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: LoginInput = call.request.json()?;
        let signup = call.app.config.signup;
        let letter = call.app.storage.user_register(&input.email, &input.password, signup).await?;
        if let Some(letter) = letter {
            call.app.mailer.post(letter);
        }
        Accepted::reply(match signup {
            Signup::Open => {
                "A mail is on its way to this address. POST its token to /api/v1/auth/verify, then sign in at /api/v1/auth/login."
            }
            Signup::Closed => {
                "If this address was invited, a mail is on its way to it. POST its token to /api/v1/auth/verify, then sign in."
            }
        })
    })
}

fn verify(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: TokenInput = call.request.json()?;
        Reply::ok(&call.app.storage.user_verify(&input.token).await?)
    })
}

fn login(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: LoginInput = call.request.json()?;
        let token = call.app.storage.user_login(&input.email, &input.password).await?;
        // RFC 6749 §5.1: nobody on the way keeps it.
        Ok(Reply::ok(&token)?.with_header("cache-control", "no-store"))
    })
}

fn logout(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        call.app.storage.user_logout(&call.who).await?;
        Ok(Reply::Nothing)
    })
}

fn forgot(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: EmailInput = call.request.json()?;
        let letter = call.app.storage.password_forgot(&input.email).await?;
        if let Some(letter) = letter {
            call.app.mailer.post(letter);
        }
        Accepted::reply("If this address has an account, a mail is on its way to it. POST its token to /api/v1/auth/password/reset.")
    })
}

fn reset(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: PasswordResetInput = call.request.json()?;
        call.app.storage.password_reset(&input.token, &input.password).await?;
        Ok(Reply::Nothing)
    })
}

fn change(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: PasswordChangeInput = call.request.json()?;
        call.app.storage.password_change(&call.who, &input.current_password, &input.new_password).await?;
        Ok(Reply::Nothing)
    })
}

fn me(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.app.storage.user_me(&call.who).await?) })
}

fn token_list(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.app.storage.user_token_list(&call.who, page).await?)
    })
}

fn token_revoke(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: TokenId = call.request.id("id", "token")?;
        call.app.storage.user_token_revoke(&call.who, id).await?;
        Ok(Reply::Nothing)
    })
}
