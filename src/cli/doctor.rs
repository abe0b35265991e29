//! `nimblesite doctor`: looks at everything and changes nothing. Each finding that is not good says what to do.

use super::{
    Desk, bytes, card, every,
    failure::{self, Done, Failure},
    out::Tone,
    runtime, serve,
};
use crate::{
    config::{Config, SandboxBackend},
    control::{self, Ask, Told},
    ids::TenantId,
    rates::RateCard,
    sandbox::{Probe, Sandboxes},
    storage::{Mode, Storage},
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Doubtful,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    state: State,
    what: String,
    #[serde(rename = "do")]
    todo: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, area: &'static str, what: impl Into<String>) {
        self.0.push(Finding { area, state: State::Good, what: what.into(), todo: None });
    }

    fn doubtful(&mut self, area: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { area, state: State::Doubtful, what: what.into(), todo: Some(todo.into()) });
    }

    fn bad(&mut self, area: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { area, state: State::Bad, what: what.into(), todo: Some(todo.into()) });
    }
}

pub(super) fn run(desk: &Desk) -> Done {
    let (config, _) = desk.config(Vec::new())?;
    let mut findings = Findings::default();
    findings.good("settings", "every setting is known and acceptable");
    if let Some(warning) = serve::exposed(&config) {
        findings.doubtful("settings", format!("listens on {} without TLS", config.listen), warning);
    }
    providers(&config, &mut findings);
    rate_card(&config, &mut findings);
    if config.data.is_dir() {
        permissions(&config.data, &mut findings);
        runtime(&config)?.block_on(async {
            data(&config, &mut findings).await;
            sandboxes(&config, &mut findings).await;
        });
    } else {
        let todo = "`nimblesite serve` makes it at its first start; --data names another";
        findings.bad("data", format!("there is no directory {}", config.data.display()), todo);
    }
    tell(desk, &findings.0)
}

fn tell(desk: &Desk, findings: &[Finding]) -> Done {
    let out = desk.out;
    out.value(&findings);
    for finding in findings {
        let (tone, sign) = match finding.state {
            State::Good => (Tone::Good, "ok  "),
            State::Doubtful => (Tone::Doubtful, "hm  "),
            State::Bad => (Tone::Bad, "BAD "),
        };
        out.say(format!("{} {:<11} {}", out.paint(tone, sign), finding.area, finding.what));
        if let Some(todo) = &finding.todo {
            out.say(format!("                 {} {todo}", out.paint(Tone::Heading, "→")));
        }
    }
    let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
    if bad == 0 {
        out.toned(Tone::Good, "Nothing is wrong.");
        return Ok(());
    }
    out.toned(Tone::Bad, format!("{bad} of {} findings are bad.", findings.len()));
    Err(Failure::Told)
}

/// What tenants' tools could run in here. A server without sandboxes is whole: configs that want one are refused.
async fn sandboxes(config: &Config, findings: &mut Findings) {
    let sandboxes = Sandboxes::new(config);
    let probe = sandboxes.probe().await;
    match &probe.trouble {
        Some(trouble) => {
            findings.doubtful(
                "sandboxes",
                format!("{trouble}; agents of type sandboxed are refused"),
                "docs/sandbox.md says what they need",
            );
        }
        None => findings.good("sandboxes", format!("one was started {}, looked into and taken away", fence(&probe))),
    }
    let mut advice = probe.advice.clone();
    if config.sandbox.backend == SandboxBackend::Native
        && let Some(probe) = sandboxes.engine_probe().await
    {
        match &probe.trouble {
            Some(trouble) => {
                findings.doubtful("images", format!("{trouble}; configs with a workspace_image cannot run"), "docs/sandbox.md, Containers");
            }
            None => findings.good("images", format!("a container of the first was started {}, looked into and taken away", fence(&probe))),
        }
        advice.extend(probe.advice.iter().cloned());
        advice.sort_unstable();
        advice.dedup();
    }
    for advice in &advice {
        findings.doubtful("sandboxes", "they could be fenced in better", advice.as_str());
    }
}

fn fence(probe: &Probe) -> String {
    probe.engine.as_ref().map_or_else(|| "behind the kernel's fence".to_owned(), |engine| format!("by {engine}"))
}

fn providers(config: &Config, findings: &mut Findings) {
    let (ready, missing): (Vec<_>, Vec<_>) = config.providers.values().partition(|provider| provider.configured());
    let names = |list: &[&crate::config::ProviderConfig]| list.iter().map(|provider| provider.name.clone()).collect::<Vec<_>>().join(", ");
    findings.good("providers", format!("set up: {}", names(&ready)));
    if !missing.is_empty() {
        findings.good("providers", format!("not set up, and refused with 503 provider_not_configured: {}", names(&missing)));
    }
}

