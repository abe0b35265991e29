//! Configs and pages.

use super::*;
use crate::{
    model::{ConfigPatch, List},
    storage::configs,
};
use utoipa::ToSchema;

fn names(list: &List<Config>) -> Vec<&str> {
    list.data.iter().map(|config| config.body.name.as_str()).collect()
}

/// Whether the list is marked with its own ends.
fn ends_fit<T: ToSchema>(list: &List<T>, id: impl Fn(&T) -> String) -> bool {
    (&list.first_id, &list.last_id) == (&list.data.first().map(&id), &list.data.last().map(&id))
}

#[tokio::test]
async fn configs_make_a_version_at_every_write() {
    let bench = Bench::new().await;
    let (store, by) = (&bench.tenant, UserId::new());
    let made = store.config_create(by, body("one")).await.unwrap();
    assert_eq!((made.version, made.id == made.config_id, made.template_variables.clone()), (1, true, vec!["date".into(), "who".into()]));

    let mut anew = body("two");
    anew.system_prompt = String::new();
    assert_eq!(store.config_replace(by, made.id, anew.clone()).await.unwrap().version, 2);
    let patch: ConfigPatch = serde_json::from_value(json!({"metadata": {"a": 1}})).unwrap();
    let changed = store.config_change(by, made.id, false, move |old| Ok(patch.applied(old))).await.unwrap();
    assert_eq!((changed.version, changed.body.name.as_str(), changed.body.metadata["a"].clone()), (3, "two", json!(1)));
    assert_eq!(store.config_get(made.id).await.unwrap().body, changed.body);

    // A change that fails stores nothing.
    assert_eq!(store.config_change(by, made.id, false, |_| Err(Error::DiskFull)).await.unwrap_err(), Error::DiskFull);
    let versions = store.config_versions(made.id, page(2, None, None, Order::Desc)).await.unwrap();
    assert_eq!(versions.data.iter().map(|version| version.version).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((versions.has_more, versions.data[1].body == anew, versions.data[1].created_by), (true, true, by));
    let rest = store.config_versions(made.id, page(2, versions.last_id.as_deref(), None, Order::Desc)).await.unwrap();
    assert_eq!((rest.data[0].version, rest.has_more), (1, false));
    assert!(store.config_versions(made.id, page(2, Some("7"), None, Order::Desc)).await.is_err());
}

#[tokio::test]
async fn a_configs_name_is_its_own_until_it_is_deleted() {
    let bench = Bench::new().await;
    let (store, by) = (&bench.tenant, UserId::new());
    let (one, two) = (config(store, "one").await, config(store, "two").await);
    let taken = Error::ConfigNameTaken { name: "one".into() };
    assert_eq!(store.config_create(by, body("one")).await.unwrap_err(), taken);
    assert_eq!(store.config_replace(by, two.id, body("one")).await.unwrap_err(), taken);
    assert_eq!(store.config_replace(by, one.id, body("one")).await.unwrap().version, 2);

    store.config_delete(by, one.id).await.unwrap();
    let gone = Error::not_found("config", one.id);
    assert_eq!(store.config_get(one.id).await.unwrap_err(), gone);
    assert_eq!(store.config_delete(by, one.id).await.unwrap_err(), gone);
    assert_eq!(store.config_replace(by, one.id, body("x")).await.unwrap_err(), gone);
    assert_eq!(store.config_versions(one.id, Page::first(1, Order::Asc)).await.unwrap_err(), gone);
    config(store, "one").await;

    let for_chat = async |id| {
        let (bodies, key) = (Arc::clone(&store.bodies), (store.tenant, id));
        store.read(move |tx| configs::config_for_chat(tx, &bodies, key)).await.unwrap()
    };
    assert_eq!(for_chat(two.id).await, Some((Arc::new(two.body), 1)));
    assert_eq!(for_chat(one.id).await, None);
}

#[tokio::test]
async fn another_tenants_config_is_an_unknown_one() {
    let bench = Bench::new().await;
    let other = Bench::tenant(&bench.storage).await;
    let theirs = config(&other, "theirs").await;
    let (store, gone) = (&bench.tenant, Error::not_found("config", theirs.id));
    assert_eq!(store.config_get(theirs.id).await.unwrap_err(), gone);
    assert_eq!(store.config_replace(UserId::new(), theirs.id, body("x")).await.unwrap_err(), gone);
    assert_eq!(store.config_delete(UserId::new(), theirs.id).await.unwrap_err(), gone);
    assert!(store.config_list(Page::first(100, Order::Asc)).await.unwrap().data.is_empty());
    let cursor = theirs.id.to_string();
    assert!(matches!(store.config_list(page(1, Some(&cursor), None, Order::Asc)).await, Err(Error::ValidationFailed { .. })));
    assert_eq!(config(store, "theirs").await.version, 1);
}

#[tokio::test]
async fn pages_run_both_ways_without_gap_or_repeat() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        ids.push(config(store, name).await.id.to_string());
    }
    for (limit, after, before, order, expected, more) in [
        (2, None, None, Order::Desc, vec!["e", "d"], true),
        (2, Some(3), None, Order::Desc, vec!["c", "b"], true),
        (2, Some(1), None, Order::Desc, vec!["a"], false),
        (2, None, None, Order::Asc, vec!["a", "b"], true),
        (5, None, None, Order::Asc, vec!["a", "b", "c", "d", "e"], false),
        (2, None, Some(3), Order::Asc, vec!["b", "c"], true),
        (2, None, Some(1), Order::Asc, vec!["a"], false),
        (2, None, Some(1), Order::Desc, vec!["d", "c"], true),
        (9, Some(0), Some(3), Order::Asc, vec!["b", "c"], false),
        (1, Some(0), Some(3), Order::Asc, vec!["b"], true),
        (9, Some(0), None, Order::Desc, vec![], false),
    ] {
        let id = |at: Option<usize>| at.map(|at| ids[at].as_str());
        let list = store.config_list(page(limit, id(after), id(before), order)).await.unwrap();
        assert_eq!((names(&list), list.has_more), (expected, more), "{limit} {after:?} {before:?} {order:?}");
        assert!(ends_fit(&list, |config| config.id.to_string()));
    }
    for (after, before) in [(Some("x"), None), (None, Some("0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d"))] {
        assert!(matches!(store.config_list(page(1, after, before, Order::Asc)).await, Err(Error::ValidationFailed { .. })));
    }
}
