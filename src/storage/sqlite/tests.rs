//! What only a file can do wrong: damage, a wrong name, a wrong version, an older day, its size, its modes.

use crate::{
    clock::Time,
    config::Limits,
    error::{Error, Result},
    ids::{BootId, TenantId},
    money::Money,
    storage::{
        Mode,
        conformance::{Bench, Piece, config, configs, engine_in, limits, write, write_together},
        engine::{Engine, Head, Param, Place, Tx, TxExt},
        schema::Kind,
    },
};
use rusqlite::Connection;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

fn file(dir: &Path, tenant: TenantId) -> PathBuf {
    let id = tenant.to_string();
    dir.join("tenants").join(&id[34..]).join(&id).join("tenant.db")
}

/// Opens again with the file changed in between.
fn after(bench: Bench, change: impl FnOnce(&Path)) -> Bench {
    bench.engine.close();
    let Bench { dir, engine } = bench;
    drop(engine);
    change(dir.path());
    let engine = engine_in(dir.path(), Mode::Server, &limits()).unwrap();
    Bench { dir, engine }
}

fn unavailable<T: std::fmt::Debug>(outcome: Result<T>) {
    assert!(matches!(outcome, Err(Error::TenantUnavailable)), "{outcome:?}");
}

#[test]
fn a_file_under_a_wrong_name_is_refused_and_its_neighbours_are_not() {
    let bench = Bench::new();
    let (one, two) = (bench.tenant(), bench.tenant());
    write(&*bench.engine, Place::Tenant(one), config(one, "of one")).unwrap();
    let bench = after(bench, |dir| assert!(fs::copy(file(dir, one), file(dir, two)).unwrap() > 0));
    unavailable(configs(&*bench.engine, two));
    unavailable(bench.engine.lease(two).map(drop));
    assert_eq!(configs(&*bench.engine, one).unwrap(), ["of one"]);
}

#[test]
fn a_newer_file_and_a_stranger_s_file_are_refused() {
    for pragma in ["PRAGMA user_version = 4711", "PRAGMA application_id = 1", "DELETE FROM wallet"] {
        let bench = Bench::new();
        let tenant = bench.tenant();
        let bench = after(bench, |dir| Connection::open(file(dir, tenant)).unwrap().execute_batch(pragma).unwrap());
        unavailable(configs(&*bench.engine, tenant));
        let bytes = fs::read(file(bench.dir.path(), tenant)).unwrap();
        assert!(!bytes.is_empty(), "a refused file is left as it is");
    }
}

/// `form1.sql` is `schema.sql` as it was when no step had been added.
#[test]
fn a_file_of_the_first_form_comes_to_look_like_a_new_one() {
    let form1 = include_str!("form1.sql");
    let (catalog, tenant) = form1.split_at(form1.find("-- ===================================================================================================================== tenant").unwrap());
    for (kind, old) in [(Kind::Catalog, catalog), (Kind::Tenant, tenant)] {
        let looks = |conn: &Connection| -> Vec<(String, String)> {
            let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
            conn.prepare(sql).unwrap().query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(|row| row.unwrap()).collect()
        };
        let (brought, new) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        brought.execute_batch(old).unwrap();
        kind.steps().iter().for_each(|step| brought.execute_batch(step).unwrap());
        new.execute_batch(kind.schema()).unwrap();
        let (brought, new) = (looks(&brought), looks(&new));
        // What an exported file has to have to the word; a table of the catalog that got a column says so in other words.
        if kind == Kind::Tenant {
            assert_eq!(brought, new);
        }
        let names = |looks: &[(String, String)]| looks.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&brought), names(&new));
    }
}

#[test]
fn a_newer_catalog_is_refused_with_a_reason() {
    let bench = Bench::new();
    bench.engine.close();
    drop(bench.engine);
    Connection::open(bench.dir.path().join("catalog.db")).unwrap().execute_batch("PRAGMA user_version = 4711").unwrap();
    let refused = engine_in(bench.dir.path(), Mode::Server, &limits()).err().unwrap();
    assert!(refused.to_string().contains("use a newer nimblesite"), "{refused}");
}

