//! The OpenAPI 3.1 document, made from the endpoint table and the types that handlers take and give. The same binary always writes the same
//! document, whatever it is configured to.

use super::{
    codes::{self, Code},
    endpoint::{Endpoint, Handler, SchemaParts},
    route,
};
use crate::{
    error::{Error, Result},
    model::Role,
};
use hyper::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
        PathsBuilder, Ref, RefOr, Required, ResponseBuilder, ServerBuilder,
        extensions::ExtensionsBuilder,
        header::Header,
        path::{OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

/// The document as indented JSON.
pub fn document() -> Result<String> {
    let mut text = build(route::table()?.endpoints().filter(|endpoint| !endpoint.is_page()))?.to_pretty_json().map_err(Error::internal)?;
    text.push('\n');
    Ok(text)
}

/// One thing wrong with one field of the request.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of what `problem` writes")]
struct ProblemField {
    /// A JSON pointer (RFC 6901) into the body, or the name of a query parameter or header.
    pointer: String,
    /// What is wrong and what would be right.
    message: String,
}

/// An error, as RFC 9457 has it. Some codes add members of their own, such as `required` and `available` with `insufficient_credit`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of what `problem` writes")]
struct Problem {
    /// A page that explains the code.
    r#type: String,
    /// What happened, the same words for every occurrence.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened here, and what to do.
    detail: String,
    /// Stable and machine-readable: what programs should look at.
    code: String,
    /// Names the request to the operator; also in `X-Request-Id`.
    request_id: String,
    /// The fields at fault, if any.
    errors: Vec<ProblemField>,
}

fn build<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Result<OpenApi> {
    let mut schemas = BTreeMap::from([("Problem".to_owned(), Problem::schema()), ("ProblemField".to_owned(), ProblemField::schema())]);
    let (mut paths, mut tags) = (PathsBuilder::new(), Vec::new());
    for endpoint in endpoints {
        if !tags.contains(&endpoint.tag) {
            tags.push(endpoint.tag);
        }
        paths = paths.path(endpoint.path, PathItem::new(method(endpoint)?, operation(endpoint, &mut schemas)?));
    }
    let info = InfoBuilder::new()
        .title("Nimblesite")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("assets/openapi.md")))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build()));
    let tags = tags.into_iter().map(|tag| TagBuilder::new().name(tag).description(about_tag(tag)).build());
    Ok(OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/").description(Some("this server")).build()]))
        .paths(paths)
        .components(Some(components(schemas)))
        .tags(Some(tags))
        .build())
}

fn about_tag(tag: &str) -> Option<&'static str> {
    Some(match tag {
        "Accounts" => "People: registration, sign-in, passwords, user tokens.",
        "Tenants" => "The unit of isolation: one database file each.",
        "Chat" => "Talk with an agent: one request a turn, plain or streamed.",
        "Configs" => "Agents: prompt, model, tools; every write makes a version.",
        "Conversations" => "What was said.",
        "Models" => "What can be called, and what it costs.",
        "Wallet" => "The prepaid balance and its ledger.",
        "Usage" => "Tokens, turns and cost, summed up.",
        "Logs" => "One row a step of a turn or refused request.",
        "Keys" => "API keys of the tenant.",
        "Members" => "Who belongs to the tenant, with which role.",
        "Operations" => "For whoever runs the server.",
        "Operator" => "The operator's own routes; off unless a token is configured.",
        "Documentation" => "This document, and pages made from it. No credential needed.",
        _ => return None,
    })
}

fn method(endpoint: &Endpoint) -> Result<HttpMethod> {
    Ok(match endpoint.method {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        other => return Err(Error::internal(format!("{}: no such method {other}", endpoint.name))),
    })
}

type Schemas = BTreeMap<String, RefOr<Schema>>;

