//! An agent's sandbox: the bundle of its tools, what runs, the files of its workspace, and the end of what its process complained of.

use super::{
    Frame, Heading, Html, agents,
    list::{Head, table},
    parts::{badge, bytes, empty, icon, notice, time},
};
use crate::model::{
    AgentType, Bundle, Config, Json, PinnedTool, Reach, SandboxState, SandboxStatus, Snapshot, SnapshotMade, WorkspaceFile, WorkspaceFiles,
};
use maud::{Markup, html};

/// What the page shows.
pub struct View<'a> {
    /// The agent.
    pub agent: &'a Config,
    /// Its tools' bundle, once there is one.
    pub bundle: Option<&'a Bundle>,
    /// What its sandbox is doing.
    pub status: &'a SandboxStatus,
    /// The workspace's files, where they were asked for.
    pub files: Option<&'a Files>,
    /// Copies of the workspace, newest first.
    pub snapshots: &'a [Snapshot],
    /// What tools asked for over the network, newest first.
    pub reached: &'a [Reach],
    /// The server's address as apps reach it.
    pub url: &'a str,
    /// Bytes that a bundle may have.
    pub bundle_bytes_max: u64,
}

/// The workspace's files, or why they cannot be shown.
pub enum Files {
    /// They are these.
    Listed(WorkspaceFiles),
    /// In words.
    Refused(String),
}

/// The page.
pub fn page(frame: &Frame, view: &View<'_>) -> Html {
    let agent = view.agent;
    let sandboxed = agent.body.agent_type == AgentType::Sandboxed;
    let heading = Heading {
        crumb: Some(("/dashboard/agents".to_owned(), "Agents".to_owned())),
        actions: html! { @if sandboxed { (actions(frame, view)) } },
        ..Heading::new(agent.body.name.clone(), "Tools that run on this server, behind a fence, with their secrets inside.")
    };
    let content = html! {
        (agents::tabs(agent, "sandbox"))
        @if sandboxed { (inside(frame, view)) } @else { (outside(view)) }
    };
    frame.page(&heading, content)
}

fn outside(view: &View<'_>) -> Markup {
    let edit = html! { a.button.primary href={ "/dashboard/agents/" (view.agent.id) } { (icon("pencil")) "Edit the agent" } };
    empty(
        "tool",
        "This agent's tools run in your app",
        "Choose under “Tools run” that this server runs them, save, and upload their bundle here: Python functions or any MCP server.",
        edit,
    )
}

fn actions(frame: &Frame, view: &View<'_>) -> Markup {
    let path = format!("/dashboard/agents/{}/sandbox", view.agent.id);
    let form = |to: &str, confirm: &str, label: &str, class: &str| {
        html! {
            form method="post" action={ (path) "/" (to) } data-confirm=(confirm) data-confirm-label=(label) {
                (frame.token())
                button class=(class) { (label) }
            }
        }
    };
    html! {
        @if matches!(view.status.state, SandboxState::Running | SandboxState::Booting) {
            (form("stop", "Stop the sandbox? A call that runs in it fails. The next call starts it anew; its files stay.", "Stop", "button"))
        }
        @if view.status.state != SandboxState::Absent {
            (form("reset", "Remove the workspace with all its files? Only a snapshot can bring them back.", "Remove the workspace", "button danger"))
        }
    }
}

fn state(state: SandboxState) -> Markup {
    let (kind, word) = match state {
        SandboxState::Absent => ("quiet", "not begun"),
        SandboxState::Booting => ("info", "starting"),
        SandboxState::Running => ("ok", "running"),
        SandboxState::Stopped => ("quiet", "stopped"),
        SandboxState::BackingOff => ("bad", "crashed too often"),
    };
    badge(kind, word)
}

fn inside(frame: &Frame, view: &View<'_>) -> Markup {
    let status = view.status;
    let none = status.isolation.as_str() == Some("none");
    html! {
        @if none {
            (notice("warn", "This server cannot start sandboxes now, so no tool of this agent runs. Its operator learns from “nimblesite doctor” what is missing; or let your app run the tools."))
        }
        dl.stats {
            div.stat { dt { "State" } dd.stat-badge { (state(status.state)) } dd.stat-note { (doing(status)) } }
            div.stat { dt { "Memory" } dd { (bytes(status.memory_bytes)) } dd.stat-note { "in use now" } }
            div.stat { dt { "Isolation" } dd { (status.isolation.as_str().unwrap_or("unknown")) } dd.stat-note { @if none { "nothing runs" } @else { "between it and the machine" } } }
            div.stat { dt { "A second of work" } dd { "$" (status.machine_second) } dd.stat-note { "while tools run" } }
        }
        div.split {
            div.stack {
                (tools(view))
                (files(view))
                (snapshots(frame, view))
                (stderr(status))
                (reached(view))
            }
            aside.stack { (bundle(frame, view)) }
        }
    }
}

fn doing(status: &SandboxStatus) -> Markup {
    html! {
        @match status.last_used_at {
            Some(at) => { "last called " (time(at, "ago")) }
            None => { "begins with the first call" }
        }
    }
}

