//! What one tenant's noise does to another: to calls in its sandbox, measured beside it, and to its turns, measured through the API. In full,
//! bounds are asserted; always, the figures are printed. `docs/benchmarks.md` has the command and the results.

use super::{
    cage::{As, Cage, Sandbox},
    load::middle_and_end,
    shelf::{boxed, python},
};
use crate::harness::{Server, Tenant, full};
use nimblesite::sandbox::StopReason;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Fork bombs, memory hogs, floods, disk fillers and whoever else never rests.
const NOISES: [(&str, &str); 6] = [
    ("spinning threads", "import os\nfor _ in range(8): os.fork() or exec('while True: pass')\nwhile True: pass"),
    ("fork bomb", "import os\nwhile True:\n    try:\n        if os.fork() == 0: os._exit(0)\n    except OSError: pass"),
    ("memory hog", "while True:\n    x = bytearray(400 << 20)\n    del x"),
    ("flood of output", "import os\nwhile True: os.write(2, b'x' * 100000)"),
    ("disk filler", "import os\nwhile True:\n    try: open('/workspace/full', 'wb').write(b'x' * (60 << 20))\n    except OSError: pass"),
    (
        "disk flusher",
        "import os\nfd = os.open('/workspace/one', os.O_CREAT | os.O_WRONLY)\nwhile True:\n    os.pwrite(fd, b'x', 0)\n    os.fsync(fd)",
    ),
];

/// How often a p99 may grow.
const TIMES_MAX: u32 = 3;

/// A kernel that hands a processor on at its ticks alone has 250 of them in a second.
const TICK: Duration = Duration::from_millis(4);

/// Who never rests is put behind the others after 1.6 s.
fn settled() -> Duration {
    Duration::from_millis(if full() { 2_500 } else { 500 })
}

/// Each noise alone, and all at once. The quiet sandbox is called without a pause, as the aim is measured, and now and then, as agents call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_sandbox_does_not_slow_a_quiet_one_much() {
    let Some(cage) = Cage::new("neighbours::a_noisy_sandbox_does_not_slow_a_quiet_one_much", As::Root).await else { return };
    let mut quiet = cage.boot("quiet").await;
    calls(&mut quiet).await;
    let alone = calls(&mut quiet).await;
    println!("p99 of a call alone: {:?} without a pause, {:?} now and then", alone[0], alone[1]);
    let told = |noise, beside: [Duration; 2]| {
        tell(noise, ["a call", "a call now and then"], alone, beside);
        if full() {
            assert!(beside[0] < (alone[0] * TIMES_MAX).max(TICK + TICK / 4), "{noise}: {alone:?} {beside:?}");
        }
    };
    let mut all = Vec::new();
    for together in [false, true] {
        for (number, (name, code)) in NOISES.iter().enumerate() {
            let mut sandbox = cage.boot(&format!("noisy-{number}-{together}")).await;
            sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": code}})).await;
            if together {
                all.push(sandbox);
                continue;
            }
            tokio::time::sleep(settled()).await;
            told(name, calls(&mut quiet).await);
            assert!(sandbox.running.usage().await.unwrap().pids > 1, "{name} is still at it");
            sandbox.running.kill(StopReason::Deadline).await;
        }
    }
    tokio::time::sleep(settled()).await;
    told("all of them", calls(&mut quiet).await);
}

/// Each noise is a turn of one tenant; the turns of another are timed, those that call a tool and those that call none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_tenant_does_not_slow_another_s_turns_much() {
    let server = boxed().process().start().await;
    let quiet = server.tenant("Quiet").await;
    let quiet = Agent::new(&server, &quiet).await;
    quiet.turns().await;
    let alone = quiet.turns().await;
    println!("p99 of a turn alone: {:?} with a tool, {:?} without", alone[0], alone[1]);
    for (name, code) in NOISES {
        let tenant = server.tenant(name).await;
        let noisy = Agent::new(&server, &tenant).await;
        let mut noise = std::pin::pin!(noisy.asked(code));
        let measured = async {
            tokio::time::sleep(settled()).await;
            quiet.turns().await
        };
        let beside = tokio::select! {
            beside = measured => beside,
            ended = &mut noise => panic!("{name} ended before it was measured beside: {ended}"),
        };
        server.delete(&format!("/api/v1/configs/{}/sandbox", noisy.boxed), &tenant.key).await.expect(204);
        noise.await;
        tell(name, ["a turn with a tool", "one without"], alone, beside);
        if full() {
            assert!(beside.iter().zip(alone).all(|(beside, alone)| *beside < alone * TIMES_MAX), "{name}: {alone:?} {beside:?}");
        }
    }
    server.done().await;
}

fn tell(noise: &str, what: [&str; 2], alone: [Duration; 2], beside: [Duration; 2]) {
    for n in 0..2 {
        println!("p99 of {} beside {noise}: {:?}, {:.1} times", what[n], beside[n], beside[n].as_secs_f64() / alone[n].as_secs_f64());
    }
}

/// The p99 of calls without a pause, and of some 200 in a second.
async fn calls(sandbox: &mut Sandbox) -> [Duration; 2] {
    let calls = if full() { 2_000 } else { 60 };
    let mut p99s = [Duration::ZERO; 2];
    for (p99, calls, pause) in [(0, calls, 0), (1, calls / 4, 5)] {
        let mut times = Vec::new();
        for _ in 0..calls {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let begun = Instant::now();
            sandbox.tool("run", json!({"code": ""})).await;
            times.push(begun.elapsed());
        }
        p99s[p99] = middle_and_end(times).1;
    }
    p99s
}

/// Two configs of one tenant: one with tools, one without.
struct Agent<'a> {
    server: &'a Server,
    key: String,
    boxed: String,
    plain: String,
}

impl<'a> Agent<'a> {
    async fn new(server: &'a Server, tenant: &Tenant) -> Self {
        let tools = python("def run(code: str) -> str:\n    exec(code, {})\n    return 'ran'\n");
        Self {
            server,
            key: tenant.key.clone(),
            boxed: server.boxed_config(tenant, "echo", "echo", tools, &json!({})).await,
            plain: server.config(tenant, "echo", "echo", &json!({})).await,
        }
    }

    /// One turn whose tool runs this code, whatever becomes of it.
    async fn asked(&self, code: &str) -> Value {
        let message = format!("call run {}", json!({"code": code}));
        self.server.chat(&self.key, &self.boxed, &json!({"message": message})).await.json()
    }

    /// The p99 of turns with a tool and of turns without.
    async fn turns(&self) -> [Duration; 2] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..if full() { 1_000 } else { 30 } {
            let begun = Instant::now();
            assert_eq!(self.asked("").await["response"], "run said: ran");
            times[0].push(begun.elapsed());
            let begun = Instant::now();
            self.server.say(&self.key, &self.plain, "hello").await;
            times[1].push(begun.elapsed());
        }
        times.map(|times| middle_and_end(times).1)
    }
}
