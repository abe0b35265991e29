//! Tool calls in answers: fragments, ids, arguments, and calls that were cut.

use super::*;

/// An OpenAI stream of these lists of tool call fragments.
fn openai_calls(fragments: &[Json], finish_reason: &str) -> Result<Answer, Broken> {
    let mut chunks: Vec<Json> = fragments.iter().map(|calls| chunk(json!({"tool_calls": calls}), Json::Null)).collect();
    chunks.push(chunk(json!({}), finish_reason.into()));
    decode(Wire::OpenAi, &openai_stream(&chunks))
}

fn fragment(index: u64, id: &str, name: &str, arguments: &str) -> Json {
    json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn more(index: u64, arguments: &str) -> Json {
    json!({"index": index, "function": {"arguments": arguments}})
}

#[test]
fn openai_fragments_are_joined_by_index() {
    let answer = openai_calls(
        &[
            json!([fragment(0, "call_a", "read", "")]),
            json!([more(0, "{\"pa")]),
            json!([fragment(1, "call_b", "list", ""), more(0, "th\":\"x\"}")]),
            json!([more(1, "{}")]),
        ],
        "tool_calls",
    )
    .unwrap();
    assert_eq!(answer.calls, [call("call_a", "read", json!({"path": "x"})), call("call_b", "list", json!({}))]);
    assert_eq!((answer.text, answer.finish), (None, FinishReason::ToolCalls));
    assert_eq!(
        answer.raw["tool_calls"][0],
        json!({"id": "call_a", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"x\"}"}})
    );
}

#[test]
fn openai_compatible_servers_have_habits_of_their_own() {
    let whole = json!([{"id": "a", "function": {"name": "f", "arguments": {"n": 1}}}, {"id": "b", "function": {"name": "g"}}]);
    assert_eq!(
        openai_calls(&[whole], "stop").unwrap().calls,
        [call("a", "f", json!({"n": 1})), call("b", "g", json!({}))],
        "whole, without index"
    );
    let no_index = [json!([{"id": "a", "function": {"name": "f", "arguments": "{"}}]), json!([{"function": {"arguments": "}"}}])];
    assert_eq!(openai_calls(&no_index, "tool_calls").unwrap().calls, [call("a", "f", json!({}))], "fragments without index");
    let name_again = [json!([fragment(0, "a", "f", "{")]), json!([fragment(0, "a", "f", "}")])];
    assert_eq!(openai_calls(&name_again, "tool_calls").unwrap().calls, [call("a", "f", json!({}))], "name and id in every fragment");
    let same_index = [json!([fragment(0, "a", "f", "{}")]), json!([fragment(0, "b", "g", "{}")])];
    assert_eq!(
        openai_calls(&same_index, "tool_calls").unwrap().calls,
        [call("a", "f", json!({})), call("b", "g", json!({}))],
        "a new id is a new call"
    );
    let same_id = [json!([fragment(0, "functions.f:0", "f", "{}"), fragment(1, "functions.f:0", "f", "{}"), fragment(2, "", "f", "")])];
    let calls = openai_calls(&same_id, "tool_calls").unwrap().calls;
    assert_eq!(
        calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(),
        ["functions.f:0", "functions.f:0_2", "call_x_3"],
        "ids are made unique"
    );
}

#[test]
fn a_call_cut_by_the_output_limit_is_dropped() {
    for (cut, why) in [("{\"path\":\"x", "in mid-argument"), ("", "before its arguments")] {
        let answer = openai_calls(&[json!([fragment(0, "a", "f", "{}"), fragment(1, "b", "g", cut)])], "length").unwrap();
        assert_eq!((answer.calls, answer.finish), (vec![call("a", "f", json!({}))], FinishReason::ToolCalls), "{why}");
        assert_eq!(answer.raw["tool_calls"].as_array().unwrap().len(), 1, "nor is it replayed");
        let answer = openai_calls(&[json!([fragment(0, "b", "g", cut)])], "length").unwrap();
        assert_eq!((answer.calls, answer.finish), (vec![], FinishReason::Length), "{why}");
        assert_eq!(answer.raw.get("tool_calls"), None);
    }
    let whole = openai_calls(&[json!([fragment(0, "a", "f", "{\"n\":1}")])], "length").unwrap();
    assert_eq!(whole.calls, [call("a", "f", json!({"n": 1}))], "a closed object cannot have been cut");

    let cut = anthropic_stream(&[
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{\"a\":"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}}),
    ]);
    let answer = decode(Wire::Anthropic, &cut).unwrap();
    assert_eq!((answer.calls, answer.finish, answer.raw), (vec![], FinishReason::Length, json!({"role": "assistant", "content": []})));
}

#[test]
fn arguments_that_are_no_object_fail_the_answer() {
    for broken in ["{\"a\":", "[1]", "\"text\"", "7", "{} {}"] {
        let answer = openai_calls(&[json!([fragment(0, "a", "f", "{}"), fragment(1, "b", "g", broken)])], "tool_calls");
        assert!(matches!(answer, Err(Broken::Malformed(_))), "{broken}");
    }
    assert!(
        openai_calls(&[json!([fragment(0, "a", "f", "[1"), fragment(1, "b", "g", "{}")])], "length").is_err(),
        "only the last can be cut"
    );
    for name in ["", "two words", "päth", "functions.read"] {
        assert!(matches!(openai_calls(&[json!([fragment(0, "a", name, "{}")])], "tool_calls"), Err(Broken::Malformed(_))), "{name}");
    }
    assert_eq!(
        openai_calls(&[json!([fragment(0, "a", "f", " ")])], "tool_calls").unwrap().calls,
        [call("a", "f", json!({}))],
        "blank is no arguments"
    );
}

#[test]
fn a_declined_answer_runs_no_tools() {
    let answer = openai_calls(&[json!([fragment(0, "a", "f", "{}")])], "content_filter").unwrap();
    assert_eq!((answer.calls, answer.finish), (vec![], FinishReason::ContentFilter));
}

#[test]
fn ollama_calls_come_whole_and_get_ids() {
    let stream = concat!(
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"n\":1}}}]},\"done\":false}\n",
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"call_7\",\"function\":{\"index\":1,\"name\":\"g\",\"arguments\":{}}}]},\"done\":false}\n",
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":1,\"eval_count\":2}\n",
    );
    let answer = decode(Wire::Ollama, stream).unwrap();
    assert_eq!(answer.calls, [call("call_x_1", "f", json!({"n": 1})), call("call_7", "g", json!({}))]);
    assert_eq!(answer.finish, FinishReason::ToolCalls);
    assert_eq!(answer.raw["tool_calls"][0], json!({"id": "call_x_1", "function": {"name": "f", "arguments": {"n": 1}}}));
}
