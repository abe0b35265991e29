//! The operator's key (`secret.key`), and what is sealed under it: small texts and keys that must be recoverable, each bound to what it is for.
//! Pure but for the machine's randomness and one door that reads and makes the key's file.
//!
//! A sealed text is `v1.<key id>.<base64url of nonce, ciphertext and tag>`: XChaCha20-Poly1305, whose nonces are long enough to be drawn at
//! random. The context (whose it is, what it is called) is authenticated with it, so that a sealed text which was put elsewhere does not open.
//! It must not know who asks, nor where sealed texts are kept.

use crate::{
    config::Secret,
    error::{Error, Result},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The key's file in the data directory. Backups and exports never hold it.
pub const FILE_NAME: &str = "secret.key";

/// The form of sealed texts that is written; older ones stay readable.
const FORM: &str = "v1";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// What BLAKE3 derives the keys of the two uses from, so that neither opens what the other sealed.
const FOR_TEXTS: &str = "nimblesite 2026-11 secret.key, texts";
const FOR_KEYS: &str = "nimblesite 2026-11 secret.key, data keys";
const FOR_NAME: &str = "nimblesite 2026-11 secret.key, its public name";

/// Where the operator's key comes from.
#[derive(Debug, Clone, Default)]
pub enum KeySource {
    /// `secret.key` in the data directory.
    #[default]
    Data,
    /// A file elsewhere, such as a mounted secret or a systemd credential.
    File(PathBuf),
    /// The key itself, from the environment.
    Text(Secret),
}

/// The operator's key, or why there is none.
pub struct Vault {
    held: std::result::Result<Held, String>,
}

struct Held {
    /// Names the key without telling it.
    id: String,
    texts: XChaCha20Poly1305,
    keys: XChaCha20Poly1305,
}

/// 256 random bits that something else is encrypted with. Wiped when dropped, shown by nothing.
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl DataKey {
    /// A new one. Fails only when the machine gives no randomness.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// One that someone gives, as hexadecimal digits; none when it is not as long as it should be.
    pub fn parse(text: &str) -> Option<Self> {
        key_parse(text.trim()).map(Self)
    }

    /// In hexadecimal. Whoever calls this must neither log nor store it.
    pub fn expose(&self) -> Zeroizing<String> {
        hex(self.0.as_slice())
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[data key]")
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("id", &self.id()).finish()
    }
}

impl Vault {
    /// Takes the key from where it is. One that is not in the data directory is made there if `make` allows it; else the vault stays closed,
    /// which is an error only for whoever needs it.
    ///
    /// Fails when the key cannot be read, is none, or can be read by other users of the machine.
    pub fn load(data: &Path, source: &KeySource, make: bool) -> Result<Self> {
        match source {
            KeySource::Text(text) => Self::of_text(text.expose(), "NIMBLESITE_SECRET_KEY"),
            // Container platforms mount secrets for a group; nobody else may look.
            KeySource::File(path) => match file_read(path, 0o007)? {
                Some(text) => Self::of_text(&text, &path.display().to_string()),
                None => Err(Error::Conflict { detail: format!("secret_key_file: {} is not there", path.display()) }),
            },
            KeySource::Data => {
                let path = data.join(FILE_NAME);
                if let Some(text) = file_read(&path, 0o077)? {
                    return Self::of_text(&text, &path.display().to_string());
                }
                if make {
                    file_make(&path)?;
                    let text = file_read(&path, 0o077)?.unwrap_or_default();
                    return Self::of_text(&text, &path.display().to_string());
                }
                Ok(Self::closed(format!("{} is missing", path.display())))
            }
        }
    }

    /// One that opens and seals nothing, and says why.
    pub fn closed(why: impl Into<String>) -> Self {
        Self { held: Err(why.into()) }
    }

    fn of_text(text: &str, from: &str) -> Result<Self> {
        let Some(key) = key_parse(text.trim()) else {
            let detail =
                format!("{from} is no operator's key: expected {} hexadecimal digits, such as `openssl rand -hex 32` makes", 2 * KEY_BYTES);
            return Err(Error::Conflict { detail });
        };
        let name = Zeroizing::new(blake3::derive_key(FOR_NAME, key.as_slice()));
        let id = hex(&name[..8]).to_string();
        Ok(Self { held: Ok(Held { id, texts: cipher(FOR_TEXTS, &key), keys: cipher(FOR_KEYS, &key) }) })
    }

    /// The key's name: the same for the same key, and no help in guessing it. None when the vault is closed.
    pub fn id(&self) -> Option<&str> {
        self.held.as_ref().ok().map(|held| held.id.as_str())
    }

    /// Why the vault is closed, if it is.
    pub fn why_closed(&self) -> Option<&str> {
        self.held.as_ref().err().map(String::as_str)
    }

    /// Seals a small text for this context: what it is, whose, what it is called. Only the same context opens it again.
    pub fn seal(&self, context: &[&str], text: &Secret) -> Result<String> {
        let held = self.held()?;
        put(&held.texts, &held.id, context, text.expose().as_bytes())
    }

    /// Opens what [`Self::seal`] made for the same context.
    pub fn open(&self, context: &[&str], sealed: &str) -> Result<Secret> {
        let held = self.held()?;
        let plain = take(&held.texts, &held.id, context, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| Error::internal(format_args!("{}: sealed bytes are no text", told(context))))?;
        Ok(Secret::new(text.to_owned()))
    }

    /// Wraps a data key for this context.
    pub fn wrap(&self, context: &[&str], key: &DataKey) -> Result<String> {
        let held = self.held()?;
        put(&held.keys, &held.id, context, key.0.as_slice())
    }

    /// Unwraps what [`Self::wrap`] made for the same context.
    pub fn unwrap(&self, context: &[&str], wrapped: &str) -> Result<DataKey> {
        let held = self.held()?;
        let plain = take(&held.keys, &held.id, context, wrapped)?;
        let key = <[u8; KEY_BYTES]>::try_from(plain.as_slice());
        key.map(|key| DataKey(Zeroizing::new(key)))
            .map_err(|_| Error::internal(format_args!("{}: a wrapped key has another length", told(context))))
    }

    fn held(&self) -> Result<&Held> {
        self.held.as_ref().map_err(|why| Error::Sealed { detail: why.clone() })
    }
}

fn cipher(purpose: &str, key: &Zeroizing<[u8; KEY_BYTES]>) -> XChaCha20Poly1305 {
    let derived = Zeroizing::new(blake3::derive_key(purpose, key.as_slice()));
    XChaCha20Poly1305::new((&*derived).into())
}

fn put(cipher: &XChaCha20Poly1305, id: &str, context: &[&str], plain: &[u8]) -> Result<String> {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce)?;
    let payload = Payload { msg: plain, aad: &bound(id, context) };
    let sealed = cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| Error::internal("a text is too long to be sealed"))?;
    let bytes = [nonce.as_slice(), &sealed].concat();
    Ok(format!("{FORM}.{id}.{}", Base64UrlUnpadded::encode_string(&bytes)))
}

