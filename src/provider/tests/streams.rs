//! What the vendors' streams mean, wherever they are cut.

use super::*;
use proptest::prelude::*;

fn anthropic_blocks(blocks: &[Json], stop_reason: &str) -> String {
    let mut events = vec![
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": [], "stop_reason": null,
            "usage": {"input_tokens": 25, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 1}}}),
        json!({"type": "ping"}),
    ];
    events.extend_from_slice(blocks);
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": null}, "usage": {"output_tokens": 42}}),
    );
    events.push(json!({"type": "message_stop"}));
    anthropic_stream(&events)
}

fn start(index: u64, block: Json) -> Json {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: Json) -> Json {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn stop(index: u64) -> Json {
    json!({"type": "content_block_stop", "index": index})
}

#[test]
fn anthropic_text_thinking_and_tools() {
    let stream = anthropic_blocks(
        &[
            start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "Let me "})),
            delta(0, json!({"type": "thinking_delta", "thinking": "see."})),
            delta(0, json!({"type": "signature_delta", "signature": "EqQBCg"})),
            stop(0),
            start(1, json!({"type": "text", "text": ""})),
            delta(1, json!({"type": "text_delta", "text": "Grüße — "})),
            delta(1, json!({"type": "citations_delta", "citation": {}})),
            delta(1, json!({"type": "text_delta", "text": "ok"})),
            stop(1),
            start(2, json!({"type": "redacted_thinking", "data": "xyz"})),
            start(3, json!({"type": "tool_use", "id": "toolu_1", "name": "write_file", "input": {}})),
            delta(3, json!({"type": "input_json_delta", "partial_json": ""})),
            delta(3, json!({"type": "input_json_delta", "partial_json": "{\"path\": \"a\""})),
            delta(3, json!({"type": "input_json_delta", "partial_json": ", \"n\": 1}"})),
            stop(3),
            start(4, json!({"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}})),
            stop(4),
            json!({"type": "an_event_of_tomorrow", "x": 1}),
        ],
        "tool_use",
    );
    let answer = decode(Wire::Anthropic, &stream).unwrap();
    assert_eq!(answer.text.as_deref(), Some("Grüße — ok"));
    assert_eq!(answer.calls, [call("toolu_1", "write_file", json!({"path": "a", "n": 1})), call("toolu_2", "now", json!({}))]);
    assert_eq!((answer.finish, answer.usage), (FinishReason::ToolCalls, Some(usage(25, 42, 100, 7))));
    assert_eq!(
        answer.raw,
        json!({"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCg"},
            {"type": "text", "text": "Grüße — ok"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "tool_use", "id": "toolu_1", "name": "write_file", "input": {"path": "a", "n": 1}},
            {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
        ]})
    );
}

#[test]
fn anthropic_reasons_to_stop() {
    let text = [start(0, json!({"type": "text", "text": "Hi"})), stop(0)];
    for (reason, finish) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("refusal", FinishReason::Refusal),
        ("tool_use", FinishReason::Stop),
        ("a_reason_of_tomorrow", FinishReason::Stop),
    ] {
        let answer = decode(Wire::Anthropic, &anthropic_blocks(&text, reason)).unwrap();
        assert_eq!((answer.text.as_deref(), answer.finish), (Some("Hi"), finish), "{reason}");
    }
    assert!(matches!(decode(Wire::Anthropic, &anthropic_blocks(&text, "pause_turn")), Err(Broken::Malformed(_))));
}

#[test]
fn anthropic_later_reports_of_usage_replace_earlier_ones() {
    let stream = anthropic_stream(&[
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 3}}}),
        json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": {"output_tokens": 10}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 11, "cache_read_input_tokens": 2, "output_tokens": 20}}),
        json!({"type": "message_stop"}),
    ]);
    assert_eq!(decode(Wire::Anthropic, &stream).unwrap().usage, Some(usage(11, 20, 2, 0)));
}

