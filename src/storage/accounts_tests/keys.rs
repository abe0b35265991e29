//! Keys: what they open, what they may hand on, how they end.

use super::*;

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
