//! The yardstick: bare hyper over bare rusqlite, with the product's own schema, reads and commits (two a turn, `synchronous=FULL`) and none
//! of its layers: no proof of keys, no checks, no prices, no ledger chain, no state machine, no limits. What it takes is what the work costs.

use super::yardstick_files as files;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, body::Bytes, body::Frame, body::Incoming, service::service_fn};
use rusqlite::{Connection, params};
use std::{collections::HashMap, convert::Infallible, io::Write as _, path::PathBuf, sync::Arc, sync::Mutex};
use tokio::sync::mpsc;
use uuid::Uuid;

type Tenant = Arc<Mutex<Connection>>;
type Body = BoxBody<Bytes, Infallible>;
type Failed = Box<dyn std::error::Error + Send + Sync>;

struct State {
    data: PathBuf,
    vendor: String,
    keep: usize,
    catalog: Mutex<Connection>,
    open: Mutex<HashMap<String, Tenant>>,
    http: reqwest::Client,
}

/// Serves `data`, which it fills with `tenants` tenants first, until it is killed. Says its address on stdout.
pub async fn serve(data: PathBuf, vendor: String, tenants: usize, keep: usize) -> Result<(), Failed> {
    let catalog = files::fill(&data, tenants)?;
    // The client speaks no TLS here, and is not built without someone who could.
    drop(rustls::crypto::ring::default_provider().install_default());
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1024).build()?;
    let state = Arc::new(State { data, vendor, keep, catalog: Mutex::new(catalog), open: Mutex::default(), http });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(state, request).await.unwrap_or_else(|error| text(500, error.to_string()))) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service));
    }
}

fn text(status: u16, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (key, streams, query) = (header("x-api-key"), header("accept") == "text/event-stream", request.uri().query().map(str::to_owned));
    let body = request.into_body().collect().await?.to_bytes();
    let tenant = tenant(&state, &key)?;
    if let Some(query) = query {
        return Ok(text(200, tokio::task::spawn_blocking(move || files::list(&tenant, &query)).await??));
    }
    let body: serde_json::Value = serde_json::from_slice(&body)?;
    let said = body["message"].as_str().unwrap_or_default().to_owned();
    let known = body["conversation_id"].as_str().map(str::to_owned);
    let (id, turn, is_new) = (known.clone().unwrap_or_else(new_id), new_id(), known.is_none());
    let (at, on, of, line) = (Arc::clone(&tenant), id.clone(), turn.clone(), said.clone());
    let prompt = tokio::task::spawn_blocking(move || begin(&at, &on, &of, is_new, &line)).await??;
    let mut vendor = state.http.post(&state.vendor).header("content-type", "application/json").body(prompt).send().await?;
    let (pieces, mut told) = mpsc::channel::<Bytes>(64);
    let work = async move {
        let (mut raw, mut answered, mut line_at) = (Vec::new(), String::new(), 0);
        while let Some(chunk) = vendor.chunk().await? {
            raw.extend_from_slice(&chunk);
            while let Some(length) = raw[line_at..].iter().position(|byte| *byte == b'\n') {
                let line = &raw[line_at..line_at + length];
                line_at += length + 1;
                let data = line.strip_prefix(b"data: ").filter(|data| data.first() == Some(&b'{'));
                let Some(data) = data else { continue };
                let event: serde_json::Value = serde_json::from_slice(data)?;
                if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
                    answered.push_str(text);
                    if streams {
                        drop(pieces.send(Bytes::from(format!("event: delta\ndata: {}\n\n", serde_json::json!({"text": text})))).await);
                    }
                }
            }
        }
        let json = serde_json::json!({"response": answered, "conversation_id": id, "turn_id": turn}).to_string();
        tokio::task::spawn_blocking(move || settle(&tenant, &id, &turn, &said, &answered)).await??;
        drop(pieces.send(Bytes::from(if streams { format!("event: completed\ndata: {json}\n\n") } else { json.clone() })).await);
        Ok::<_, Failed>(())
    };
    if streams {
        tokio::spawn(work);
        let events =
            futures_util::stream::poll_fn(move |context| told.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))));
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(events))));
    }
    tokio::spawn(work).await??;
    let json = told.recv().await.ok_or("no answer")?;
    Ok(Response::new(Full::new(json).boxed()))
}

fn new_id() -> String {
    Uuid::now_v7().to_string()
}

