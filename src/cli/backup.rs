//! `nimblesite backup` and `nimblesite restore`: dated sets of checked copies, and the way back.

use super::{
    Desk, Room,
    failure::{Done, Failure},
    out::Tone,
    parse, runtime,
};
use crate::{
    control,
    error::Error,
    ids::TenantId,
    storage::{BackupSet, Mode, Storage, set_read, sets},
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The folder of sets, outside of the data directory; made when it is not there
    dir: PathBuf,
    /// Remove all but the newest N sets, once this one is whole
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// A folder of sets, whose newest is taken, or one set in it
    dir: PathBuf,
    /// Bring back this tenant's content alone; its money stays as it is
    #[arg(long, value_parser = parse::id::<TenantId>)]
    tenant: Option<TenantId>,
    /// Write every tenant's file encrypted, or none [default: each as it was]
    #[arg(long, value_name = "on|off", conflicts_with = "tenant", value_parser = ["on", "off"])]
    encryption: Option<String>,
}

/// A progress bar on stderr; hidden where that is no terminal.
fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} tenants, {eta} left") {
        bar.set_style(style);
    }
    bar
}

impl Backup {
    pub(super) async fn run(self, room: Room) -> Done {
        let Room { out, storage, operator, .. } = room;
        let bar = bar(0);
        let shown = bar.clone();
        let keep = self.keep.map(|keep| keep as usize);
        let work = move || {
            storage.backup(&operator, &self.dir, keep, |done, all| {
                shown.set_length(all as u64);
                shown.set_position(done as u64);
            })
        };
        let outcome = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
        bar.finish_and_clear();
        let done = outcome?;
        out.value(&done);
        out.say(format!("{}: {} tenants copied, {} unchanged.", done.set.display(), done.copied, done.unchanged));
        if !done.removed.is_empty() {
            out.say(format!("Removed {} older sets.", done.removed.len()));
        }
        if done.failed.is_empty() {
            return Ok(());
        }
        for (tenant, why) in &done.failed {
            out.toned(Tone::Bad, format!("{tenant} is not in the set: {why}"));
        }
        out.say("No older set was removed. `nimblesite doctor` looks closer.");
        Err(Failure::Told)
    }
}

impl Restore {
    pub(super) fn run(self, desk: &Desk) -> Done {
        let dir = self.dir.canonicalize().map_err(|error| Failure::io(self.dir.display(), &error))?;
        match self.tenant {
            Some(tenant) => tenant_restore(desk, &dir, tenant),
            None => all_restore(desk, &dir, self.encryption.map(|word| word == "on")),
        }
    }
}

/// The sets to choose from, newest first: the one that was named, or all of the folder.
fn choice(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    if dir.join("manifest.json").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut found = sets(dir)?;
    found.reverse();
    if found.is_empty() {
        return Err(Failure::Failed(format!("{} is no set of `nimblesite backup` and holds none", dir.display())));
    }
    Ok(found)
}

fn tenant_restore(desk: &Desk, dir: &Path, tenant: TenantId) -> Done {
    let config = desk.config_of_data()?;
    let (mut file, mut from) = (None, None);
    for set in choice(dir)? {
        let known = set_read(&set)?;
        if let Some(found) = known.tenant_file(&set, tenant)? {
            (file, from) = (Some(found), Some(known.made_at));
            break;
        }
    }
    let (Some(file), Some(from)) = (file, from) else {
        return Err(Failure::Failed(format!("no set in {} has tenant {tenant}", dir.display())));
    };
    runtime(&config)?.block_on(async {
        match control::ask(&config.data, &control::Ask::TenantRestore { tenant_id: tenant, file: file.clone() }).await? {
            Some(control::Told::Done) => {}
            Some(control::Told::Refused { message }) => return Err(Failure::Failed(message)),
            Some(_) => return Err(Failure::Failed("the server gave an answer to something else".to_owned())),
            None => {
                let storage = Storage::of(&config, Mode::Server)?;
                let restored = storage.tenant_restore(&storage.operator_here(), tenant, file).await;
                storage.close();
                restored?;
            }
        }
        desk.out.value(&serde_json::json!({ "id": tenant, "restored": true, "made_at": from }));
        desk.out.say(format!("Tenant {tenant} has its configs and conversations of {from} again. Its wallet and ledger are as they were."));
        Ok(())
    })
}

fn all_restore(desk: &Desk, dir: &Path, encrypted: Option<bool>) -> Done {
    let (config, _) = desk.config(Vec::new())?;
    if encrypted.is_some() && !cfg!(feature = "encryption") {
        let text = "this nimblesite was built without encryption: use one that was built with `--features encryption`";
        return Err(Failure::Usage(text.to_owned()));
    }
    let set = choice(dir)?.swap_remove(0);
    let known: BackupSet = set_read(&set)?;
    let bar = bar(known.tenants.len());
    // Everything is looked at before anything is put in place.
    let catalog = known.catalog_file(&set)?;
    let mut tenants = Vec::new();
    for tenant in known.tenants.keys() {
        tenants.extend(known.tenant_file(&set, *tenant)?.map(|file| (*tenant, file)));
    }
    let restored = Storage::restore_all(&config, &catalog, &tenants, encrypted, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    restored?;
    desk.out.value(&serde_json::json!({ "set": set, "made_at": known.made_at, "tenants": tenants.len() }));
    desk.out.say(format!("{} tenants are in {} as they were at {}.", tenants.len(), config.data.display(), known.made_at));
    desk.out.toned(
        Tone::Bad,
        "Money and revocations are of that moment, too: credit that was spent since is there again, and keys that were revoked since work \
         again. See to both before you serve: `nimblesite credit show`, `nimblesite key revoke`.",
    );
    Ok(())
}
