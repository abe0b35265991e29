//! The vendor's end of a connection: HTTP/1.1 on bare TCP, so that a script can decide about every byte.

use super::{Call, Shared, State, VENDOR_KEY, Wire, check, render, script::*};
use serde_json::Value;
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the vendor: the set aborts them when this task is.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    let mut buffer = Vec::new();
    while let Ok(Some(request)) = read_request(&mut stream, &mut buffer).await {
        let Some((wire, model, reply)) = take(&shared, &request) else {
            let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            drop(stream.write_all(answer.as_bytes()).await);
            return;
        };
        match respond(&mut stream, wire, &model, &reply, &shared).await {
            Ok(Then::Next) if request.header("connection") != Some("close") => {}
            Ok(_) => return,
            Err(_) => {
                shared.state().streams_cut_by_client += 1;
                shared.moved();
                return;
            }
        }
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut start = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (start.next().unwrap_or_default().to_owned(), start.next().unwrap_or_default().to_owned());
    let headers: Vec<_> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let body_start = head_end + 4;
    while buffer.len() < body_start + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = buffer[body_start..body_start + length].to_vec();
    buffer.drain(..body_start + length);
    Ok(Some(Request { method, path, headers, body }))
}

/// Checks a request, writes it down, and picks the answer.
fn take(shared: &Shared, request: &Request) -> Option<(Wire, String, Reply)> {
    let mut state = shared.state();
    let Some(wire) = Wire::of_path(&request.path) else {
        state.violations.push(format!("no such path: {} {}", request.method, request.path));
        return None;
    };
    state.count += 1;
    let number = state.count;
    let mut wrong = Vec::new();
    check_head(wire, request, &mut wrong);
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_else(|error| {
        wrong.push(format!("the body is not JSON: {error}"));
        Value::Null
    });
    let seen = check::request(wire, &body, &state.signatures, &mut wrong);
    state.violations.extend(wrong.into_iter().map(|text| format!("call {number} on {}: {text}", wire.provider())));
    let newest = seen.said.last().cloned().unwrap_or_default();
    let call = Call { wire, body, body_bytes: request.body.len(), output_limit: seen.output_limit, system: seen.system, said: seen.said };
    let scripted = state.script.clone().and_then(|script| script(&call));
    if scripted.is_none() {
        state.calls.push(call);
    }
    let mut reply = scripted.or_else(|| pick(&mut state, &newest)).unwrap_or_else(|| {
        state.violations.push(format!("call {number} on {} was not expected: {newest}", wire.provider()));
        Reply::refuse(400)
    });
    if reply.within_limit {
        reply.tokens.output = reply.tokens.output.min(seen.output_limit.unwrap_or(u64::MAX));
    }
    bill(&mut state, wire, &seen.model, &reply);
    state.signatures.extend(reply.parts.iter().filter_map(|part| match part {
        Part::Thinking { signature, .. } => Some(signature.clone()),
        Part::Redacted(data) => Some(data.clone()),
        _ => None,
    }));
    drop(state);
    shared.moved();
    Some((wire, seen.model, reply))
}

fn pick(state: &mut State, newest: &str) -> Option<Reply> {
    if let Some((_, reply)) = state.rules.iter().find(|(text, _)| newest.contains(text.as_str())) {
        return Some(reply.clone());
    }
    state.queue.pop_front().or_else(|| state.fallback.clone())
}

fn bill(state: &mut State, wire: Wire, model: &str, reply: &Reply) {
    let Some([input, output, read, write]) = state.prices.get(&(wire.provider().to_owned(), model.to_owned())).copied() else { return };
    let tokens = reply.tokens;
    let pico = [(tokens.input, input), (tokens.output, output), (tokens.cache_read, read), (tokens.cache_write, write)]
        .iter()
        .map(|(count, price)| u128::from(*count) * u128::from(*price))
        .sum::<u128>();
    state.billed_pico += pico.div_ceil(1000) * 1000;
}

fn check_head(wire: Wire, request: &Request, wrong: &mut Vec<String>) {
    if request.method != "POST" {
        wrong.push(format!("the method is {}", request.method));
    }
    if !request.header("content-type").is_some_and(|value| value.starts_with("application/json")) {
        wrong.push("content-type is not application/json".to_owned());
    }
    if request.header("content-length").is_none() {
        wrong.push("there is no content-length".to_owned());
    }
    match wire {
        Wire::Anthropic => {
            if request.header("x-api-key") != Some(VENDOR_KEY) {
                wrong.push("x-api-key is wrong or missing".to_owned());
            }
            if request.header("anthropic-version") != Some("2023-06-01") {
                wrong.push("anthropic-version is wrong or missing".to_owned());
            }
        }
        Wire::OpenAi => {
            if request.header("authorization") != Some(format!("Bearer {VENDOR_KEY}").as_str()) {
                wrong.push("authorization is wrong or missing".to_owned());
            }
        }
        // A local server without a key must not be sent anyone's.
        Wire::Ollama => {
            if request.header("authorization").is_some() {
                wrong.push("a credential was sent to a server that has none".to_owned());
            }
        }
    }
}

