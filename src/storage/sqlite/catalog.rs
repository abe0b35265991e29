//! How the catalog's file comes to be and is opened.

use super::{
    connection::{self, Refusal, Use},
    database::{self, Database, Settings},
    directory::{self, Directory},
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    ids::BootId,
    storage::{Mode, schema::Kind},
};

/// Opens the catalog, making it in a directory that holds nothing of ours yet.
pub(super) fn open(directory: &Directory, mode: Mode, settings: &Settings) -> Result<Database> {
    let path = directory.catalog();
    let health = Health::new("catalog", directory.root());
    if !path.exists() {
        if directory.tenants().exists() {
            let detail = format!("{} is missing, though tenants are there: restore it from a backup", path.display());
            return Err(Error::Conflict { detail });
        }
        create(directory, settings)?;
    }
    let conn = connection::open(&path, &None, Use::Write { bytes_max: None }, settings.busy).told(&health);
    let looked_over = conn.map_err(Refusal::Passing).and_then(|conn| {
        connection::schema_check(&conn, Kind::Catalog, &health, || may_migrate(directory, mode))?;
        Ok(conn)
    });
    match looked_over {
        Ok(conn) => Ok(Database::new(&path, &None, health, conn, settings)),
        Err(Refusal::Unfit(why)) => Err(Error::Conflict { detail: format!("{}: {why}", path.display()) }),
        Err(Refusal::Passing(_)) if health.is_corrupt() => {
            Err(Error::Conflict { detail: format!("{} is damaged: restore it from a backup", path.display()) })
        }
        Err(Refusal::Passing(error)) => Err(error),
    }
}

/// Makes the catalog, whole or not at all: it is filled under another name first.
fn create(directory: &Directory, settings: &Settings) -> Result<()> {
    // The process is in the name, so that two that start at once do not write to the same file.
    let making = directory.root().join(format!("catalog.new-{}", std::process::id()));
    drop(std::fs::remove_file(&making));
    directory::file_create(&making)?;
    let health = Health::new("catalog", directory.root());
    let conn = connection::open(&making, &None, Use::Fill, settings.busy).told(&health)?;
    database::step(&conn, "BEGIN IMMEDIATE", &health)?;
    connection::schema_apply(&conn, Kind::Catalog, &health)?;
    database::step(&conn, "COMMIT", &health)?;
    connection::filled(conn, &making, &health)?;
    // Linking, unlike renaming, leaves alone a catalog that another process has made meanwhile.
    match std::fs::hard_link(&making, directory.catalog()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(directory::io_error(error)),
        _ => std::fs::remove_file(&making).map_err(directory::io_error)?,
    }
    directory::folder_create(&directory.tenants())?;
    directory::folder_sync(directory.root())
}

/// An older file is changed by the server, or by a command while no server runs: a running one may be of the older version.
pub(super) fn may_migrate(directory: &Directory, mode: Mode) -> Result<()> {
    if mode == Mode::Beside { directory.lock(BootId::new(), std::time::Duration::ZERO).map(drop) } else { Ok(()) }
}
