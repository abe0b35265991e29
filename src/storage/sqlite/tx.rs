//! The seam's transaction, row and values over rusqlite's.

use super::errors::{Health, Told};
use crate::{
    error::{Error, Result},
    storage::engine::{Link, Param, Row, Tx},
};
use rusqlite::{
    Connection,
    types::{ToSql, ToSqlOutput, ValueRef},
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Statements that this process ran inside transactions. One for the process, as it runs one server.
pub(super) static STATEMENTS: AtomicU64 = AtomicU64::new(0);

/// A transaction that someone else began and will end.
pub(super) struct SqliteTx<'a> {
    pub conn: &'a Connection,
    pub health: &'a Health,
    links: Vec<Link>,
}

impl<'a> SqliteTx<'a> {
    pub(super) fn new(conn: &'a Connection, health: &'a Health) -> Self {
        Self { conn, health, links: Vec::new() }
    }
}

impl Tx for SqliteTx<'_> {
    fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
        let mut statement = self.conn.prepare_cached(sql).told(self.health)?;
        let changed = statement.execute(rusqlite::params_from_iter(params)).told(self.health)?;
        Ok(changed as u64)
    }

    fn query(&mut self, sql: &str, params: &[Param<'_>], each: &mut dyn FnMut(&dyn Row) -> Result<()>) -> Result<()> {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
        let mut statement = self.conn.prepare_cached(sql).told(self.health)?;
        let mut rows = statement.query(rusqlite::params_from_iter(params)).told(self.health)?;
        while let Some(row) = rows.next().told(self.health)? {
            each(&SqliteRow(row))?;
        }
        Ok(())
    }

    fn link_keep(&mut self, link: Link) {
        self.links.push(link);
    }

    fn links_take(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.links)
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

struct SqliteRow<'a>(&'a rusqlite::Row<'a>);

impl SqliteRow<'_> {
    fn value(&self, column: usize) -> Result<ValueRef<'_>> {
        self.0.get_ref(column).map_err(Error::internal)
    }

    fn wrong<T>(&self, column: usize, wanted: &str) -> Result<T> {
        let name = self.0.as_ref().column_name(column).unwrap_or("?").to_owned();
        let found = self.value(column)?.data_type();
        Err(Error::internal(format_args!("column {column} ({name}) is {found}, not {wanted}")))
    }
}

impl Row for SqliteRow<'_> {
    fn int(&self, column: usize) -> Result<i64> {
        match self.value(column)? {
            ValueRef::Integer(int) => Ok(int),
            _ => self.wrong(column, "an integer"),
        }
    }

    fn int_opt(&self, column: usize) -> Result<Option<i64>> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            _ => self.int(column).map(Some),
        }
    }

    fn text(&self, column: usize) -> Result<&str> {
        match self.value(column)? {
            ValueRef::Text(bytes) => std::str::from_utf8(bytes).map_err(Error::internal),
            _ => self.wrong(column, "text"),
        }
    }

    fn text_opt(&self, column: usize) -> Result<Option<&str>> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            _ => self.text(column).map(Some),
        }
    }

    fn bytes(&self, column: usize) -> Result<&[u8]> {
        match self.value(column)? {
            ValueRef::Blob(bytes) => Ok(bytes),
            _ => self.wrong(column, "bytes"),
        }
    }
}
