//! Accounts, tenants, keys and members against a real data directory.

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
async fn a_key_opens_its_own_tenant_and_every_wrong_one_is_answered_alike() {
    let world = world();
    let storage = &world.storage;
    let (_, made, who) = world.tenant("ada@example.com").await;
    assert_eq!((who.tenant_id, who.role, who.tenant_name()), (made.id, Role::Owner, "Acme"));
    let store = storage.tenant_store(&who).await.unwrap();
    let inside = store.read(|tx| tx.first("SELECT id FROM tenant WHERE id = ?1", &[], |row| Ok(row.text(0)?.to_owned())));
    assert_eq!(inside.await, Ok(Some(made.id.to_string())));
    // The right public id with another secret, the checksum right for it.
    let other = NewKey::generate().unwrap();
    let stolen = {
        let (mine, theirs): (Vec<_>, Vec<_>) = (made.api_key.split('_').collect(), other.text().expose().split('_').collect());
        let body = format!("ns_live_{}_{}", mine[2], theirs[3]);
        crate::secret::sealed(&body).expose().to_owned()
    };
    assert!(KeyText::parse(&stolen).is_some());
    for wrong in [stolen.as_str(), other.text().expose(), "ns_live_", "", &made.api_key[..70]] {
        assert_eq!(storage.principal_by_key(wrong).await.err(), Some(Error::InvalidApiKey), "{wrong}");
    }
}

#[tokio::test]
async fn a_revoke_beside_the_server_holds_at_the_next_request() {
    let world = world();
    let (_, made, who) = world.tenant("ada@example.com").await;
    let (_, member) = world.member(&who, "bob@example.com", Role::Member).await;
    let beside = Storage::open(world.dir.path(), Mode::Beside, &limits()).unwrap();
    let key = beside.key_revoke_by(&beside.operator_here(), made.api_key_id).await.unwrap();
    assert!(key.revoked_at.is_some());
    assert_eq!(world.storage.principal_by_key(&made.api_key).await.err(), Some(Error::InvalidApiKey));
    assert_eq!(world.storage.principal_again(&who).err(), Some(Error::InvalidApiKey));
    assert!(world.storage.principal_again(&member).is_ok(), "other keys of the tenant stay");
    let disabled = beside.user_disable(&beside.operator_here(), "bob@example.com").await.unwrap();
    assert!(disabled.disabled);
    assert_eq!(world.storage.principal_again(&member).err(), Some(Error::InvalidApiKey));
    assert_eq!(world.sign_in("bob@example.com", PASSWORD).await.err(), Some(Error::InvalidLogin));
}

#[tokio::test]
async fn expiry_demotion_suspension_and_removal_take_hold_at_once() {
    let world = world();
    let storage = &world.storage;
    let (_, _, owner) = world.tenant("ada@example.com").await;
    let (bob, key) = world.member(&owner, "bob@example.com", Role::Admin).await;
    assert_eq!(storage.member_update(&owner, bob.user_id, Role::Viewer).await.unwrap().role, Role::Viewer);
    assert_eq!(storage.principal_again(&key).unwrap().role, Role::Viewer);
    assert!(storage.tenant_suspend(&storage.operator_here(), owner.tenant_id, true).await.unwrap().suspended);
    assert!(storage.principal_again(&key).unwrap().suspended);
    storage.tenant_suspend(&storage.operator_here(), owner.tenant_id, false).await.unwrap();
    assert!(!storage.principal_again(&key).unwrap().suspended);
    storage.member_remove(&owner, bob.user_id).await.unwrap();
    assert_eq!(storage.principal_again(&key).err(), Some(Error::InvalidApiKey));
    storage.member_add(&owner, MemberInput { email: "bob@example.com".to_owned(), role: None }).await.unwrap();
    assert_eq!(storage.principal_again(&key).err(), Some(Error::InvalidApiKey), "coming back revives no key");

    let soon = storage.inner.clock.now().plus(Duration::from_millis(300));
    let short = storage.key_create(&owner, KeyInput { expires_at: Some(soon), ..key_input("short") }).await.unwrap();
    let who = storage.principal_by_key(&short.key).await.unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(storage.principal_again(&who).err(), Some(Error::InvalidApiKey));
    assert_eq!(storage.principal_by_key(&short.key).await.err(), Some(Error::InvalidApiKey));
}

