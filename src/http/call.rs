//! What a handler is given and what it gives back. Handlers see these types, never hyper's.

use super::sse::Events;
use crate::{
    app::App,
    error::{Error, FieldError, Result},
    ids::RequestId,
    model::Page,
    storage::{Operator, Principal, Session, SignedIn, TenantStore},
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{net::IpAddr, str::FromStr, time::Instant};

/// A request whose route, credential and size have been checked.
pub struct Request {
    /// Names the request in answers and logs.
    pub id: RequestId,
    /// When its head had arrived.
    pub arrived: Instant,
    /// The peer's address.
    pub peer: IpAddr,
    /// Path parameters by name, as they stand in the path.
    pub(super) path: Vec<(&'static str, String)>,
    /// Query parameters, decoded, in order.
    pub(super) query: Vec<(String, String)>,
    /// Headers, names in lower case.
    pub(super) headers: hyper::HeaderMap,
    /// Host and port that were asked, where they do not stand in a header (HTTP/2).
    pub(super) authority: Option<String>,
    /// The whole body.
    pub body: Bytes,
}

/// A request of a key.
pub struct TenantCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// Who asks.
    pub who: Principal,
    /// The way to the tenant's data.
    pub store: TenantStore,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of a signed-in user.
pub struct UserCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// Who asks.
    pub who: SignedIn,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of the operator.
pub struct OperatorCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// The operator.
    pub who: Operator,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of anyone.
pub struct OpenCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of someone signed in to the dashboard.
pub struct SessionCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// Their session.
    pub session: Session,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of someone signed in to the dashboard, in the tenant that they chose.
pub struct PageCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// Their session.
    pub session: Session,
    /// Who asks.
    pub who: Principal,
    /// The way to the tenant's data.
    pub store: TenantStore,
    /// What is asked.
    pub request: &'a Request,
}

/// A request of the operator signed in to the dashboard.
pub struct OperatorPageCall<'a> {
    /// What the server is made of.
    pub app: &'a App,
    /// Their session.
    pub session: Session,
    /// The operator.
    pub who: Operator,
    /// What is asked.
    pub request: &'a Request,
}