fn take(cipher: &XChaCha20Poly1305, id: &str, context: &[&str], sealed: &str) -> Result<Zeroizing<Vec<u8>>> {
    let broken = || Error::internal(format_args!("{}: what is sealed was changed, or put where it does not belong", told(context)));
    let (form, rest) = sealed.split_once('.').ok_or_else(broken)?;
    if form != FORM {
        return Err(Error::internal(format_args!(
            "{}: sealed in the form {form:?}, this binary knows {FORM}: use a newer nimblesite",
            told(context)
        )));
    }
    let (under, text) = rest.split_once('.').ok_or_else(broken)?;
    if under != id {
        let detail =
            format!("{}: sealed under the operator's key {under}, but the one in force is {id}; put that one in place", told(context));
        return Err(Error::Sealed { detail });
    }
    let bytes = Base64UrlUnpadded::decode_vec(text).map_err(|_| broken())?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
    let payload = Payload { msg: sealed, aad: &bound(id, context) };
    cipher.decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| broken())
}

/// Everything that is authenticated beside the text. Lengths stand before the parts: no two contexts give the same bytes.
fn bound(id: &str, context: &[&str]) -> Vec<u8> {
    let parts = [FORM, id].into_iter().chain(context.iter().copied());
    parts.flat_map(|part| (part.len() as u64).to_le_bytes().into_iter().chain(part.bytes())).collect()
}

/// A context in a message. It names things, never their content.
fn told(context: &[&str]) -> String {
    context.join(" ")
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::internal(format_args!("no randomness: {error}")))
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    text.extend(digits.map(char::from));
    text
}

fn key_parse(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(key)
}

/// The text of a key's file; none where there is no file. Refuses one that the bits of `nobody` let others read or change.
fn file_read(path: &Path, nobody: u32) -> Result<Option<Zeroizing<String>>> {
    let trouble = |error: std::io::Error| Error::Conflict { detail: format!("{} cannot be read: {error}", path.display()) };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(trouble)?,
    };
    let mode = file.metadata().map_err(trouble)?.permissions().mode();
    if mode & nobody != 0 {
        let detail = format!(
            "{0} can be read by other users of this machine: run chmod 600 {0}, and think about who may have read it",
            path.display()
        );
        return Err(Error::Conflict { detail });
    }
    // A key is short; whatever a wrong path leads to may not be.
    let mut text = Zeroizing::new(String::with_capacity(256));
    (&mut file).take(256).read_to_string(&mut text).map_err(trouble)?;
    Ok(Some(text))
}

