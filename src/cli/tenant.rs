//! `nimblesite tenant`: customers, each with a database file of its own.

use super::{
    Desk, Room, bytes, every,
    failure::{Done, Failure},
    moment,
    out::Tone,
    parse, runtime,
};
use crate::{
    agent::tools::Yard,
    control,
    ids::TenantId,
    model,
    sandbox::Sandboxes,
    storage::{Mode, Storage},
    vault::DataKey,
};
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Tenant {
    /// Make a tenant and print its id and first key, this once
    Create {
        /// What people call it; need not be unique
        #[arg(long)]
        name: String,
        /// The owner's address: an account that exists
        #[arg(long, value_name = "EMAIL")]
        owner: String,
    },
    /// List the tenants
    List,
    /// Show one tenant
    Show {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
    },
    /// Stop a tenant's chat; everything can still be read
    Suspend {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
    },
    /// Let a suspended tenant chat again
    Resume {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
    },
    /// Set how large a tenant's file may grow; it takes effect at its next request
    Limit {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
        /// Such as 500MiB, 2GiB or 1000000; 0 is no limit
        #[arg(long, value_name = "SIZE", value_parser = parse::size, required_unless_present = "default")]
        size: Option<u64>,
        /// The server's own limit again, `limits.tenant_bytes_max`
        #[arg(long, conflicts_with = "size")]
        default: bool,
    },
    /// Write all of a tenant's data to one SQLite file, while the server runs or not
    Export {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
        /// The file to make; nothing is overwritten
        file: PathBuf,
        /// Take the files of sandboxed configs' workspaces along; `import` brings them back
        #[arg(long)]
        workspaces: bool,
        /// Encrypt the file with a new key, which is printed this once
        #[arg(long)]
        encrypted: bool,
    },
    /// Make a tenant of an exported file: its configs and conversations under a new id, with no money
    Import {
        /// The file
        file: PathBuf,
        /// The owner's address: an account that exists
        #[arg(long, value_name = "EMAIL")]
        owner: String,
        /// What people call it [default: the name in the file]
        #[arg(long)]
        name: Option<String>,
        /// Read the key of an encrypted file from stdin
        #[arg(long)]
        key_stdin: bool,
    },
    /// Remove a tenant and every byte of its data, in the backups that `nimblesite backup` made, too
    Delete {
        /// The tenant
        #[arg(value_parser = parse::id::<TenantId>)]
        id: TenantId,
        /// Yes, this tenant
        #[arg(long)]
        yes: bool,
    },
}

impl Tenant {
    pub(super) fn run(self, desk: &Desk) -> Done {
        match self {
            Self::Create { name, owner } => desk.with_storage(async |room| create(room, &name, &owner).await),
            Self::List => desk.with_storage(list),
            Self::Show { id } => desk.with_storage(async |room| show(room, id).await),
            Self::Suspend { id } => desk.with_storage(async |room| suspend(room, id, true).await),
            Self::Resume { id } => desk.with_storage(async |room| suspend(room, id, false).await),
            Self::Limit { id, size, .. } => desk.with_storage(async |room| limit(room, id, size).await),
            Self::Export { id, file, workspaces: false, encrypted } => {
                desk.with_storage(async |room| export(room, id, (file, encrypted), None).await)
            }
            Self::Export { id, file, workspaces: true, encrypted } => {
                let folder = packed(desk, id)?;
                let done = desk.with_storage(async |room| export(room, id, (file, encrypted), Some(folder.clone())).await);
                drop(std::fs::remove_dir_all(&folder));
                done
            }
            Self::Import { file, owner, name, key_stdin } => {
                desk.with_storage(async |room| import(room, (file, key_stdin), &owner, name).await)
            }
            Self::Delete { id, yes } => delete(desk, id, yes),
        }
    }
}

async fn create(room: Room, name: &str, owner: &str) -> Done {
    let made = room.storage.tenant_create_for(&room.operator, name, owner).await?;
    made_tell(room, &made, owner)
}

async fn import(room: Room, (file, key_stdin): (PathBuf, bool), owner: &str, name: Option<String>) -> Done {
    let key = key_stdin.then(key_read).transpose()?;
    let made = room.storage.tenant_import(&room.operator, (file, key), name, owner).await?;
    made_tell(room, &made, owner)
}

#[allow(clippy::needless_pass_by_value, reason = "a room is a command's own")]
fn made_tell(room: Room, made: &model::TenantCreated, owner: &str) -> Done {
    // Scripts find a secret under the same name in every command's JSON.
    let mut shown = serde_json::to_value(made).map_err(crate::error::Error::internal)?;
    shown["key"] = made.api_key.clone().into();
    room.out.value(&shown);
    room.out.say(format!("Made {:?} for {owner}. Its id, and its first key, which is shown this once:", made.name));
    room.out.secret(&made.id.to_string());
    room.out.secret(&made.api_key);
    Ok(())
}

async fn list(room: Room) -> Done {
    let Room { out, storage, operator, .. } = room;
    let tenants = every(|page| storage.tenant_list_all(&operator, page)).await?;
    let headings = ["ID", "NAME", "STATE", "SIZE", "CREATED"];
    out.things(&tenants, &headings, "No tenants yet; `nimblesite tenant create` makes one.", |tenant| {
        let (size, created) = (bytes(tenant.size_bytes), moment(tenant.created_at));
        vec![tenant.id.to_string(), tenant.name.clone(), state(tenant).to_owned(), size, created]
    });
    Ok(())
}

