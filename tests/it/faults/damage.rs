//! Files that were damaged behind the server's back: one tenant's matter, noticed and told, never more money than was deposited.

use super::{findings, kept, message, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::{Server, Settings, Tenant},
};
use serde_json::{Value, json};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
    time::Duration,
};

struct Talker {
    tenant: Tenant,
    config: String,
    conversation: String,
}

impl Talker {
    async fn new(server: &Server, name: &str) -> Self {
        let tenant = server.rich_tenant(name).await;
        let config = server.config(&tenant, Wire::Anthropic.provider(), "smart", &json!({})).await;
        let conversation = server.say(&tenant.key, &config, "First").await;
        Self { tenant, config, conversation }
    }

    async fn talk(&self, server: &Server) -> Value {
        server.chat(&self.tenant.key, &self.config, &message("More", Some(&self.conversation))).await.expect(200).json()
    }

    async fn is_closed(&self, server: &Server) {
        server.get("/api/v1/wallet", &self.tenant.key).await.problem(503, "tenant_unavailable");
        let calls = server.vendor.call_count();
        let chat = server.chat(&self.tenant.key, &self.config, &message("More", Some(&self.conversation))).await;
        chat.problem(503, "tenant_unavailable");
        assert_eq!(server.vendor.call_count(), calls, "no vendor is called for a closed tenant");
    }

    fn file(&self, server: &Server) -> PathBuf {
        server.tenant_files().into_iter().find(|(id, _)| *id == self.tenant.id).expect("a file").1
    }

    /// Where a table's first page begins, in bytes.
    fn page_of(&self, server: &Server, table: &str) -> u64 {
        let root = server.number(&self.tenant.id, &format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"));
        let size = server.number(&self.tenant.id, "SELECT page_size FROM pragma_page_size");
        u64::try_from((root - 1) * size).expect("an offset")
    }
}

async fn begin() -> Server {
    let server = Settings::default().process().limit("heads_interval_ms", 20).start().await;
    server.vendor.otherwise(Reply::text("An answer."));
    server
}

#[tokio::test]
async fn a_flipped_byte_closes_one_tenant_and_no_other() {
    let mut server = begin().await;
    let (hit, well) = (Talker::new(&server, "Hit").await, Talker::new(&server, "Well").await);
    let places =
        [("the file's mark", 0), ("the wallet", hit.page_of(&server, "wallet")), ("the messages", hit.page_of(&server, "messages"))];
    for (what, offset) in places {
        server.stop().await;
        let path = hit.file(&server);
        let whole = fs::read(&path).expect("a file");
        let file = OpenOptions::new().write(true).open(&path).expect("a file");
        let at = usize::try_from(offset).expect("an offset");
        file.write_all_at(&[whole[at] ^ 0xFF], offset).expect("a byte");
        drop(file);
        server.run().await;
        // Damage that the first look does not meet is met by the first read that does.
        let met = server.get(&format!("/api/v1/conversations/{}/messages", hit.conversation), &hit.tenant.key).await;
        met.problem(503, "tenant_unavailable");
        hit.is_closed(&server).await;
        kept(&server, &well.tenant, &well.talk(&server).await);
        let told = findings(&server)
            .await
            .into_iter()
            .find(|finding| finding["state"] == "bad")
            .unwrap_or_else(|| panic!("{what}: the doctor saw nothing"));
        assert!(told["what"].as_str().is_some_and(|text| text.contains(&hit.tenant.id)), "{told}");
        server.stop().await;
        for side in ["db-wal", "db-shm"] {
            drop(fs::remove_file(path.with_extension(side)));
        }
        fs::write(&path, whole).expect("the file as it was");
        server.run().await;
        kept(&server, &hit.tenant, &hit.talk(&server).await);
    }
    sound(&server, &[&hit.tenant, &well.tenant]).await;
    server.done().await;
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_noticed_and_a_torn_end_harms_nothing() {
    let mut server = begin().await;
    let (hit, well) = (Talker::new(&server, "Hit").await, Talker::new(&server, "Well").await);
    let told = hit.talk(&server).await;
    kept(&server, &hit.tenant, &told);
    // The ledger's head is noted beside the file, a moment later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill().await;
    let wal = hit.file(&server).with_extension("db-wal");
    let whole = fs::read(&wal).expect("a log");
    let frame = 24 + 4096;

    // A torn write behind the last commit, as a power cut leaves it.
    let mut torn = whole.clone();
    torn.extend(whole[32..32 + frame].iter().map(|byte| byte ^ 0x5A));
    torn.truncate(whole.len() + frame / 2);
    fs::write(&wal, &torn).expect("a log");
    server.run().await;
    kept(&server, &hit.tenant, &told);
    sound(&server, &[&hit.tenant]).await;
    server.kill().await;

    // Commits that were told are gone: the ledger is older than what is known of it, so there would be money twice.
    let whole = fs::read(&wal).expect("a log");
    fs::write(&wal, &whole[..32]).expect("a log");
    drop(fs::remove_file(hit.file(&server).with_extension("db-shm")));
    server.run().await;
    hit.is_closed(&server).await;
    kept(&server, &well.tenant, &well.talk(&server).await);
    server.stop().await;

    // Put right, it answers again.
    fs::write(&wal, &whole).expect("a log");
    drop(fs::remove_file(hit.file(&server).with_extension("db-shm")));
    server.run().await;
    kept(&server, &hit.tenant, &told);
    kept(&server, &hit.tenant, &hit.talk(&server).await);
    sound(&server, &[&hit.tenant, &well.tenant]).await;
    server.done().await;
}
