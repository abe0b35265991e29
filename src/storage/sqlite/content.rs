//! Content from an exported file into a tenant's own: restored over what is there, or imported into a new one. Money never moves: no
//! statement here names the wallet, the ledger, the holds or what keys have spent, but to ask whether a turn runs.
//!
//! An exported file may come from a stranger. It is only read, as ours in every word of its schema, whole, and with the hash that it says.

use super::{
    cipher::{self, Key},
    connection::{self, Refusal, Use},
    copy, directory,
    errors::{Health, Told},
    export, search,
};
use crate::{
    error::{Error, Result},
    ids::{ConfigId, TenantId},
    storage::{engine::Manifest, schema::Kind},
};
use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

/// What a restore replaces, parents first.
const CONTENT: [&str; 8] =
    ["configs", "config_versions", "conversations", "conversation_metadata", "messages", "bundles", "bundle_parts", "config_bundles"];

/// What a restore only adds to: what happened since stays told.
const HISTORY: [&str; 2] = ["turns", "logs"];

/// An exported file that was looked over.
pub(super) struct Source {
    conn: Connection,
    health: Health,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Whose it is.
    pub tenant: TenantId,
}

/// Opens an exported file, with the key where it is encrypted, and looks whether it is ours, whole, and what its manifest says. One of an older
/// form is read from a copy that was brought to the newest: it is made in the folder `workshop`, and goes when it is closed.
pub(super) fn source(path: &Path, key: &Key, busy: Duration, workshop: &Path) -> Result<Source> {
    let refuse = |why: String| Error::Conflict { detail: format!("{}: {why}", path.display()) };
    let health = Health::new("exported file", path);
    let none = None;
    let key = if cipher::is_plain(path) { &none } else { key };
    let looked_over = look_over(path, key, &health, busy, workshop, &refuse);
    looked_over.map_err(|error| match error {
        Error::Internal { .. } if health.is_corrupt() => match key {
            None => refuse("it is damaged, no SQLite file, or encrypted and was given without its key".to_owned()),
            Some(_) => refuse("it is damaged, or encrypted with another key than the one that was given".to_owned()),
        },
        other => other,
    })
}