#[test]
fn damage_closes_one_tenant_alone_until_the_file_is_mended() {
    let bench = Bench::new();
    let (hurt, well) = (bench.tenant(), bench.tenant());
    for tenant in [hurt, well] {
        let pieces = (0..50).map(|n| Box::new(config(tenant, &format!("{n}-{}", "x".repeat(500)))) as Piece).collect();
        assert!(write_together(&*bench.engine, Place::Tenant(tenant), pieces).iter().all(Result::is_ok));
    }
    let mut whole = Vec::new();
    let bench = after(bench, |dir| {
        whole = fs::read(file(dir, hurt)).unwrap();
        let mut bytes = whole.clone();
        // The first page, with the schema, stays; the rest is noise.
        bytes[4096..].iter_mut().for_each(|byte| *byte ^= 0xA5);
        fs::write(file(dir, hurt), bytes).unwrap();
    });
    unavailable(configs(&*bench.engine, hurt));
    unavailable(write(&*bench.engine, Place::Tenant(hurt), config(hurt, "more")));
    assert_eq!(configs(&*bench.engine, well).unwrap().len(), 50);
    let bench = after(bench, |dir| fs::write(file(dir, hurt), &whole).unwrap());
    assert_eq!(configs(&*bench.engine, hurt).unwrap().len(), 50);
}

#[test]
fn damage_found_while_open_quarantines() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let pieces = (0..200).map(|n| Box::new(config(tenant, &format!("{n}-{}", "x".repeat(500)))) as Piece).collect();
    assert!(write_together(&*bench.engine, Place::Tenant(tenant), pieces).iter().all(Result::is_ok));
    // Only the pages of `configs` are noise: the file opens, and the first list finds out.
    let bench = after(bench, |dir| {
        let conn = Connection::open(file(dir, tenant)).unwrap();
        let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap() as usize;
        let (root, page) = (number("SELECT rootpage FROM sqlite_schema WHERE name = 'configs'"), number("PRAGMA page_size"));
        drop(conn);
        let mut bytes = fs::read(file(dir, tenant)).unwrap();
        bytes[(root - 1) * page..root * page].fill(0xA5);
        fs::write(file(dir, tenant), bytes).unwrap();
    });
    let lease = bench.engine.lease(tenant).unwrap();
    let list = |engine: &dyn Engine| {
        engine.read(Place::Tenant(tenant), &mut |tx| {
            tx.all("SELECT created_at FROM configs WHERE tenant_id = ?1", &[Param::Text(&tenant.to_string())], |row| row.int(0)).map(drop)
        })
    };
    unavailable(list(&*bench.engine));
    assert!(bench.engine.lease_open(tenant).is_none(), "it is closed though it was leased");
    unavailable(bench.engine.read(Place::Tenant(tenant), &mut |_| Ok(())));
    drop(lease);
}

#[test]
fn a_missing_file_is_not_made_anew() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let bench = after(bench, |dir| fs::remove_file(file(dir, tenant)).unwrap());
    unavailable(configs(&*bench.engine, tenant));
    assert!(!file(bench.dir.path(), tenant).exists());
    unavailable(configs(&*bench.engine, TenantId::new()));
}

#[test]
fn nobody_else_may_look_into_the_files() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "a")).unwrap();
    configs(&*bench.engine, tenant).unwrap();
    let mut folders = vec![bench.dir.path().to_path_buf()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
                files += 1;
            }
        }
    }
    assert!(files >= 5, "catalog, heads, lock, a tenant's file and its log");
    bench.engine.destroy(tenant, &[]).unwrap();
    assert!(!file(bench.dir.path(), tenant).parent().unwrap().exists());
}

#[test]
fn a_directory_open_to_all_is_refused_unless_it_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let open_to_all = || fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    open_to_all();
    fs::write(dir.path().join("models.toml"), "").unwrap();
    engine_in(dir.path(), Mode::Server, &limits()).unwrap().close();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    open_to_all();
    let refused = engine_in(dir.path(), Mode::Server, &limits()).err().unwrap();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[test]
fn a_directory_has_one_server() {
    let bench = Bench::new();
    let refused = engine_in(bench.dir.path(), Mode::Server, &limits()).err().unwrap();
    assert!(refused.to_string().contains("a server already runs"), "{refused}");
    engine_in(bench.dir.path(), Mode::Beside, &limits()).unwrap().close();
    bench.engine.close();
    engine_in(bench.dir.path(), Mode::Server, &limits()).unwrap();
}

#[test]
fn tenants_without_a_catalog_are_not_taken_for_a_new_directory() {
    let bench = Bench::new();
    bench.tenant();
    bench.engine.close();
    fs::remove_file(bench.dir.path().join("catalog.db")).unwrap();
    assert!(engine_in(bench.dir.path(), Mode::Server, &limits()).is_err());
}