enum Then {
    Next,
    Close,
}

async fn respond(stream: &mut TcpStream, wire: Wire, model: &str, reply: &Reply, shared: &Shared) -> io::Result<Then> {
    if let Some(refusal) = &reply.refusal {
        return refuse(stream, wire, refusal, reply).await;
    }
    let mut out = Out { stream, shared };
    if let Some(end) = out.station(reply, wire, At::BeforeHead).await? {
        return Ok(end);
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n", render::content_type(wire));
    out.stream.write_all(head.as_bytes()).await?;
    if let Some(end) = out.station(reply, wire, At::AfterHead).await? {
        return Ok(end);
    }
    let frames = render::frames(wire, model, reply);
    if let Pace::EveryByte | Pace::SplitAt(_) | Pace::Whole = reply.pace {
        let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| frame.bytes).collect();
        match reply.pace {
            Pace::EveryByte => {
                // One HTTP chunk a byte: a client cannot join them by accident, however TCP carries them.
                let mut chunks = Vec::with_capacity(bytes.len() * 6);
                for byte in bytes {
                    chunks.extend_from_slice(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
                }
                out.stream.write_all(&chunks).await?;
            }
            Pace::SplitAt(at) => {
                let (first, second) = bytes.split_at(at.min(bytes.len()));
                out.chunk(first).await?;
                out.chunk(second).await?;
            }
            _ => out.chunk(&bytes).await?,
        }
        out.stream.write_all(b"0\r\n\r\n").await?;
        return Ok(Then::Next);
    }
    let count = frames.len();
    for (sent, frame) in frames.iter().enumerate() {
        let mut stations = vec![At::Frame(sent)];
        if frame.kind == render::Kind::Usage {
            stations.push(At::BeforeUsage);
        }
        if sent + 1 == count {
            stations.push(At::BeforeLast);
        }
        for station in stations {
            if let Some(end) = out.station(reply, wire, station).await? {
                return Ok(end);
            }
        }
        if reply.passes(At::WithinFrame(sent)) {
            let (first, second) = frame.bytes.split_at(frame.bytes.len() / 2);
            out.chunk(first).await?;
            if let Some(end) = out.station(reply, wire, At::WithinFrame(sent)).await? {
                return Ok(end);
            }
            out.chunk(second).await?;
        } else {
            out.chunk(&frame.bytes).await?;
        }
        if let Pace::Drip(every) = reply.pace {
            tokio::time::sleep(every).await;
        }
    }
    out.stream.write_all(b"0\r\n\r\n").await?;
    Ok(Then::Next)
}

async fn refuse(stream: &mut TcpStream, wire: Wire, refusal: &Refusal, reply: &Reply) -> io::Result<Then> {
    if let Some((At::BeforeHead, gate)) = &reply.stall {
        wait(stream, gate).await?;
    }
    let Refusal { status, headers, body } = refusal;
    let body = render::error_body(wire, *status, body.as_deref());
    let mut head = format!("HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
    Ok(Then::Next)
}

impl Reply {
    /// Whether anything of the script happens here.
    fn passes(&self, at: At) -> bool {
        self.cut == Some(at)
            || self.ends_early == Some(at)
            || self.stall.as_ref().is_some_and(|(here, _)| *here == at)
            || self.error.as_ref().is_some_and(|(here, _)| *here == at)
    }
}

struct Out<'a> {
    stream: &'a mut TcpStream,
    shared: &'a Shared,
}

impl Out<'_> {
    async fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.stream.write_all(&chunk).await
    }

    /// Does what the script has for this place; `Some` when the answer is over.
    async fn station(&mut self, reply: &Reply, wire: Wire, at: At) -> io::Result<Option<Then>> {
        if let Some((here, gate)) = &reply.stall
            && *here == at
        {
            self.shared.moved();
            wait(self.stream, gate).await?;
        }
        if reply.cut == Some(at) {
            return Ok(Some(Then::Close));
        }
        if let Some((here, message)) = &reply.error
            && *here == at
        {
            self.chunk(&render::error_frame(wire, message)).await?;
            self.stream.write_all(b"0\r\n\r\n").await?;
            return Ok(Some(Then::Next));
        }
        if reply.ends_early == Some(at) {
            self.stream.write_all(b"0\r\n\r\n").await?;
            return Ok(Some(Then::Next));
        }
        Ok(None)
    }
}

/// Until the gate is open; an error when the client leaves first.
async fn wait(stream: &mut TcpStream, gate: &Gate) -> io::Result<()> {
    let mut byte = [0; 1];
    tokio::select! {
        () = gate.passed() => Ok(()),
        read = stream.peek(&mut byte) => match read? {
            0 => Err(io::ErrorKind::ConnectionAborted.into()),
            // A client that sends on while it should listen would be a defect of the client.
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
    }
}
