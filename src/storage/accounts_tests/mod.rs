//! Accounts, tenants, keys and members against a real data directory.

mod keys;
mod tenants;
mod users;

use super::{
    conformance::limits,
    engine::{Param, TxExt},
    *,
};
use crate::{
    config::Signup,
    error::Error,
    ids::{TokenId, UserId},
    mail::Letter,
    model::{KeyInput, KeyPatch, MemberInput, Order, Page, Role, TenantCreated, TenantPatch},
    secret::{KeyText, NewKey, Password},
};

const PASSWORD: &str = "a few unrelated words";

/// A server's storage over a directory that is removed with it.
struct World {
    dir: tempfile::TempDir,
    storage: Storage,
}

fn world() -> World {
    world_with(&limits())
}

fn world_with(limits: &Limits) -> World {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path(), Mode::Server, limits).unwrap();
    World { dir, storage }
}

fn password(text: &str) -> Password {
    Password::new(text.to_owned())
}

fn page() -> Page {
    Page::first(100, Order::Desc)
}

fn key_input(name: &str) -> KeyInput {
    KeyInput { name: name.to_owned(), role: None, expires_at: None, spend_limit: None, tenant_id: None, user_id: None }
}

fn token_of(letter: Option<Letter>) -> String {
    match letter {
        Some(Letter::Verify { token, .. } | Letter::Reset { token, .. }) => token.expose().to_owned(),
        other => panic!("a letter with a token, not {other:?}"),
    }
}

impl World {
    async fn register(&self, email: &str, words: &str) -> Option<Letter> {
        self.storage.user_register(email, &password(words), Signup::Open).await.unwrap()
    }

    /// Registered, proved, signed in.
    async fn user(&self, email: &str) -> SignedIn {
        let token = token_of(self.register(email, PASSWORD).await);
        self.storage.user_verify(&token).await.unwrap();
        self.sign_in(email, PASSWORD).await.unwrap()
    }

    async fn sign_in(&self, email: &str, words: &str) -> Result<SignedIn> {
        let token = self.storage.user_login(email, &password(words)).await?;
        self.storage.signed_in(&token.access_token)
    }

    /// A tenant of a new user, and its first key proved.
    async fn tenant(&self, email: &str) -> (SignedIn, TenantCreated, Principal) {
        let user = self.user(email).await;
        let made = self.storage.tenant_create(&user, "Acme").await.unwrap();
        let who = self.storage.principal_by_key(&made.api_key).await.unwrap();
        (user, made, who)
    }

    /// A member of the tenant with a key of their own.
    async fn member(&self, owner: &Principal, email: &str, role: Role) -> (SignedIn, Principal) {
        let user = self.user(email).await;
        let input = MemberInput { email: email.to_owned(), role: Some(role) };
        self.storage.member_add(owner, input).await.unwrap();
        let mine = KeyInput { user_id: Some(user.user_id), role: Some(role), ..key_input("theirs") };
        let key = self.storage.key_create(owner, mine).await.unwrap();
        (user, self.storage.principal_by_key(&key.key).await.unwrap())
    }
}
