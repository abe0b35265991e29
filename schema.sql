-- Nimblesite's whole data model: the catalog, then a tenant's file. Applied as it stands to a new database; later changes are
-- migrations in src/storage/schema.rs, and this page always shows the newest form.
--
-- Times are milliseconds since 1970 in UTC. Money is nano-dollars. Ids are UUIDv7 text. JSON is text.
-- Checks say `x = 'a' OR x = 'b'`: for `x IN (…)` with more than two values SQLite builds a table at each row that it checks.

-- ==================================================================================================================== catalog

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    email         TEXT NOT NULL UNIQUE,                 -- lower case
    password_hash TEXT,                                 -- argon2id; none until set
    verified_at   INTEGER,
    disabled_at   INTEGER,
    created_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE user_tokens (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id),
    kind       TEXT NOT NULL CHECK (kind = 'access' OR kind = 'verify' OR kind = 'reset'),
    hash       TEXT NOT NULL UNIQUE,                    -- blake3 of 256 random bits: no dictionary reaches it
    password_hash TEXT,                                 -- verify: the password of that registration, the user's once it is proved
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX user_tokens_by_user ON user_tokens (user_id);

CREATE TABLE tenants (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    time_zone    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state = 'creating' OR state = 'active' OR state = 'deleting'),
    suspended_at INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    bytes_max    INTEGER CHECK (bytes_max >= 0),        -- of the tenant's file; 0 is no limit, none the server's own
    conversations_days INTEGER CHECK (conversations_days > 0), -- how long they are kept after their last change; none for ever
    logs_days    INTEGER CHECK (logs_days > 0),
    data_key     TEXT                                   -- what its file is encrypted with, wrapped by the operator's key; none: it is not
) STRICT;

CREATE TABLE memberships (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    user_id    TEXT NOT NULL REFERENCES users (id),
    role       TEXT NOT NULL CHECK (role = 'viewer' OR role = 'member' OR role = 'admin' OR role = 'owner'),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_user ON memberships (user_id);

-- People who were asked in by an address that no user has yet.
CREATE TABLE invitations (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    email      TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role = 'viewer' OR role = 'member' OR role = 'admin' OR role = 'owner'),
    invited_by TEXT NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, email)
) STRICT, WITHOUT ROWID;
CREATE INDEX invitations_by_email ON invitations (email);

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    public_id    TEXT NOT NULL UNIQUE,                  -- the part of the key's text that finds this row
    hash         TEXT NOT NULL,                         -- argon2id of the secret part
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    user_id      TEXT NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role = 'viewer' OR role = 'member' OR role = 'admin' OR role = 'owner'),
    prefix       TEXT NOT NULL,
    spend_limit  INTEGER CHECK (spend_limit >= 0),
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER
) STRICT;
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);

-- Vendors that reported more than the bound of a call. A model is closed for all after breaches by three tenants, until its row on the
-- rate card (whose fingerprint is rate_hash) is changed.
CREATE TABLE model_breaches (
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    tenant_id  TEXT NOT NULL,
    rate_hash  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (provider, model, rate_hash, tenant_id)
) STRICT, WITHOUT ROWID;