fn look_over(path: &Path, key: &Key, health: &Health, busy: Duration, workshop: &Path, refuse: &dyn Fn(String) -> Error) -> Result<Source> {
    if !path.is_file() {
        return Err(refuse("there is no such file".to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut conn = Connection::open_with_flags(path, flags).told(health)?;
    connection::prepare(&conn, key, Use::Read, busy).told(health)?;
    let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0)).told(health);
    if number("PRAGMA application_id")? != connection::application_id(Kind::Tenant) {
        return Err(refuse("it was not made by `nimblesite tenant export` or `nimblesite backup`".to_owned()));
    }
    let (found, ours) = (number("PRAGMA user_version")?, Kind::Tenant.version());
    if !(1..=ours).contains(&found) {
        return Err(refuse(format!("it has form {found}, this nimblesite knows form {ours}: use a newer nimblesite")));
    }
    let along = export::has_workspaces(&conn).told(health)?;
    // An older file has some of our tables, a few as they were then, and nothing else.
    let (has, known) = (schema(&conn).told(health)?, schema(&fresh(along).told(health)?).told(health)?);
    let unlike = || refuse("its tables are not those of a tenant's export; it was changed, and is not read".to_owned());
    let earlier = earlier(found).told(health)?;
    if has.iter().any(|thing| !known.contains(thing) && !earlier.contains(thing)) || (found == ours && has.len() != known.len()) {
        return Err(unlike());
    }
    copy::check(path, key, health).map_err(|_| refuse("it is damaged".to_owned()))?;
    let manifest = export::manifest(&conn).told(health).map_err(|_| unlike())?;
    let tenant = manifest.get("tenant_id").and_then(|id| id.parse().ok());
    let tenant: TenantId = tenant.ok_or_else(|| refuse("its manifest names no tenant".to_owned()))?;
    let told = manifest.get("made_at").cloned().unwrap_or_default();
    let holds = export::read(&conn, tenant, &told).told(health).map_err(|_| unlike())?;
    if holds.get("content_blake3") != manifest.get("content_blake3") {
        return Err(refuse("its content is not what its manifest says: it was changed or damaged".to_owned()));
    }
    if found < ours {
        conn = renewed(path, key, health, busy, workshop)?;
        if schema(&conn).told(health)? != known {
            return Err(unlike());
        }
    }
    Ok(Source { conn, health: Health::new("exported file", path), manifest, tenant })
}

/// A copy of an older file, brought to the newest form. It has no name any more: its bytes go when it is closed.
fn renewed(path: &Path, key: &Key, health: &Health, busy: Duration, workshop: &Path) -> Result<Connection> {
    directory::folder_create(workshop)?;
    let copy = workshop.join(format!("{}.db", crate::ids::RequestId::new()));
    directory::file_create(&copy)?;
    let renew = || {
        let copied = File::open(path).and_then(|mut from| std::io::copy(&mut from, &mut File::options().write(true).open(&copy)?));
        copied.map_err(directory::io_error)?;
        // Nothing of it stays in a file beside it.
        let conn = connection::open(&copy, key, Use::Fill, busy).told(health)?;
        match connection::schema_check(&conn, Kind::Tenant, health, || Ok(())) {
            Ok(()) => conn.execute_batch("PRAGMA query_only = ON").told(health).map(|()| conn),
            Err(Refusal::Passing(error)) => Err(error),
            Err(Refusal::Unfit(why)) => Err(Error::Conflict { detail: format!("{}: {why}", path.display()) }),
        }
    };
    let renewed = renew();
    std::fs::remove_file(&copy).map_err(directory::io_error)?;
    renewed
}

/// Every table, index and trigger, as it was written.
fn schema(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT json_array(type, name, tbl_name, sql) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name";
    conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// What an exported file of this version looks like where it differs.
fn earlier(version: i64) -> rusqlite::Result<Vec<String>> {
    let conn = fresh(false)?;
    Kind::Tenant.earlier(version).try_for_each(|change| conn.execute_batch(change))?;
    schema(&conn)
}

/// What an exported file should look like.
fn fresh(workspaces: bool) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(Kind::Tenant.schema())?;
    conn.execute_batch(export::TABLE)?;
    if workspaces {
        conn.execute_batch(export::WORKSPACES)?;
    }
    Ok(conn)
}

/// Replaces a tenant's content by the file's, in one transaction, and adds what it has of turns and logs that are missing. Nobody else works
/// on the tenant's file meanwhile. [`Error::Overloaded`] while a turn runs.
pub(super) fn restore(
    source: &Source,
    live: &Path,
    key: &Key,
    tenant: TenantId,
    health: &Health,
    settings: &super::Settings,
) -> Result<()> {
    if source.tenant != tenant {
        let detail =
            format!("the file belongs to tenant {}, not to {tenant}; `nimblesite tenant import` makes a new tenant of it", source.tenant);
        return Err(Error::Conflict { detail });
    }
    let conn = connection::open(live, key, Use::Write { bytes_max: settings.bytes_max }, settings.busy).told(health)?;
    let transaction = rusqlite::Transaction::new_unchecked(&conn, rusqlite::TransactionBehavior::Immediate).told(health)?;
    let running: i64 = transaction
        .query_row("SELECT COUNT(*) FROM turns WHERE tenant_id = ?1 AND state = 'running'", [tenant.to_string()], |row| row.get(0))
        .told(health)?;
    if running > 0 {
        // A turn that settles later would write behind messages that are not there any more.
        return Err(Error::Overloaded { retry_after: Duration::from_secs(1) });
    }
    for table in CONTENT.iter().rev() {
        transaction.execute(&format!("DELETE FROM {table} WHERE tenant_id = ?1"), [tenant.to_string()]).told(health)?;
    }
    for table in CONTENT {
        rows_copy(source, &transaction, health, table, "INSERT", tenant, &|_, _| ())?;
    }
    for table in HISTORY {
        // What ran when the copy was made runs no more.
        let ended = |name: &str, value: &mut Value| {
            if table == "turns" && name == "state" && *value == Value::Text("running".to_owned()) {
                *value = Value::Text("interrupted".to_owned());
            }
        };
        rows_copy(source, &transaction, health, table, "INSERT OR IGNORE", tenant, &ended)?;
    }
    search::fill(&transaction, tenant).told(health)?;
    transaction.commit().told(health)
}

/// Puts the file's configs and conversations into a new tenant's file. What was spent elsewhere is not spent here: answers cost nothing, and
/// turns and logs stay with the host that charged for them.
pub(super) fn import(source: &Source, target: &Connection, tenant: TenantId, health: &Health) -> Result<()> {
    let free = |name: &str, value: &mut Value| match value {
        value if name == "cost" && *value != Value::Null => *value = Value::Integer(0),
        // What another host pinned may be anything here.
        Value::Text(text) if name == "body" => *text = without_pin(text),
        _ => {}
    };
    CONTENT.iter().try_for_each(|table| rows_copy(source, target, health, table, "INSERT", tenant, &free))?;
    search::fill(target, tenant).told(health)
}

/// Puts the archives of workspaces that came along into a folder, each under its config's id, whole or not at all. Whoever next starts the
/// config's sandbox lays them out, inside it: nothing of them is believed here.
pub(super) fn workspaces_lay(source: &Source, folder: &Path) -> Result<()> {
    if !export::has_workspaces(&source.conn).told(&source.health)? {
        return Ok(());
    }
    directory::folder_create(folder)?;
    let sql = "SELECT config_id, bytes FROM workspace_parts ORDER BY config_id, part";
    let mut select = source.conn.prepare(sql).told(&source.health)?;
    let mut rows = select.query([]).told(&source.health)?;
    let mut open: Option<(ConfigId, File)> = None;
    let name = |config: ConfigId, end: &str| folder.join(format!("{config}.{end}"));
    let done = |open: Option<(ConfigId, File)>| match open {
        Some((config, file)) => {
            file.sync_all().and_then(|()| std::fs::rename(name(config, "new"), name(config, "tar"))).map_err(directory::io_error)
        }
        None => Ok(()),
    };
    while let Some(row) = rows.next().told(&source.health)? {
        let config: String = row.get(0).told(&source.health)?;
        let refused = |_| Error::Conflict { detail: format!("the file names a workspace of no config: {config:?}") };
        let config: ConfigId = config.parse().map_err(refused)?;
        let bytes: Vec<u8> = row.get(1).told(&source.health)?;
        if open.as_ref().is_none_or(|(of, _)| *of != config) {
            done(open.take())?;
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(name(config, "new"));
            open = Some((config, file.map_err(directory::io_error)?));
        }
        if let Some((_, file)) = &mut open {
            file.write_all(&bytes).map_err(directory::io_error)?;
        }
    }
    done(open)?;
    directory::folder_sync(folder)
}

/// A config's text without the digest of its image.
fn without_pin(body: &str) -> String {
    let Ok(mut fields) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body) else { return body.to_owned() };
    match fields.shift_remove("workspace_image_digest") {
        Some(_) => serde_json::Value::Object(fields).to_string(),
        None => body.to_owned(),
    }
}

