//! From columns to the model's types. What does not parse was not written by us: an internal error, never a panic.

use super::engine::Row;
use crate::{
    clock::Time,
    error::{Error, Result},
    model::Usage,
    money::Money,
};
use serde::{Serialize, de::DeserializeOwned};
use std::str::FromStr;

fn broken(column: usize) -> Error {
    Error::internal(format!("column {column} of a row does not hold what its table promises"))
}

/// An id, or anything else with a canonical text.
pub(super) fn parsed<T: FromStr>(row: &dyn Row, column: usize) -> Result<T> {
    row.text(column)?.parse().map_err(|_| broken(column))
}

/// The same where NULL is fine.
pub(super) fn parsed_opt<T: FromStr>(row: &dyn Row, column: usize) -> Result<Option<T>> {
    row.text_opt(column)?.map(|text| text.parse().map_err(|_| broken(column))).transpose()
}

/// A JSON text.
pub(super) fn json<T: DeserializeOwned>(row: &dyn Row, column: usize) -> Result<T> {
    serde_json::from_str(row.text(column)?).map_err(|_| broken(column))
}

/// The same where NULL is fine.
pub(super) fn json_opt<T: DeserializeOwned>(row: &dyn Row, column: usize) -> Result<Option<T>> {
    row.text_opt(column)?.map(|text| serde_json::from_str(text).map_err(|_| broken(column))).transpose()
}

/// A value as JSON text for a column.
pub(super) fn json_text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

/// A text, owned, where NULL is fine.
pub(super) fn text_opt(row: &dyn Row, column: usize) -> Result<Option<String>> {
    Ok(row.text_opt(column)?.map(str::to_owned))
}

/// An instant.
pub(super) fn time(row: &dyn Row, column: usize) -> Result<Time> {
    row.int(column).map(Time::from_ms)
}

/// A count that fits the type it is read as.
pub(super) fn number<T: TryFrom<i64>>(row: &dyn Row, column: usize) -> Result<T> {
    T::try_from(row.int(column)?).map_err(|_| broken(column))
}

/// The same where NULL is fine.
pub(super) fn number_opt<T: TryFrom<i64>>(row: &dyn Row, column: usize) -> Result<Option<T>> {
    row.int_opt(column)?.map(|number| T::try_from(number).map_err(|_| broken(column))).transpose()
}

/// An amount where NULL is fine.
pub(super) fn money_opt(row: &dyn Row, column: usize) -> Result<Option<Money>> {
    Ok(row.int_opt(column)?.map(Money::from_nanos))
}

/// The four token columns that begin here; nothing when the first is NULL.
pub(super) fn usage_opt(row: &dyn Row, column: usize) -> Result<Option<Usage>> {
    let Some(input_tokens) = number_opt(row, column)? else { return Ok(None) };
    Ok(Some(Usage {
        input_tokens,
        output_tokens: number_opt(row, column + 1)?.unwrap_or_default(),
        cache_read_tokens: number_opt(row, column + 2)?.unwrap_or_default(),
        cache_write_tokens: number_opt(row, column + 3)?.unwrap_or_default(),
    }))
}