#[test]
fn an_error_in_mid_stream_is_told_and_progress_kept() {
    let begun = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}),
        start(0, json!({"type": "text", "text": ""})),
        delta(0, json!({"type": "text_delta", "text": "12345"})),
    ];
    let mut events = begun.to_vec();
    events.push(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
    let stream = anthropic_stream(&events);
    assert_eq!(decode(Wire::Anthropic, &stream), Err(Broken::Reported("overloaded_error: Overloaded".into())));
    let mut decoder = Decoder::new(Wire::Anthropic, LIMITS, "x".into());
    decoder.push(stream.as_bytes());
    assert_eq!((decoder.is_over(), decoder.progress()), (true, Progress { output_bytes: 5, usage: Some(usage(9, 1, 0, 0)) }));

    let openai = "data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\",\"code\":null}}\n\n";
    assert_eq!(decode(Wire::OpenAi, openai), Err(Broken::Reported("server_error: boom".into())));
    let ollama = "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"error\":\"model runner stopped\"}\n";
    assert_eq!(decode(Wire::Ollama, ollama), Err(Broken::Reported("error: model runner stopped".into())));
}

#[test]
fn openai_text_and_usage() {
    let stream = openai_stream(&[
        chunk(json!({"role": "assistant", "content": "", "refusal": null}), Json::Null),
        chunk(json!({"content": "Grüße"}), Json::Null),
        chunk(json!({"content": " 🙂"}), Json::Null),
        chunk(json!({}), "stop".into()),
        usage_chunk(
            json!({"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 15},
            "completion_tokens_details": {"reasoning_tokens": 20}}),
        ),
    ]);
    let answer = decode(Wire::OpenAi, &format!(": keep-alive\n\n{stream}")).unwrap();
    assert_eq!((answer.text.as_deref(), answer.finish), (Some("Grüße 🙂"), FinishReason::Stop));
    assert_eq!(answer.usage, Some(usage(25, 30, 60, 15)));
    assert_eq!(answer.raw, json!({"role": "assistant", "content": "Grüße 🙂"}));
}