#[tokio::test]
async fn no_key_hands_on_more_than_it_has() {
    let world = world();
    let storage = &world.storage;
    let (_, _, owner) = world.tenant("ada@example.com").await;
    let (bob, member) = world.member(&owner, "bob@example.com", Role::Member).await;
    let (_, admin) = world.member(&owner, "eve@example.com", Role::Admin).await;
    let refused = |needed| Some(Error::InsufficientRole { needed });

    let strong = KeyInput { role: Some(Role::Admin), ..key_input("strong") };
    assert_eq!(storage.key_create(&member, strong.clone()).await.err(), refused("admin"));
    let for_owner = KeyInput { user_id: Some(owner.user_id), ..key_input("in the owner's name") };
    assert_eq!(storage.key_create(&member, for_owner.clone()).await.err(), refused("admin"));
    assert_eq!(storage.key_create(&admin, for_owner).await.err(), refused("owner"));
    let stranger = KeyInput { user_id: Some(UserId::new()), ..key_input("nobody's") };
    assert!(matches!(storage.key_create(&admin, stranger).await, Err(Error::ValidationFailed { .. })));
    let too_strong = KeyInput { user_id: Some(bob.user_id), ..strong };
    assert!(matches!(storage.key_create(&admin, too_strong).await, Err(Error::ValidationFailed { .. })));

    // Another's key is not there for a member, and an owner's is not an admin's to renew, though it is theirs to end.
    assert_eq!(storage.key_revoke(&member, admin.key_id).await, Err(Error::not_found("key", admin.key_id)));
    assert_eq!(storage.key_rotate(&admin, owner.key_id).await.err(), refused("owner"));
    assert_eq!(storage.key_list(&member, page()).await.unwrap().data.len(), 1);
    assert_eq!(storage.key_list(&admin, page()).await.unwrap().data.len(), 3);

    let spend_limit = Some("1".parse().unwrap());
    let capped = storage.key_create(&owner, KeyInput { spend_limit, role: Some(Role::Owner), ..key_input("capped") }).await.unwrap();
    let capped = storage.principal_by_key(&capped.key).await.unwrap();
    assert!(matches!(storage.key_create(&capped, key_input("more")).await, Err(Error::KeyIsCapped)));
    let more = KeyPatch { spend_limit: Some(None), ..KeyPatch::default() };
    assert!(matches!(storage.key_update(&capped, capped.key_id, more).await, Err(Error::KeyIsCapped)));
    assert!(matches!(storage.key_rotate(&capped, capped.key_id).await, Err(Error::KeyIsCapped)));
    storage.key_revoke(&capped, capped.key_id).await.unwrap();

    let end = storage.inner.clock.now().plus(Duration::from_secs(60));
    let brief =
        storage.key_create(&owner, KeyInput { expires_at: Some(end), role: Some(Role::Owner), ..key_input("brief") }).await.unwrap();
    let brief = storage.principal_by_key(&brief.key).await.unwrap();
    assert!(matches!(storage.key_create(&brief, key_input("forever")).await, Err(Error::ValidationFailed { .. })));
    let longer = KeyPatch { expires_at: Some(None), ..KeyPatch::default() };
    assert!(matches!(storage.key_update(&brief, brief.key_id, longer).await, Err(Error::ValidationFailed { .. })));
}

#[tokio::test]
async fn a_rotated_key_has_a_successor_and_an_end() {
    let world = world();
    let storage = &world.storage;
    let (_, made, owner) = world.tenant("ada@example.com").await;
    let next = storage.key_rotate(&owner, made.api_key_id).await.unwrap();
    assert_eq!((next.properties.role, next.properties.user_id), (Role::Owner, owner.user_id));
    let (old, new) = (storage.principal_by_key(&made.api_key).await.unwrap(), storage.principal_by_key(&next.key).await.unwrap());
    assert_eq!((new.expires_at, new.tenant_id), (None, owner.tenant_id));
    let overlap = old.expires_at.unwrap().ms() - storage.inner.clock.now().ms();
    assert!((86_300_000..=86_400_000).contains(&overlap), "{overlap}");
    storage.key_revoke(&new, old.key_id).await.unwrap();
    assert!(matches!(storage.key_rotate(&new, old.key_id).await, Err(Error::Conflict { .. })));
    let used = storage.key_list(&new, page()).await.unwrap().data;
    assert!(used.iter().any(|key| key.id == new.key_id && key.revoked_at.is_none()));
}

#[tokio::test]
async fn a_user_token_makes_keys_for_ones_own_tenants_only() {
    let world = world();
    let storage = &world.storage;
    let (ada, _, owner) = world.tenant("ada@example.com").await;
    let (_, theirs, _) = world.tenant("eve@example.com").await;
    let mine = KeyInput { tenant_id: Some(owner.tenant_id), role: Some(Role::Admin), ..key_input("by token") };
    let made = storage.key_create_for(&ada, mine).await.unwrap();
    assert_eq!(storage.principal_by_key(&made.key).await.unwrap().role, Role::Admin);
    for tenant in [theirs.id, TenantId::new()] {
        let input = KeyInput { tenant_id: Some(tenant), ..key_input("not mine") };
        assert_eq!(storage.key_create_for(&ada, input.clone()).await.err(), Some(Error::not_found("tenant", tenant)));
        assert_eq!(storage.key_create(&owner, input).await.err(), Some(Error::not_found("tenant", tenant)));
    }
    assert!(matches!(storage.key_create_for(&ada, key_input("nowhere")).await, Err(Error::ValidationFailed { .. })));
}