fn tools(view: &View<'_>) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Tools" } p { "As the bundle described them when it was uploaded. Models are told this, and arguments are checked against it." } }
            @match view.bundle {
                Some(bundle) if !bundle.tools.is_empty() => {
                    div.card-body.stack { @for tool in &bundle.tools { (tool_card(tool)) } }
                }
                Some(_) => { div.card-body { p.hint { "The bundle has no tools." } } }
                None => { (empty("tool", "No bundle yet", "Upload an archive with a manifest.json at its root. There are two to begin with in examples/: sandbox-python and sandbox-mcp.", html! {})) }
            }
        }
    }
}

fn tool_card(tool: &PinnedTool) -> Markup {
    html! {
        details.tool {
            summary {
                (icon("tool"))
                code { (tool.name) }
                @if let Some(seconds) = tool.timeout_s { span.tool-state { (badge("quiet", &format!("{seconds} s"))) } }
            }
            @if let Some(words) = &tool.description { div.tool-part { p { (words) } } }
            div.tool-part { h4 { "Arguments" } pre.code tabindex="0" { code { (pretty(&Json::Object(tool.parameters.clone()))) } } }
        }
    }
}

fn pretty(value: &Json) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

const FILE_HEADS: [Head; 4] = [Head::Words("Path"), Head::Words("Kind"), Head::Figures("Size"), Head::Words("Changed")];

/// Files are looked for when the page is there: a sandbox of their own has to be started for that.
fn files(view: &View<'_>) -> Markup {
    let path = format!("/dashboard/agents/{}/sandbox?files=1", view.agent.id);
    let later = view.files.is_none() && view.status.state != SandboxState::Absent;
    html! {
        section.card #files hx-get=[later.then_some(&path)] hx-trigger=[later.then_some("load")] hx-select=[later.then_some("#files")] hx-swap=[later.then_some("outerHTML")] {
            header.card-head {
                h2 { "Files" }
                p { "The workspace, where tools begin. It stays when the process ends." }
                div.actions { @if !later { a.button.small href={ (path) "#files" } { (icon("refresh")) "Look again" } } }
            }
            @match view.files {
                Some(Files::Listed(files)) if !files.data.is_empty() => {
                    (table("Files", &FILE_HEADS, files.data.iter().map(|file| file_row(view, file))))
                    @if files.more { p.hint { "There are more, which this list has no room for." } }
                }
                Some(Files::Refused(why)) => { div.card-body { (notice("bad", why)) } }
                _ if later => { div.card-body { p.hint { "Looking …" } noscript { a href=(path) { "Show them" } } } }
                _ => { div.card-body { p.hint { "Nothing lies there yet. The first call of a tool makes the workspace." } } }
            }
        }
    }
}

fn file_row(view: &View<'_>, file: &WorkspaceFile) -> Markup {
    html! {
        tr {
            td data-label="Path" {
                @if file.kind == "file" {
                    a.row-link href={ "/api/v1/configs/" (view.agent.id) "/sandbox/file?path=" (query(&file.path)) } download { (file.path) }
                } @else { (file.path) }
            }
            td data-label="Kind" { (file.kind) }
            td.num data-label="Size" { @if file.kind == "file" { (bytes(file.size_bytes)) } }
            td data-label="Changed" { (time(file.changed_at, "ago")) }
        }
    }
}

const SNAPSHOT_HEADS: [Head; 4] = [Head::Words("Made"), Head::Words("Why"), Head::Figures("Size"), Head::Words("")];

fn snapshots(frame: &Frame, view: &View<'_>) -> Markup {
    let path = format!("/dashboard/agents/{}/sandbox/snapshots", view.agent.id);
    html! {
        section.card #snapshots {
            header.card-head {
                h2 { "Snapshots" }
                p { "Copies of the workspace: those you ask for, and those made when the sandbox was idle and had changed files." }
                @if view.status.state != SandboxState::Absent {
                    form.actions method="post" action=(path) {
                        (frame.token())
                        button.button.small { (icon("plus")) "Make one" }
                    }
                }
            }
            @if view.snapshots.is_empty() { div.card-body { p.hint { "There is none yet." } } }
            @else { (table("Snapshots", &SNAPSHOT_HEADS, view.snapshots.iter().map(|snapshot| snapshot_row(frame, &path, snapshot)))) }
        }
    }
}

fn snapshot_row(frame: &Frame, path: &str, snapshot: &Snapshot) -> Markup {
    let (id, config) = (snapshot.id, snapshot.config_id);
    let form = |to: &str, confirm: &str, label: &str, class: &str| {
        html! {
            form method="post" action={ (path) "/" (id) "/" (to) } data-confirm=(confirm) data-confirm-label=(label) {
                (frame.token())
                button class=(class) { (label) }
            }
        }
    };
    html! {
        tr {
            td data-label="Made" {
                a.row-link href={ "/api/v1/configs/" (config) "/sandbox/snapshots/" (id) "/archive" } download { (time(snapshot.created_at, "short")) }
            }
            td data-label="Why" { @if snapshot.made == SnapshotMade::Asked { "asked for" } @else { "idle" } }
            td.num data-label="Size" { (bytes(snapshot.size_bytes)) }
            td.row-actions {
                (form("restore", "Put this snapshot in the place of the workspace? What lies there now is gone.", "Restore", "button small"))
                (form("delete", "Remove this snapshot?", "Remove", "button small danger"))
            }
        }
    }
}