#[test]
fn an_older_ledger_and_another_ledger_are_refused() {
    let set = |tenant: TenantId, seq: i64, hash: &'static str| {
        move |tx: &mut dyn Tx| {
            let id = tenant.to_string();
            let row = [Param::Text(&id), Param::Int(seq), Param::Text(hash)];
            tx.execute("UPDATE wallet SET deposited = ?2, seq = ?2, head = ?3 WHERE tenant_id = ?1", &row)?;
            let sql = "INSERT INTO ledger (tenant_id, seq, id, kind, amount, balance, created_at, hash) VALUES (?1, ?2, ?3, 'topup', 1, ?2, 1, ?3)";
            tx.execute(sql, &row).map(drop)
        }
    };
    for (restored, why) in [(0, "an older day"), (1, "a day before the last entry")] {
        let mut bench = Bench::new();
        let tenant = bench.tenant();
        let mut old = Vec::new();
        for (seq, hash) in [(1, "h1"), (2, "h2")] {
            bench = after(bench, |dir| {
                if seq == restored + 1 {
                    old = fs::read(file(dir, tenant)).unwrap();
                }
            });
            write(&*bench.engine, Place::Tenant(tenant), set(tenant, seq, hash)).unwrap();
            bench.engine.head_note(tenant, Head { seq, hash: hash.into(), balance: Money::from_nanos(seq) });
        }
        let bench = after(bench, |_| ());
        assert!(configs(&*bench.engine, tenant).is_ok(), "the newest is fine");
        let bench = after(bench, |dir| fs::write(file(dir, tenant), &old).unwrap());
        assert!(matches!(configs(&*bench.engine, tenant), Err(Error::TenantUnavailable)), "{why}");
    }
    // As long, but not the same.
    let bench = Bench::new();
    let tenant = bench.tenant();
    write(&*bench.engine, Place::Tenant(tenant), set(tenant, 1, "h1")).unwrap();
    bench.engine.head_note(tenant, Head { seq: 1, hash: "other".into(), balance: Money::ZERO });
    let bench = after(bench, |_| ());
    unavailable(configs(&*bench.engine, tenant));
}

#[test]
fn a_full_tenant_is_told_so_and_can_go_on_after_deleting() {
    // The schema alone takes some of it; the reserve is 4 MiB more.
    let bench = Bench::with(&Limits { tenant_bytes_max: 512 * 1024, ..limits() });
    let tenant = bench.tenant();
    let other = bench.tenant();
    assert!(bench.engine.used_bytes(tenant).unwrap() < 512 * 1024);
    let mut full = None;
    for n in 0..40 {
        if let Err(error) = write(&*bench.engine, Place::Tenant(tenant), config(tenant, &format!("{n}{}", "x".repeat(100_000)))) {
            full = Some(error);
            break;
        }
    }
    assert_eq!(full, Some(Error::TenantFull));
    assert!(bench.engine.used_bytes(tenant).unwrap() > 512 * 1024, "on the reserve");
    // A limit that is raised holds from the next write on, and so does one that is lowered again.
    bench.engine.limit(tenant, None);
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, &"y".repeat(100_000))).unwrap();
    bench.engine.limit(tenant, Some(512 * 1024));
    let again = write(&*bench.engine, Place::Tenant(tenant), config(tenant, &"z".repeat(100_000)));
    assert_eq!(again, Err(Error::TenantFull));
    write(&*bench.engine, Place::Tenant(other), config(other, "a")).unwrap();
    write(&*bench.engine, Place::Tenant(tenant), move |tx| {
        tx.execute("DELETE FROM configs WHERE tenant_id = ?1", &[Param::Text(&tenant.to_string())]).map(drop)
    })
    .unwrap();
    assert!(bench.engine.used_bytes(tenant).unwrap() < 512 * 1024, "freed room counts");
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "b")).unwrap();
}

#[test]
fn neighbours_of_a_write_that_undid_everything_are_run_again() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = |name: &str| {
        let (mut work, runs) = (config(tenant, name), Arc::clone(&runs));
        move |tx: &mut dyn Tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            work(tx)
        }
    };
    let pieces: Vec<Piece> = vec![
        Box::new(counted("a")),
        // What a full disk may do to a transaction.
        Box::new(|tx| tx.execute("ROLLBACK", &[]).and(Err(Error::DiskFull))),
        Box::new(counted("b")),
        // And a work that does not notice.
        Box::new(|tx| tx.execute("ROLLBACK", &[]).map(drop)),
    ];
    let outcomes = write_together(&*bench.engine, Place::Tenant(tenant), pieces);
    assert_eq!((&outcomes[0], &outcomes[1], &outcomes[2]), (&Ok(()), &Err(Error::DiskFull), &Ok(())));
    assert!(matches!(outcomes[3], Err(Error::Internal { .. })), "nothing is called stored that is not");
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a", "b"]);
    assert_eq!(runs.load(Ordering::Relaxed), 5, "a; a, b; a, b");
}

#[test]
fn another_process_s_lock_is_waited_for_and_then_refused() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "a")).unwrap();
    let other = Connection::open(file(bench.dir.path(), tenant)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = write(&*bench.engine, Place::Tenant(tenant), config(tenant, "b"));
    assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a"], "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "b")).unwrap();
}