fn rate_card(config: &Config, findings: &mut Findings) {
    match card::load(&config.data) {
        Ok((card, file)) => {
            let from = file.map_or_else(|| "in the binary".to_owned(), |file| file.display().to_string());
            findings.good("rates", format!("{} models are priced ({from})", card.rows().len()));
            unpriced(config, &card, findings);
        }
        Err(error) => findings.bad("rates", error, "mend it; `nimblesite models check FILE` tells when it is whole"),
    }
}

/// A provider that the operator set up and no row prices can only ever answer 503.
fn unpriced(config: &Config, card: &RateCard, findings: &mut Findings) {
    for provider in config.providers.values().filter(|provider| provider.configured()) {
        if !card.rows().iter().any(|row| row.provider == provider.name) {
            let todo = format!("add [[model]] rows for {} to {}", provider.name, card::path(&config.data).display());
            findings.doubtful("rates", format!("no model of provider {} is priced, so none can be called", provider.name), todo);
        }
    }
}

/// Whoever else may read these files may read every tenant's data.
fn permissions(data: &Path, findings: &mut Findings) {
    let mut open = Vec::new();
    let mut looked = 0_usize;
    let mut waiting = vec![data.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            findings.bad("permissions", format!("{} cannot be read", dir.display()), "run this as the user that runs the server");
            continue;
        };
        for entry in entries.flatten() {
            let Ok(facts) = entry.metadata() else { continue };
            looked += 1;
            // What tenants sent or made lies behind a door of its own, and has the modes that they gave it.
            if facts.is_dir() && !(dir == data && SANDBOX_FOLDERS.iter().any(|name| entry.file_name() == *name)) {
                waiting.push(entry.path());
            }
            let secret = facts.is_dir() || is_private(&entry.path());
            if secret && facts.permissions().mode() & 0o077 != 0 {
                open.push(entry.path());
            }
        }
    }
    match open.as_slice() {
        [] => findings.good("permissions", format!("none of {looked} files and directories is open to other users")),
        [first, ..] => findings.bad(
            "permissions",
            format!("{} files or directories are open to other users, such as {}", open.len(), first.display()),
            format!("chmod -R go-rwx {}", data.display()),
        ),
    }
    let top = fs::metadata(data).map(|facts| facts.permissions().mode() & 0o077).unwrap_or_default();
    if top != 0 {
        findings.doubtful(
            "permissions",
            format!("{} itself can be listed by other users", data.display()),
            format!("chmod 700 {}", data.display()),
        );
    }
}

/// Bundles and workspaces.
const SANDBOX_FOLDERS: [&str; 2] = ["bundles", "sandboxes"];

/// The rate card holds no secret; it may be read by anyone.
fn is_private(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !matches!(name, "models.toml" | ".gitignore")
}

async fn data(config: &Config, findings: &mut Findings) {
    match control::ask(&config.data, &Ask::Server).await {
        Ok(Some(Told::Server { version, pid, listen })) if version == env!("CARGO_PKG_VERSION") => {
            findings.good("server", format!("runs as process {pid} on {listen}"));
        }
        Ok(Some(Told::Server { version, pid, .. })) => {
            findings.doubtful(
                "server",
                format!("process {pid} is of version {version}, this is {}", env!("CARGO_PKG_VERSION")),
                "use one version for both",
            );
        }
        Ok(Some(_)) | Err(_) => {
            findings.bad("server", "something answers on control.sock, but not as the server does", "restart the server");
        }
        Ok(None) => findings.good("server", "none runs on this data directory"),
    }
    let storage = match Storage::of(config, Mode::Beside) {
        Ok(storage) => storage,
        Err(error) => {
            findings.bad(
                "catalog",
                failure::say(&error),
                "restore the directory from a backup, or use the version of nimblesite that wrote it",
            );
            return;
        }
    };
    findings.good("catalog", "opens, and its schema is this version's");
    secret_key(&storage, findings);
    encryption(&storage, config, findings).await;
    disk(&storage, config, findings);
    let operator = storage.operator_here();
    match every(|page| storage.tenant_list_all(&operator, page)).await {
        Ok(tenants) => {
            let known: BTreeSet<String> = tenants.iter().map(|tenant| tenant.id.to_string()).collect();
            orphans(&config.data, &known, findings);
            let ids: Vec<TenantId> = tenants.iter().map(|tenant| tenant.id).collect();
            audit(&storage, &ids, findings).await;
        }
        Err(error) => findings.bad("catalog", failure::say(&error), "restore catalog.db from a backup"),
    }
    storage.close();
}

