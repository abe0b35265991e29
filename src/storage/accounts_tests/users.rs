//! Accounts: how they begin, their passwords and tokens, and what is cleared away.

use super::*;

#[tokio::test]
async fn an_account_begins_with_a_proved_address() {
    let World { storage, .. } = &world();
    let token = storage.user_register(" Ada@Example.com", &password(PASSWORD), Signup::Open).await.unwrap();
    let token = token_of(token);
    let login = async |email: &str, words: &str| storage.user_login(email, &password(words)).await.map(drop);
    assert_eq!(login("ada@example.com", PASSWORD).await, Err(Error::EmailNotVerified));
    assert_eq!(login("ada@example.com", "some other words").await, Err(Error::InvalidLogin));
    assert_eq!(login("bob@example.com", PASSWORD).await, Err(Error::InvalidLogin));
    assert_eq!(storage.signed_in(&token).err(), Some(Error::InvalidToken), "a mailed token signs nobody in");
    assert_eq!(storage.password_reset(&token, &password("other words still")).await, Err(Error::InvalidToken));
    let user = storage.user_verify(&token).await.unwrap();
    assert!(user.verified && user.email == "ada@example.com");
    assert_eq!(storage.user_verify(&token).await.err(), Some(Error::InvalidToken), "a token is used once");
    assert_eq!(login("ADA@example.com", PASSWORD).await, Ok(()));
}

#[tokio::test]
async fn a_password_counts_only_with_the_token_of_its_own_registration() {
    let world = world();
    let mine = token_of(world.register("ada@example.com", PASSWORD).await);
    let intruders = token_of(world.register("ada@example.com", "an intruder's password").await);
    world.storage.user_verify(&mine).await.unwrap();
    assert!(world.sign_in("ada@example.com", PASSWORD).await.is_ok());
    assert_eq!(world.sign_in("ada@example.com", "an intruder's password").await.err(), Some(Error::InvalidLogin));
    assert_eq!(world.storage.user_verify(&intruders).await.err(), Some(Error::InvalidToken));
}

#[tokio::test]
async fn known_and_unknown_addresses_cost_the_same_work() {
    let world = world();
    world.user("ada@example.com").await;
    let mut commits = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        for ask in 0..2 {
            let before = world.storage.catalog_version().unwrap();
            let letter = match ask {
                0 => world.register(email, PASSWORD).await,
                _ => world.storage.password_forgot(&email.replace("bob", "eve")).await.unwrap(),
            };
            // A commit that stored nothing would not show here, nor take the disk's time.
            commits.push((world.storage.catalog_version().unwrap() != before, letter.is_some()));
        }
    }
    assert_eq!(commits, [(true, true), (true, true), (true, true), (true, false)]);
}

#[tokio::test]
async fn a_new_password_ends_every_token() {
    let world = world();
    let (first, second) = (world.user("ada@example.com").await, world.sign_in("ada@example.com", PASSWORD).await.unwrap());
    let storage = &world.storage;
    let tokens = storage.user_token_list(&second, page()).await.unwrap().data;
    assert_eq!(
        tokens.iter().map(|token| (token.id, token.current)).collect::<Vec<_>>(),
        [(second.token_id, true), (first.token_id, false)]
    );
    let wrong = storage.password_change(&first, &password("some other words"), &password("brand new words")).await;
    assert!(matches!(wrong, Err(Error::ValidationFailed { errors }) if errors[0].pointer == "/current_password"));
    storage.password_change(&first, &password(PASSWORD), &password("brand new words")).await.unwrap();
    assert_eq!(storage.user_token_list(&second, page()).await.unwrap().data.len(), 0);
    assert!(world.sign_in("ada@example.com", PASSWORD).await.is_err());
    let third = storage.user_login("ada@example.com", &password("brand new words")).await.unwrap();
    let reset = token_of(storage.password_forgot("ada@example.com").await.unwrap());
    storage.password_reset(&reset, &password("newer words still")).await.unwrap();
    assert_eq!(storage.signed_in(&third.access_token).err(), Some(Error::InvalidToken));
    assert_eq!(storage.password_reset(&reset, &password("and once again")).await, Err(Error::InvalidToken));
    assert!(world.sign_in("ada@example.com", "newer words still").await.is_ok());
}

