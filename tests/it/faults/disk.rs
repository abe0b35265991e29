//! A disk that is full, fills in mid-turn, or takes no writes: nothing is lost, nothing is charged for nothing, and when there is room again
//! the server works without a restart.
//!
//! Each test mounts a small tmpfs, which only root may do; where it cannot, the test says so.

use super::{ask, full, kept, message, skipped, sound};
use crate::{
    fake_provider::{At, Gate, Reply, Wire},
    harness::{Process, Server, Settings, Tenant},
};
use serde_json::{Value, json};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const MIB: u64 = 1024 * 1024;

/// A small disk of its own, unmounted on every way out. What lies on it must be dropped before.
struct Disk {
    folder: tempfile::TempDir,
    /// The file that an ext4 disk is made of.
    image: Option<tempfile::NamedTempFile>,
}

impl Disk {
    fn mount(test: &str, mib: u64) -> Option<Self> {
        let disk = Self { folder: tempfile::tempdir().expect("a directory"), image: None };
        let size = format!("size={mib}m,mode=0700");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.path()).output();
        worked(test, "mount a tmpfs", run).then_some(disk)
    }

    /// An ext4 disk, which can be made to break down.
    fn mount_ext4(test: &str, mib: u64) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(mib * MIB).expect("a size");
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image.path()).output();
        if !worked(test, "make an ext4 disk", made) {
            return None;
        }
        let disk = Self { folder: tempfile::tempdir().expect("a directory"), image: Some(image) };
        let run = disk.attach();
        if !worked(test, "mount an ext4 disk", run) {
            return None;
        }
        if !disk.switch().exists() {
            skipped(test, "this kernel cannot make an ext4 disk break down");
            return None;
        }
        Some(disk)
    }

    fn attach(&self) -> std::io::Result<Output> {
        let image = self.image.as_ref().expect("an ext4 disk");
        Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image.path()).arg(self.path()).output()
    }

    /// Where the kernel is told that the disk has an error.
    fn switch(&self) -> PathBuf {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let here = self.path().to_string_lossy();
        let device = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&here)).and_then(|line| line.split(' ').next());
        let name = device.and_then(|device| device.rsplit('/').next()).unwrap_or("none");
        Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error")
    }

    /// From now on the disk takes no writes, whoever has a file open.
    fn break_down(&self) {
        std::fs::write(self.switch(), "1").expect("the kernel does as it is told");
        assert!(File::create(self.path().join("probe")).is_err(), "the disk takes writes still");
    }

    /// Checks the disk and mounts it anew, as an operator does. Nobody may have a file open on it.
    fn mend(&self) {
        assert!(Command::new("umount").arg(self.path()).status().expect("umount").success(), "the disk is in use");
        let image = self.image.as_ref().expect("an ext4 disk");
        let checked = Command::new("e2fsck").args(["-f", "-p"]).arg(image.path()).output().expect("e2fsck");
        assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
        assert!(self.attach().expect("mount").status.success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file");
        for size in [1024 * 1024, 4096, 1] {
            let piece = vec![7; size];
            // The disk ends the loop; the bound is for a disk that is not the small one.
            for _ in 0..8192 {
                if file.write_all(&piece).is_err() {
                    break;
                }
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }

    fn remount(&self, mode: &str) -> bool {
        let option = format!("remount,{mode}");
        Command::new("mount").args(["-o", &option]).arg(self.path()).status().is_ok_and(|status| status.success())
    }
}

/// Whether a command did what it should; a test that cannot go on says so.
fn worked(test: &str, what: &str, run: std::io::Result<Output>) -> bool {
    match run {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skipped(test, &format!("cannot {what} here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            false
        }
        Err(error) => {
            skipped(test, &format!("cannot {what} here: {error}"));
            false
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.path().to_string_lossy().into_owned();
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(&here)) {
            return;
        }
        let gone =
            |option: &[&str]| Command::new("umount").args(option).arg(self.folder.path()).status().is_ok_and(|status| status.success());
        if !gone(&[]) && !gone(&["-l"]) {
            eprintln!("{} could not be unmounted", self.folder.path().display());
        }
    }
}

struct Scene {
    server: Server,
    tenant: Tenant,
    other: Tenant,
    config: String,
    theirs: String,
    conversation: String,
}

impl Scene {
    /// Two tenants on the disk; the first has a conversation.
    async fn on(disk: &Disk, floor: u64) -> Self {
        let server = Settings::default().process().within(disk.path()).limit("disk_free_bytes_min", floor).start().await;
        let (tenant, other) = (server.rich_tenant("Full").await, server.rich_tenant("Beside").await);
        let config = server.config(&tenant, Wire::Anthropic.provider(), "smart", &json!({})).await;
        let theirs = server.config(&other, Wire::OpenAi.provider(), "smart", &json!({})).await;
        server.vendor.then(Reply::text("First answer."));
        let conversation = server.say(&tenant.key, &config, "First").await;
        Self { server, tenant, other, config, theirs, conversation }
    }

    async fn reads_go_on(&self) {
        for path in [
            "/api/v1/configs".to_owned(),
            "/api/v1/conversations".to_owned(),
            format!("/api/v1/conversations/{}/messages", self.conversation),
            "/api/v1/wallet".to_owned(),
            "/api/v1/wallet/ledger".to_owned(),
            "/api/v1/logs".to_owned(),
            "/healthz".to_owned(),
        ] {
            let key = if path.starts_with("/api") { self.tenant.key.as_str() } else { "" };
            let answer = self.server.get(&path, key).await;
            assert_eq!(answer.status, 200, "{path} on a full disk: {}", answer.body);
        }
    }

    /// Asks until a turn is answered again.
    async fn recovers(&self) -> Value {
        for _ in 0..200 {
            let answer = self.server.chat(&self.tenant.key, &self.config, &message("Is there room?", Some(&self.conversation))).await;
            if answer.status == 200 {
                return answer.json();
            }
            assert!([409, 503, 507].contains(&answer.status), "{}", answer.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("room came back and the server did not")
    }
}

#[tokio::test]
async fn a_full_disk_refuses_turns_before_they_cost_anything_and_reads_go_on() {
    let Some(disk) = Disk::mount("faults::disk::a_full_disk_refuses_turns_before_they_cost_anything_and_reads_go_on", 24) else { return };
    let scene = Scene::on(&disk, 2 * MIB).await;
    let Scene { server, tenant, other, config, theirs, conversation } = &scene;
    let calls = server.vendor.call_count();
    disk.fill();
    for _ in 0..3 {
        server.chat(&tenant.key, config, &message("Too much", Some(conversation))).await.problem(507, "disk_full");
        server.chat(&other.key, theirs, &message("Too much", None)).await.problem(507, "disk_full");
    }
    let streamed = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Accept", "text/event-stream");
    let streamed = streamed.body(message("Too much", None).to_string()).send().await.expect("an answer");
    assert_eq!(streamed.status().as_u16(), 507, "a stream is refused before it begins");
    server.get("/readyz", "").await.problem(507, "disk_full");
    scene.reads_go_on().await;
    // What else would be written is refused as clearly, and leaves nothing half done.
    let body = crate::harness::config_body(&"x".repeat(150), "echo", "echo", &json!({"system_prompt": "long ".repeat(40_000)}));
    server.post("/api/v1/configs", &tenant.key, &body).await.problem(507, "disk_full");
    assert_eq!(server.vendor.call_count(), calls, "no vendor was called");

    disk.free();
    server.vendor.otherwise(Reply::text("There is."));
    let told = scene.recovers().await;
    kept(server, tenant, &told);
    server.say(&other.key, theirs, "Here too").await;
    server.post("/api/v1/configs", &tenant.key, &body).await.expect(201);
    server.get("/readyz", "").await.expect(200);
    sound(server, &[tenant, other]).await;
    scene.server.done().await;
}

#[tokio::test]
async fn a_disk_that_fills_in_mid_turn_keeps_the_answer_waiting_and_loses_nothing() {
    let Some(disk) = Disk::mount("faults::disk::a_disk_that_fills_in_mid_turn_keeps_the_answer_waiting_and_loses_nothing", 32) else {
        return;
    };
    let mut scene = Scene::on(&disk, MIB).await;
    // A fresh start leaves no log whose emptying would make room.
    scene.server.stop().await;
    scene.server.run().await;
    let Scene { server, tenant, other, config, theirs, conversation } = &scene;
    let gate = Gate::new();
    let long = "All that was said, at length. ".repeat(40_000);
    server.vendor.when("At length", Reply::text(&long).tokens(100, 4_000).stall(At::AfterHead, &gate));
    let body = message("At length", Some(conversation));
    let asking = ask(server, &tenant.key, config, "mid-turn", &body);
    let filling = async {
        let calls = server.vendor.call_count();
        server.vendor.called(calls + 1).await;
        let held = server.get("/api/v1/wallet", &tenant.key).await.expect(200).text("/held");
        assert_ne!(held, "0.000000000");
        disk.fill();
        gate.open();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // It waits with its hold; nobody else of the tenant begins a turn meanwhile, and everybody can read.
        assert_eq!(server.get("/api/v1/wallet", &tenant.key).await.expect(200).text("/held"), held, "the settle waits for room");
        let calls = server.vendor.call_count();
        server.chat(&tenant.key, config, &message("Another", None)).await.problem(507, "disk_full");
        server.chat(&other.key, theirs, &message("Another", None)).await.problem(507, "disk_full");
        assert_eq!(server.vendor.call_count(), calls);
        scene.reads_go_on().await;
        disk.free();
        // Room alone does not let the tenant hold again: the waiting step comes first.
        let answer = server.chat(&tenant.key, config, &message("At once", None)).await;
        assert!([200, 503].contains(&answer.status), "{}", answer.body);
    };
    server.vendor.otherwise(Reply::text("Short."));
    let (answer, ()) = tokio::join!(asking, filling);
    let answer = answer.expect("an answer").expect(200);
    assert_eq!(answer.text("/response"), long, "the whole answer, once there was room");
    kept(server, tenant, &answer.json());
    let again = ask(server, &tenant.key, config, "mid-turn", &body).await.expect("an answer").expect(200);
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &answer.body));
    scene.recovers().await;
    server.say(&other.key, theirs, "Here too").await;
    sound(server, &[tenant, other]).await;
    scene.server.done().await;
}

#[tokio::test]
async fn a_disk_without_a_floor_that_fills_and_frees_again_and_again_costs_nobody_an_answer() {
    let Some(disk) = Disk::mount("faults::disk::a_disk_without_a_floor_that_fills_and_frees_again_and_again_costs_nobody_an_answer", 32)
    else {
        return;
    };
    let scene = Scene::on(&disk, 0).await;
    let Scene { server, tenant, other, config, theirs, .. } = &scene;
    let long = "A middling answer, long enough to need room. ".repeat(400);
    server.vendor.otherwise(Reply::text(&long).tokens(50, 500));
    let rounds = if full() { 20 } else { 3 };
    let mut refused = 0;
    for round in 0..rounds {
        let some = |number: usize| {
            let (key, config) = if number.is_multiple_of(2) { (&tenant.key, config) } else { (&other.key, theirs) };
            let claim = format!("round {round} number {number}");
            async move {
                let body = json!({"message": claim});
                let first = ask(server, key, config, &claim, &body).await.expect("a server that lives");
                (number, claim.clone(), body, first)
            }
        };
        if round % 2 == 0 {
            disk.fill();
        }
        let asking = futures_util::future::join_all((0..6).map(some));
        let filling = async {
            tokio::time::sleep(Duration::from_millis(20 * (round % 5))).await;
            for _ in 0..3 {
                disk.fill();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            disk.free();
        };
        let (answers, ()) = tokio::join!(asking, filling);
        for (number, claim, body, first) in answers {
            let (tenant, config) = if number.is_multiple_of(2) { (tenant, config) } else { (other, theirs) };
            let told = match first.status {
                200 => first,
                503 | 507 => {
                    refused += 1;
                    again(server, tenant, config, &claim, &body).await
                }
                _ => panic!("{claim}: {}", first.body),
            };
            kept(server, tenant, &told.json());
        }
    }
    println!("{refused} of {} requests were refused for want of room, and answered when it was there", rounds * 6);
    sound(server, &[tenant, other]).await;
    scene.server.done().await;
}

/// Asks until it is answered.
async fn again(server: &Server, tenant: &Tenant, config: &str, claim: &str, body: &Value) -> crate::harness::Answer {
    for _ in 0..200 {
        let answer = ask(server, &tenant.key, config, claim, body).await.expect("a server that lives");
        if answer.status == 200 {
            return answer;
        }
        assert!([409, 503, 507].contains(&answer.status), "{}", answer.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{claim}: no answer though there is room")
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_is_told_at_the_start_and_harms_nothing() {
    let Some(disk) = Disk::mount("faults::disk::a_disk_that_takes_no_writes_is_told_at_the_start_and_harms_nothing", 24) else { return };
    let mut scene = Scene::on(&disk, MIB).await;
    scene.server.stop().await;
    if !disk.remount("ro") {
        skipped(
            "faults::disk::a_disk_that_takes_no_writes_is_told_at_the_start_and_harms_nothing",
            "the disk cannot be made read-only here",
        );
        return;
    }
    assert!(File::create(disk.path().join("probe")).is_err());
    let output = Process::command(&scene.server.data()).args(["serve"]).output().await.expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("ead-only"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(disk.remount("rw"));
    scene.server.run().await;
    scene.server.vendor.otherwise(Reply::text("Back."));
    scene.recovers().await;
    sound(&scene.server, &[&scene.tenant, &scene.other]).await;
    scene.server.done().await;
}

#[tokio::test]
async fn a_disk_that_breaks_down_in_mid_turn_answers_nothing_that_is_not_stored() {
    let Some(disk) = Disk::mount_ext4("faults::disk::a_disk_that_breaks_down_in_mid_turn_answers_nothing_that_is_not_stored", 48) else {
        return;
    };
    let mut scene = Scene::on(&disk, MIB).await;
    // What the test itself wrote, the server's settings, must not be lost with the disk. What the server wrote is its own affair.
    for name in ["nimblesite.toml", "models.toml"] {
        File::open(scene.server.data().join(name)).and_then(|file| file.sync_all()).expect("a file on the disk");
    }
    let Scene { server, tenant, other, config, theirs, conversation } = &scene;
    let gate = Gate::new();
    server.vendor.when("In the middle", Reply::text("Lost with the disk.").stall(At::AfterHead, &gate));
    let body = message("In the middle", Some(conversation));
    let asking = ask(server, &tenant.key, config, "broken", &body);
    let breaking = async {
        let calls = server.vendor.call_count();
        server.vendor.called(calls + 1).await;
        disk.break_down();
        gate.open();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls = server.vendor.call_count();
        server.chat(&tenant.key, config, &message("Another", None)).await.problem(503, "tenant_unavailable");
        server.chat(&other.key, theirs, &message("Another", None)).await.problem(503, "tenant_unavailable");
        assert_eq!(server.vendor.call_count(), calls, "no vendor is called for what cannot be stored");
        scene.reads_go_on().await;
        assert!(server.get("/readyz", "").await.status >= 500, "a server that cannot write is not ready");
        let pid = server.pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill -9");
    };
    let (told, ()) = tokio::join!(asking, breaking);
    assert!(told.is_none(), "an answer was told that is not stored: {told:?}");
    scene.server.died().await;
    disk.mend();
    scene.server.run().await;
    let Scene { server, tenant, other, config, theirs, .. } = &scene;
    sound(server, &[tenant, other]).await;
    assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM logs WHERE event = 'interrupted' AND operator_cost > 0"), 1);
    let again = ask(server, &tenant.key, config, "broken", &body).await.expect("an answer").expect(200);
    kept(server, tenant, &again.json());
    server.vendor.otherwise(Reply::text("Back."));
    scene.recovers().await;
    server.say(&other.key, theirs, "Here too").await;
    sound(server, &[tenant, other]).await;
    scene.server.done().await;
}
