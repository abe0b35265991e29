//! Every limit of the server, by name, unit and default; docs/configuration.md is made from this.

use std::time::Duration;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident = $default:expr;)*) => {
        /// Every limit, time-out and retry of the server. The defaults suit a machine with one core.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: limits!(@type $kind),)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Name, unit and meaning of each limit, in the order they stand in here.
            pub const TABLE: &'static [LimitInfo] = &[$(LimitInfo { name: stringify!($name), doc: concat!($($doc),+) },)*];

            /// Sets one limit from a number as it stands in the file or environment: a count, bytes, or milliseconds for durations.
            /// False when no limit has this name.
            pub fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = limits!(@from $kind value),)*
                    _ => return false,
                }
                true
            }

            /// One limit as the number it is set with.
            pub fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $(stringify!($name) => Some(limits!(@into $kind self.$name)),)*
                    _ => None,
                }
            }
        }
    };
    (@type count) => { usize };
    (@type ms) => { Duration };
    (@from count $value:ident) => { usize::try_from($value).unwrap_or(usize::MAX) };
    (@from ms $value:ident) => { Duration::from_millis($value) };
    (@into count $value:expr) => { $value as u64 };
    (@into ms $value:expr) => { u64::try_from($value.as_millis()).unwrap_or(u64::MAX) };
}

/// What a limit is called and what it bounds.
#[derive(Debug, Clone, Copy)]
pub struct LimitInfo {
    /// Its key in `[limits]`.
    pub name: &'static str,
    /// What it bounds.
    pub doc: &'static str,
}