#[tokio::test]
async fn the_last_owner_stays_and_admins_keep_to_admins() {
    let world = world();
    let storage = &world.storage;
    let (ada, _, owner) = world.tenant("ada@example.com").await;
    let (_, admin) = world.member(&owner, "eve@example.com", Role::Admin).await;
    assert_eq!(storage.member_update(&owner, ada.user_id, Role::Admin).await.err(), Some(Error::LastOwner));
    assert_eq!(storage.member_remove(&owner, ada.user_id).await, Err(Error::LastOwner));
    let refused = Some(Error::InsufficientRole { needed: "owner" });
    assert_eq!(storage.member_remove(&admin, ada.user_id).await.err(), refused);
    assert_eq!(storage.member_update(&admin, admin.user_id, Role::Owner).await.err(), refused);
    let invite = |role| MemberInput { email: "bob@example.com".to_owned(), role: Some(role) };
    assert_eq!(storage.member_add(&admin, invite(Role::Owner)).await.err(), refused);
    // What an admin offered goes with the admin.
    storage.member_add(&admin, invite(Role::Admin)).await.unwrap();
    storage.member_remove(&owner, admin.user_id).await.unwrap();
    let bob = world.user("bob@example.com").await;
    assert_eq!(storage.tenant_list(&bob, page()).await.unwrap().data.len(), 0);
    let unknown = UserId::new();
    assert_eq!(storage.member_remove(&owner, unknown).await, Err(Error::not_found("member", unknown)));
    assert_eq!(storage.member_remove(&owner, bob.user_id).await, Err(Error::not_found("member", bob.user_id)));
}

#[tokio::test]
async fn a_tenant_is_renamed_and_deleted_to_the_last_byte() {
    let world = world();
    let storage = &world.storage;
    let (ada, made, owner) = world.tenant("ada@example.com").await;
    let patch = TenantPatch { name: Some(" Acme Corp ".to_owned()), time_zone: Some("Europe/Vienna".to_owned()), ..TenantPatch::default() };
    let tenant = storage.tenant_update(&owner, patch).await.unwrap();
    assert_eq!((tenant.name.as_str(), tenant.time_zone.as_str()), ("Acme Corp", "Europe/Vienna"));
    assert!(tenant.size_bytes > 0);
    let now = storage.principal_again(&owner).unwrap();
    assert_eq!((now.tenant_name(), now.time_zone()), ("Acme Corp", "Europe/Vienna"));
    let store = storage.tenant_store(&owner).await.unwrap();
    let copy = store.read(|tx| tx.first("SELECT name FROM tenant WHERE id = ?1", &[], |row| Ok(row.text(0)?.to_owned())));
    assert_eq!(copy.await, Ok(Some("Acme Corp".to_owned())));
    for wrong in [("", None), ("x\ny", None), ("x", Some("Mars/Olympus"))] {
        let patch = TenantPatch { name: Some(wrong.0.to_owned()), time_zone: wrong.1.map(str::to_owned), ..TenantPatch::default() };
        assert!(matches!(storage.tenant_update(&owner, patch).await, Err(Error::ValidationFailed { .. })));
    }

    assert!(matches!(storage.tenant_delete(&owner, "Acme").await, Err(Error::ValidationFailed { .. })));
    storage.tenant_delete(&owner, "Acme Corp").await.unwrap();
    assert_eq!(storage.principal_by_key(&made.api_key).await.err(), Some(Error::InvalidApiKey));
    assert_eq!(storage.tenant_list(&ada, page()).await.unwrap().data.len(), 0);
    assert_eq!(storage.tenant_show(&storage.operator_here(), made.id).await.err(), Some(Error::not_found("tenant", made.id)));
    assert_eq!(files_of(world.dir.path(), made.id), 0);
}

