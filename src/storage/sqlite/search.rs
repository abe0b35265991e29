//! Full-text search with FTS5: the condition, and what a person typed as a query that cannot be malformed.

/// Words of a search that count; the rest is left out.
const WORDS_MAX: usize = 16;

/// A condition on `conversations`: one of its messages matches what the bare `?` stands for.
pub(super) const CONDITION: &str = "conversations.id IN (SELECT found.conversation_id FROM messages_fts \
    JOIN messages AS found ON found.rowid = messages_fts.rowid WHERE messages_fts MATCH ? AND found.tenant_id = ?1)";

/// Every word as a quoted string, which FTS5 takes for that word and nothing else; all of them must occur.
pub(super) fn query(typed: &str) -> Option<String> {
    let words = typed.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| word.contains(char::is_alphanumeric));
    let quoted: Vec<String> = words.take(WORDS_MAX).map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
    (!quoted.is_empty()).then(|| quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_never_becomes_syntax() {
        assert_eq!(query("phone NEAR(\"x\" OR *) -y").as_deref(), Some(r#""phone" "NEAR(""x""" "OR" "-y""#));
        assert_eq!(query(" \0 * !!! \" "), None);
    }
}