/// Headers of an answer.
pub type Headers = Vec<(&'static str, String)>;

/// What a handler answers. `headers` are those beyond the ones that every answer has.
#[allow(missing_docs, reason = "the fields are what they are called")]
pub enum Reply {
    /// JSON with a status, and extra headers.
    Json { status: u16, body: Bytes, headers: Headers },
    /// A problem with headers of its own.
    Problem { error: Error, headers: Headers },
    /// 204.
    Nothing,
    /// Server-sent events; see `http::sse`.
    Events { events: Box<dyn Events>, headers: Headers },
    /// A page or asset from the binary.
    Page { content_type: &'static str, body: Bytes, headers: Headers },
    /// A page of the dashboard, or a part of one.
    Html { status: u16, body: String, headers: Headers },
    /// 303: the answer stands at this path.
    SeeOther { to: String, headers: Headers },
    /// A file for the client to keep, made while it is sent.
    Pieces { content_type: &'static str, pieces: tokio::sync::mpsc::Receiver<Bytes>, headers: Headers },
    /// A file for the client to keep, streamed; `held` lasts as long as the stream.
    File { file: std::fs::File, size_bytes: u64, content_type: &'static str, held: Box<dyn Send + Sync>, headers: Headers },
    /// 304: the client's copy is still good.
    NotModified { headers: Headers },
}

impl Reply {
    /// 200 with this as JSON.
    pub fn ok(value: &impl Serialize) -> Result<Self> {
        Self::json(200, value)
    }

    /// 201 with this as JSON.
    pub fn created(value: &impl Serialize) -> Result<Self> {
        Self::json(201, value)
    }

    /// A status with this as JSON.
    pub fn json(status: u16, value: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(Error::internal)?.into();
        Ok(Self::Json { status, body, headers: Vec::new() })
    }

    /// A page of the dashboard, or a part of one.
    pub fn html(status: u16, body: impl Into<String>) -> Self {
        Self::Html { status, body: body.into(), headers: Vec::new() }
    }

    /// Sends the browser to a path of ours.
    pub fn see_other(to: impl Into<String>) -> Self {
        Self::SeeOther { to: to.into(), headers: Vec::new() }
    }

    /// A problem that can be given headers of its own.
    pub fn problem(error: Error) -> Self {
        Self::Problem { error, headers: Vec::new() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        match &mut self {
            Self::Json { headers, .. }
            | Self::Problem { headers, .. }
            | Self::Events { headers, .. }
            | Self::Page { headers, .. }
            | Self::Html { headers, .. }
            | Self::Pieces { headers, .. }
            | Self::SeeOther { headers, .. }
            | Self::File { headers, .. }
            | Self::NotModified { headers } => {
                headers.push((name, value.to_string()));
            }
            Self::Nothing => {}
        }
        self
    }

    /// The same with one more header, as a pair.
    #[must_use]
    pub fn with(self, (name, value): (&'static str, String)) -> Self {
        self.with_header(name, value)
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Json { status, .. } | Self::Html { status, .. } => *status,
            Self::SeeOther { .. } => 303,
            Self::Problem { error, .. } => super::problem::problem_of(error).status(),
            Self::Nothing => 204,
            Self::Events { .. } | Self::Page { .. } | Self::Pieces { .. } | Self::File { .. } => 200,
            Self::NotModified { .. } => 304,
        }
    }
}

impl Request {
    /// The body as one JSON value of this type. Broken JSON is 400 `malformed_json`; a wrong, missing or unknown field is 422 naming it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        parse_json(&self.body)
    }

    /// The body as a form's fields, in order.
    pub fn form(&self) -> Result<Form> {
        let text = std::str::from_utf8(&self.body).map_err(|_| Error::MalformedRequest { detail: "The form is not UTF-8.".to_owned() })?;
        Ok(Form(super::query::parse(text)?))
    }

    /// Whether a script of the page asked, which puts the answer into the page by itself.
    pub fn is_fragment(&self) -> bool {
        self.header("hx-request") == Some("true") && self.header("hx-history-restore-request") != Some("true")
    }

    /// A path parameter as it stands in the path; empty when the route has none of this name.
    pub fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value.as_str())
    }

    /// A path parameter that is an id. What is no id cannot be anyone's: it answers like an unknown one.
    pub fn id<T: FromStr>(&self, name: &'static str, what: &'static str) -> Result<T> {
        let text = self.path(name);
        text.parse().map_err(|_| Error::not_found(what, text))
    }

    /// A header's value, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header that may come once, for those whose loss would do harm: what cannot be read is refused, not passed over.
    pub fn header_once(&self, name: &'static str) -> Result<Option<&str>> {
        let mut values = self.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Error::MalformedRequest { detail: format!("The header {name} came more than once.") });
        }
        value.to_str().map(Some).map_err(|_| Error::invalid(name, "expected printable ASCII characters"))
    }

    /// A query parameter's value.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter of a type; 422 naming it when it does not parse. `expected` ends the sentence "expected …".
    pub fn query_as<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        self.query(name).map(|text| text.parse().map_err(|_| Error::invalid(name, format!("expected {expected}")))).transpose()
    }

    /// All query parameters, for filters with free names such as `metadata.k`.
    pub fn query_all(&self) -> &[(String, String)] {
        &self.query
    }

    /// `limit`, `after`, `before`, `order`, with this order unless the caller names one.
    pub fn page(&self, order: crate::model::Order) -> Result<Page> {
        use crate::model::Order;
        let limit = match self.query_as::<u32>("limit", "a number from 1 to 100")? {
            None => Page::LIMIT_DEFAULT,
            Some(limit @ 1..=Page::LIMIT_MAX) => limit,
            Some(_) => return Err(Error::invalid("limit", "expected a number from 1 to 100")),
        };
        let order = match self.query("order") {
            None => order,
            Some("asc") => Order::Asc,
            Some("desc") => Order::Desc,
            Some(_) => return Err(Error::invalid("order", "expected asc or desc")),
        };
        let cursor = |name| self.query(name).map(str::to_owned);
        Ok(Page { limit, after: cursor("after"), before: cursor("before"), order })
    }
}

/// The fields of a form.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// A field's value; empty when it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// A field's value, if anything but blanks stands in it.
    pub fn filled(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty())
    }

    /// The values of a field that comes several times, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// JSON into a type, telling broken JSON (400) from unacceptable fields (422, with a JSON pointer).
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if body.trim_ascii().is_empty() {
        return Err(Error::MalformedJson { detail: "The body is empty; a JSON value is expected here.".to_owned() });
    }
    if body.trim_ascii().first() != Some(&b'{') {
        return Err(not_an_object(body));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => {
                Error::ValidationFailed { errors: vec![FieldError { pointer, message: in_words(&inner.to_string()) }] }
            }
            _ => Error::MalformedJson { detail: format!("The body is not valid JSON: {inner}.") },
        }
    })?;
    reader.end().map_err(|error| Error::MalformedJson { detail: format!("The body is not valid JSON: {error}.") })?;
    Ok(value)
}

/// Every body is an object. serde would also take a list of a type's fields in their order, which is nowhere promised.
fn not_an_object(body: &[u8]) -> Error {
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Ok(_) => Error::invalid("", "expected a JSON object"),
        Err(error) => Error::MalformedJson { detail: format!("The body is not valid JSON: {error}.") },
    }
}

/// serde's messages end in ` at line 1 column 7`, which a pointer says better, and name our types, which mean nothing to a caller.
fn in_words(message: &str) -> String {
    let text = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    text.rsplit_once("expected struct ").map_or_else(|| text.to_owned(), |(before, _)| format!("{before}expected an object"))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&part);
    }
    pointer
}