fn operation(endpoint: &Endpoint, schemas: &mut Schemas) -> Result<OperationBuilder> {
    let mut operation = OperationBuilder::new().operation_id(Some(endpoint.name)).tag(endpoint.tag).summary(Some(endpoint.summary));
    if !endpoint.description.is_empty() {
        operation = operation.description(Some(endpoint.description));
    }
    for parameter in parameters(endpoint) {
        operation = operation.parameter(parameter);
    }
    if let Some((parts, media_type)) = endpoint.body {
        let content = ContentBuilder::new().schema(Some(component(parts(), schemas)?)).build();
        let body = RequestBodyBuilder::new().content(media_type, content).required(Some(Required::True)).build();
        operation = operation.request_body(Some(body));
    }
    for (status, response) in answers(endpoint, schemas)? {
        operation = operation.response(status.to_string(), response);
    }
    for (status, response) in problems(endpoint)? {
        operation = operation.response(status.to_string(), response);
    }
    operation = operation.securities(Some(security(endpoint)));
    if let Handler::Tenant(role, _) | Handler::TenantOrUser(role, ..) = endpoint.handler {
        operation = operation.extensions(Some(ExtensionsBuilder::new().add("x-required-role", role.name()).build()));
    }
    Ok(operation)
}

fn parameters(endpoint: &Endpoint) -> Vec<ParameterBuilder> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let in_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let uuid = name == "id" || name.ends_with("_id");
        let schema = text().format(uuid.then_some(SchemaFormat::KnownFormat(KnownFormat::Uuid))).build();
        ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True).schema(Some(schema))
    });
    let in_query = endpoint.query.iter().map(|(name, meaning)| {
        let schema = match *name {
            "limit" => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(100)),
            "order" => text().enum_values(Some(["asc", "desc"])),
            _ => text(),
        };
        let described = ParameterBuilder::new().name(*name).description(Some(*meaning));
        described.parameter_in(ParameterIn::Query).required(Required::False).schema(Some(schema.build()))
    });
    let in_headers = endpoint.headers.iter().map(|(name, meaning)| {
        let described = ParameterBuilder::new().name(*name).description(Some(*meaning));
        described.parameter_in(ParameterIn::Header).required(Required::False).schema(Some(text().build()))
    });
    in_path.chain(in_query).chain(in_headers).collect()
}

/// The answers of success; media types of one status stand together.
fn answers(endpoint: &Endpoint, schemas: &mut Schemas) -> Result<BTreeMap<u16, ResponseBuilder>> {
    let mut responses = BTreeMap::new();
    for (status, media_type, parts) in &endpoint.answers {
        let words = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Done");
        let id = Header::builder().description(Some("Names the request in logs and to the operator.")).build();
        let mut response = responses.remove(status).unwrap_or_else(|| ResponseBuilder::new().description(words).header("X-Request-Id", id));
        if !media_type.is_empty() {
            let schema = parts.map(|parts| component(parts(), schemas)).transpose()?;
            response = response.content(*media_type, ContentBuilder::new().schema(schema).build());
        }
        responses.insert(*status, response);
    }
    Ok(responses)
}

/// Puts a type and all it refers to among the components; gives the reference to it. What is no type of ours is written where it stands.
fn component(parts: SchemaParts, schemas: &mut Schemas) -> Result<RefOr<Schema>> {
    let SchemaParts { name, schema, referred } = parts;
    for (name, schema) in referred {
        define(name, schema, schemas)?;
    }
    let Some(name) = name else { return Ok(schema) };
    define(name.clone(), schema, schemas)?;
    Ok(Ref::from_schema_name(name).into())
}

fn define(name: String, schema: RefOr<Schema>, schemas: &mut Schemas) -> Result<()> {
    match schemas.get(&name) {
        Some(known) if *known != schema => Err(Error::internal(format!("two types are called {name}"))),
        Some(_) => Ok(()),
        None => {
            schemas.insert(name, schema);
            Ok(())
        }
    }
}

/// The errors of one status stand together: OpenAPI has one response for each.
fn problems(endpoint: &Endpoint) -> Result<BTreeMap<u16, ResponseBuilder>> {
    let mut by_status = BTreeMap::<u16, Vec<&Code>>::new();
    for name in error_codes(endpoint) {
        let code = codes::named(name).ok_or_else(|| Error::internal(format!("{}: no such code {name}", endpoint.name)))?;
        by_status.entry(code.status).or_default().push(code);
    }
    let response = |codes: Vec<&Code>| {
        let lines: Vec<_> = codes.iter().map(|code| format!("- `{}`: {}.", code.code, code.title)).collect();
        let content = ContentBuilder::new().schema(Some(RefOr::<Schema>::from(Ref::from_schema_name("Problem")))).build();
        ResponseBuilder::new().description(lines.join("\n")).content("application/problem+json", content)
    };
    Ok(by_status.into_iter().map(|(status, codes)| (status, response(codes))).collect())
}

