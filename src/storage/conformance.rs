//! What every storage engine must do, whatever it is made of; run against each that there is. What is SQLite's own is in `sqlite/tests`.

use super::{
    engine::{Engine, Job, Param, Place, Turnout, Tx, TxExt},
    *,
};
use crate::clock::Time;
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

/// An engine over a directory that is removed with it.
pub(super) struct Bench {
    pub dir: tempfile::TempDir,
    pub engine: Arc<dyn Engine>,
}

/// Limits that make tests quick.
pub(super) fn limits() -> Limits {
    Limits { busy_timeout_ms: Duration::from_millis(300), heads_interval_ms: Duration::from_millis(20), ..Limits::default() }
}

pub(super) fn engine_in(dir: &Path, mode: Mode, limits: &Limits) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(sqlite::Sqlite::open(dir, mode, limits, BootId::new(), Box::new(|_, _| Ok(())), Box::new(|_, _| Ok(None)))?))
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(&limits())
    }

    pub(super) fn with(limits: &Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine_in(dir.path(), Mode::Server, limits).unwrap();
        Self { dir, engine }
    }

    /// A tenant of its own.
    pub(super) fn tenant(&self) -> TenantId {
        let tenant = TenantId::new();
        self.engine.create(tenant, "acme", Time::from_ms(1)).unwrap();
        tenant
    }

    /// Closes and opens again, as after a restart.
    pub(super) fn reopen(self) -> Self {
        self.reopen_with(&limits())
    }

    pub(super) fn reopen_with(self, limits: &Limits) -> Self {
        self.engine.close();
        let dir = self.dir;
        drop(self.engine);
        let engine = engine_in(dir.path(), Mode::Server, limits).unwrap();
        Self { dir, engine }
    }
}

type Outcome = (usize, Result<()>);

/// A write that reports how it ended.
struct Reporting<F> {
    id: usize,
    work: F,
    report: mpsc::Sender<Outcome>,
}

impl<F: FnMut(&mut dyn Tx) -> Result<()> + Send> Job for Reporting<F> {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<()> {
        (self.work)(tx)
    }
    fn done(self: Box<Self>, outcome: Result<()>) {
        self.report.send((self.id, outcome)).unwrap();
    }
}

/// Writes alone.
pub(super) fn write(engine: &dyn Engine, place: Place, work: impl FnMut(&mut dyn Tx) -> Result<()> + Send + 'static) -> Result<()> {
    let (report, outcome) = mpsc::channel();
    if engine.enqueue(place, Box::new(Reporting { id: 0, work, report })) == Turnout::Drain {
        engine.drain_all(place);
    }
    outcome.recv_timeout(Duration::from_secs(20)).unwrap().1
}