/// Copies a table row by row, under the tenant's id; memory does not grow with it. `change` may change a column's value.
fn rows_copy(
    source: &Source,
    target: &Connection,
    health: &Health,
    table: &str,
    verb: &str,
    tenant: TenantId,
    change: &dyn Fn(&str, &mut Value),
) -> Result<()> {
    let mut select =
        source.conn.prepare(&format!("SELECT * FROM {table} WHERE tenant_id = ?1 ORDER BY {}", order(table))).told(&source.health)?;
    let names: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let mut insert = target.prepare(&format!("{verb} INTO {table} ({}) VALUES ({marks})", names.join(", "))).told(health)?;
    let mut rows = select.query([source.tenant.to_string()]).told(&source.health)?;
    while let Some(row) = rows.next().told(&source.health)? {
        let mut values = Vec::with_capacity(names.len());
        for (column, name) in names.iter().enumerate() {
            let mut value: Value = row.get(column).told(&source.health)?;
            if name == "tenant_id" {
                value = Value::Text(tenant.to_string());
            } else {
                change(name, &mut value);
            }
            values.push(value);
        }
        insert.execute(params_from_iter(values)).told(health)?;
    }
    Ok(())
}

/// The order in which rows were written, where the table keeps one.
fn order(table: &str) -> &'static str {
    match table {
        "conversation_metadata" => "conversation_id, key",
        "config_bundles" => "config_id",
        _ => "rowid",
    }
}
