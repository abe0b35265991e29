//! The data model as text: `schema.sql` in its two parts, and the steps that bring older files to it.
//!
//! A new database gets the newest form at once; an older one gets the steps it lacks, each once, counted by its version. Steps are only ever
//! added at the end.

/// The whole data model.
const SCHEMA: &str = include_str!("../../schema.sql");

/// One kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The catalog.
    Catalog,
    /// One tenant's.
    Tenant,
}

/// From version 1 to 2, from 2 to 3, and so on.
const CATALOG_STEPS: &[&str] = &[
    "CREATE TABLE sealing (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    key_id     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;",
    // The audit log.
    r"
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
",
    SESSIONS,
    // Each tenant's own size limit and retention.
    "ALTER TABLE tenants ADD COLUMN bytes_max INTEGER CHECK (bytes_max >= 0);
     ALTER TABLE tenants ADD COLUMN conversations_days INTEGER CHECK (conversations_days > 0);
     ALTER TABLE tenants ADD COLUMN logs_days INTEGER CHECK (logs_days > 0);",
    "ALTER TABLE tenants ADD COLUMN data_key TEXT",
];

/// Sessions of the dashboard and links to begin one.
const SESSIONS: &str = "
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,
    key_id     TEXT REFERENCES api_keys (id) ON DELETE CASCADE,
    tenant_id  TEXT REFERENCES tenants (id) ON DELETE SET NULL,
    operator   TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    CHECK ((user_id IS NULL) = (operator IS NOT NULL))
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_key ON sessions (key_id);
CREATE INDEX sessions_by_tenant ON sessions (tenant_id);

CREATE TABLE sign_in_links (
    hash       TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sign_in_links_by_user ON sign_in_links (user_id);
";

/// From version 1 to 2, from 2 to 3, and so on.
const TENANT_STEPS: &[&str] = &[
    // The audit log.
    r"
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
",
    SANDBOXED,
    EGRESS,
    // What is held for a key follows from `holds`.
    "ALTER TABLE key_spend DROP COLUMN held;",
    SEARCHABLE,
];

/// What stands otherwise in a tenant's older files, up to this version, whose step changed it: how it comes about from the newest form. All
/// other steps add.
const TENANT_EARLIER: &[(i64, &str)] = &[
    (
        4,
        "DROP TABLE key_spend;
CREATE TABLE key_spend (
    tenant_id TEXT NOT NULL REFERENCES tenant (id),
    key_id    TEXT NOT NULL,
    spent     INTEGER NOT NULL CHECK (spent >= 0),
    held      INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (tenant_id, key_id)
) STRICT, WITHOUT ROWID;",
    ),
    (
        5,
        "DROP TRIGGER messages_fts_delete;
CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages WHEN new.content IS NOT NULL BEGIN
    INSERT INTO messages_fts (rowid, content) VALUES (new.rowid, new.content);
END;
CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages WHEN old.content IS NOT NULL BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.rowid, old.content);
END;",
    ),
];

/// The search index, which learns of messages later than they are stored.
const SEARCHABLE: &str = "
-- Up to which row of `messages` the index knows them. Many are added together, some turns later or when someone searches.
CREATE TABLE messages_searchable (
    tenant_id TEXT PRIMARY KEY REFERENCES tenant (id),
    up_to     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO messages_searchable (tenant_id, up_to) SELECT id, (SELECT coalesce(max(rowid), 0) FROM messages) FROM tenant;
DROP TRIGGER messages_fts_insert;
DROP TRIGGER messages_fts_delete;
CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) SELECT 'delete', old.rowid, old.content
        WHERE old.content IS NOT NULL AND old.rowid <= (SELECT up_to FROM messages_searchable WHERE tenant_id = old.tenant_id);
    -- The number of a last row that went is given out again.
    UPDATE messages_searchable SET up_to = (SELECT coalesce(max(rowid), 0) FROM messages)
        WHERE tenant_id = old.tenant_id AND up_to > (SELECT coalesce(max(rowid), 0) FROM messages);
END;
";

/// What tools asked for over the network.
const EGRESS: &str = "
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
CREATE UNIQUE INDEX egress_by_id ON egress (tenant_id, id);";

/// Secrets, bundles and workspaces of sandboxed configs.
const SANDBOXED: &str = "
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
) STRICT, WITHOUT ROWID;";

impl Kind {
    /// The newest form, for a new database.
    pub(super) fn schema(self) -> &'static str {
        let (catalog, tenant) = parts(SCHEMA);
        match self {
            Self::Catalog => catalog,
            Self::Tenant => tenant,
        }
    }

    /// The steps from version 1 on.
    pub(super) fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Catalog => CATALOG_STEPS,
            Self::Tenant => TENANT_STEPS,
        }
    }

    /// What makes, of the newest form, that in which a file of this version differs.
    pub(super) fn earlier(self, version: i64) -> impl Iterator<Item = &'static str> {
        let all = if self == Self::Tenant { TENANT_EARLIER } else { &[] };
        all.iter().filter(move |(until, _)| version <= *until).map(|(_, change)| *change)
    }

    /// The newest version, which this binary writes.
    pub(super) fn version(self) -> i64 {
        1 + i64::try_from(self.steps().len()).unwrap_or(i64::MAX - 1)
    }
}

/// The page, cut where the header line of the tenant's part begins.
fn parts(schema: &str) -> (&str, &str) {
    let mut at = 0;
    for line in schema.split_inclusive('\n') {
        if line.starts_with("-- ====") && line.trim_end().ends_with(" tenant") {
            return schema.split_at(at);
        }
        at += line.len();
    }
    // `the_page_is_cut_between_its_parts` keeps this from being reached.
    (schema, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_cut_between_its_parts() {
        let (catalog, tenant) = (Kind::Catalog.schema(), Kind::Tenant.schema());
        assert!(catalog.contains("CREATE TABLE users") && catalog.contains("CREATE TABLE tenants"));
        assert!(!catalog.contains("CREATE TABLE tenant ("));
        assert!(tenant.contains("CREATE TABLE tenant (") && tenant.contains("CREATE TABLE logs"));
        assert!(!tenant.contains("CREATE TABLE users"));
        assert_eq!(catalog.len() + tenant.len(), SCHEMA.len());
    }

    #[test]
    fn every_table_of_the_tenant_part_names_its_tenant() {
        for table in Kind::Tenant.schema().split("CREATE TABLE ").skip(1) {
            let name = table.split([' ', '(']).next().unwrap();
            let keyed = table.contains("REFERENCES tenant (id)");
            assert!(keyed || name == "tenant", "{name} does not reference the tenant row");
        }
    }
}