/// Writes that share one commit, and how each ended.
pub(super) type Piece = Box<dyn FnMut(&mut dyn Tx) -> Result<()> + Send>;
pub(super) fn write_together(engine: &dyn Engine, place: Place, pieces: Vec<Piece>) -> Vec<Result<()>> {
    let (report, outcome) = mpsc::channel();
    let count = pieces.len();
    let mut drain = false;
    for (id, work) in pieces.into_iter().enumerate() {
        drain |= engine.enqueue(place, Box::new(Reporting { id, work, report: report.clone() })) == Turnout::Drain;
    }
    assert!(drain, "the first to come is told to drain");
    engine.drain_all(place);
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| outcome.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
    outcomes.sort_by_key(|(id, _)| *id);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Puts a config with this name into the tenant's data.
pub(super) fn config(tenant: TenantId, name: &str) -> impl FnMut(&mut dyn Tx) -> Result<()> + Send + use<> {
    let (tenant, name) = (tenant.to_string(), name.to_owned());
    move |tx| {
        let sql = "INSERT INTO configs (tenant_id, id, name, version, created_at, updated_at) VALUES (?1, ?2, ?2, 1, 1, 1)";
        assert_eq!(tx.execute(sql, &[Param::Text(&tenant), Param::Text(&name)])?, 1);
        Ok(())
    }
}

/// The names of all configs in the file, sorted.
pub(super) fn configs(engine: &dyn Engine, tenant: TenantId) -> Result<Vec<String>> {
    let mut names = Vec::new();
    engine.read(Place::Tenant(tenant), &mut |tx| {
        names = tx.all("SELECT name FROM configs WHERE tenant_id = ?1 ORDER BY name", &[Param::Text(&tenant.to_string())], |row| {
            Ok(row.text(0)?.to_owned())
        })?;
        Ok(())
    })?;
    Ok(names)
}

fn fails() -> Error {
    Error::Conflict { detail: "on purpose".into() }
}

#[test]
fn what_is_written_is_read_by_the_next_and_after_a_restart() {
    let bench = Bench::new();
    let (one, two) = (bench.tenant(), bench.tenant());
    write(&*bench.engine, Place::Tenant(one), config(one, "a")).unwrap();
    assert_eq!(configs(&*bench.engine, one).unwrap(), ["a"]);
    assert!(configs(&*bench.engine, two).unwrap().is_empty());
    let bench = bench.reopen();
    assert_eq!(configs(&*bench.engine, one).unwrap(), ["a"]);
    assert!(bench.engine.size_bytes(one).unwrap() > 0);
}

#[test]
fn values_come_back_as_they_went_in() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    bench
        .engine
        .read(Place::Tenant(tenant), &mut |tx| {
            let params = [Param::Int(i64::MIN), Param::Text("ü\u{0}😀"), Param::Null];
            let seen = tx.first("SELECT ?1, ?2, ?3", &params, |row| {
                assert_eq!((row.int(0)?, row.text(1)?), (i64::MIN, "ü\u{0}😀"));
                assert_eq!(
                    (row.int_opt(2)?, row.text_opt(2)?, row.int_opt(0)?, row.text_opt(1)?),
                    (None, None, Some(i64::MIN), Some("ü\u{0}😀"))
                );
                assert!(matches!(row.int(1), Err(Error::Internal { .. })), "a wrong type is an internal error");
                assert!(matches!(row.text(2), Err(Error::Internal { .. })), "nothing is not text");
                Ok(true)
            })?;
            assert_eq!(seen, Some(true));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_new_tenant_has_its_row_and_an_empty_wallet() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    bench
        .engine
        .read(Place::Tenant(tenant), &mut |tx| {
            let id = tenant.to_string();
            let row = tx.all("SELECT name, created_at FROM tenant WHERE id = ?1", &[Param::Text(&id)], |row| {
                Ok((row.text(0)?.to_owned(), row.int(1)?))
            })?;
            assert_eq!(row, [("acme".to_owned(), 1)]);
            let sql = "SELECT deposited + settled + held + seq, head FROM wallet WHERE tenant_id = ?1";
            let wallet = tx.all(sql, &[Param::Text(&id)], |row| Ok((row.int(0)?, row.text(1)?.to_owned())))?;
            assert_eq!(wallet, [(0, crate::wallet::chain_start(tenant))]);
            Ok(())
        })
        .unwrap();
    assert!(bench.engine.create(tenant, "again", Time::from_ms(2)).is_err(), "a tenant is made once");
}

#[test]
fn a_failed_write_is_undone_alone() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let place = Place::Tenant(tenant);
    let mut half = config(tenant, "half");
    let pieces: Vec<Piece> = vec![
        Box::new(config(tenant, "a")),
        Box::new(move |tx| half(tx).and(Err(fails()))),
        Box::new(config(tenant, "a")), // Its name is taken: the engine itself refuses it.
        Box::new(|_| panic!("on purpose")),
        Box::new(config(tenant, "b")),
    ];
    let outcomes = write_together(&*bench.engine, place, pieces);
    assert_eq!(outcomes[0], Ok(()));
    assert_eq!(outcomes[1], Err(fails()));
    assert!(matches!(outcomes[2], Err(Error::Internal { .. })));
    assert!(matches!(outcomes[3], Err(Error::Internal { .. })));
    assert_eq!(outcomes[4], Ok(()));
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a", "b"]);
    // And alone, without neighbours.
    let mut half = config(tenant, "half");
    assert_eq!(write(&*bench.engine, place, move |tx| half(tx).and(Err(fails()))), Err(fails()));
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a", "b"]);
}

#[test]
fn a_row_of_another_tenant_cannot_be_put_in() {
    let bench = Bench::new();
    let (mine, other) = (bench.tenant(), bench.tenant());
    let refused = write(&*bench.engine, Place::Tenant(mine), config(other, "stray"));
    assert!(matches!(refused, Err(Error::Internal { .. })), "{refused:?}");
    let second = write(&*bench.engine, Place::Tenant(mine), move |tx| {
        let (id, name) = (other.to_string(), "second");
        let row = [Param::Text(&id), Param::Text(name)];
        tx.execute("INSERT INTO tenant (id, name, created_at) VALUES (?1, ?2, 1)", &row).map(drop)
    });
    assert!(second.is_err(), "a database has one tenant row");
    assert!(configs(&*bench.engine, mine).unwrap().is_empty());
}

#[test]
fn reads_cannot_write() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let mut insert = config(tenant, "a");
    assert!(bench.engine.read(Place::Tenant(tenant), &mut |tx| insert(tx)).is_err());
    assert!(bench.engine.catalog_read_now(&mut |tx| tx.execute("DELETE FROM users", &[]).map(drop)).is_err());
    assert!(configs(&*bench.engine, tenant).unwrap().is_empty());
}