async fn show(room: Room, id: TenantId) -> Done {
    let tenant = room.storage.tenant_show(&room.operator, id).await?;
    let limit = tenant.size_limit_bytes.map_or_else(String::new, |limit| format!(" of {}", bytes(limit)));
    let lines = [
        ("id", tenant.id.to_string()),
        ("name", tenant.name.clone()),
        ("state", state(&tenant).to_owned()),
        ("time zone", tenant.time_zone.clone()),
        ("size", format!("{}{limit}", bytes(tenant.size_bytes))),
        ("conversations", kept(tenant.retention.conversations_days)),
        ("logs", kept(tenant.retention.logs_days)),
        ("created", moment(tenant.created_at)),
    ];
    room.out.thing(&tenant, &lines);
    Ok(())
}

async fn suspend(room: Room, id: TenantId, suspended: bool) -> Done {
    let tenant = room.storage.tenant_suspend(&room.operator, id, suspended).await?;
    room.out.value(&tenant);
    let now = if suspended { "is suspended: its chat is refused from the next request on" } else { "may chat again" };
    room.out.say(format!("{:?} {now}.", tenant.name));
    Ok(())
}

async fn limit(room: Room, id: TenantId, size: Option<u64>) -> Done {
    let tenant = room.storage.tenant_limit(&room.operator, id, size).await?;
    room.out.value(&tenant);
    let now = tenant.size_limit_bytes.map_or_else(|| "grow without a limit".to_owned(), |limit| format!("grow to {}", bytes(limit)));
    room.out.say(format!("{:?} may {now}; it has {}.", tenant.name, bytes(tenant.size_bytes)));
    Ok(())
}

/// A folder with the tenant's workspaces. They are packed by the one process that may have them mounted: the running server is asked, or the lock
/// is taken when none runs.
fn packed(desk: &Desk, id: TenantId) -> Result<PathBuf, Failure> {
    let config = desk.config_of_data()?;
    runtime(&config)?.block_on(async {
        match control::ask(&config.data, &control::Ask::WorkspacesPack { tenant_id: id }).await? {
            Some(control::Told::Packed { folder }) => Ok(folder),
            Some(control::Told::Refused { message }) => Err(Failure::Failed(message)),
            Some(_) => Err(Failure::Failed("the server gave an answer to something else".to_owned())),
            None => {
                let storage = Storage::of(&config, Mode::Server)?;
                let yard = Yard::new(Sandboxes::new(&config), &config);
                let packed = control::workspaces_pack(&storage, &yard, id).await;
                storage.close();
                Ok(packed?)
            }
        }
    })
}

/// The key of an encrypted export, from stdin: an argument could be seen by every user of the machine.
fn key_read() -> Result<DataKey, Failure> {
    let mut line = zeroize::Zeroizing::new(String::new());
    std::io::stdin().read_line(&mut line).map_err(|error| Failure::io("stdin cannot be read", &error))?;
    DataKey::parse(&line)
        .ok_or_else(|| Failure::Usage("expected the 64 hexadecimal digits that `tenant export --encrypted` printed".to_owned()))
}

async fn export(room: Room, id: TenantId, (file, encrypted): (PathBuf, bool), packed: Option<PathBuf>) -> Done {
    let key = encrypted.then(DataKey::generate).transpose()?;
    let shown = key.as_ref().map(DataKey::expose);
    let manifest = room.storage.tenant_export_to(&room.operator, id, (file.clone(), key), packed).await?;
    let mut value = serde_json::to_value(&manifest).map_err(crate::error::Error::internal)?;
    if let Some(key) = &shown {
        value["key"] = key.as_str().into();
    }
    room.out.value(&value);
    if let Some(key) = &shown {
        room.out.say("The file is encrypted (SQLCipher) with this key, which is shown this once and kept nowhere:");
        room.out.secret(key);
    }
    room.out.say(format!("Wrote tenant {id} to {}; its table export_manifest says what is in it.", file.display()));
    Ok(())
}

fn kept(days: Option<u32>) -> String {
    days.map_or_else(|| "kept for ever".to_owned(), |days| format!("kept for {days} days"))
}

fn state(tenant: &model::Tenant) -> &'static str {
    if tenant.suspended { "suspended" } else { "active" }
}

/// Files are removed by the one process that may have them open: the running server is asked, or the lock is taken when none runs.
fn delete(desk: &Desk, id: TenantId, yes: bool) -> Done {
    if !yes {
        let text = format!("this removes every byte of tenant {id} for good; run it again with --yes if that is meant");
        return Err(Failure::Usage(text));
    }
    let config = desk.config_of_data()?;
    runtime(&config)?.block_on(async {
        let unreached = match control::ask(&config.data, &control::Ask::TenantDelete { tenant_id: id }).await? {
            Some(control::Told::Deleted { unreached }) => unreached,
            Some(control::Told::Refused { message }) => return Err(Failure::Failed(message)),
            Some(_) => return Err(Failure::Failed("the server gave an answer to something else".to_owned())),
            None => {
                let storage = Storage::of(&config, Mode::Server)?;
                let removed = storage.tenant_remove(&storage.operator_here(), id).await;
                storage.close();
                removed?
            }
        };
        desk.out.value(&serde_json::json!({ "id": id, "deleted": true, "unreached": unreached }));
        desk.out.say(format!("Tenant {id} is gone, with every byte of its data."));
        for place in &unreached {
            desk.out.toned(Tone::Bad, format!("A backup could not be reached and may still hold the tenant: {place}"));
        }
        Ok(())
    })
}