fn tenant(state: &State, key: &str) -> Result<Tenant, Failed> {
    let catalog = state.catalog.lock().map_err(|_| "poisoned")?;
    let name: String = catalog.prepare_cached("SELECT tenant FROM keys WHERE key = ?1")?.query_row([key], |row| row.get(0))?;
    drop(catalog);
    let mut open = state.open.lock().map_err(|_| "poisoned")?;
    if let Some(tenant) = open.get(&name) {
        return Ok(Arc::clone(tenant));
    }
    if open.len() >= state.keep
        && let Some(other) = open.iter().find(|(_, tenant)| Arc::strong_count(tenant) == 1).map(|(name, _)| name.clone())
    {
        open.remove(&other);
    }
    let tenant = Arc::new(Mutex::new(files::connect(&state.data.join(format!("{name}.db")))?));
    open.insert(name, Arc::clone(&tenant));
    Ok(tenant)
}

/// One transaction on a tenant's file.
fn commit<T>(tenant: &Tenant, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Failed> {
    let conn = tenant.lock().map_err(|_| "poisoned")?;
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let done = work(&conn)?;
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(done)
}

fn run(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
    conn.prepare_cached(sql)?.execute(params)
}

/// Config, conversation and history are read, the turn is written and money held for it; answers the vendor's prompt.
fn begin(tenant: &Tenant, id: &str, turn: &str, is_new: bool, said: &str) -> Result<String, Failed> {
    commit(tenant, |conn| {
        let config: String = conn
            .prepare_cached("SELECT v.body FROM configs c JOIN config_versions v ON v.tenant_id = c.tenant_id AND v.config_id = c.id AND v.version = c.version WHERE c.tenant_id = 't' AND c.id = 'c'")?
            .query_row([], |row| row.get(0))?;
        let mut messages = vec![serde_json::json!({"role": "system", "content": config})];
        if is_new {
            run(
                conn,
                "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, title, metadata, template_vars, message_count, created_at, updated_at) VALUES ('t', ?1, 'c', 'u', 'k', 'title', '{}', '{}', 0, 0, 0)",
                [id],
            )?;
        } else {
            let mut rows = conn.prepare_cached(
                "SELECT role, content FROM messages WHERE tenant_id = 't' AND conversation_id = ?1 ORDER BY seq DESC LIMIT 2000",
            )?;
            let mut rows = rows.query([id])?;
            while let Some(row) = rows.next()? {
                messages.insert(1, serde_json::json!({"role": row.get_ref(0)?.as_str()?, "content": row.get_ref(1)?.as_str()?}));
            }
        }
        messages.push(serde_json::json!({"role": "user", "content": said}));
        run(
            conn,
            "INSERT INTO turns (tenant_id, id, conversation_id, config_id, user_id, key_id, request_id, boot_id, state, created_at) VALUES ('t', ?1, ?2, 'c', 'u', 'k', ?1, 'b', 'running', 0)",
            [turn, id],
        )?;
        run(conn, "UPDATE wallet SET held = held + 1000 WHERE tenant_id = 't' AND settled + held + 1000 <= deposited", [])?;
        run(conn, "INSERT INTO holds VALUES ('t', ?1, ?1, 1, 'k', 'bench', 'fast', 1000, 'b', 0)", [turn])?;
        Ok(serde_json::json!({"model": "fast", "stream": true, "messages": messages}).to_string())
    })
}

/// Charge, ledger, messages, log row and the turn's end.
fn settle(tenant: &Tenant, id: &str, turn: &str, said: &str, answered: &str) -> Result<(), Failed> {
    commit(tenant, |conn| {
        run(conn, "DELETE FROM holds WHERE tenant_id = 't' AND id = ?1", [turn])?;
        run(conn, "UPDATE wallet SET held = held - 1000, settled = settled + 500, seq = seq + 1 WHERE tenant_id = 't'", [])?;
        run(
            conn,
            "INSERT INTO ledger (tenant_id, seq, id, kind, amount, balance, turn_id, created_at, hash) SELECT 't', seq, ?1, 'spend', -500, deposited - settled, ?1, 0, '' FROM wallet",
            [turn],
        )?;
        run(
            conn,
            "INSERT INTO logs (tenant_id, id, turn_id, step, created_at, conversation_id, event, status) VALUES ('t', ?1, ?1, 1, 0, ?2, 'step', 200)",
            [turn, id],
        )?;
        for (role, content) in [("user", said), ("assistant", answered)] {
            run(conn, "UPDATE conversations SET message_count = message_count + 1 WHERE tenant_id = 't' AND id = ?1", [id])?;
            run(
                conn,
                "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at) SELECT 't', id, message_count, ?2, ?3, ?4, ?5, 0 FROM conversations WHERE tenant_id = 't' AND id = ?1",
                params![id, new_id(), turn, role, content],
            )?;
        }
        run(conn, "UPDATE turns SET state = 'done', ended_at = 1, report = '{}' WHERE tenant_id = 't' AND id = ?1", [turn])?;
        Ok(())
    })
}