#[test]
fn a_read_that_panics_leaves_its_reader_usable() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    for _ in 0..8 {
        let engine = Arc::clone(&bench.engine);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            engine.read(Place::Tenant(tenant), &mut |tx| {
                tx.all("SELECT name FROM configs WHERE tenant_id = ?1", &[Param::Text("x")], |_| Ok(()))?;
                panic!("on purpose")
            })
        }));
        assert!(panicked.is_err());
    }
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "a")).unwrap();
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a"], "no reader is stuck in an old transaction");
}

#[test]
fn a_full_queue_refuses_and_keeps_what_waits() {
    let bench = Bench::with(&Limits { tenant_queue_max: 3, ..limits() });
    let tenant = bench.tenant();
    let pieces: Vec<Piece> = ["a", "b", "c", "d", "e"].into_iter().map(|name| Box::new(config(tenant, name)) as Piece).collect();
    let outcomes = write_together(&*bench.engine, Place::Tenant(tenant), pieces);
    assert!(outcomes[..3].iter().all(Result::is_ok));
    assert!(outcomes[3..].iter().all(|outcome| matches!(outcome, Err(Error::Overloaded { .. }))), "{outcomes:?}");
    assert_eq!(configs(&*bench.engine, tenant).unwrap(), ["a", "b", "c"]);
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "f")).unwrap();
}

#[test]
fn many_threads_write_and_none_is_lost() {
    let bench = Bench::new();
    let tenants = [bench.tenant(), bench.tenant()];
    let commits = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (engine, commits) = (&bench.engine, &commits);
            scope.spawn(move || {
                for n in 0..20 {
                    let tenant = tenants[(thread + n) % 2];
                    let name = format!("{thread}-{n}");
                    let (report, outcome) = mpsc::channel();
                    if engine.enqueue(Place::Tenant(tenant), Box::new(Reporting { id: 0, work: config(tenant, &name), report }))
                        == Turnout::Drain
                    {
                        commits.fetch_add(1, Ordering::Relaxed);
                        engine.drain_all(Place::Tenant(tenant));
                    }
                    // Whoever took it along, it is answered, and then it can be read.
                    assert_eq!(outcome.recv_timeout(Duration::from_secs(20)).unwrap().1, Ok(()));
                    assert!(configs(&**engine, tenant).unwrap().contains(&name));
                }
            });
        }
    });
    let stored: usize = tenants.iter().map(|tenant| configs(&*bench.engine, *tenant).unwrap().len()).sum();
    assert_eq!(stored, 120);
    assert!(commits.load(Ordering::Relaxed) <= 120);
}