fn files_of(dir: &Path, tenant: TenantId) -> usize {
    let mut waiting = vec![dir.to_owned()];
    let mut found = 0;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found += usize::from(path.to_string_lossy().contains(&tenant.to_string()));
            if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn what_a_crash_left_half_made_or_half_deleted_is_gone_after_a_start() {
    let world = world();
    let storage = &world.storage;
    let (_, half_deleted, _) = world.tenant("ada@example.com").await;
    let (_, half_made, _) = world.tenant("eve@example.com").await;
    let (_, whole, _) = world.tenant("bob@example.com").await;
    let states = [("deleting", half_deleted.id), ("creating", half_made.id)];
    storage
        .catalog_write(move |tx| {
            for (state, id) in states {
                let sql = "UPDATE tenants SET state = ?1, created_at = 0 WHERE id = ?2";
                tx.execute(sql, &[Param::Text(state), Param::Text(&id.to_string())])?;
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(storage.principal_by_key(&half_made.api_key).await.err(), Some(Error::InvalidApiKey));
    storage.tenants_finish().await.unwrap();
    assert_eq!((files_of(world.dir.path(), half_deleted.id), files_of(world.dir.path(), half_made.id)), (0, 0));
    assert!(storage.principal_by_key(&whole.api_key).await.is_ok() && files_of(world.dir.path(), whole.id) > 0);
    let left = storage.catalog_read(|tx| tx.all("SELECT id FROM tenants", &[], |row| Ok(row.text(0)?.to_owned()))).await.unwrap();
    assert_eq!(left, [whole.id.to_string()]);
}

#[tokio::test]
async fn lists_are_cut_into_pages_and_refuse_cursors_of_others() {
    let world = world();
    let storage = &world.storage;
    let (_, _, owner) = world.tenant("ada@example.com").await;
    let (_, _, other) = world.tenant("eve@example.com").await;
    for n in 0..4 {
        storage.key_create(&owner, key_input(&format!("key {n}"))).await.unwrap();
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let list = storage.key_list(&owner, Page { after, ..Page::first(2, Order::Asc) }).await.unwrap();
        seen.extend(list.data.iter().map(|key| key.name.clone()));
        after = list.last_id;
        if !list.has_more {
            break;
        }
    }
    assert_eq!(seen, ["first key", "key 0", "key 1", "key 2", "key 3"]);
    let foreign = Page { after: Some(other.key_id.to_string()), ..page() };
    assert!(matches!(storage.key_list(&owner, foreign).await, Err(Error::ValidationFailed { .. })));
    let operator = storage.operator_here();
    assert_eq!(storage.tenant_list_all(&operator, page()).await.unwrap().data.len(), 2);
    let newest = storage.user_list(&operator, Page::first(1, Order::Desc)).await.unwrap();
    assert_eq!((newest.data[0].email.as_str(), newest.has_more), ("eve@example.com", true));
}

#[tokio::test]
async fn the_operator_makes_accounts_tenants_keys_and_tokens() {
    let world = world();
    let storage = &world.storage;
    let operator = storage.operator_here();
    let (user, letter) = storage.user_create(&operator, "ada@example.com", &password(PASSWORD), false).await.unwrap();
    assert!(!user.verified && matches!(letter, Some(Letter::Verify { .. })));
    let token = storage.user_token_issue(&operator, "ada@example.com", Duration::from_secs(60)).await.unwrap();
    assert_eq!(storage.signed_in(&token.access_token).err(), Some(Error::EmailNotVerified));
    assert!(storage.user_verify_by(&operator, "ADA@example.com").await.unwrap().verified);
    assert_eq!(storage.signed_in(&token.access_token).unwrap().user_id, user.id);
    assert!(matches!(storage.user_create(&operator, "ada@example.com", &password(PASSWORD), true).await, Err(Error::Conflict { .. })));
    let made = storage.tenant_create_for(&operator, "Acme", "ada@example.com").await.unwrap();
    let key = storage.key_issue(&operator, made.id, "ada@example.com", key_input("by the operator")).await.unwrap();
    assert_eq!(storage.principal_by_key(&key.key).await.unwrap().role, Role::Member);
    assert_eq!(storage.key_list_of(&operator, made.id, page()).await.unwrap().data.len(), 2);
    storage.tenant_remove(&operator, made.id).await.unwrap();
    assert_eq!(storage.principal_by_key(&key.key).await.err(), Some(Error::InvalidApiKey));

    let configured = crate::config::Secret::new("operator token".to_owned());
    assert!(storage.operator_by_token("operator token", &configured).is_ok());
    assert_eq!(storage.operator_by_token("operator tokem", &configured).err(), Some(Error::InvalidToken));
    assert!(storage.operator_by_token("", &crate::config::Secret::new(String::new())).is_err());
    // A registration that waits for its proof keeps its password when the operator proves it.
    world.register("bob@example.com", PASSWORD).await;
    storage.user_verify_by(&operator, "bob@example.com").await.unwrap();
    assert!(world.sign_in("bob@example.com", PASSWORD).await.is_ok());
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