/// Every code that an endpoint may answer: its own, and those that its kind brings along.
pub(super) fn error_codes(endpoint: &Endpoint) -> BTreeSet<&'static str> {
    let mut names: BTreeSet<_> = endpoint.errors.iter().copied().collect();
    if endpoint.path.starts_with("/api/") {
        names.extend(["malformed_request", "uri_too_long", "headers_too_large", "validation_failed", "internal", "shutting_down"]);
    }
    if endpoint.path.contains("id}") {
        names.insert("not_found");
    }
    if endpoint.body.is_some() {
        names.extend(["request_timeout", "length_required", "body_too_large", "unsupported_media_type"]);
        if endpoint.body_bytes_max.is_none() {
            names.insert("malformed_json");
        }
    }
    let of_key = ["missing_credentials", "invalid_api_key", "rate_limited", "too_many_checks", "tenant_unavailable"];
    let of_user = ["missing_credentials", "invalid_token", "rate_limited"];
    match endpoint.handler {
        // Pages are no part of the document.
        Handler::Open(_) | Handler::Session(_) | Handler::Page(..) | Handler::OperatorPage(_) => {}
        Handler::Credentials(_) => names.extend(["rate_limited", "too_many_checks"]),
        Handler::User(_) => names.extend(of_user),
        Handler::Tenant(..) => names.extend(of_key),
        Handler::TenantOrUser(..) => names.extend(of_key.into_iter().chain(of_user)),
        Handler::Operator(_) | Handler::Ops(_) => names.extend(["missing_credentials", "invalid_token"]),
    }
    if let Handler::Tenant(role, _) | Handler::TenantOrUser(role, ..) = endpoint.handler
        && role > Role::Viewer
    {
        names.insert("insufficient_role");
    }
    names
}

fn security(endpoint: &Endpoint) -> Vec<SecurityRequirement> {
    let one = |name: &str| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    match endpoint.handler {
        Handler::Open(_) | Handler::Credentials(_) | Handler::Session(_) | Handler::Page(..) | Handler::OperatorPage(_) => Vec::new(),
        Handler::User(_) => vec![one("User")],
        Handler::Tenant(..) => vec![one("ApiKey"), one("Bearer")],
        Handler::TenantOrUser(..) => vec![one("ApiKey"), one("Bearer"), one("User")],
        Handler::Operator(_) => vec![one("Operator")],
        // Nothing is needed from loopback.
        Handler::Ops(_) => vec![SecurityRequirement::default(), one("Operator")],
    }
}

fn components(schemas: Schemas) -> Components {
    let bearer = |format: &str, words: &str| {
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format).description(Some(words)).build())
    };
    let key = ApiKeyValue::with_description("X-API-Key", "An API key, `ns_live_…`: one user, one tenant, one role.");
    schemas
        .into_iter()
        .fold(ComponentsBuilder::new(), |components, (name, schema)| components.schema(name, schema))
        .security_scheme("ApiKey", SecurityScheme::ApiKey(ApiKey::Header(key)))
        .security_scheme("Bearer", bearer("ns_live_…", "The same API key, for clients that can send nothing but a bearer."))
        .security_scheme("User", bearer("nu_…", "A user token from `POST /api/v1/auth/login`."))
        .security_scheme("Operator", bearer("operator token", "The token that the operator configured."))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the contract shows here. When it is meant: `INSTA_UPDATE=always cargo test --lib openapi`, and read the difference.
    #[test]
    fn the_document_is_the_reviewed_one() {
        insta::assert_snapshot!("openapi", document().unwrap());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
        let mut found = 0;
        let mut waiting = vec![&document];
        while let Some(value) = waiting.pop() {
            match value {
                serde_json::Value::Object(object) => {
                    if let Some(serde_json::Value::String(reference)) = object.get("$ref") {
                        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
                        found += 1;
                    }
                    waiting.extend(object.values());
                }
                serde_json::Value::Array(array) => waiting.extend(array),
                _ => {}
            }
        }
        assert!(found > 0);
    }
}
