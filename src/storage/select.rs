//! Lists: a SELECT that grows by filters and ends in one page, cut out by a key that never changes (an id or a sequence), so that rows
//! which come and go meanwhile neither repeat nor hide others.

use super::{
    engine::{Param, Row},
    tenant::TenantTx,
};
use crate::{
    clock::Time,
    error::{Error, Result},
    model::{List, Order, Page},
};
use std::fmt::Write;
use utoipa::ToSchema;

/// A parameter that is kept until the statement runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Text(String),
}

impl Value {
    pub(super) fn param(&self) -> Param<'_> {
        match self {
            Self::Null => Param::Null,
            Self::Int(number) => Param::Int(*number),
            Self::Text(text) => Param::Text(text),
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Time> for Value {
    fn from(time: Time) -> Self {
        Self::Int(time.ms())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A statement in the making. `?1` is the tenant's id, as everywhere.
#[derive(Debug, Clone)]
pub(super) struct Select {
    sql: String,
    values: Vec<Value>,
}

impl Select {
    /// From a statement that ends in a WHERE clause on `tenant_id = ?1`.
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    /// One more condition on one value, which the `?` in it stands for.
    pub(super) fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.and_all(condition, [value.into()]);
    }

    /// One more condition; each bare `?` in it stands for the next of these values.
    pub(super) fn and_all(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        let mut values = values.into_iter();
        let mut parts = condition.split('?');
        self.sql.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.sql.push('?');
            // `?1` is the tenant's id already.
            if !part.starts_with(|next: char| next.is_ascii_digit())
                && let Some(value) = values.next()
            {
                self.values.push(value);
                self.sql.push_str(&(self.values.len() + 1).to_string());
            }
            self.sql.push_str(part);
        }
    }

    /// The same as [`Self::and`], when there is a value.
    pub(super) fn and_some(&mut self, condition: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.and(condition, value);
        }
    }

    /// More text behind all conditions, such as GROUP BY.
    pub(super) fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    /// The rows.
    pub(super) fn all<T>(&self, tx: &mut TenantTx<'_>, take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Vec<T>> {
        let params: Vec<Param<'_>> = self.values.iter().map(Value::param).collect();
        tx.all(&self.sql, &params, take)
    }

    /// One page in the order of `key`, a unique column. `cursor` finds the key of the row that an id of the caller names; an id that it
    /// does not find is 422. `id` gives a row's id.
    ///
    /// With `before` alone the page is the one just before that id, and `has_more` tells whether rows lie before the page.
    pub(super) fn page<T: ToSchema>(
        mut self,
        tx: &mut TenantTx<'_>,
        page: &Page,
        key: &str,
        mut cursor: impl FnMut(&mut TenantTx<'_>, &str) -> Result<Option<Value>>,
        take: impl FnMut(&dyn Row) -> Result<T>,
        id: impl Fn(&T) -> String,
    ) -> Result<List<T>> {
        let mut find = |name: &'static str, id: &Option<String>| match id {
            None => Ok(None),
            Some(id) => match cursor(tx, id)? {
                Some(key) => Ok(Some(key)),
                None => Err(Error::invalid(name, "no row of this list has this id; take it from first_id or last_id of an earlier answer")),
            },
        };
        let (after, before) = (find("after", &page.after)?, find("before", &page.before)?);
        let backwards = after.is_none() && before.is_some();
        let ascending = page.order == Order::Asc;
        let (behind, ahead) = if ascending { (">", "<") } else { ("<", ">") };
        self.and_some(&format!("{key} {behind} ?"), after);
        self.and_some(&format!("{key} {ahead} ?"), before);
        let direction = if ascending == backwards { "DESC" } else { "ASC" };
        // One row too many only tells that there is more.
        write!(self.sql, " ORDER BY {key} {direction} LIMIT {}", page.limit + 1).map_err(Error::internal)?;
        let rows = self.all(tx, take)?;
        let mut list = List::from_rows(rows, page.limit, &id);
        if backwards {
            list.data.reverse();
            std::mem::swap(&mut list.first_id, &mut list.last_id);
        }
        Ok(list)
    }
}

/// The cursor of a table whose key is its `id`: the id itself, if a row has it.
pub(super) fn id_cursor(table: &'static str) -> impl FnMut(&mut TenantTx<'_>, &str) -> Result<Option<Value>> {
    move |tx, id| {
        tx.first(&format!("SELECT id FROM {table} WHERE tenant_id = ?1 AND id = ?2"), &[Param::Text(id)], |row| Ok(row.text(0)?.into()))
    }
}