fn secret_key(storage: &Storage, findings: &mut Findings) {
    const KEEP: &str = "no backup or export holds this key: keep a copy apart from them";
    match storage.secret_key(&storage.operator_here()) {
        (Ok(id), true) => findings.good("secret key", format!("{id}, and what is sealed here needs it; {KEEP}")),
        (Ok(id), false) => findings.good("secret key", format!("{id}; nothing is sealed under it yet")),
        (Err(why), true) => findings.bad("secret key", why, "until then sealed secrets and encrypted tenants cannot be used"),
        (Err(why), false) => findings.good("secret key", format!("{why}; the server makes one at its start")),
    }
}

async fn encryption(storage: &Storage, config: &Config, findings: &mut Findings) {
    let able = cfg!(feature = "encryption");
    let new = if config.encryption { "new tenants are" } else { "new tenants are not" };
    match storage.encrypted_count(&storage.operator_here()).await {
        Ok(0) => findings.good("encryption", format!("no tenant's file is encrypted; {new}")),
        Ok(count) if able => findings.good("encryption", format!("the files of {count} tenants are encrypted; {new}")),
        Ok(count) => findings.bad(
            "encryption",
            format!("the files of {count} tenants are encrypted, and this nimblesite was built without encryption"),
            "use one that was built with `--features encryption`",
        ),
        Err(error) => findings.bad("encryption", failure::say(&error), "restore catalog.db from a backup"),
    }
}

fn disk(storage: &Storage, config: &Config, findings: &mut Findings) {
    let floor = config.limits.disk_free_bytes_min as u64;
    match storage.disk_free_bytes() {
        Ok(free) if free < floor => {
            let what = format!("{} are free, below the floor of {}: no turn starts", bytes(free), bytes(floor));
            findings.bad("disk", what, "free some space, or lower limits.disk_free_bytes_min");
        }
        Ok(free) if free < floor.saturating_mul(4) => {
            findings.doubtful("disk", format!("{} are free; below {} no turn starts", bytes(free), bytes(floor)), "free some space soon");
        }
        Ok(free) => findings.good("disk", format!("{} are free", bytes(free))),
        Err(error) => findings.bad("disk", failure::say(&error), "check the mount of the data directory"),
    }
}

/// Directories of tenants that the catalog does not know. They are told and never touched: they may be all that is left of someone's data.
fn orphans(data: &Path, known: &BTreeSet<String>, findings: &mut Findings) {
    let unknown: Vec<PathBuf> = tenant_dirs(data)
        .into_iter()
        .filter(|dir| !dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(name)))
        .collect();
    match unknown.as_slice() {
        [] => findings.good("files", "every tenant's directory is known to the catalog"),
        [first, ..] => findings.doubtful(
            "files",
            format!("{} directories belong to no tenant of the catalog, such as {}", unknown.len(), first.display()),
            "they are never opened or removed by the server; move them away once you know what they were",
        ),
    }
}

fn tenant_dirs(data: &Path) -> Vec<PathBuf> {
    let dirs = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path)
            .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
            .unwrap_or_default()
    };
    dirs(&data.join("tenants")).iter().flat_map(|shard| dirs(shard)).collect()
}

async fn audit(storage: &Storage, tenants: &[TenantId], findings: &mut Findings) {
    let operator = storage.operator_here();
    let mut sound = 0_usize;
    for tenant in tenants {
        match storage.audit(&operator, *tenant).await {
            Ok(audit) if audit.faults.is_empty() => sound += 1,
            Ok(audit) => findings.bad(
                "ledger",
                format!("{tenant}: {}", audit.faults.join("; ")),
                "suspend the tenant, keep a copy of its file, and compare it with the newest backup",
            ),
            Err(error) => findings.bad(
                "tenant",
                format!("{tenant}: {}", failure::say(&error)),
                "the log of the server says more; restore it from a backup",
            ),
        }
    }
    trails(storage, tenants, findings).await;
    findings.good("tenants", format!("{sound} of {} files open, and their ledgers match wallet, holds, keys and answers", tenants.len()));
}

/// Whether nobody touched the audit logs.
async fn trails(storage: &Storage, tenants: &[TenantId], findings: &mut Findings) {
    let operator = storage.operator_here();
    let mut sound = 0_usize;
    for tenant in std::iter::once(None).chain(tenants.iter().copied().map(Some)) {
        let whose = tenant.map_or_else(|| "the server's own".to_owned(), |tenant| tenant.to_string());
        match storage.audit_faults(&operator, tenant).await {
            Ok(faults) if faults.is_empty() => sound += 1,
            Ok(faults) => findings.bad(
                "audit",
                format!("{whose}: {}", faults.join("; ")),
                "someone wrote to the file: keep a copy of it, and compare it with the newest backup",
            ),
            // A file that does not open is told of where its ledger is looked at.
            Err(error) if tenant.is_some() => tracing::debug!(%error, "an audit log could not be read"),
            Err(error) => findings.bad("audit", failure::say(&error), "restore catalog.db from a backup"),
        }
    }
    findings.good("audit", format!("every link of {sound} audit logs holds"));
}
