//! The operator's key at work: which one this directory's sealed things need is noted in the catalog when the first is sealed, so that a key
//! that went missing is missed, and never replaced by a new one behind anyone's back.

use super::{
    Mode, Operator, Storage, TenantStore,
    engine::{Change, Engine, Param, Place, Placed, Tx, TxExt},
    sqlite,
    writers::Writers,
};
use crate::{
    clock::Clock,
    config::{Config, Secret},
    error::{Error, Result},
    ids::TenantId,
    vault::{DataKey, FILE_NAME, KeySource, Vault},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The vault of a data directory.
pub(super) struct Sealing {
    engine: Arc<dyn Engine>,
    writers: Arc<Writers>,
    vault: Vault,
    /// The catalog says which key is in use.
    noted: AtomicBool,
}

impl Sealing {
    /// Loads the key; a server makes one where nothing was sealed yet. Where the key is missing, or is not the one that is needed, the
    /// directory is served all the same: what is sealed stays closed.
    pub(super) fn open(engine: &Arc<dyn Engine>, writers: &Arc<Writers>, mode: Mode, source: &KeySource) -> Result<Self> {
        let mut noted = None;
        engine.read(Place::Catalog, &mut |tx| {
            noted = note(tx)?;
            Ok(())
        })?;
        let vault = Vault::load(&engine.folder(), source, mode == Mode::Server && noted.is_none())?;
        let trouble = match (&noted, vault.id()) {
            (Some(needed), Some(found)) if needed != found => {
                Some(format!("what is sealed here needs the operator's key {needed}, but {found} is in force: put that one in place"))
            }
            (Some(needed), None) => {
                let why = vault.why_closed().unwrap_or_default();
                Some(format!("{why}; what is sealed here needs the operator's key {needed}: put it back from where you keep it"))
            }
            _ => None,
        };
        let (engine, writers) = (Arc::clone(engine), Arc::clone(writers));
        let Some(why) = trouble else { return Ok(Self { engine, writers, vault, noted: AtomicBool::new(noted.is_some()) }) };
        if mode == Mode::Server {
            tracing::error!(why, "sealed secrets cannot be opened");
        }
        Ok(Self { engine, writers, vault: Vault::closed(why), noted: AtomicBool::new(true) })
    }
}

/// Which key is in use.
fn note(tx: &mut dyn Tx) -> Result<Option<String>> {
    tx.first("SELECT key_id FROM sealing", &[], |row| Ok(row.text(0)?.to_owned()))
}

impl Sealing {
    /// What opens sealed texts and keys. It is closed, and says why, when the operator's key is missing or another one.
    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What seals. From now on the catalog knows that the key is needed.
    pub(super) async fn vault_to_seal(&self) -> Result<&Vault> {
        let (Some(id), false) = (self.vault.id().map(str::to_owned), self.noted.load(Ordering::Acquire)) else { return Ok(&self.vault) };
        let (now, ours) = (Clock.now(), id.clone());
        let in_use = super::write(&self.engine, &self.writers, Place::Catalog, move |tx| {
            let sql = "INSERT INTO sealing (one, key_id, created_at) VALUES (1, ?1, ?2) ON CONFLICT (one) DO NOTHING";
            tx.execute(sql, &[Param::Text(&ours), Param::Int(now.ms())])?;
            note(tx)
        });
        let in_use = in_use.await?.unwrap_or_default();
        if in_use != id {
            return Err(Error::Sealed { detail: format!("another process seals under the operator's key {in_use}, this one has {id}") });
        }
        self.noted.store(true, Ordering::Release);
        Ok(&self.vault)
    }
}

impl Sealing {
    /// A tenant's data key, if its file is encrypted.
    pub(super) fn data_key(&self, tenant: TenantId, tx: &mut dyn Tx) -> Result<Option<DataKey>> {
        let id = tenant.to_string();
        let wrapped =
            tx.first("SELECT data_key FROM tenants WHERE id = ?1", &[Param::Text(&id)], |row| Ok(row.text_opt(0)?.map(str::to_owned)))?;
        wrapped.flatten().map(|wrapped| self.vault.unwrap(&key_context(&id), &wrapped)).transpose()
    }

    /// A new tenant's data key, wrapped.
    pub(super) async fn data_key_make(&self, tenant: TenantId) -> Result<String> {
        self.vault_to_seal().await?.wrap(&key_context(&tenant.to_string()), &DataKey::generate()?)
    }
}

/// What a data key is bound to.
fn key_context(tenant: &str) -> [&str; 2] {
    ["data key of tenant", tenant]
}

/// What a whole backup becomes where it is restored.
pub(super) struct Plan {
    /// What each tenant's file becomes.
    pub tenants: Vec<Placed>,
    /// The operator's key that they are encrypted under from now on.
    pub key_id: Option<String>,
}

impl Plan {
    /// Everything as it is, or all of it encrypted, or none: each file that is not so is written anew.
    pub(super) fn new(config: &Config, catalog: &Path, copies: &[(TenantId, PathBuf)], encrypted: Option<bool>) -> Result<Self> {
        let (keys, noted) = sqlite::catalog_keys(catalog)?;
        let as_is = |(tenant, copy): &(TenantId, PathBuf)| Placed {
            tenant: *tenant,
            copy: copy.clone(),
            encrypted: keys.contains_key(tenant),
            change: None,
        };
        let mut tenants: Vec<Placed> = copies.iter().map(as_is).collect();
        let Some(encrypted) = encrypted else { return Ok(Self { tenants, key_id: None }) };
        sqlite::folder_make(&config.data)?;
        let vault = Vault::load(&config.data, &config.secret_key, encrypted && noted.is_none())?;
        if let (Some(needed), found) = (&noted, vault.id())
            && found != Some(needed)
        {
            let detail =
                format!("this backup needs the operator's key {needed}: put it into {} first, as {FILE_NAME}", config.data.display());
            return Err(Error::Sealed { detail });
        }
        for placed in tenants.iter_mut().filter(|placed| placed.encrypted != encrypted) {
            let id = placed.tenant.to_string();
            let old = keys.get(&placed.tenant).map(|wrapped| vault.unwrap(&key_context(&id), wrapped)).transpose()?;
            let new = encrypted.then(DataKey::generate).transpose()?;
            let wrapped = new.as_ref().map(|key| vault.wrap(&key_context(&id), key)).transpose()?;
            placed.change = Some(Change { old: old.map(Arc::new), new: new.map(Arc::new), wrapped });
            placed.encrypted = encrypted;
        }
        Ok(Self { tenants, key_id: vault.id().filter(|_| encrypted).map(str::to_owned) })
    }
}

impl TenantStore {
    /// Seals a small text of this tenant's that must be recoverable, such as a token for a tool's server. `what` says what it is and what it is
    /// called (a config's id, a name); only the same tenant and the same `what` open it again. [`Error::Sealed`] without the operator's key.
    pub async fn secret_seal(&self, what: &[&str], text: &Secret) -> Result<String> {
        let tenant = self.tenant.to_string();
        self.sealing.vault_to_seal().await?.seal(&context(&tenant, what), text)
    }

    /// Opens what [`Self::secret_seal`] made. Cheap.
    pub fn secret_open(&self, what: &[&str], sealed: &str) -> Result<Secret> {
        let tenant = self.tenant.to_string();
        self.sealing.vault().open(&context(&tenant, what), sealed)
    }
}

fn context<'a>(tenant: &'a str, what: &[&'a str]) -> Vec<&'a str> {
    ["tenant", tenant].into_iter().chain(what.iter().copied()).collect()
}

impl Storage {
    /// How many tenants' files are encrypted.
    pub async fn encrypted_count(&self, _: &Operator) -> Result<usize> {
        self.catalog_read(|tx| {
            super::catalog::count(tx, "SELECT COUNT(*) FROM tenants WHERE state = 'active' AND data_key IS NOT NULL", &[])
        })
        .await
    }

    /// The name of the operator's key that is in force, or why there is none; and whether anything was ever sealed under it here.
    pub fn secret_key(&self, _: &Operator) -> (std::result::Result<String, String>, bool) {
        let Sealing { vault, noted, .. } = &*self.inner.sealing;
        let named = vault.id().map(str::to_owned).ok_or_else(|| vault.why_closed().unwrap_or_default().to_owned());
        (named, noted.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault;
    use std::fs;

    fn config(dir: &Path) -> Config {
        Config { limits: crate::storage::conformance::limits(), ..Config::default_for(dir.to_owned()) }
    }

    fn opened(dir: &Path) -> Storage {
        Storage::of(&config(dir), Mode::Server).unwrap()
    }

    async fn store(storage: &Storage, tenant: TenantId) -> TenantStore {
        storage.tenant_open(tenant, None).await.unwrap()
    }

    #[tokio::test]
    async fn a_key_that_went_missing_is_missed_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(vault::FILE_NAME);
        let (tenant, other) = (TenantId::new(), TenantId::new());
        let storage = opened(dir.path());
        for tenant in [tenant, other] {
            storage.tenant_file_create(tenant, "a").await.unwrap();
        }
        // Nothing is sealed yet: a lost key is nobody's loss.
        assert!(!storage.secret_key(&storage.operator_here()).1);
        storage.close();
        fs::remove_file(&path).unwrap();
        let storage = opened(dir.path());
        let sealed = store(&storage, tenant).await.secret_seal(&["config", "c", "token"], &Secret::new("s3cret".into())).await.unwrap();
        assert_eq!(store(&storage, tenant).await.secret_open(&["config", "c", "token"], &sealed).unwrap().expose(), "s3cret");
        assert!(store(&storage, other).await.secret_open(&["config", "c", "token"], &sealed).is_err(), "it is another tenant's");
        assert!(store(&storage, tenant).await.secret_open(&["config", "d", "token"], &sealed).is_err());
        storage.close();

        let kept = fs::read_to_string(&path).unwrap();
        for other_key in [None, Some("0".repeat(64))] {
            fs::remove_file(&path).unwrap();
            let mut config = config(dir.path());
            if let Some(key) = other_key {
                config.secret_key = KeySource::Text(Secret::new(key));
            }
            let storage = Storage::of(&config, Mode::Server).unwrap();
            let Err(Error::Sealed { detail }) = store(&storage, tenant).await.secret_open(&["config", "c", "token"], &sealed) else {
                panic!("it opened without its key");
            };
            assert!(detail.contains("put"), "{detail}");
            let again = store(&storage, tenant).await.secret_seal(&["x"], &Secret::new("y".into())).await;
            assert!(matches!(again, Err(Error::Sealed { .. })), "nothing is sealed under another key meanwhile: {again:?}");
            storage.close();
            assert!(!path.exists(), "no new key takes the place of the one that is needed");
            fs::write(&path, &kept).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        let storage = opened(dir.path());
        assert_eq!(store(&storage, tenant).await.secret_open(&["config", "c", "token"], &sealed).unwrap().expose(), "s3cret");
        storage.close();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(Storage::of(&config(dir.path()), Mode::Server).err().unwrap().to_string().contains("chmod 600"));
    }
}