#[test]
fn a_failed_commit_fails_all_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    // A constraint that is only looked at by COMMIT is the one way to make it fail at will.
    let doomed: Piece = Box::new(move |tx| {
        tx.execute("PRAGMA defer_foreign_keys = ON", &[]).ok();
        tx.query("PRAGMA defer_foreign_keys = ON", &[], &mut |_| Ok(()))?;
        config(TenantId::new(), "stray")(tx)
    });
    let outcomes = write_together(&*bench.engine, Place::Tenant(tenant), vec![Box::new(config(tenant, "a")), doomed]);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Internal { .. }))), "{outcomes:?}");
    assert!(configs(&*bench.engine, tenant).unwrap().is_empty());
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "b")).unwrap();
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["b"]);
}

#[test]
fn connections_do_only_what_they_are_for() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    for forbidden in [
        "ATTACH DATABASE '/tmp/x.db' AS other",
        "SELECT \"no such column, so a string\"",
        "UPDATE sqlite_schema SET sql = ''",
        "INSERT INTO messages_fts_data (id, block) VALUES (1, x'00')",
        "SELECT load_extension('x')",
        "SELECT zeroblob(20000000)",
    ] {
        let refused = write(&*bench.engine, Place::Tenant(tenant), move |tx| tx.query(forbidden, &[], &mut |_| Ok(())));
        assert!(refused.is_err(), "{forbidden}");
    }
    let pragmas = [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
        ("secure_delete", "1"),
        ("cell_size_check", "1"),
        ("trusted_schema", "0"),
        ("mmap_size", "0"),
        ("temp_store", "2"),
        ("journal_size_limit", "8388608"),
    ];
    write(&*bench.engine, Place::Tenant(tenant), move |tx| {
        for (pragma, wanted) in pragmas {
            let value = tx.first(&format!("PRAGMA {pragma}"), &[], |row| {
                row.int(0).map(|int| int.to_string()).or_else(|_| row.text(0).map(str::to_owned))
            })?;
            assert_eq!(value.as_deref(), Some(wanted), "{pragma}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn opening_work_runs_once_in_a_server_and_never_beside_one() {
    let dir = tempfile::tempdir().unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let open = |mode, limits: &Limits| {
        let runs = Arc::clone(&runs);
        let opening = move |tenant: TenantId, tx: &mut dyn Tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            config(tenant, &format!("{}", runs.load(Ordering::Relaxed)))(tx)
        };
        super::Sqlite::open(dir.path(), mode, limits, BootId::new(), Box::new(opening), Box::new(|_, _| Ok(None))).unwrap()
    };
    let one_open = Limits { tenants_open_max: 1, ..limits() };
    let engine = open(Mode::Server, &one_open);
    let (one, two) = (TenantId::new(), TenantId::new());
    for tenant in [one, two] {
        engine.create(tenant, "acme", Time::from_ms(1)).unwrap();
    }
    // Each opening of one closes the other.
    for tenant in [one, two, one, two] {
        configs(&engine, tenant).unwrap();
    }
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    assert_eq!(engine.tenants.open_count(), 1);
    assert_eq!(configs(&engine, one).unwrap(), ["1"], "its rows are committed");
    engine.close();
    let engine = open(Mode::Beside, &one_open);
    configs(&engine, one).unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}

#[test]
fn a_read_that_takes_too_long_is_ended() {
    let bench = Bench::with(&Limits { read_timeout_ms: Duration::from_millis(50), ..limits() });
    let tenant = bench.tenant();
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let began = Instant::now();
    let ended = bench.engine.read(Place::Tenant(tenant), &mut |tx| tx.query(endless, &[], &mut |_| Ok(())));
    assert!(matches!(ended, Err(Error::Overloaded { .. })), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(configs(&*bench.engine, tenant).unwrap().is_empty());
}

#[test]
fn damaged_heads_are_put_aside() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let bench = after(bench, |dir| fs::write(dir.join("heads.db"), vec![0xA5; 8192]).unwrap());
    assert!(configs(&*bench.engine, tenant).is_ok());
    let aside = fs::read_dir(bench.dir.path()).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().contains("damaged"));
    assert!(aside, "the damaged file is kept for whoever looks");
}

#[test]
fn a_start_opens_no_tenant() {
    let bench = Bench::new();
    let tenants: Vec<TenantId> = (0..3).map(|_| bench.tenant()).collect();
    let bench = after(bench, |dir| {
        for tenant in &tenants {
            fs::write(file(dir, *tenant), "not a database, and nobody minds yet").unwrap();
        }
    });
    for tenant in &tenants {
        unavailable(configs(&*bench.engine, *tenant));
    }
}
