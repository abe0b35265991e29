//! The only door to data: a catalog and one database a tenant, behind the [`engine`] seam.
//!
//! Storage knows no HTTP, no vendor, no agent. Authority is a value: a [`Principal`], a [`SignedIn`] user or an [`Operator`] can only be made
//! here, from a proved credential, and only they lead to a tenant's data.

mod access;
mod configs;
mod conversations;
mod engine;
mod keys;
mod ledger;
mod logs;
mod members;
mod rows;
mod select;
mod sqlite;
mod tenant;
mod tenants;
mod users;

pub use access::{Operator, Principal, SignedIn};
pub use conversations::{ConversationChange, ConversationFilter};
pub use logs::{LogFilter, UsageAsk, UsageGroup};
pub use tenant::TenantStore;

use crate::{
    clock::Clock,
    config::Limits,
    error::{Error, Result},
    ids::BootId,
};
use engine::{Engine, Job, Place, Turnout, Tx};
use std::{path::Path, sync::Arc};

/// Whether this process is the server of the data directory, or a command beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes the lock; closes turns and holds that an earlier server left.
    Server,
    /// Reads and writes rows beside a running server, or without one.
    Beside,
}

/// All data of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    limits: Limits,
    clock: Clock,
    boot: BootId,
    mode: Mode,
}

impl Storage {
    /// Opens the data directory, making it (0700) when it is not there.
    ///
    /// Fails when another server holds it, when it lies on a network file system, or when the catalog is newer than this binary.
    pub fn open(dir: &Path, mode: Mode, limits: &Limits) -> Result<Self> {
        let engine: Arc<dyn Engine> = Arc::new(sqlite::Sqlite::open(dir, mode, limits)?);
        Ok(Self { inner: Arc::new(Inner { engine, limits: limits.clone(), clock: Clock, boot: BootId::new(), mode }) })
    }

    /// Writes what is still to be written in the background and closes every file. No call may follow.
    pub fn close(&self) {
        self.inner.engine.close();
    }

    /// Reads the catalog on a blocking thread.
    async fn catalog_read<T: Send + 'static>(&self, work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static) -> Result<T> {
        read(&self.inner.engine, Place::Catalog, work).await
    }

    /// Writes to the catalog; answers after the commit. The work may run more than once.
    async fn catalog_write<T: Send + 'static>(&self, work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static) -> Result<T> {
        write(&self.inner.engine, Place::Catalog, work).await
    }
}

/// Reading work at a place, from async code.
async fn read<T: Send + 'static>(
    engine: &Arc<dyn Engine>,
    place: Place,
    mut work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let engine = Arc::clone(engine);
    let run = move || {
        let mut outcome = None;
        engine.read(place, &mut |tx| {
            outcome = Some(work(tx)?);
            Ok(())
        })?;
        outcome.ok_or_else(|| Error::internal("a read ended without an outcome"))
    };
    tokio::task::spawn_blocking(run).await.map_err(Error::internal)?
}

/// Writing work at a place, from async code; it shares its commit with what else waits there.
async fn write<T: Send + 'static>(
    engine: &Arc<dyn Engine>,
    place: Place,
    work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let job = Pending { work, value: None, answer };
    if engine.enqueue(place, Box::new(job)) == Turnout::Drain {
        let engine = Arc::clone(engine);
        // Not awaited: the answer comes through the job, and a dropped caller must not stop the commit of others.
        drop(tokio::task::spawn_blocking(move || engine.drain(place)));
    }
    outcome.await.map_err(|_| Error::internal("a write was dropped without an answer"))?
}

struct Pending<W, T> {
    work: W,
    value: Option<T>,
    answer: tokio::sync::oneshot::Sender<Result<T>>,
}

impl<T: Send, W: FnMut(&mut dyn Tx) -> Result<T> + Send> Job for Pending<W, T> {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        let Self { value, answer, .. } = *self;
        let value = outcome.and_then(|()| value.ok_or_else(|| Error::internal("a write ended without an outcome")));
        // A caller that went away does not want the answer; what was committed stays.
        drop(answer.send(value));
    }
}
