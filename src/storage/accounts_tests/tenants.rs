//! Tenants and their members, and what the operator does with them.

use super::*;

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