/// Makes a key's file, whole or not at all; one that another process made meanwhile stays.
fn file_make(path: &Path) -> Result<()> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(key.as_mut_slice())?;
    let making = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&making)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(format!("{}\n", *hex(key.as_slice())).as_bytes())?;
        file.sync_all()?;
        // Linking, unlike renaming, replaces nothing.
        match fs::hard_link(&making, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => fs::remove_file(&making)?,
        }
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| Error::Conflict { detail: format!("{} cannot be made: {error}", path.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vault(digit: char) -> Vault {
        Vault::of_text(&digit.to_string().repeat(64), "test").unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_context_alone() {
        let vault = vault('a');
        let sealed = vault.seal(&["secret", "tenant 1", "token"], &secret("hunter2")).unwrap();
        assert!(sealed.starts_with(&format!("v1.{}.", vault.id().unwrap())) && !sealed.contains("hunter2"));
        assert_eq!(vault.open(&["secret", "tenant 1", "token"], &sealed).unwrap().expose(), "hunter2");
        for other in
            [&["secret", "tenant 2", "token"][..], &["secret", "tenant 1"], &["secret", "tenant", " 1token"], &["secrettenant 1token"], &[]]
        {
            assert!(matches!(vault.open(other, &sealed), Err(Error::Internal { .. })), "{other:?}");
        }
        assert_ne!(sealed, vault.seal(&["secret", "tenant 1", "token"], &secret("hunter2")).unwrap(), "nonces are drawn anew");
    }

    #[test]
    fn keys_and_texts_are_not_taken_for_one_another() {
        let vault = vault('b');
        let key = DataKey::generate().unwrap();
        let wrapped = vault.wrap(&["x"], &key).unwrap();
        assert_eq!(vault.unwrap(&["x"], &wrapped).unwrap().expose(), key.expose());
        assert!(vault.open(&["x"], &wrapped).is_err() && vault.unwrap(&["y"], &wrapped).is_err());
        let text = vault.seal(&["x"], &secret(&"t".repeat(32))).unwrap();
        assert!(vault.unwrap(&["x"], &text).is_err());
        assert!(!format!("{vault:?} {key:?}").contains(&*key.expose()));
    }

    #[test]
    fn another_key_is_named_and_a_closed_vault_says_why() {
        let sealed = vault('c').seal(&["x"], &secret("t")).unwrap();
        let Err(Error::Sealed { detail }) = vault('d').open(&["x"], &sealed) else { panic!("another key opened it") };
        assert!(detail.contains(vault('c').id().unwrap()) && detail.contains(vault('d').id().unwrap()), "{detail}");
        let closed = Vault::closed("secret.key is missing");
        let Err(Error::Sealed { detail }) = closed.open(&["x"], &sealed) else { panic!("no key opened it") };
        assert_eq!((detail.as_str(), closed.id(), closed.why_closed()), ("secret.key is missing", None, Some("secret.key is missing")));
    }

    /// What stands in databases has to open for as long as they live.
    #[test]
    fn a_text_that_was_sealed_long_ago_opens() {
        let sealed = "v1.dc66cad6d937ed46.CASzFZckvoLfGo7olxn1JBrl4fLf2UBB5AeXh2Z-bRhcYQMoHfveHqeun0tFny0YNz7bhCsP";
        assert_eq!(vault('e').open(&["secret", "of a tenant"], sealed).unwrap().expose(), "kept for years");
    }

    #[test]
    fn a_key_s_file_is_made_once_closed_to_others_and_refused_when_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert!(Vault::load(dir.path(), &KeySource::Data, false).unwrap().id().is_none() && !path.exists());
        let made = Vault::load(dir.path(), &KeySource::Data, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
        let again = Vault::load(dir.path(), &KeySource::Data, true).unwrap();
        assert!(made.id().is_some() && made.id() == again.id());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(Vault::load(dir.path(), &KeySource::Text(secret(&text)), false).unwrap().id(), made.id());
        assert_eq!(Vault::load(Path::new("/nowhere"), &KeySource::File(path.clone()), false).unwrap().id(), made.id());
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Vault::load(dir.path(), &KeySource::Data, true).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{mode:o}: {error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        assert!(Vault::load(dir.path(), &KeySource::File(path.clone()), false).is_ok(), "a mounted secret may be its group's");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in ["", "not a key", &text[1..], &"g".repeat(64), &"é".repeat(32)] {
            fs::write(&path, wrong).unwrap();
            assert!(Vault::load(dir.path(), &KeySource::Data, true).unwrap_err().to_string().contains("openssl rand -hex 32"), "{wrong:?}");
        }
        assert!(Vault::load(dir.path(), &KeySource::File(dir.path().join("other")), true).is_err());
    }

    proptest! {
        #[test]
        fn any_text_comes_back_and_no_changed_one_opens(text in ".{0,200}", at in any::<prop::sample::Index>(), flip in 1_u8..=127) {
            let vault = vault('f');
            let sealed = vault.seal(&["p"], &secret(&text)).unwrap();
            let opened = vault.open(&["p"], &sealed).unwrap();
            prop_assert_eq!(opened.expose(), text.as_str());
            let mut bytes = sealed.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(vault.open(&["p"], &String::from_utf8_lossy(&bytes)).is_err());
        }

        #[test]
        fn whatever_is_opened_is_refused_without_a_panic(text in ".{0,80}", tail in "[A-Za-z0-9_-]{0,80}") {
            let vault = vault('0');
            let near = format!("v1.{}.{tail}", vault.id().unwrap());
            prop_assert!(vault.open(&["p"], &text).is_err() && vault.open(&["p"], &near).is_err());
        }
    }
}