#[test]
fn the_catalog_version_moves_with_every_commit_of_anyone() {
    let bench = Bench::new();
    let user = |id: &'static str| {
        move |tx: &mut dyn Tx| tx.execute("INSERT INTO users (id, email, created_at) VALUES (?1, ?1, 1)", &[Param::Text(id)]).map(drop)
    };
    let before = bench.engine.catalog_version().unwrap();
    assert_eq!(bench.engine.catalog_version().unwrap(), before, "it rests while nobody writes");
    write(&*bench.engine, Place::Catalog, user("a")).unwrap();
    let own = bench.engine.catalog_version().unwrap();
    assert_ne!(own, before, "the server's own commits count");
    // A command beside the server.
    let beside = engine_in(bench.dir.path(), Mode::Beside, &limits()).unwrap();
    write(&*beside, Place::Catalog, user("b")).unwrap();
    assert_ne!(bench.engine.catalog_version().unwrap(), own);
    let mut found = 0;
    bench
        .engine
        .catalog_read_now(&mut |tx| {
            found = tx.all("SELECT id FROM users", &[], |row| row.text(0).map(drop))?.len();
            Ok(())
        })
        .unwrap();
    assert_eq!(found, 2);
}

#[test]
fn the_least_used_tenant_gives_way_but_never_a_leased_one() {
    let bench = Bench::with(&Limits { tenants_open_max: 2, ..limits() });
    let tenants: Vec<TenantId> = (0..5).map(|_| bench.tenant()).collect();
    for tenant in &tenants {
        write(&*bench.engine, Place::Tenant(*tenant), config(*tenant, "a")).unwrap();
    }
    for tenant in &tenants {
        assert_eq!(configs(&*bench.engine, *tenant).unwrap(), ["a"]);
    }
    let leases = [bench.engine.lease(tenants[0]).unwrap(), bench.engine.lease(tenants[1]).unwrap()];
    let refused = configs(&*bench.engine, tenants[2]);
    assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
    assert_eq!(configs(&*bench.engine, tenants[0]).unwrap(), ["a"], "who is open goes on");
    drop(leases);
    assert_eq!(configs(&*bench.engine, tenants[2]).unwrap(), ["a"]);
    assert!(bench.engine.lease_open(tenants[2]).is_some());
    assert!(bench.engine.lease_open(tenants[4]).is_none());
}

#[test]
fn a_destroyed_tenant_is_gone_with_every_byte_and_its_neighbour_is_not() {
    let bench = Bench::new();
    let (gone, stays) = (bench.tenant(), bench.tenant());
    write(&*bench.engine, Place::Tenant(gone), config(gone, "secret words")).unwrap();
    write(&*bench.engine, Place::Tenant(stays), config(stays, "a")).unwrap();
    // Whoever asks for the removal has the tenant open himself.
    let _lease = bench.engine.lease(gone).unwrap();
    bench.engine.destroy(gone, &[]).unwrap();
    bench.engine.destroy(gone, &[]).unwrap();
    assert!(matches!(configs(&*bench.engine, gone), Err(Error::TenantUnavailable)));
    assert!(write(&*bench.engine, Place::Tenant(gone), config(gone, "late")).is_err());
    assert_eq!(configs(&*bench.engine, stays).unwrap(), ["a"]);
}

#[test]
fn a_closed_engine_refuses() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    bench.engine.close();
    bench.engine.close();
    assert_eq!(configs(&*bench.engine, tenant), Err(Error::ShuttingDown));
    assert_eq!(write(&*bench.engine, Place::Tenant(tenant), |_| Ok(())), Err(Error::ShuttingDown));
    assert_eq!(write(&*bench.engine, Place::Catalog, |_| Ok(())), Err(Error::ShuttingDown));
}

