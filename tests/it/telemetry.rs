//! What an OpenTelemetry collector is told: spans and metrics under the GenAI names, as they arrive at one on loopback, and no word of what was
//! said.

use crate::{
    fake_provider::{Reply, VENDOR_KEY},
    harness::{Settings, free_port},
    sandbox::shelf::{boxed, python},
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value as Any},
    metrics::v1::metric::Data,
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What a collector got: paths and bodies.
type Got = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector that takes everything, and its address.
async fn collector() -> (String, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let got = Got::default();
    let kept = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, Arc::clone(&kept)));
        }
    });
    (address, got)
}

/// Requests of one connection, until it ends.
async fn take(mut stream: TcpStream, got: Got) {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                let body = bytes.drain(..end + 4 + length).skip(end + 4).collect();
                got.lock().unwrap().push((head.split(' ').nth(1).unwrap().to_owned(), body));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                continue;
            }
        }
        let mut piece = [0; 8_192];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
        }
    }
}

fn spans(got: &Got) -> Vec<Span> {
    let got = got.lock().unwrap();
    let requests =
        got.iter().filter(|(path, _)| path == "/v1/traces").map(|(_, body)| ExportTraceServiceRequest::decode(&body[..]).unwrap());
    requests.flat_map(|request| request.resource_spans).flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        Any::ArrayValue(list) => format!("{:?}", list.values.iter().map(|value| value.value.clone()).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

#[tokio::test]
async fn a_collector_hears_of_turns_and_calls_under_their_genai_names_and_of_no_word() {
    let (address, got) = collector().await;
    let mut server = Settings::default().process().start().await;
    server.stop().await;
    server.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT", address);
    server.run().await;
    let tenant = server.rich_tenant("Acme").await;
    let extra = json!({"name": "Site Editor", "system_prompt": "secret-prompt", "model_config": {"max_tokens": 512}});
    let config = server.config(&tenant, "fake-openai", "smart", &extra).await;
    server.vendor.then(Reply::text("secret-answer"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key);
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = request.body(json!({"message": "secret-question"}).to_string()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let answer: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    // One that fails, and one that a caller does not want recorded.
    server.vendor.then(Reply::refuse(400));
    server.chat(&tenant.key, &config, &json!({"message": "fail"})).await;
    server.vendor.then(Reply::text("unseen"));
    let unseen = server
        .request("POST", &format!("/api/v1/chat/{config}"), &tenant.key)
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-00"));
    assert_eq!(unseen.body(json!({"message": "unseen"}).to_string()).send().await.unwrap().status().as_u16(), 200);
    // A good end tells what waits.
    server.stop().await;

    let spans = spans(&got);
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["chat smart", "chat smart", "invoke_agent Site Editor", "invoke_agent Site Editor"]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of = |name: &str| spans.iter().find(|span| span.name.starts_with(name) && hex(&span.trace_id) == trace).unwrap();
    let (turn, chat) = (of("invoke_agent"), of("chat"));
    assert_eq!((hex(&turn.parent_span_id).as_str(), &chat.parent_span_id), ("00f067aa0ba902b7", &turn.span_id));
    assert!(turn.start_time_unix_nano <= turn.end_time_unix_nano && chat.start_time_unix_nano < chat.end_time_unix_nano);
    let told = attributes(&turn.attributes);
    for (name, value) in [
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.provider.name", "fake-openai"),
        ("gen_ai.request.model", "smart"),
        ("gen_ai.agent.id", config.as_str()),
        ("gen_ai.agent.name", "Site Editor"),
        ("gen_ai.conversation.id", answer["conversation_id"].as_str().unwrap()),
        ("nimblesite.tenant.id", tenant.id.as_str()),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}: {told:?}");
    }
    let told = attributes(&chat.attributes);
    let usage = &answer["usage"];
    let input = ["input_tokens", "cache_read_tokens", "cache_write_tokens"].iter().map(|name| usage[*name].as_u64().unwrap()).sum::<u64>();
    for (name, value) in [
        ("gen_ai.operation.name", "chat".to_owned()),
        ("gen_ai.request.max_tokens", "512".to_owned()),
        ("gen_ai.usage.input_tokens", input.to_string()),
        ("gen_ai.usage.output_tokens", usage["output_tokens"].to_string()),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}: {told:?}");
    }
    assert!(told["gen_ai.response.finish_reasons"].contains("stop"), "{told:?}");
    let failed = spans.iter().find(|span| span.name.starts_with("invoke_agent") && hex(&span.trace_id) != trace).unwrap();
    assert_eq!(failed.status.as_ref().unwrap().code, StatusCode::Error as i32);
    assert_eq!(attributes(&failed.attributes)["error.type"], "failed");

    let got = got.lock().unwrap().clone();
    let metrics =
        got.iter().filter(|(path, _)| path == "/v1/metrics").map(|(_, body)| ExportMetricsServiceRequest::decode(&body[..]).unwrap());
    let metrics: Vec<_> =
        metrics.flat_map(|request| request.resource_metrics).flat_map(|of| of.scope_metrics).flat_map(|of| of.metrics).collect();
    let points = |name: &str| match metrics.iter().rfind(|metric| metric.name == name).and_then(|metric| metric.data.clone()) {
        Some(Data::Histogram(histogram)) => histogram.data_points,
        other => panic!("{name}: {other:?}"),
    };
    let tokens = points("gen_ai.client.token.usage");
    let kinds: Vec<_> = tokens.iter().map(|point| (attributes(&point.attributes)["gen_ai.token.type"].clone(), point.count)).collect();
    assert!(kinds.contains(&("input".to_owned(), 2)) && kinds.contains(&("output".to_owned(), 2)), "{kinds:?}");
    assert_eq!(points("gen_ai.client.operation.duration").iter().map(|point| point.count).sum::<u64>(), 3);
    for (path, body) in &got {
        for secret in ["secret-", VENDOR_KEY, tenant.key.as_str()] {
            assert!(!body.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} was sent to {path}");
        }
    }
    server.env.remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    server.run().await;
    server.done().await;
}

/// Tools that the server runs: named where they are ours, and nothing of what went in or came out.
#[tokio::test]
async fn a_collector_hears_which_tools_ran_and_not_what_they_said() {
    let (address, got) = collector().await;
    let mut server = boxed().process().start().await;
    server.stop().await;
    server.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT", address);
    server.run().await;
    let tenant = server.rich_tenant("Acme").await;
    let code =
        "def shout(text: str) -> str:\n    return 'secret-' + text.upper()\n\ndef fail() -> str:\n    raise ValueError('secret-error')\n";
    let config = server.boxed_config(&tenant, "fake-anthropic", "smart", python(code), &json!({})).await;
    let calls = [("call_1", "shout", json!({"text": "secret-word"})), ("call_2", "fail", json!({})), ("call_3", "secret-tool", json!({}))];
    server.vendor.then(Reply::calls(&calls)).then(Reply::text("Done."));
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    server.stop().await;

    let spans = spans(&got);
    let turn = spans.iter().find(|span| span.name.starts_with("invoke_agent")).unwrap();
    let tools: BTreeMap<_, _> = spans
        .iter()
        .filter(|span| span.name.starts_with("execute_tool"))
        .map(|span| (attributes(&span.attributes)["gen_ai.tool.call.id"].clone(), span))
        .collect();
    assert_eq!(tools.len(), 3, "{spans:?}");
    for (call, name, failed) in
        [("call_1", Some("shout"), None), ("call_2", Some("fail"), Some("tool_error")), ("call_3", None, Some("tool_error"))]
    {
        let (span, told) = (tools[call], attributes(&tools[call].attributes));
        assert_eq!((&span.trace_id, &span.parent_span_id), (&turn.trace_id, &turn.span_id));
        assert!(turn.start_time_unix_nano <= span.start_time_unix_nano && span.end_time_unix_nano <= turn.end_time_unix_nano);
        assert_eq!(span.name, name.map_or("execute_tool".to_owned(), |name| format!("execute_tool {name}")));
        assert_eq!((told["gen_ai.operation.name"].as_str(), told["gen_ai.tool.type"].as_str()), ("execute_tool", "extension"));
        assert_eq!(told.get("gen_ai.tool.name").map(String::as_str), name);
        assert_eq!(told.get("error.type").map(String::as_str), failed);
        assert_eq!(span.status.as_ref().map_or(0, |status| status.code) == StatusCode::Error as i32, failed.is_some());
    }
    for (path, body) in got.lock().unwrap().iter() {
        assert!(!body.windows(7).any(|window| window == b"secret-"), "a secret was sent to {path}");
    }
    server.env.remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nobody_anything() {
    let mut server = Settings::default().process().start().await;
    server.stop().await;
    server.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", free_port()));
    server.env.insert("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned());
    server.run().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    for _ in 0..20 {
        server.say(&tenant.key, &config, "hello").await;
    }
    let said = "the OpenTelemetry collector does not take what it is told";
    server.eventually("a word about it", || server.printed().contains(said).then_some(())).await;
    assert_eq!(server.printed().matches(said).count(), 1, "said once");
    server.done().await;
}
