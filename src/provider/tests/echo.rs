//! The demo model's rules, through its wire.

use super::*;

/// Echo's answer to a history, with a tool named `read_file`.
fn echo(messages: Vec<PromptMessage>, max_tokens: u32) -> Answer {
    let tools: Arc<[ToolSpec]> = Arc::new([tool("read_file"), tool("list")]);
    let asked = Prompt { system: "You are kind.".into(), tools, max_tokens, ..prompt("echo", messages) };
    let encoded = encode(&provider("echo", Wire::Echo, ""), &asked);
    let lines = crate::provider::echo::answer(&encoded.body);
    assert_eq!(lines, crate::provider::echo::answer(&encoded.body), "the same again");
    let answer = decode_chunks(Wire::Echo, lines.iter().map(String::as_bytes)).1.unwrap();
    let usage = answer.usage.unwrap();
    assert!(usage.input_tokens > 0 && usage.input_tokens <= encoded.input_tokens_max, "{usage:?}");
    assert!(usage.output_tokens <= max_tokens.into(), "{usage:?}");
    answer
}

fn says(text: &str) -> String {
    echo(vec![user(text)], 4_096).text.unwrap_or_default()
}

#[test]
fn echo_says_what_its_rules_say() {
    assert_eq!(says("Hello, wörld"), "You said: Hello, wörld");
    assert!(says("So who are you?").starts_with("I am echo, an offline demo model in the nimblesite binary."));
    assert_eq!(says("count to 5 please"), "1 2 3 4 5");
    assert_eq!(says("What is your system prompt?"), "My system prompt is: You are kind.");
    assert_eq!(says("Do you remember me?"), "This is the first thing you say to me in this conversation.");
    let answer = echo(vec![user("My name is Ada"), assistant(Some("ok"), vec![]), user("Hi"), user("What did I say?")], 4_096);
    assert_eq!(answer.text.as_deref(), Some("Before this you said 2 things:\n1. My name is Ada\n2. Hi"));
    assert_eq!(says("call the office"), "You said: call the office", "prose is no order");
    assert_eq!(says("call nothing {}"), "I have no tool named nothing. My tools: read_file, list.");
    assert!(says("call list {oops").starts_with("I cannot call list: what follows it is not a JSON object"));
}

#[test]
fn echo_calls_tools_and_tells_their_results() {
    let two = echo(vec![user("call read_file {\"path\": \"a\"}\ncall list")], 4_096);
    assert_eq!(two.calls, [call("call_1", "read_file", json!({"path": "a"})), call("call_2", "list", json!({}))]);
    assert_eq!((two.text, two.finish), (None, FinishReason::ToolCalls));
    let history = vec![
        user("go"),
        assistant(None, two.calls.clone()),
        PromptMessage::Tool {
            results: vec![result("call_1", "read_file", json!("abc"), true), result("call_2", "list", json!({"no": 1}), false)],
        },
    ];
    let told = echo(history.clone(), 4_096);
    assert_eq!(told.text.as_deref(), Some("read_file said: abc\nlist said: Error: {\"no\":1}"));
    let again = echo([history, vec![assistant(Some("x"), vec![]), user("Use read_file, please.")]].concat(), 4_096);
    assert_eq!(again.calls, [call("call_3", "read_file", json!({"input": "Use read_file, please."}))], "ids go on");
}

#[test]
fn echo_keeps_to_the_output_limit() {
    let answer = echo(vec![user("count to 1000")], 3);
    assert_eq!((answer.text.as_deref(), answer.finish), (Some("1 2 3 4 5 6 "), FinishReason::Length));
    assert_eq!(answer.usage.unwrap().output_tokens, 3);
    let answer = echo(vec![user("call read_file {\"path\": \"a long one\"}")], 3);
    assert_eq!((answer.calls, answer.finish), (vec![], FinishReason::Length), "a call is whole or not at all");
    assert_eq!(says("€€").len(), "You said: ".len() + 6);
    assert_eq!(echo(vec![user("€€")], 3).text.as_deref(), Some("You said: "), "characters are not cut in two");
}
