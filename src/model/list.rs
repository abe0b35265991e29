//! Lists: what a caller asks for and what they get.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type},
    },
};

/// Which way a list runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// Which part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// 1–100 rows.
    pub limit: u32,
    /// Begin behind this id, in the list's order.
    pub after: Option<String>,
    /// End before this id, in the list's order; without `after` it is the page just before it.
    pub before: Option<String>,
    /// The list's order.
    pub order: Order,
}

impl Page {
    /// The most rows of one answer.
    pub const LIMIT_MAX: u32 = 100;
    /// The rows of an answer when the caller names no number.
    pub const LIMIT_DEFAULT: u32 = 20;

    /// The first rows in this order.
    pub fn first(limit: u32, order: Order) -> Self {
        Self { limit, after: None, before: None, order }
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize)]
pub struct List<T: ToSchema> {
    /// Always `list`.
    pub object: &'static str,
    /// The rows, in the order asked for.
    pub data: Vec<T>,
    /// The id of the first row, if there is one.
    pub first_id: Option<String>,
    /// The id of the last row, if there is one.
    pub last_id: Option<String>,
    /// Whether rows follow behind the last; of a page asked for by `before` alone, whether rows lie before the first.
    pub has_more: bool,
}

// Written out, because what utoipa derives for a generic type refers to its parameter's schema without adding it.
impl<T: ToSchema> ToSchema for List<T> {
    fn name() -> Cow<'static, str> {
        format!("{}List", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T: ToSchema> PartialSchema for List<T> {
    fn schema() -> RefOr<Schema> {
        let text = |description| ObjectBuilder::new().schema_type(Type::String).description(Some(description));
        let id = |description| {
            let types = SchemaType::from_iter([Type::String, Type::Null]);
            ObjectBuilder::new().schema_type(types).description(Some(description))
        };
        let more = "Whether rows follow behind the last (or, with `before` alone, lie before the first)";
        ObjectBuilder::new()
            .property("object", text("Always `list`"))
            .property(
                "data",
                ArrayBuilder::new().items(Ref::from_schema_name(T::name())).description(Some("The rows, in the order asked for")),
            )
            .property("first_id", id("The id of the first row, if there is one"))
            .property("last_id", id("The id of the last row, if there is one"))
            .property("has_more", ObjectBuilder::new().schema_type(Type::Boolean).description(Some(more)))
            .required("object")
            .required("data")
            .required("has_more")
            .into()
    }
}

impl<T: ToSchema> List<T> {
    /// From rows of which at most `limit + 1` were read: the one too many only says that there is more.
    pub fn from_rows(mut data: Vec<T>, limit: u32, id: impl Fn(&T) -> String) -> Self {
        let limit = limit as usize;
        let has_more = data.len() > limit;
        data.truncate(limit);
        Self { object: "list", first_id: data.first().map(&id), last_id: data.last().map(&id), data, has_more }
    }
}
