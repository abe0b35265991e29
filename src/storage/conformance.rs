//! What every storage engine must do, whatever it is made of; run against each that there is. What is SQLite's own is in `sqlite/tests`.

use super::{
    engine::{Engine, Job, Param, Place, Turnout, Tx, TxExt},
    *,
};
use crate::clock::Time;
use parking_lot::Mutex;
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
    Ok(Arc::new(sqlite::Sqlite::open(dir, mode, limits, BootId::new(), Box::new(|_, _| Ok(())))?))
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
        engine.drain(place);
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
    engine.drain(place);
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
            let params = [Param::Int(i64::MIN), Param::Text("ü\u{0}😀"), Param::Blob(&[0, 255]), Param::Null];
            let seen = tx.first("SELECT ?1, ?2, ?3, ?4", &params, |row| {
                assert_eq!((row.int(0)?, row.text(1)?, row.blob(2)?), (i64::MIN, "ü\u{0}😀", &[0, 255][..]));
                assert_eq!(
                    (row.int_opt(3)?, row.text_opt(3)?, row.int_opt(0)?, row.text_opt(1)?),
                    (None, None, Some(i64::MIN), Some("ü\u{0}😀"))
                );
                assert!(matches!(row.int(1), Err(Error::Internal { .. })), "a wrong type is an internal error");
                assert!(matches!(row.text(3), Err(Error::Internal { .. })), "nothing is not text");
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