#[test]
fn a_search_finds_conversations_by_their_words_and_takes_no_syntax() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    let id = tenant.to_string();
    let mut add = config(tenant, "c");
    write(&*bench.engine, Place::Tenant(tenant), move |tx| {
        add(tx)?;
        for (conversation, text) in [("one", "Change my phone number"), ("two", "nothing of the kind")] {
            let row = [Param::Text(&id), Param::Text(conversation), Param::Text(text)];
            tx.execute(
                "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, title, metadata, template_vars, message_count, created_at, updated_at)
                 VALUES (?1, ?2, 'c', 'u', 'k', '', '{}', '{}', 1, 1, 1)",
                &row[..2],
            )?;
            tx.execute(
                "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at) VALUES (?1, ?2, 1, ?2, 't', 'user', ?3, 1)",
                &row,
            )?;
        }
        Ok(())
    })
    .unwrap();
    let find = |typed: &str| {
        let Some(search) = bench.engine.search(typed) else { return Vec::new() };
        let fill = bench.engine.search_fill();
        let own = tenant.to_string();
        write(&*bench.engine, Place::Tenant(tenant), move |tx| {
            fill.iter().try_for_each(|sql| tx.execute(sql, &[Param::Text(&own)]).map(drop))
        })
        .unwrap();
        let mut found = Vec::new();
        let sql = format!(
            "SELECT id FROM conversations WHERE tenant_id = ?1 AND {} ORDER BY id",
            bench.engine.search_condition().replace("MATCH ?", "MATCH ?2")
        );
        bench
            .engine
            .read(Place::Tenant(tenant), &mut |tx| {
                found = tx.all(&sql, &[Param::Text(&tenant.to_string()), Param::Text(&search)], |row| Ok(row.text(0)?.to_owned()))?;
                Ok(())
            })
            .unwrap();
        found
    };
    assert_eq!(find("PHONE change"), ["one"]);
    assert!(find("phone kind").is_empty(), "every word counts");
    for odd in ["\"", "phone OR nothing*", "content:phone", "NEAR(phone", "-", "phone\"; DROP TABLE messages", "^phone + ("] {
        find(odd);
    }
    // What is deleted is found no more.
    write(&*bench.engine, Place::Tenant(tenant), move |tx| {
        tx.execute("DELETE FROM messages WHERE tenant_id = ?1 AND conversation_id = 'one'", &[Param::Text(&tenant.to_string())]).map(drop)
    })
    .unwrap();
    assert!(find("phone").is_empty());
}

#[test]
fn the_last_use_of_a_key_is_kept() {
    let bench = Bench::new();
    let (used, unused) = (KeyId::new(), KeyId::new());
    bench.engine.key_used(used, Time::from_ms(1));
    bench.engine.key_used(used, Time::from_ms(7));
    assert_eq!(bench.engine.key_uses(&[used, unused]).unwrap(), [Some(Time::from_ms(7)), None]);
    let bench = bench.reopen();
    assert_eq!(bench.engine.key_uses(&[unused, used]).unwrap(), [None, Some(Time::from_ms(7))]);
    bench.engine.destroy(TenantId::new(), &[used]).unwrap();
    assert_eq!(bench.engine.key_uses(&[used]).unwrap(), [None], "a tenant's keys go with it");
}

#[test]
fn a_copy_is_whole_and_taken_while_others_write() {
    let bench = Bench::new();
    let tenant = bench.tenant();
    write(&*bench.engine, Place::Tenant(tenant), config(tenant, "a")).unwrap();
    let target = bench.dir.path().join("copy.db");
    bench.engine.copy_to(Place::Tenant(tenant), &target).unwrap();
    assert!(std::fs::metadata(&target).unwrap().len() > 0);
    assert!(bench.engine.copy_to(Place::Tenant(tenant), &target).is_err(), "nothing is overwritten");
    bench.engine.copy_to(Place::Catalog, &bench.dir.path().join("catalog-copy.db")).unwrap();
}

#[test]
fn tenants_that_take_turns_in_few_places_lose_nothing() {
    let bench = Bench::with(&Limits { tenants_open_max: 2, busy_timeout_ms: Duration::from_secs(20), ..limits() });
    let tenants: Vec<TenantId> = (0..5).map(|_| bench.tenant()).collect();
    let doomed = bench.tenant();
    std::thread::scope(|scope| {
        for thread in 0..5 {
            let (engine, tenants) = (&bench.engine, &tenants);
            scope.spawn(move || {
                for n in 0..15 {
                    let tenant = tenants[(thread * 3 + n) % 5];
                    let _lease = (n % 3 == 0).then(|| engine.lease(tenant).unwrap());
                    write(&**engine, Place::Tenant(tenant), config(tenant, &format!("{thread}-{n}"))).unwrap();
                    assert!(!configs(&**engine, tenant).unwrap().is_empty());
                }
            });
        }
        scope.spawn(|| while write(&*bench.engine, Place::Tenant(doomed), |_| Ok(())).is_ok() {});
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            bench.engine.destroy(doomed, &[]).unwrap();
        });
    });
    let stored: usize = tenants.iter().map(|tenant| configs(&*bench.engine, *tenant).unwrap().len()).sum();
    assert_eq!(stored, 75);
    assert!(matches!(configs(&*bench.engine, doomed), Err(Error::TenantUnavailable)));
}