#[tokio::test]
async fn tokens_are_revoked_by_their_user_alone_and_bounded() {
    let world = world_with(&Limits { user_tokens_max: 3, ..limits() });
    let (ada, eve) = (world.user("ada@example.com").await, world.user("eve@example.com").await);
    let foreign = world.storage.user_token_revoke(&eve, ada.token_id).await;
    assert_eq!(foreign, Err(Error::not_found("token", ada.token_id)));
    let unknown = TokenId::new();
    assert_eq!(world.storage.user_token_revoke(&eve, unknown).await, Err(Error::not_found("token", unknown)));
    let token = world.storage.user_login("ada@example.com", &password(PASSWORD)).await.unwrap().access_token;
    let signed_in = world.storage.signed_in(&token).unwrap();
    world.storage.user_logout(&signed_in).await.unwrap();
    assert_eq!(world.storage.signed_in(&token).err(), Some(Error::InvalidToken));
    for _ in 0..5 {
        world.sign_in("eve@example.com", PASSWORD).await.unwrap();
    }
    assert_eq!(world.storage.user_token_list(&eve, page()).await.unwrap().data.len(), 3);
}

#[tokio::test]
async fn sign_up_that_is_closed_is_open_to_the_invited() {
    let world = world();
    let (_, _, owner) = world.tenant("ada@example.com").await;
    let closed = async |email: &str| world.storage.user_register(email, &password(PASSWORD), Signup::Closed).await;
    for email in ["bob@example.com", "ada@example.com"] {
        assert_eq!(closed(email).await.err(), Some(Error::SignupClosed), "{email}");
    }
    let letter = world.storage.member_add(&owner, MemberInput { email: "Bob@example.com".to_owned(), role: Some(Role::Viewer) }).await;
    assert!(matches!(letter, Ok(Some(Letter::Invited { to, .. })) if to == "bob@example.com"));
    // The first mail may get lost: who is invited can ask for another until the address is proved.
    let lost = token_of(closed("bob@example.com").await.unwrap());
    let token = token_of(closed("bob@example.com").await.unwrap());
    assert_ne!(lost, token);
    world.storage.user_verify(&token).await.unwrap();
    let bob = world.sign_in("bob@example.com", PASSWORD).await.unwrap();
    let me = world.storage.user_me(&bob).await.unwrap();
    assert_eq!(me.tenants.iter().map(|tenant| (tenant.id, tenant.role)).collect::<Vec<_>>(), [(owner.tenant_id, Role::Viewer)]);
}

#[tokio::test]
async fn an_invitation_ends_with_the_account_that_sent_it() {
    let world = world();
    let (_, _, owner) = world.tenant("ada@example.com").await;
    let input = MemberInput { email: "bob@example.com".to_owned(), role: Some(Role::Owner) };
    assert!(matches!(world.storage.member_add(&owner, input).await, Ok(Some(Letter::Invited { .. }))));
    world.storage.user_disable(&world.storage.operator_here(), "ada@example.com").await.unwrap();
    let bob = world.user("bob@example.com").await;
    assert!(world.storage.user_me(&bob).await.unwrap().tenants.is_empty());
}

#[tokio::test]
async fn what_nobody_proved_is_cleared_away_and_nothing_else() {
    let world = world();
    let storage = &world.storage;
    world.tenant("ada@example.com").await;
    for email in ["old@example.com", "new@example.com", "invited@example.com"] {
        world.register(email, PASSWORD).await;
    }
    let aged = storage.catalog_write(|tx| {
        tx.execute("UPDATE user_tokens SET expires_at = 1 WHERE user_id IN (SELECT id FROM users WHERE email LIKE 'old%')", &[])?;
        tx.execute("UPDATE users SET created_at = 0 WHERE email NOT LIKE 'new%'", &[])
    });
    assert_eq!(aged.await, Ok(3));
    storage.accounts_tidy().await.unwrap();
    let left = storage.user_list(&storage.operator_here(), Page::first(10, Order::Asc)).await.unwrap();
    let left: Vec<_> = left.data.iter().map(|user| user.email.as_str()).collect();
    // Those whose mail can still be used stay, and so does who was proved.
    assert_eq!(left, ["ada@example.com", "new@example.com", "invited@example.com"]);
}
