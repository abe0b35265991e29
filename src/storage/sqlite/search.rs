//! Full-text search with FTS5: the condition, what a person typed as a query that cannot be malformed, and when messages come into the index.
//!
//! The index costs nearly as much for one message as for many that are added together. So it does not learn of them with each turn, but with one
//! write of so many, in the same commit, and before each search.

use crate::{
    error::Result,
    ids::TenantId,
    storage::engine::{Job, Param, Tx},
};
use rusqlite::Connection;

/// Writes to a tenant's file after which its new messages come into the index.
pub(super) const WRITES: usize = 64;

/// What brings a tenant's new messages, `?1` being the tenant, into the index, and remembers how far it got. Changes nothing where there are none.
pub(super) const FILL: &[&str] = &[
    "INSERT INTO messages_fts (rowid, content) SELECT rowid, content FROM messages WHERE content IS NOT NULL AND +tenant_id = ?1
     AND rowid > coalesce((SELECT up_to FROM messages_searchable WHERE tenant_id = ?1), 0)",
    "INSERT INTO messages_searchable (tenant_id, up_to) VALUES (?1, (SELECT coalesce(max(rowid), 0) FROM messages))
     ON CONFLICT (tenant_id) DO UPDATE SET up_to = excluded.up_to WHERE up_to < excluded.up_to",
];

/// The same on a connection that nobody else has.
pub(super) fn fill(conn: &Connection, tenant: TenantId) -> rusqlite::Result<()> {
    FILL.iter().try_for_each(|sql| conn.execute(sql, [tenant.to_string()]).map(drop))
}

/// The same as a write beside others, which it neither fails nor outlives.
pub(super) struct Fill(pub TenantId);

impl Job for Fill {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<()> {
        let tenant = self.0.to_string();
        FILL.iter().try_for_each(|sql| tx.execute(sql, &[Param::Text(&tenant)]).map(drop))
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(tenant = %self.0, %error, "the newest messages could not be made searchable yet");
        }
    }
}

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
    use crate::storage::{
        conformance::{Bench, write},
        engine::{Place, TxExt},
        schema::Kind,
    };
    use rusqlite::params;

    #[test]
    fn what_is_typed_never_becomes_syntax() {
        assert_eq!(query("phone NEAR(\"x\" OR *) -y").as_deref(), Some(r#""phone" "NEAR(""x""" "OR" "-y""#));
        assert_eq!(query(" \0 * !!! \" "), None);
    }

    /// A tenant's file of its own, as far as a search needs it.
    struct File {
        conn: Connection,
        tenant: TenantId,
    }

    impl File {
        fn new() -> Self {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(Kind::Tenant.schema()).unwrap();
            let tenant = TenantId::new();
            conn.execute("INSERT INTO tenant (id, name, created_at) VALUES (?1, 'T', 0)", [tenant.to_string()]).unwrap();
            conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
            Self { conn, tenant }
        }

        fn say(&self, conversation: u32, number: u32) {
            let sql = "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at)
                       VALUES (?1, ?2, ?3, ?3, 't', 'user', ?4, 1)";
            // Some have no text of their own.
            let text = (!number.is_multiple_of(5)).then(|| format!("word{number} all"));
            self.conn.execute(sql, params![self.tenant.to_string(), conversation.to_string(), number, text]).unwrap();
        }

        fn delete(&self, conversation: u32) {
            self.conn.execute("DELETE FROM messages WHERE conversation_id = ?1", [conversation.to_string()]).unwrap();
        }

        fn texts(&self, sql: &str) -> Vec<String> {
            self.conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(|text| text.unwrap()).collect()
        }

        /// What the index finds is what there is, and nothing else.
        fn check(&self) {
            fill(&self.conn, self.tenant).unwrap();
            self.conn.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)", []).unwrap();
            let found =
                "SELECT content FROM messages WHERE rowid IN (SELECT rowid FROM messages_fts WHERE messages_fts MATCH 'all') ORDER BY 1";
            assert_eq!(self.texts(found), self.texts("SELECT content FROM messages WHERE content IS NOT NULL ORDER BY 1"));
            for text in self.texts("SELECT content FROM messages WHERE content IS NOT NULL") {
                let word = text.split(' ').next().unwrap().to_owned();
                let rows: i64 =
                    self.conn.query_row("SELECT count(*) FROM messages_fts WHERE messages_fts MATCH ?1", [word], |row| row.get(0)).unwrap();
                assert_eq!(rows, 1, "{text}");
            }
        }
    }

    #[test]
    fn a_number_that_is_given_out_again_is_indexed_again() {
        let file = File::new();
        file.say(1, 1);
        file.say(2, 2);
        file.check();
        // The last rows go, known or not, and new ones get their numbers.
        file.say(3, 3);
        file.delete(2);
        file.delete(3);
        file.say(4, 4);
        file.check();
        file.delete(1);
        file.delete(4);
        file.say(5, 6);
        file.check();
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_and_goes_the_index_knows_what_there_is(steps in proptest::collection::vec((0_u32..4, 0_u32..6), 1..60)) {
            let file = File::new();
            for (number, (step, conversation)) in (1..).zip(&steps) {
                match step {
                    0 | 1 => file.say(*conversation, number),
                    2 => file.delete(*conversation),
                    _ => file.check(),
                }
            }
            file.check();
        }
    }

    #[test]
    fn every_so_many_writes_the_index_learns_of_new_messages_by_itself() {
        let bench = Bench::new();
        let tenant = bench.tenant();
        let known = || {
            let mut up_to = 0;
            let id = tenant.to_string();
            let read = bench.engine.read(Place::Tenant(tenant), &mut |tx| {
                let sql = "SELECT coalesce(max(up_to), 0) FROM messages_searchable WHERE tenant_id = ?1";
                up_to = tx.first(sql, &[Param::Text(&id)], |row| row.int(0))?.unwrap_or_default();
                Ok(())
            });
            read.map(|()| up_to).unwrap()
        };
        for number in 1..=i64::try_from(WRITES).unwrap() {
            assert_eq!(known(), 0);
            let id = tenant.to_string();
            write(&*bench.engine, Place::Tenant(tenant), move |tx| {
                let text = number.to_string();
                if number == 1 {
                    let sql = "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, title, metadata, template_vars, message_count, created_at, updated_at)
                               SELECT ?1, 'c', 'c', 'u', 'k', '', '{}', '{}', 1, 1, 1";
                    tx.execute("INSERT INTO configs (tenant_id, id, name, version, created_at, updated_at) VALUES (?1, 'c', 'c', 1, 1, 1)", &[Param::Text(&id)])?;
                    tx.execute(sql, &[Param::Text(&id)])?;
                }
                let sql = "INSERT INTO messages (tenant_id, conversation_id, seq, id, turn_id, role, content, created_at)
                           VALUES (?1, 'c', ?2, ?3, 't', 'user', ?3, 1)";
                tx.execute(sql, &[Param::Text(&id), Param::Int(number), Param::Text(&text)]).map(drop)
            })
            .unwrap();
        }
        assert_eq!(known(), i64::try_from(WRITES).unwrap());
        // A search that brings nothing new writes nothing.
        let id = tenant.to_string();
        let log = bench.dir.path().join("tenants").join(&id[34..]).join(&id).join("tenant.db-wal");
        let written = || std::fs::metadata(&log).unwrap().len();
        let before = written();
        write(&*bench.engine, Place::Tenant(tenant), move |tx| Fill(tenant).run(tx)).unwrap();
        assert_eq!(written(), before);
    }
}