#[test]
fn openai_usage_in_all_its_places_never_overlaps() {
    for (told, expected) in [
        (json!({"prompt_tokens": 10, "completion_tokens": 2}), usage(10, 2, 0, 0)),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": null, "completion_tokens_details": null}),
            usage(10, 2, 0, 0),
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3}),
            usage(3, 2, 7, 0),
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}),
            usage(3, 2, 7, 0),
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 7, "prompt_tokens_details": {"cached_tokens": 7}}),
            usage(3, 2, 7, 0),
        ),
        (json!({"prompt_tokens": 10, "completion_tokens": 2, "cache_write_tokens": 9}), usage(1, 2, 0, 9)),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 90, "cache_write_tokens": 90}}),
            usage(0, 2, 10, 0),
        ),
    ] {
        let end = chunk(json!({"content": "x"}), "stop".into());
        let answer = decode(Wire::OpenAi, &openai_stream(&[end.clone(), usage_chunk(told.clone())])).unwrap();
        assert_eq!(answer.usage, Some(expected), "{told}");
        let mut in_choice = end;
        in_choice["choices"][0]["usage"] = told.clone();
        assert_eq!(decode(Wire::OpenAi, &openai_stream(&[in_choice])).unwrap().usage, Some(expected), "in the choice: {told}");
    }
    let repeated = openai_stream(&[
        json!({"choices": null, "usage": {"prompt_tokens": 10, "completion_tokens": 1}}),
        json!({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
        usage_chunk(Json::Null),
    ]);
    assert_eq!(decode(Wire::OpenAi, &repeated).unwrap().usage, Some(usage(10, 5, 0, 0)), "the last one that says anything");
    let silent = openai_stream(&[chunk(json!({"content": "x"}), "stop".into())]);
    assert_eq!(decode(Wire::OpenAi, &silent).unwrap().usage, None);
}

#[test]
fn openai_reasons_to_stop() {
    for (delta, reason, finish) in [
        (json!({"content": "x"}), "length", FinishReason::Length),
        (json!({"content": "x"}), "content_filter", FinishReason::ContentFilter),
        (json!({"refusal": "I cannot."}), "stop", FinishReason::Refusal),
        (json!({"content": "x"}), "tool_calls", FinishReason::Stop),
    ] {
        let answer = decode(Wire::OpenAi, &openai_stream(&[chunk(delta.clone(), reason.into())])).unwrap();
        assert_eq!(answer.finish, finish, "{reason}");
        assert_eq!(answer.text.as_deref(), delta["content"].as_str().or(delta["refusal"].as_str()));
    }
    let starved = openai_stream(&[chunk(json!({"content": "x"}), "insufficient_system_resource".into())]);
    assert_eq!(decode(Wire::OpenAi, &starved), Err(Broken::Reported("insufficient_system_resource".into())));
}

#[test]
fn openai_reasoning_is_kept_raw_and_not_told() {
    let stream = openai_stream(&[
        chunk(json!({"role": "assistant", "reasoning_content": "Let "}), Json::Null),
        chunk(json!({"reasoning_content": "me see", "content": null}), Json::Null),
        chunk(json!({"content": "42"}), "stop".into()),
    ]);
    let answer = decode(Wire::OpenAi, &stream).unwrap();
    assert_eq!(answer.text.as_deref(), Some("42"));
    assert_eq!(answer.raw, json!({"role": "assistant", "content": "42", "reasoning_content": "Let me see"}));
    let mut decoder = Decoder::new(Wire::OpenAi, LIMITS, "x".into());
    decoder.push(stream.as_bytes());
    assert_eq!(decoder.progress().output_bytes, 12, "reasoning counts for the estimate");
}

#[test]
fn ollama_text_thinking_and_counts() {
    let stream = concat!(
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n",
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"Grü\"},\"done\":false}\r\n",
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"ße\"},\"done\":false}\n",
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":9}\n",
    );
    let answer = decode(Wire::Ollama, stream).unwrap();
    assert_eq!((answer.text.as_deref(), answer.finish, answer.usage), (Some("Grüße"), FinishReason::Stop, Some(usage(26, 9, 0, 0))));
    assert_eq!(answer.raw, json!({"role": "assistant", "content": "Grüße", "thinking": "hm"}));
    assert_eq!(decode(Wire::Ollama, stream.trim_end()).unwrap(), answer, "the last line feed may be missing");
    let cached = "{\"message\":{\"content\":\"x\"},\"done\":false}\n{\"done\":true,\"done_reason\":\"length\",\"eval_count\":3}\n";
    let answer = decode(Wire::Ollama, cached).unwrap();
    assert_eq!((answer.finish, answer.usage), (FinishReason::Length, Some(usage(0, 3, 0, 0))));
    assert!(matches!(decode(Wire::Ollama, "{\"done\":true,\"done_reason\":\"load\"}\n"), Err(Broken::Reported(_))));
}

#[test]
fn a_stream_cut_anywhere_is_never_an_answer() {
    let anthropic = anthropic_blocks(&[start(0, json!({"type": "text", "text": "Hi"})), stop(0)], "end_turn");
    let openai = openai_stream(&[chunk(json!({"content": "Hi"}), Json::Null), chunk(json!({}), "stop".into())]);
    let ollama = "{\"message\":{\"content\":\"Hi\"},\"done\":false}\n{\"done\":true,\"done_reason\":\"stop\",\"eval_count\":1}\n";
    for (wire, stream, said) in [
        (Wire::Anthropic, anthropic.as_str(), "event: message_stop"),
        (Wire::OpenAi, openai.as_str(), "data: [DONE]"),
        (Wire::Ollama, ollama, "\n{\"done\":true"),
    ] {
        // From here on all is known; what follows is courtesy. Ollama's last line is all in one.
        let known = stream.find(said).unwrap();
        for at in 0..known {
            let cut = decode_chunks(wire, [&stream.as_bytes()[..at]]).1;
            assert!(matches!(cut, Err(Broken::Truncated | Broken::Malformed(_))), "{wire:?} cut at {at}: {cut:?}");
        }
        assert!(decode_chunks(wire, [stream.as_bytes()]).1.is_ok(), "{wire:?}");
    }
    for wire in [Wire::Anthropic, Wire::OpenAi, Wire::Ollama] {
        assert_eq!(decode_chunks(wire, [b"".as_slice()]).1, Err(Broken::Truncated), "{wire:?}");
    }
    assert!(matches!(decode(Wire::OpenAi, "data: {nonsense\n\n"), Err(Broken::Malformed(_))));
}

#[test]
fn answers_are_bounded() {
    let limits = AnswerLimits { answer_bytes_max: 300, tool_calls_max: 1 };
    for (wire, piece) in [
        (
            Wire::Anthropic,
            anthropic_stream(&[
                start(0, json!({"type": "text", "text": ""})),
                delta(0, json!({"type": "text_delta", "text": "0123456789"})),
            ]),
        ),
        (Wire::OpenAi, format!("data: {}\n\n", chunk(json!({"content": "0123456789"}), Json::Null))),
        (Wire::OpenAi, format!("data: {}\n\n", chunk(json!({"reasoning_content": "0123456789"}), Json::Null))),
        (Wire::OpenAi, format!("data: {}\n\n", chunk(json!({"tool_calls": [{"id": "a"}, {"id": "b"}]}), Json::Null))),
        (Wire::Ollama, "{\"message\":{\"content\":\"0123456789\"}}\n".to_owned()),
        (Wire::Ollama, "{\"message\":{\"tool_calls\":[{},{}]}}\n".to_owned()),
        (Wire::OpenAi, ": just comments\n".to_owned()),
    ] {
        let mut decoder = Decoder::new(wire, limits, "x".into());
        for _ in 0..2_000 {
            decoder.push(piece.as_bytes());
        }
        assert!(decoder.is_over(), "{wire:?} {piece}");
        assert_eq!(decoder.finish(), Err(Broken::TooLarge("answer_bytes_max")), "{wire:?}");
    }
    let two = "{\"message\":{\"tool_calls\":[{\"function\":{\"name\":\"a\"}},{\"function\":{\"name\":\"b\"}}]},\"done\":true}\n";
    let mut decoder = Decoder::new(Wire::Ollama, limits, "x".into());
    decoder.push(two.as_bytes());
    assert_eq!(decoder.finish(), Err(Broken::TooLarge("answer_tool_calls_max")));
}

/// Streams of pieces that mean something to some wire, in any order.
fn odd_stream() -> impl Strategy<Value = String> {
    let pieces = [
        "data: ",
        "data: [DONE]\n\n",
        "\n\n",
        "\n",
        "{",
        "}",
        "null",
        "event: error\n",
        "{\"choices\":[{\"index\":0,\"delta\":",
        "{\"content\":\"ä\"}",
        "{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}",
        ",\"finish_reason\":\"length\"}]}",
        "{\"choices\":7}",
        "{\"type\":\"content_block_start\",\"index\":-1,\"content_block\":{\"type\":\"tool_use\",\"input\":[]}}",
        "{\"type\":\"content_block_delta\",\"index\":9,\"delta\":{\"type\":\"text_delta\"}}",
        "{\"type\":\"message_start\",\"message\":[]}",
        "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":18446744073709551615}}",
        "{\"usage\":{\"prompt_tokens\":1,\"cached_tokens\":18446744073709551615,\"cache_write_tokens\":18446744073709551615}}",
        "{\"message\":{\"content\":\"x\",\"tool_calls\":[7,{\"function\":[]}]},\"done\":false}\n",
        "{\"done\":true,\"eval_count\":-1}\n",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_stream_upsets_a_decoder(stream in odd_stream(), at in 0_usize..400) {
        let bytes = stream.as_bytes();
        let (before, after) = bytes.split_at(at.min(bytes.len()));
        for wire in Wire::ALL {
            let (said, answer) = decode_chunks(wire, [bytes]);
            prop_assert_eq!((&said, &answer), (&decode_chunks(wire, [before, after]).0, &decode_chunks(wire, [before, after]).1));
            if let Ok(answer) = answer {
                prop_assert_eq!(answer.finish == FinishReason::ToolCalls, !answer.calls.is_empty());
            }
        }
    }
}
