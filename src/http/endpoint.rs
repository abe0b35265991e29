//! The table of endpoints: method, path, who may ask, what goes in and out, and the handler. Routing, the door, the OpenAPI document and the
//! coverage test all read this one table, so that none of them can know an endpoint that the others do not.

use super::call::{OpenCall, OperatorCall, OperatorPageCall, PageCall, Reply, SessionCall, TenantCall, UserCall};
use crate::{config::Limits, error::Result, model::Role};
use std::{future::Future, pin::Pin};
use utoipa::{
    ToSchema,
    openapi::{RefOr, schema::Schema},
};

/// What a handler returns.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply>> + Send + 'a>>;

/// A handler, by what it takes to be let in.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Anyone.
    Open(for<'a> fn(OpenCall<'a>) -> Answer<'a>),
    /// Anyone, but bounded strictly for each address: sign-in and the like, where passwords are hashed or mails sent.
    Credentials(for<'a> fn(OpenCall<'a>) -> Answer<'a>),
    /// A user token of a verified user.
    User(for<'a> fn(UserCall<'a>) -> Answer<'a>),
    /// A key with at least this role.
    Tenant(Role, for<'a> fn(TenantCall<'a>) -> Answer<'a>),
    /// A key with at least this role, or a user token (the tenant then stands in the body).
    TenantOrUser(Role, for<'a> fn(TenantCall<'a>) -> Answer<'a>, for<'a> fn(UserCall<'a>) -> Answer<'a>),
    /// The operator token.
    Operator(for<'a> fn(OperatorCall<'a>) -> Answer<'a>),
    /// Loopback, or the operator token: what the operator's own network reads.
    Ops(for<'a> fn(OpenCall<'a>) -> Answer<'a>),
    /// A page of the dashboard, for whoever is signed in.
    Session(for<'a> fn(SessionCall<'a>) -> Answer<'a>),
    /// A page of the dashboard, for whoever is signed in and has at least this role in the tenant that they chose.
    Page(Role, for<'a> fn(PageCall<'a>) -> Answer<'a>),
    /// A page of the dashboard, for the operator signed in.
    OperatorPage(for<'a> fn(OperatorPageCall<'a>) -> Answer<'a>),
}

/// A type as the document shows it.
pub struct SchemaParts {
    /// Its name, if it is one of ours.
    pub name: Option<String>,
    /// Its schema.
    pub schema: RefOr<Schema>,
    /// The named types it refers to.
    pub referred: Vec<(String, RefOr<Schema>)>,
}

/// Whether a path is the dashboard's, where people look for pages.
pub fn is_for_people(path: &str) -> bool {
    path.strip_prefix("/dashboard").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Makes the schema of a type when it is asked for.
pub type SchemaOf = fn() -> SchemaParts;

/// An answer's status, media type (`""` for none) and schema.
pub type AnswerOf = (u16, &'static str, Option<SchemaOf>);

/// One endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// Resource first, verb second: `ConfigCreate`. The OpenAPI `operationId`.
    pub name: &'static str,
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// Such as `/api/v1/configs/{id}`.
    pub path: &'static str,
    /// Who may ask, and what answers.
    pub handler: Handler,
    /// The group in the documentation.
    pub tag: &'static str,
    /// One line.
    pub summary: &'static str,
    /// More, in Markdown.
    pub description: &'static str,
    /// Query parameters: name and meaning.
    pub query: Vec<(&'static str, &'static str)>,
    /// Request headers beyond the credential: name and meaning.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body's schema and media type.
    pub body: Option<(SchemaOf, &'static str)>,
    /// The most bytes of the body, where that is another limit than all have.
    pub body_bytes_max: Option<fn(&Limits) -> usize>,
    /// The answer's status, media type and schema (none for 204).
    pub answers: Vec<AnswerOf>,
    /// Whether it is bounded strictly for each address, as [`Handler::Credentials`] are, since it lets a caller guess at a password.
    pub guessable: bool,
    /// Whether it waits for things other than ours, a vendor or a turn: it takes none of the places for requests, which are for short work.
    pub waits: bool,
    /// Codes of the contract that this endpoint may answer beyond those that every endpoint of its kind does.
    pub errors: &'static [&'static str],
}

fn schema_of<T: ToSchema>() -> SchemaParts {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    SchemaParts { name: component_name(std::any::type_name::<T>()), schema: T::schema(), referred: parts }
}

/// `List<Key>` is `KeyList`, `Key` is `Key`; types of other crates have no name of their own in the document.
fn component_name(full: &str) -> Option<String> {
    if !full.starts_with(concat!(env!("CARGO_PKG_NAME"), "::")) {
        return None;
    }
    let words = full.trim_end_matches('>').split('<').map(|part| part.rsplit("::").next().unwrap_or(part));
    Some(words.rev().collect())
}

impl Endpoint {
    /// A new endpoint; the documentation is added by the methods below.
    pub fn new(name: &'static str, method: &'static str, path: &'static str, handler: Handler) -> Self {
        Self {
            name,
            method,
            path,
            handler,
            tag: "",
            summary: "",
            description: "",
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            body_bytes_max: None,
            answers: Vec::new(),
            guessable: matches!(handler, Handler::Credentials(_)),
            waits: false,
            errors: &[],
        }
    }

    /// Whether it is a page of the dashboard, for people: no part of the published document, and its refusals are pages, too.
    pub fn is_page(&self) -> bool {
        is_for_people(self.path)
    }

    /// Group and one line.
    #[must_use]
    pub fn about(self, tag: &'static str, summary: &'static str) -> Self {
        Self { tag, summary, ..self }
    }

    /// More words, in Markdown.
    #[must_use]
    pub fn describe(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// Lets a caller guess at a password: see [`Endpoint::guessable`].
    #[must_use]
    pub fn guessable(self) -> Self {
        Self { guessable: true, ..self }
    }

    /// Waits for others: see [`Endpoint::waits`].
    #[must_use]
    pub fn waits(self) -> Self {
        Self { waits: true, ..self }
    }

    /// A query parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.query.push((name, meaning));
        self
    }

    /// The query parameters of every list.
    #[must_use]
    pub fn paged(self) -> Self {
        self.query("limit", "1–100 rows; 20 by default")
            .query("after", "begin behind this id")
            .query("before", "end before this id")
            .query("order", "asc or desc")
    }

    /// A request header.
    #[must_use]
    pub fn header(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.headers.push((name, meaning));
        self
    }

    /// A JSON body of this type.
    #[must_use]
    pub fn body<T: ToSchema>(mut self) -> Self {
        self.body = Some((schema_of::<T>, "application/json"));
        self
    }

    /// A body that is no JSON, bounded by a limit of its own.
    #[must_use]
    pub fn body_bytes<T: ToSchema>(mut self, media_type: &'static str, bytes_max: fn(&Limits) -> usize) -> Self {
        self.body = Some((schema_of::<T>, media_type));
        self.body_bytes_max = Some(bytes_max);
        self
    }

    /// A JSON answer of this type.
    #[must_use]
    pub fn answers<T: ToSchema>(mut self, status: u16) -> Self {
        self.answers.push((status, "application/json", Some(schema_of::<T>)));
        self
    }

    /// An answer that is no JSON object of ours: a media type, or `""` for none (204).
    #[must_use]
    pub fn answers_raw(mut self, status: u16, media_type: &'static str) -> Self {
        self.answers.push((status, media_type, None));
        self
    }

    /// Codes of the contract that this endpoint may answer in particular.
    #[must_use]
    pub fn errors(self, errors: &'static [&'static str]) -> Self {
        Self { errors, ..self }
    }
}