/// A text as it stands in a query.
fn query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn stderr(status: &SandboxStatus) -> Markup {
    html! {
        section.card {
            header.card-head {
                h2 { "Last words" }
                p {
                    "The end of what the process wrote to stderr, secrets taken out."
                    @if let Some(exit) = &status.last_exit { " It ended: " (exit) "." }
                }
            }
            div.card-body {
                @if status.stderr.trim().is_empty() { p.hint { "It wrote nothing." } }
                @else { pre.code.tail tabindex="0" { code { (status.stderr) } } }
            }
        }
    }
}

const REACHED_HEADS: [Head; 5] =
    [Head::Words("Host"), Head::Words("Outcome"), Head::Figures("Times"), Head::Figures("Out, in"), Head::Words("Last")];

fn reached(view: &View<'_>) -> Markup {
    let row = |reach: &Reach| {
        html! {
            tr {
                td data-label="Host" { code { (reach.target) } }
                td data-label="Outcome" title=(reach.detail) { @if reach.allowed { (badge("ok", "let through")) } @else { (badge("bad", "refused")) } }
                td.num data-label="Times" { (reach.attempts) }
                td.num data-label="Out, in" { @if reach.allowed { (bytes(reach.bytes_out)) ", " (bytes(reach.bytes_in)) } }
                td data-label="Last" { (time(reach.last_at, "ago")) }
            }
        }
    };
    html! {
        @if !view.reached.is_empty() {
            section.card {
                header.card-head { h2 { "Network" } p { "What its tools asked for, and whether they reached it." } }
                (table("Network", &REACHED_HEADS, view.reached.iter().map(row)))
            }
        }
    }
}

fn bundle(frame: &Frame, view: &View<'_>) -> Markup {
    let at = format!("/api/v1/configs/{}/bundle", view.agent.id);
    let curl = format!("curl -X PUT {}{at} -H \"X-API-Key: $KEY\" --data-binary @bundle.tar.gz", view.url);
    html! {
        section.card {
            header.card-head { h2 { "Bundle" } }
            div.card-body {
                @if let Some(bundle) = view.bundle { (facts(view, bundle)) }
                form.form data-upload=(at) data-then={ "/dashboard/agents/" (view.agent.id) "/sandbox?said=bundle-put" } {
                    div.field {
                        label for="archive" { @if view.bundle.is_some() { "Another bundle in its place" } @else { "Archive" } }
                        input #archive type="file" required accept=".zip,.mcpb,.tgz,.gz" aria-describedby="archive-hint";
                        p.hint #archive-hint { "A zip, .mcpb or gzipped tar, up to " (bytes(view.bundle_bytes_max)) ". It is tried out in a sandbox without secrets before it is kept." }
                    }
                    div data-upload-said role="status" {}
                    div.form-foot { button.button.primary { (icon("plus")) "Upload" } }
                }
                noscript { p.hint { "Without JavaScript: " code { (curl) } } }
                @if view.bundle.is_some() {
                    form method="post" action={ "/dashboard/agents/" (view.agent.id) "/sandbox/bundle/delete" } data-confirm="Take the bundle away? Running tools are stopped. The workspace stays." data-confirm-label="Take it away" {
                        (frame.token())
                        button.button.small.danger { (icon("trash")) "Take the bundle away" }
                    }
                }
            }
        }
    }
}

fn facts(view: &View<'_>, bundle: &Bundle) -> Markup {
    let given = |name: &str| view.agent.body.workspace_secrets.as_ref().is_some_and(|secrets| secrets.0.contains_key(name));
    let digest: String = bundle.digest.chars().take(12).collect();
    html! {
        dl.facts {
            div { dt { "Name" } dd { (bundle.name) " " (bundle.version) } }
            div { dt { "Kind" } dd { (badge("quiet", &bundle.kind)) } }
            div { dt { "Size" } dd { (bytes(bundle.size_bytes)) } }
            div { dt { "SHA-256" } dd { code title=(bundle.digest) { (digest) "…" } } }
            div { dt { "Uploaded" } dd { (time(bundle.created_at, "short")) } }
            @for name in &bundle.secrets {
                div { dt { "Secret " code { (name) } } dd { @if given(name) { (badge("ok", "given")) } @else { (badge("warn", "missing")) } } }
            }
            @for host in &bundle.network_asked {
                div { dt { "Wants " code { (host) } } dd { @if bundle.network_granted.contains(host) { (badge("ok", "may")) } @else { (badge("quiet", "may not")) } } }
            }
        }
    }
}