-- Folders that backups were made in, so that a deleted tenant leaves them, too.
CREATE TABLE backup_places (
    path       TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

-- Which operator's key things are sealed under, once something is: its name, not the key.
CREATE TABLE sealing (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    key_id     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Who made, changed or ended what, in a chain a tenant: keys, members, the tenant itself. The chain of '' is the server's own: accounts,
-- backups, and of each deleted tenant its id, its times and the last links of its chains. A tenant's goes with the tenant.
CREATE TABLE audit (
    tenant_id  TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    act        TEXT NOT NULL,
    actor      TEXT NOT NULL CHECK (actor = 'key' OR actor = 'user' OR actor = 'operator'),
    user_id    TEXT,
    key_id     TEXT,
    target     TEXT,
    detail     TEXT NOT NULL,                           -- JSON object; no secret, no content
    created_at INTEGER NOT NULL,
    hash       TEXT NOT NULL,                           -- SHA-256 of the hash before and this entry
    PRIMARY KEY (tenant_id, seq)
) STRICT;
CREATE UNIQUE INDEX audit_by_id ON audit (tenant_id, id);
CREATE TRIGGER audit_append_only_update BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_append_only_delete BEFORE DELETE ON audit
    WHEN old.tenant_id = '' OR EXISTS (SELECT 1 FROM tenants t WHERE t.id = old.tenant_id AND t.state = 'active')
    BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- Who is signed in to the dashboard. A row says who it is; what they may do is looked up at each request.
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,                    -- blake3 of 256 random bits, as of user tokens
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,     -- none: the operator's
    key_id     TEXT REFERENCES api_keys (id) ON DELETE CASCADE,  -- signed in with this key, and no more than it
    tenant_id  TEXT REFERENCES tenants (id) ON DELETE SET NULL,  -- the one that was chosen
    operator   TEXT,                                    -- the operator's: what proves that the token is still the same
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,                        -- moves on while the session is used
    ends_at    INTEGER NOT NULL,                        -- it never moves beyond
    CHECK ((user_id IS NULL) = (operator IS NOT NULL))
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_key ON sessions (key_id);
CREATE INDEX sessions_by_tenant ON sessions (tenant_id);

-- Links that sign someone in once.
CREATE TABLE sign_in_links (
    hash       TEXT PRIMARY KEY,                        -- as of user tokens
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sign_in_links_by_user ON sign_in_links (user_id);

-- ===================================================================================================================== tenant
-- One file a tenant. `tenant` has one row; every other row references it, so that a row of another tenant cannot be put in.

CREATE TABLE tenant (
    id         TEXT PRIMARY KEY,
    single     INTEGER NOT NULL DEFAULT 1 UNIQUE CHECK (single = 1),
    name       TEXT NOT NULL,                           -- a copy for people who open the file; the catalog's counts
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE configs (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,                        -- the newest of config_versions
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX configs_by_name ON configs (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE config_versions (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    config_id  TEXT NOT NULL,
    version    INTEGER NOT NULL,
    body       TEXT NOT NULL,                           -- JSON: all that the config says
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, config_id, version),
    FOREIGN KEY (tenant_id, config_id) REFERENCES configs (tenant_id, id)
) STRICT;

CREATE TABLE conversations (
    tenant_id     TEXT NOT NULL REFERENCES tenant (id),
    id            TEXT NOT NULL,
    config_id     TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    end_user      TEXT,                                 -- the caller's own id of its end user
    title         TEXT NOT NULL,
    metadata      TEXT NOT NULL,                        -- JSON object
    template_vars TEXT NOT NULL,                        -- JSON object; stay until replaced
    message_count INTEGER NOT NULL,                     -- also the newest message's seq
    open_calls    TEXT,                                 -- JSON array of the calls that wait for results
    summary       TEXT,                                 -- stands for the messages up to summary_seq in prompts
    summary_seq   INTEGER NOT NULL DEFAULT 0,
    summary_turns INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, config_id) REFERENCES configs (tenant_id, id)
) STRICT;
CREATE INDEX conversations_by_config ON conversations (tenant_id, config_id, id);

-- A conversation's metadata once more, a row a key, so that lists can be filtered by it: strings as they are, numbers and booleans as JSON.
CREATE TABLE conversation_metadata (
    tenant_id       TEXT NOT NULL REFERENCES tenant (id),
    conversation_id TEXT NOT NULL,
    key             TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, key),
    FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX conversation_metadata_by_value ON conversation_metadata (tenant_id, key, value, conversation_id);

CREATE TABLE messages (
    tenant_id       TEXT NOT NULL REFERENCES tenant (id),
    conversation_id TEXT NOT NULL,
    seq             INTEGER NOT NULL,                   -- 1, 2, 3 … in the conversation
    id              TEXT NOT NULL,
    turn_id         TEXT NOT NULL,
    role            TEXT NOT NULL CHECK (role = 'user' OR role = 'assistant' OR role = 'tool'),
    content         TEXT,                               -- text, or JSON where content_json is 1
    content_json    INTEGER NOT NULL DEFAULT 0,
    tool_calls      TEXT,                               -- assistant: JSON array
    tool_call_id    TEXT,                               -- tool: the call it answers
    name            TEXT,                               -- tool: its name
    ok              INTEGER,                            -- tool: whether it worked
    provider        TEXT,                               -- assistant: who answered, here and below
    model           TEXT,
    config_version  INTEGER,
    raw             TEXT,                               -- JSON: the answer in the wire's own form, for exact replay
    prefix_hash     TEXT,                               -- of system prompt, tools and messages that the vendor saw before this answer
    finish_reason   TEXT,
    input_tokens       INTEGER,
    output_tokens      INTEGER,
    cache_read_tokens  INTEGER,
    cache_write_tokens INTEGER,
    cost            INTEGER,
    created_at      INTEGER NOT NULL,
    UNIQUE (tenant_id, conversation_id, seq),
    FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX messages_by_id ON messages (tenant_id, id);

-- Full-text search over what was said. Nothing ranks what it finds, so it keeps no row of sizes for each message.
CREATE VIRTUAL TABLE messages_fts USING fts5 (content, content = 'messages', content_rowid = 'rowid', columnsize = 0);
INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1); -- what is deleted leaves no word in the index

-- Up to which row of `messages` the index knows them. Many are added together, some turns later or when someone searches.
CREATE TABLE messages_searchable (
    tenant_id TEXT PRIMARY KEY REFERENCES tenant (id),
    up_to     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) SELECT 'delete', old.rowid, old.content
        WHERE old.content IS NOT NULL AND old.rowid <= (SELECT up_to FROM messages_searchable WHERE tenant_id = old.tenant_id);
    -- The number of a last row that went is given out again.
    UPDATE messages_searchable SET up_to = (SELECT coalesce(max(rowid), 0) FROM messages)
        WHERE tenant_id = old.tenant_id AND up_to > (SELECT coalesce(max(rowid), 0) FROM messages);
END;

-- One request's work on a conversation. At most one runs on a conversation at a time.
CREATE TABLE turns (
    tenant_id       TEXT NOT NULL REFERENCES tenant (id),
    id              TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    config_id       TEXT NOT NULL,
    user_id         TEXT NOT NULL,
    key_id          TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    boot_id         TEXT NOT NULL,                      -- the life of the server that runs it
    state           TEXT NOT NULL CHECK (state = 'running' OR state = 'done' OR state = 'failed' OR state = 'cancelled' OR state = 'interrupted'),
    created_at      INTEGER NOT NULL,
    ended_at        INTEGER,
    report          TEXT,                               -- JSON: what an answer says beside its message
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX turns_running ON turns (tenant_id, conversation_id) WHERE state = 'running';
CREATE INDEX turns_by_conversation ON turns (tenant_id, conversation_id);

CREATE TABLE idempotency (
    tenant_id   TEXT NOT NULL REFERENCES tenant (id),
    route       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,                          -- of the request's body and mode
    turn_id     TEXT NOT NULL,
    boot_id     TEXT NOT NULL,
    status      INTEGER,                                -- none while the turn runs
    answer      TEXT,                                   -- JSON
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, route, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (tenant_id, created_at);
CREATE INDEX idempotency_by_turn ON idempotency (tenant_id, turn_id);

-- What the tenant may spend. The CHECK is the last of the guards of "settled + held never exceeds deposited".
CREATE TABLE wallet (
    tenant_id TEXT PRIMARY KEY REFERENCES tenant (id),
    deposited INTEGER NOT NULL CHECK (deposited >= 0),  -- top-ups, refunds and adjustments together
    settled   INTEGER NOT NULL CHECK (settled >= 0),
    held      INTEGER NOT NULL CHECK (held >= 0),
    seq       INTEGER NOT NULL,                         -- of the newest ledger entry
    head      TEXT NOT NULL,                            -- its hash
    CHECK (settled + held <= deposited)
) STRICT;

CREATE TABLE holds (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    id         TEXT NOT NULL,
    turn_id    TEXT NOT NULL,
    step       INTEGER NOT NULL,
    key_id     TEXT NOT NULL,
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    boot_id    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind = 'topup' OR kind = 'spend' OR kind = 'refund' OR kind = 'adjustment'),
    amount     INTEGER NOT NULL,
    balance    INTEGER NOT NULL CHECK (balance >= 0),
    reference  TEXT,
    note       TEXT,
    turn_id    TEXT,
    key_id     TEXT,
    provider   TEXT,
    model      TEXT,
    usage      TEXT,                                    -- JSON
    rates      TEXT,                                    -- JSON
    created_at INTEGER NOT NULL,
    hash       TEXT NOT NULL,                           -- SHA-256 of the hash before and this entry
    PRIMARY KEY (tenant_id, seq)
) STRICT;
CREATE UNIQUE INDEX ledger_by_reference ON ledger (tenant_id, reference) WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX ledger_by_id ON ledger (tenant_id, id);
CREATE TRIGGER ledger_append_only_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_append_only_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

-- What each key has spent, for a key's own spend limit.
CREATE TABLE key_spend (
    tenant_id TEXT NOT NULL REFERENCES tenant (id),
    key_id    TEXT NOT NULL,
    spent     INTEGER NOT NULL CHECK (spent >= 0),
    PRIMARY KEY (tenant_id, key_id)
) STRICT, WITHOUT ROWID;

-- Models whose vendor reported more than a call's bound, until the rate card's row changes.
CREATE TABLE closed_models (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    rate_hash  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    tenant_id       TEXT NOT NULL REFERENCES tenant (id),
    id              TEXT NOT NULL,
    turn_id         TEXT,
    step            INTEGER,
    created_at      INTEGER NOT NULL,
    key_id          TEXT,
    user_id         TEXT,
    config_id       TEXT,
    conversation_id TEXT,
    event           TEXT NOT NULL CHECK (event = 'step' OR event = 'refused' OR event = 'interrupted' OR event = 'hold_breach'),
    status          INTEGER NOT NULL,
    code            TEXT,
    provider        TEXT,
    model           TEXT,
    input_tokens       INTEGER,
    output_tokens      INTEGER,
    cache_read_tokens  INTEGER,
    cache_write_tokens INTEGER,
    cost            INTEGER,
    estimated       INTEGER NOT NULL DEFAULT 0,
    latency_ms      INTEGER,
    provider_ms     INTEGER,
    time_to_first_token_ms INTEGER,
    request_id      TEXT,
    operator_cost   INTEGER,
    detail          TEXT
) STRICT;
CREATE UNIQUE INDEX logs_by_id ON logs (tenant_id, id);
CREATE INDEX logs_by_time ON logs (tenant_id, created_at);
CREATE INDEX logs_by_conversation ON logs (tenant_id, conversation_id) WHERE conversation_id IS NOT NULL;

-- Who made, changed or ended what in this file: configs, conversations, credit. What was done to keys and members stands in the catalog's.
CREATE TABLE audit (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    act        TEXT NOT NULL,
    actor      TEXT NOT NULL CHECK (actor = 'key' OR actor = 'user' OR actor = 'operator'),
    user_id    TEXT,
    key_id     TEXT,
    target     TEXT,
    detail     TEXT NOT NULL,                           -- JSON object; no secret, no content
    created_at INTEGER NOT NULL,
    hash       TEXT NOT NULL,                           -- SHA-256 of the hash before and this entry
    PRIMARY KEY (tenant_id, seq)
) STRICT;
CREATE UNIQUE INDEX audit_by_id ON audit (tenant_id, id);
CREATE TRIGGER audit_append_only_update BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_append_only_delete BEFORE DELETE ON audit BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- Secrets of sandboxed configs, each sealed under the operator's key. An export leaves them out.
CREATE TABLE config_secrets (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    config_id  TEXT NOT NULL,
    name       TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, config_id, name)
) STRICT, WITHOUT ROWID;

-- Archives of tools, by the SHA-256 of their bytes; never changed.
CREATE TABLE bundles (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    digest     TEXT NOT NULL,
    manifest   TEXT NOT NULL,                           -- JSON
    tools      TEXT NOT NULL,                           -- JSON: what the bundle said of its tools when it was uploaded
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, digest)
) STRICT;

CREATE TABLE bundle_parts (
    tenant_id TEXT NOT NULL REFERENCES tenant (id),
    digest    TEXT NOT NULL,
    part      INTEGER NOT NULL,                         -- 0, 1, 2 … in the archive
    bytes     BLOB NOT NULL,
    PRIMARY KEY (tenant_id, digest, part),
    FOREIGN KEY (tenant_id, digest) REFERENCES bundles (tenant_id, digest)
) STRICT;

-- Which bundle a config runs.
CREATE TABLE config_bundles (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    config_id  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, config_id),
    FOREIGN KEY (tenant_id, digest) REFERENCES bundles (tenant_id, digest)
) STRICT, WITHOUT ROWID;

-- Workspaces on this machine: one a config, from its first tool call until it is destroyed.
CREATE TABLE sandboxes (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    config_id  TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,                           -- names it outside; says nothing of whose it is
    state      TEXT NOT NULL CHECK (state = 'kept' OR state = 'destroying'),
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, config_id)
) STRICT, WITHOUT ROWID;

-- What tools asked for over the network, one row a host and outcome; the oldest refusals give way.
CREATE TABLE egress (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id),
    config_id  TEXT NOT NULL,
    target     TEXT NOT NULL,                           -- host:port as it was asked for
    allowed    INTEGER NOT NULL CHECK (allowed = 0 OR allowed = 1),
    id         TEXT NOT NULL,
    detail     TEXT NOT NULL,                           -- of the last time: the address, or why it was refused
    attempts   INTEGER NOT NULL,
    bytes_out  INTEGER NOT NULL,
    bytes_in   INTEGER NOT NULL,
    first_at   INTEGER NOT NULL,
    last_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, config_id, target, allowed)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX egress_by_id ON egress (tenant_id, id);