limits! {
    /// Connections open at once.
    connections_max: count = 4_096;
    /// Connections open at once from one address (an IPv6 /64 counts as one), so that none can take them all. Behind a proxy, raise it to `connections_max`.
    connections_per_address_max: count = 2_048;
    /// How long a refusal for want of a right credential or of patience (401, 429) is held back, and how long an address waits for its next connection once it sent what is no HTTP or nothing at all: whoever asks again at once does so at this pace. 0 is no pause.
    refusal_pause_ms: ms = Duration::from_millis(250);
    /// Requests running at once on one HTTP/2 connection.
    connection_streams_max: count = 100;
    /// How often the TLS files are looked at for a change.
    tls_check_ms: ms = Duration::from_secs(10);
    /// Time in which a client has to take at least some of the bytes that wait for it.
    write_timeout_ms: ms = Duration::from_secs(30);
    /// Time to send all request headers, from the connection's beginning or the last answer: so long an idle connection stays open, too.
    header_timeout_ms: ms = Duration::from_secs(15);
    /// Time to send the request body.
    body_timeout_ms: ms = Duration::from_secs(30);
    /// Bytes of all request headers together.
    header_bytes_max: count = 32 * 1024;
    /// Headers of one request.
    headers_max: count = 100;
    /// Bytes of path and query.
    uri_bytes_max: count = 8 * 1024;
    /// Bytes of a request body.
    body_bytes_max: count = 1024 * 1024;
    /// Requests a minute for one key, sustained.
    key_requests_per_minute: count = 6_000;
    /// Requests that one key may send at once above the sustained rate.
    key_requests_burst: count = 600;
    /// Requests a minute for one tenant, sustained.
    tenant_requests_per_minute: count = 30_000;
    /// Requests that one tenant may send at once above the sustained rate.
    tenant_requests_burst: count = 3_000;
    /// Sign-in, registration and password requests a minute from one address.
    auth_requests_per_minute: count = 30;
    /// Requests worked on at once, beside turns and the streams of their events. Free places go to the waiting tenants in turn.
    requests_at_once_max: count = 32;
    /// Requests of one tenant worked on at once, beside turns and streams.
    tenant_requests_at_once_max: count = 4;
    /// Requests that wait for a place.
    requests_waiting_max: count = 4_096;
    /// Requests of one tenant that wait for a place.
    tenant_requests_waiting_max: count = 512;
    /// Turns running at once in the server; the last quarter is for tenants with less than an equal share.
    turns_max: count = 1_024;
    /// Turns running at once in one tenant.
    turns_per_tenant_max: count = 256;
    /// How long a request waits for its conversation.
    conversation_wait_ms: ms = Duration::from_secs(60);
    /// How long a turn's events can be replayed.
    turn_replay_ms: ms = Duration::from_secs(600);
    /// Bytes of one turn's events kept for replay.
    turn_replay_bytes_max: count = 1024 * 1024;
    /// Bytes of all turns' events kept for replay.
    turn_replay_total_bytes_max: count = 32 * 1024 * 1024;
    /// Comments that keep an idle stream open come this often.
    keepalive_ms: ms = Duration::from_secs(15);
    /// How often an open stream checks that its key still stands.
    stream_check_ms: ms = Duration::from_millis(500);
    /// How long the answer of an idempotency key is kept.
    idempotency_ms: ms = Duration::from_secs(24 * 3600);
    /// Bytes of a system prompt.
    system_prompt_bytes_max: count = 256 * 1024;
    /// Tools of one config.
    tools_max: count = 128;
    /// Bytes of all tool schemas of one config.
    tools_bytes_max: count = 256 * 1024;
    /// Levels that one tool's schema may be nested.
    tool_schema_depth_max: count = 32;
    /// Fallback models of one config.
    fallbacks_max: count = 8;
    /// Template variables of one conversation.
    template_vars_max: count = 64;
    /// Bytes of one template variable's value.
    template_var_bytes_max: count = 8 * 1024;
    /// Bytes of a rendered system prompt.
    rendered_prompt_bytes_max: count = 1024 * 1024;
    /// Keys of a metadata object.
    metadata_keys_max: count = 32;
    /// Bytes of a metadata object.
    metadata_bytes_max: count = 16 * 1024;
    /// Bytes of an Idempotency-Key header.
    idempotency_key_bytes_max: count = 255;
    /// Output tokens when a config names no limit.
    output_tokens_default: count = 4_096;
    /// Messages of history read for one turn.
    history_messages_max: count = 2_000;
    /// Bytes of one vendor answer.
    answer_bytes_max: count = 8 * 1024 * 1024;
    /// Tool calls of one answer.
    answer_tool_calls_max: count = 128;
    /// Time to connect to a vendor.
    provider_connect_timeout_ms: ms = Duration::from_secs(10);
    /// Time from sending to the vendor's first byte.
    provider_first_byte_timeout_ms: ms = Duration::from_secs(120);
    /// Time between two pieces of a vendor's answer.
    provider_idle_timeout_ms: ms = Duration::from_secs(60);
    /// Time of one vendor call altogether.
    provider_total_timeout_ms: ms = Duration::from_secs(600);
    /// Calls of one model in one step: the first and its repeats after a clear refusal.
    provider_attempts_max: count = 3;
    /// The wait before the first repeat; it doubles, with jitter.
    provider_backoff_ms: ms = Duration::from_millis(500);
    /// The longest wait before a repeat; a vendor that asks for more is not asked again.
    provider_backoff_max_ms: ms = Duration::from_secs(20);
    /// Tenants whose files are open at once; 0 takes what the descriptor limit allows.
    tenants_open_max: count = 0;
    /// Bytes of tenants' files that are kept in memory, shared out among those that are open; each keeps 64 to 512 KiB a connection.
    page_cache_bytes_max: count = 32 * 1024 * 1024;
    /// Bytes of configs that are kept in memory, ready for their next turn; 0 keeps none.
    config_cache_bytes_max: count = 4 * 1024 * 1024;
    /// Bytes of long conversations' messages that are kept in memory, ready for their next turn; 0 keeps none.
    history_cache_bytes_max: count = 16 * 1024 * 1024;
    /// Writes that wait for one tenant's file.
    tenant_queue_max: count = 1_024;
    /// Bytes of one tenant's file; 0 is no limit.
    tenant_bytes_max: count = 0;
    /// Tenants exported at once.
    exports_max: count = 4;
    /// Tenants whose writes are committed at once; the others wait for their turn.
    writers_max: count = 16;
    /// Threads for storage and hashing.
    blocking_threads_max: count = 64;
    /// How long SQLite waits for another process's lock.
    busy_timeout_ms: ms = Duration::from_secs(5);
    /// Time of one read (a list, a search) of the database.
    read_timeout_ms: ms = Duration::from_secs(10);
    /// Key proofs (argon2) that wait for a core.
    key_checks_queue_max: count = 256;
    /// Passwords that wait for a core to be hashed on.
    password_checks_queue_max: count = 64;
    /// How long a proof of a key is remembered.
    key_proof_ms: ms = Duration::from_secs(600);
    /// Proofs remembered at once.
    key_proofs_max: count = 16_384;
    /// How long a user token lasts.
    user_token_ms: ms = Duration::from_secs(30 * 24 * 3600);
    /// How long a session of the dashboard lasts that nobody uses; every use renews it.
    session_ms: ms = Duration::from_secs(12 * 3600);
    /// How long a session of the dashboard lasts at most, used or not.
    session_whole_ms: ms = Duration::from_secs(7 * 24 * 3600);
    /// Sessions of one user; a new one ends the oldest.
    sessions_max: count = 32;
    /// The longest time that an overview's figures are shown before they are summed up anew, where that took long.
    overview_kept_ms_max: ms = Duration::from_secs(300);
    /// Answers, the newest ones of its span, that the overview takes its percentiles from.
    overview_answers_max: count = 10_000;
    /// Calls of one provider that are remembered to tell the operator how it fares.
    provider_calls_remembered_max: count = 512;
    /// Forms of the dashboard that made something and are remembered, so that the same form sent again makes it no second time.
    forms_remembered_max: count = 4_096;
    /// How long a link that signs someone in once can be used.
    sign_in_link_ms: ms = Duration::from_secs(15 * 60);
    /// How long a verification or reset mail can be used.
    mail_token_ms: ms = Duration::from_secs(24 * 3600);
    /// How long an invitation to a tenant stands.
    invitation_ms: ms = Duration::from_secs(30 * 24 * 3600);
    /// User tokens of one user; a new one ends the oldest.
    user_tokens_max: count = 64;
    /// Tenants that one user may belong to and still make another.
    tenants_per_user_max: count = 100;
    /// Members and invitations of one tenant.
    members_per_tenant_max: count = 1_000;
    /// Keys of one tenant that are neither revoked nor expired.
    keys_per_tenant_max: count = 1_000;
    /// Mails that wait to be sent.
    mail_queue_max: count = 256;
    /// Mails an hour to one address.
    mails_per_address_per_hour: count = 20;
    /// How long a rotated key lasts beside its successor.
    rotate_overlap_ms: ms = Duration::from_secs(24 * 3600);
    /// Steps (calls of a model) that one turn of a sandboxed agent may take.
    sandbox_steps_max: count = 32;
    /// Time of one tool call when its bundle names none.
    sandbox_call_ms: ms = Duration::from_secs(60);
    /// The longest time of one tool call that a bundle may name.
    sandbox_call_ms_max: ms = Duration::from_secs(600);
    /// Calls that one sandbox works on at once; the rest wait.
    sandbox_calls_at_once_max: count = 4;
    /// Bytes of one tool's result that a model is shown; more is cut out of its middle.
    sandbox_result_bytes_max: count = 256 * 1024;
    /// Bytes that a sandbox may write to its tool channel during one call.
    sandbox_call_bytes_max: count = 8 * 1024 * 1024;
    /// Bytes that a sandbox may write to its tool channel in a minute.
    sandbox_bytes_per_minute: count = 64 * 1024 * 1024;
    /// Time for a sandbox's tool server to shake hands, and for a bundle to describe its tools.
    sandbox_handshake_ms: ms = Duration::from_secs(10);
    /// How long a sandbox runs on after its last tool call.
    sandbox_idle_ms: ms = Duration::from_secs(600);
    /// Sandboxes running at once in the server; never more than the machine's memory has room for.
    sandboxes_running_max: count = 64;
    /// Sandboxes running at once in one tenant.
    sandboxes_running_per_tenant_max: count = 4;
    /// Workspaces of one tenant.
    sandboxes_per_tenant_max: count = 20;
    /// How long a call waits for a sandbox to become free.
    sandbox_wait_ms: ms = Duration::from_secs(10);
    /// How long a sandbox that crashed three times in a minute is left alone.
    sandbox_backoff_ms: ms = Duration::from_secs(300);
    /// Connections out of one sandbox at once, where it may reach something.
    sandbox_egress_connections_max: count = 16;
    /// Bytes in a minute that go out of one sandbox and come in, over the network.
    sandbox_egress_bytes_per_minute: count = 64 * 1024 * 1024;
    /// Time for each part of a connection out of a sandbox: its request, its name's answer, an address that is dialled.
    sandbox_egress_connect_ms: ms = Duration::from_secs(10);
    /// How long a connection out of a sandbox may be silent.
    sandbox_egress_idle_ms: ms = Duration::from_secs(60);
    /// Hosts that a config's tools asked for and were refused, as its owner is told of them; the oldest give way. What was let through stays.
    sandbox_egress_refusals_max: count = 200;
    /// Entries of one listing of a workspace's files.
    sandbox_files_listed_max: count = 1_000;
    /// Bytes of a file that is read out of a workspace.
    sandbox_file_bytes_max: count = 32 * 1024 * 1024;
    /// Snapshots of one workspace; for one more, the oldest that the server made by itself gives way.
    sandbox_snapshots_max: count = 10;
    /// Snapshots of one workspace that the server makes by itself, each after its sandbox was stopped for being idle and had changed files; the oldest gives way. 0 makes none.
    sandbox_snapshots_idle_max: count = 3;
    /// Bytes of all snapshots of one tenant.
    sandbox_snapshots_tenant_bytes_max: count = 10 * 1024 * 1024 * 1024;
    /// Time for making one snapshot, or for laying one out.
    sandbox_snapshot_ms: ms = Duration::from_secs(300);
    /// Secrets of one config.
    sandbox_secrets_max: count = 64;
    /// Bytes of one secret.
    sandbox_secret_bytes_max: count = 64 * 1024;
    /// Bundles that are taken in at once; others wait.
    bundle_uploads_at_once_max: count = 4;
    /// Bytes of an uploaded bundle.
    bundle_bytes_max: count = 20 * 1024 * 1024;
    /// Bytes of all files of an unpacked bundle.
    bundle_unpacked_bytes_max: count = 200 * 1024 * 1024;
    /// Bytes of one file of an unpacked bundle.
    bundle_file_bytes_max: count = 64 * 1024 * 1024;
    /// Files and folders of a bundle.
    bundle_entries_max: count = 5_000;
    /// Free bytes on the data directory's disk below which no turn starts.
    disk_free_bytes_min: count = 64 * 1024 * 1024;
    /// Rows of one usage answer.
    usage_rows_max: count = 1_000;
    /// Periods (hours or days) between the ends of one usage answer.
    usage_periods_max: count = 1_000;
    /// Refusals logged a minute in one tenant; the rest are counted only.
    refusal_logs_per_minute: count = 60;
    /// How often conversations and log rows that are beyond a tenant's retention are looked for.
    retention_interval_ms: ms = Duration::from_secs(3600);
    /// Conversations or log rows beyond their days that are removed in one commit.
    retention_batch_max: count = 100;
    /// Such commits of each kind in one tenant in one sweep; what is left waits for the next.
    retention_batches_max: count = 100;
    /// How often background facts (ledger heads, last use of keys) are written.
    heads_interval_ms: ms = Duration::from_millis(1_000);
    /// Bytes of memory of one sandbox, unless its config or bundle says otherwise.
    sandbox_memory_bytes: count = 512 * 1024 * 1024;
    /// Bytes of memory that a config or bundle may ask for.
    sandbox_memory_bytes_max: count = 4 * 1024 * 1024 * 1024;
    /// Processes and threads of one sandbox, unless its config or bundle says otherwise.
    sandbox_processes: count = 128;
    /// Processes and threads that a config or bundle may ask for.
    sandbox_processes_max: count = 1_024;
    /// Bytes of one sandbox's workspace, unless its config or bundle says otherwise. A workspace keeps the size that it was made with.
    sandbox_workspace_bytes: count = 1024 * 1024 * 1024;
    /// Bytes of a workspace that a config or bundle may ask for.
    sandbox_workspace_bytes_max: count = 10 * 1024 * 1024 * 1024;
    /// Thousandths of a processor that one sandbox may use.
    sandbox_cpu_millis_max: count = 1_000;
    /// Bytes that one sandbox's workspace may read from its disk in a second, and as many that it may write.
    sandbox_disk_bytes_per_second_max: count = 20 * 1024 * 1024;
    /// Reads that one sandbox's workspace may make of its disk in a second, and as many writes; each flush is a few of them.
    sandbox_disk_operations_per_second_max: count = 1_000;
    /// Time in which a sandbox has to stand.
    sandbox_boot_ms: ms = Duration::from_secs(10);
    /// How long a starting server waits for the one before it to let go of the data directory.
    lock_wait_ms: ms = Duration::ZERO;
    /// How long a stop goes on serving the connections that it has, so that no request is lost on its way in; each is closed with its next answer.
    shutdown_linger_ms: ms = Duration::from_millis(500);
    /// How long a stop waits for running turns.
    shutdown_ms: ms = Duration::from_secs(30);
}
