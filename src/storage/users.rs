//! Accounts: registration, sign-in, passwords, tokens. It says what mail to send ([`Letter`]), and sends none.

use super::{Operator, SignedIn, Storage};
use crate::{
    config::Signup,
    error::Result,
    ids::TokenId,
    mail::Letter,
    model::{AccessToken, List, Me, Page, User, UserToken},
    secret::Password,
};
use std::time::Duration;

impl Storage {
    /// Makes an account whose address is still to be proved. Same answer and work whether or not the address is known.
    pub async fn user_register(&self, _email: &str, _password: &Password, _signup: Signup) -> Result<Option<Letter>> {
        todo!()
    }

    /// Proves an address by the token from the mail.
    pub async fn user_verify(&self, _token: &str) -> Result<User> {
        todo!()
    }

    /// Signs in.
    pub async fn user_login(&self, _email: &str, _password: &Password) -> Result<AccessToken> {
        todo!()
    }

    /// Ends the token that the user came with.
    pub async fn user_logout(&self, _who: &SignedIn) -> Result<()> {
        todo!()
    }

    /// Asks for a reset mail.
    pub async fn password_forgot(&self, _email: &str) -> Result<Option<Letter>> {
        todo!()
    }

    /// Sets a new password by the token from the mail; ends every token of the user.
    pub async fn password_reset(&self, _token: &str, _password: &Password) -> Result<()> {
        todo!()
    }

    /// Sets a new password; ends every token of the user.
    pub async fn password_change(&self, _who: &SignedIn, _current: &Password, _new: &Password) -> Result<()> {
        todo!()
    }

    /// The user and where they belong.
    pub async fn user_me(&self, _who: &SignedIn) -> Result<Me> {
        todo!()
    }

    /// The user's access tokens.
    pub async fn user_token_list(&self, _who: &SignedIn, _page: Page) -> Result<List<UserToken>> {
        todo!()
    }

    /// Ends one of the user's access tokens.
    pub async fn user_token_revoke(&self, _who: &SignedIn, _id: TokenId) -> Result<()> {
        todo!()
    }

    /// Makes an account for someone; unless `verified`, there is a mail to send.
    pub async fn user_create(&self, _: &Operator, _email: &str, _password: &Password, _verified: bool) -> Result<(User, Option<Letter>)> {
        todo!()
    }

    /// All accounts, by id.
    pub async fn user_list(&self, _: &Operator, _page: Page) -> Result<List<User>> {
        todo!()
    }

    /// Takes an address as proved.
    pub async fn user_verify_by(&self, _: &Operator, _email: &str) -> Result<User> {
        todo!()
    }

    /// Shuts an account off: its tokens and keys are refused from the next request on.
    pub async fn user_disable(&self, _: &Operator, _email: &str) -> Result<User> {
        todo!()
    }

    /// An access token for a user, for scripts.
    pub async fn user_token_issue(&self, _: &Operator, _email: &str, _ttl: Duration) -> Result<AccessToken> {
        todo!()
    }
}
