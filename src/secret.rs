//! Secrets: key texts, user tokens, passwords. Pure but for the machine's randomness. The only file that names argon2.
//!
//! What was typed or shown ([`NewKey`], [`KeyText`], [`NewToken`], [`Password`]) and what is stored ([`KeyHash`], [`TokenHash`],
//! [`PasswordHash`]) are types of their own, so that neither can stand where the other is meant. None of the former can be printed.
//! It must not know who a secret belongs to.
#![allow(clippy::disallowed_methods, reason = "this file is argon2's room")]

use crate::{
    config::Secret,
    error::{Error, Result},
};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use serde::{Deserialize, Deserializer};
use std::fmt;
use zeroize::Zeroizing;

/// Digits of base62, which need no escaping anywhere and can be selected by a double click.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// What every key begins with; secret scanners look for it.
const KEY_PREFIX: &str = "ns_live_";
/// What every user token begins with.
const TOKEN_PREFIX: &str = "nu_";
/// 95 bits: two keys never share a public id.
const PUBLIC_ID_CHARS: usize = 16;
/// 43 digits of base62 are 256.03 bits.
const SECRET_CHARS: usize = 43;
/// 62⁶ > 2³²: a CRC-32 fits.
const CHECKSUM_CHARS: usize = 6;
/// How much of a key's text is kept to recognise it by: the fixed beginning and six characters of its public id.
const SHOWN_CHARS: usize = KEY_PREFIX.len() + 6;

/// This many random digits. Bytes from 248 on are drawn again: 256 is no multiple of 62, and taking the rest would favour some digits.
fn random_base62(chars: usize) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(chars));
    let mut bytes = Zeroizing::new([0_u8; 64]);
    while text.len() < chars {
        getrandom::fill(bytes.as_mut_slice()).map_err(|error| Error::internal(format!("no randomness: {error}")))?;
        for byte in bytes.iter().copied().filter(|byte| *byte < 248).take(chars - text.len()) {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
        }
    }
    Ok(text)
}

/// The CRC-32 of a text in base62. It finds typing errors; it keeps no secret.
fn checksum(text: &str) -> [u8; CHECKSUM_CHARS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [ALPHABET[0]; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// A text with its checksum behind it.
pub(crate) fn sealed(body: &str) -> Secret {
    let mut text = String::with_capacity(body.len() + 1 + CHECKSUM_CHARS);
    text.push_str(body);
    text.push('_');
    text.extend(checksum(body).map(char::from));
    Secret::new(text)
}

/// What stands between a prefix and a right checksum, if the text has exactly this form and so many characters between.
fn opened<'a>(text: &'a str, prefix: &str, chars: usize) -> Option<&'a str> {
    let length = prefix.len() + chars + 1 + CHECKSUM_CHARS;
    if text.len() != length || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    // All ASCII now, so no index can split a character.
    let (body, sum) = text.split_at(length - CHECKSUM_CHARS - 1);
    let inner = body.strip_prefix(prefix)?;
    (sum.as_bytes().split_first() == Some((&b'_', checksum(body).as_slice()))).then_some(inner)
}

fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// An API key in the making: `ns_live_<public id>_<secret>_<checksum>`. Its text is shown once and kept nowhere.
pub struct NewKey {
    text: Secret,
}

impl NewKey {
    /// A new random key. Fails only when the machine gives no randomness.
    pub fn generate() -> Result<Self> {
        let body =
            Zeroizing::new(format!("{KEY_PREFIX}{}_{}", random_base62(PUBLIC_ID_CHARS)?.as_str(), random_base62(SECRET_CHARS)?.as_str()));
        Ok(Self { text: sealed(&body) })
    }

    /// The whole text, to be shown once.
    pub fn text(&self) -> &Secret {
        &self.text
    }

    /// The part that finds the key's row.
    pub fn public_id(&self) -> &str {
        let text = self.text.expose();
        text.get(KEY_PREFIX.len()..KEY_PREFIX.len() + PUBLIC_ID_CHARS).unwrap_or_default()
    }

    /// The first characters, to recognise the key by.
    pub fn prefix(&self) -> &str {
        self.text.expose().get(..SHOWN_CHARS).unwrap_or_default()
    }
}

/// A key as it was presented: of the right form, its checksum right. Whether such a key exists is for the database to say.
#[derive(Clone, Copy)]
pub struct KeyText<'a> {
    public_id: &'a str,
    secret: &'a str,
}

impl<'a> KeyText<'a> {
    /// Takes a key's text apart; nothing when it cannot be one of ours, such as after a typing error.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (public_id, secret) = opened(text, KEY_PREFIX, PUBLIC_ID_CHARS + 1 + SECRET_CHARS)?.split_once('_')?;
        (public_id.len() == PUBLIC_ID_CHARS && is_base62(public_id) && is_base62(secret)).then_some(Self { public_id, secret })
    }

    /// The part that finds the key's row. It is no secret.
    pub fn public_id(&self) -> &'a str {
        self.public_id
    }

    /// The same, to be taken to another thread; wiped when dropped.
    pub fn kept(&self) -> KeptKeyText {
        KeptKeyText { public_id: self.public_id.to_owned(), secret: Secret::new(self.secret.to_owned()) }
    }
}

/// A [`KeyText`] of its own.
pub struct KeptKeyText {
    public_id: String,
    secret: Secret,
}

impl KeptKeyText {
    /// The parts.
    pub fn text(&self) -> KeyText<'_> {
        KeyText { public_id: &self.public_id, secret: self.secret.expose() }
    }
}

/// The argon2id of a key's secret part, in PHC form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// About a millisecond of one core: call it where that may be spent.
    ///
    /// The parameters are small (1 MiB, two passes) on purpose. Slow hashing protects secrets that can be guessed; 256 random bits cannot, however
    /// fast the hash, so a larger cost would only slow our own first requests.
    pub fn of(key: &KeyText<'_>) -> Result<Self> {
        hash(key.secret, 1024, 2).map(Self)
    }

    /// As it stands in the database.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// For the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the hash of that key. About a millisecond.
    pub fn proves(&self, key: &KeyText<'_>) -> bool {
        verified(&self.0, key.secret)
    }
}

/// A user token in the making: `nu_<secret>_<checksum>`. Its text is shown once; its hash is stored.
pub struct NewToken {
    text: Secret,
    hash: TokenHash,
}

impl NewToken {
    /// A new random token. Fails only when the machine gives no randomness.
    pub fn generate() -> Result<Self> {
        let body = Zeroizing::new(format!("{TOKEN_PREFIX}{}", random_base62(SECRET_CHARS)?.as_str()));
        let text = sealed(&body);
        let hash = TokenHash::of(text.expose());
        Ok(Self { text, hash })
    }

    /// The whole text, to be shown or mailed once.
    pub fn text(&self) -> &Secret {
        &self.text
    }

    /// For the database.
    pub fn hash(&self) -> &TokenHash {
        &self.hash
    }
}

/// The blake3 of a user token. Fast is fine: no dictionary reaches 256 random bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHash(String);

impl TokenHash {
    fn of(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    /// Of a token as it was presented; nothing when it cannot be one of ours.
    pub fn of_presented(text: &str) -> Option<Self> {
        opened(text, TOKEN_PREFIX, SECRET_CHARS).is_some_and(is_base62).then(|| Self::of(text))
    }

    /// For the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a form of a session must carry, so that no other page can send it: made of the session's text, which only the cookie holds.
pub fn form_token(session: &str) -> String {
    let token = blake3::derive_key("nimblesite 2026 form token", session.as_bytes());
    blake3::Hash::from_bytes(token).to_hex().to_string()
}

/// What an operator's session keeps of the operator token, to see that it is still the one in force. Without the session's text it tells
/// nothing, so that nobody can guess at the token with the catalog alone.
pub fn operator_proof(session: &str, operator_token: &str) -> String {
    let key = blake3::derive_key("nimblesite 2026 operator session", session.as_bytes());
    blake3::keyed_hash(&key, operator_token.as_bytes()).to_hex().to_string()
}

/// A password as someone typed it. Nothing shows it.
#[derive(Clone)]
pub struct Password(Secret);

/// Passwords that are among the first tried everywhere, of those that the length rule lets through.
const COMMON: &[&str] = &[
    "00000000",
    "11111111",
    "12341234",
    "12345678",
    "123456789",
    "1234567890",
    "87654321",
    "abcd1234",
    "baseball",
    "football",
    "iloveyou",
    "password",
    "password1",
    "password12",
    "password123",
    "passw0rd",
    "princess",
    "qwerty12",
    "qwerty123",
    "qwertyui",
    "qwertyuiop",
    "sunshine",
    "superman",
    "trustno1",
    "welcome1",
];

impl Password {
    /// The fewest characters: NIST SP 800-63B (revision 3) §5.1.1.2. No rule on kinds of characters, for the reasons given there.
    pub const CHARS_MIN: usize = 8;
    /// The most bytes: far above the 64 characters that the same section asks for, and still bounded.
    pub const BYTES_MAX: usize = 256;

    /// Takes what was typed, whatever it is; whether it may become a password is for [`Password::check`] to say.
    pub fn new(text: String) -> Self {
        Self(Secret::new(text))
    }

    /// Whether this may become the password of the account with this address; `pointer` names the field in the error.
    pub fn check(&self, email: &str, pointer: &str) -> Result<()> {
        let text = self.0.expose();
        if text.chars().count() < Self::CHARS_MIN || text.len() > Self::BYTES_MAX {
            let expected = format!("expected {} characters or more, and at most {} bytes", Self::CHARS_MIN, Self::BYTES_MAX);
            return Err(Error::invalid(pointer, expected));
        }
        let lower = Zeroizing::new(text.to_lowercase());
        let mailbox = email.split('@').next().unwrap_or_default();
        if COMMON.contains(&lower.as_str()) || *lower == email || *lower == mailbox {
            return Err(Error::invalid(pointer, "this password is too easy to guess; take another, such as a few unrelated words"));
        }
        Ok(())
    }

    /// Whether an account can have this password at all. What is longer is not worth hashing.
    fn plausible(&self) -> bool {
        self.0.expose().len() <= Self::BYTES_MAX
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[password]")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl utoipa::PartialSchema for Password {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
            .min_length(Some(Self::CHARS_MIN))
            .max_length(Some(Self::BYTES_MAX))
            .into()
    }
}

impl utoipa::ToSchema for Password {}

/// The argon2id of a password, in PHC form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// 19 MiB, two passes, one lane: OWASP's Password Storage Cheat Sheet. Some 16 ms of one core: call it where that may be spent.
    pub fn of(password: &Password) -> Result<Self> {
        hash(password.0.expose(), 19 * 1024, 2).map(Self)
    }

    /// As it stands in the database.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The hash of no password. It takes as long to try as a real one, so that signing in with an unknown address does too.
    pub fn nobody() -> Self {
        Self("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned())
    }

    /// For the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the hash of that password. As slow as [`PasswordHash::of`].
    pub fn proves(&self, password: &Password) -> bool {
        password.plausible() && verified(&self.0, password.0.expose())
    }
}

/// argon2id (RFC 9106) with a random salt.
fn hash(secret: &str, memory_kib: u32, passes: u32) -> Result<String> {
    let params = Params::new(memory_kib, passes, 1, None).map_err(Error::internal)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Ok(argon2.hash_password(secret.as_bytes()).map_err(Error::internal)?.to_string())
}

/// Whether a PHC text is the hash of a secret; compared in constant time, with the parameters that the text names. Broken text proves nothing.
fn verified(phc: &str, secret: &str) -> bool {
    argon2::PasswordHash::new(phc).is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_key_is_of_the_promised_form_and_proves_itself() {
        let key = NewKey::generate().unwrap();
        let text = key.text().expose();
        let parts: Vec<&str> = text.split('_').collect();
        assert_eq!((parts.len(), parts[0], parts[1], parts[2]), (5, "ns", "live", key.public_id()));
        assert!(parts[3].len() >= 43, "43 digits of base62 are 256.03 bits");
        assert!(text.starts_with(key.prefix()) && !key.prefix().contains(parts[3]));
        let parsed = KeyText::parse(text).unwrap();
        let hash = KeyHash::of(&parsed).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$") && !hash.as_str().contains(parts[3]));
        assert!(KeyHash::from_stored(hash.as_str().to_owned()).proves(&parsed));
        let other = NewKey::generate().unwrap();
        assert!(!hash.proves(&KeyText::parse(other.text().expose()).unwrap()));
    }

    #[test]
    fn every_single_typing_error_is_found() {
        let key = NewKey::generate().unwrap();
        let text = key.text().expose();
        for at in 0..text.len() {
            for wrong in ["x", "0", "_", "é", ""] {
                let typo = format!("{}{wrong}{}", &text[..at], &text[at + 1..]);
                assert!(typo == text || KeyText::parse(&typo).is_none(), "{at} {wrong:?}");
            }
            if at > 0 && text.as_bytes()[at] != text.as_bytes()[at - 1] {
                let mut bytes = text.as_bytes().to_vec();
                bytes.swap(at, at - 1);
                assert!(KeyText::parse(std::str::from_utf8(&bytes).unwrap()).is_none(), "swapped at {at}");
            }
        }
    }

    #[test]
    fn the_digits_are_even() {
        let text = random_base62(62 * 2_000).unwrap();
        let mut counts = [0_u32; 128];
        text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
        for digit in ALPHABET {
            // 2,000 expected, standard deviation 44: six of them either way.
            assert!((1_735..2_265).contains(&counts[usize::from(*digit)]), "{} {}", char::from(*digit), counts[usize::from(*digit)]);
        }
    }

    #[test]
    fn tokens_and_keys_are_not_taken_for_one_another() {
        let (key, token) = (NewKey::generate().unwrap(), NewToken::generate().unwrap());
        assert_eq!(TokenHash::of_presented(token.text().expose()).as_ref(), Some(token.hash()));
        assert_eq!(TokenHash::of_presented(key.text().expose()), None);
        assert!(KeyText::parse(token.text().expose()).is_none());
        assert!(!token.hash().as_str().contains(&token.text().expose()[3..20]));
    }

    #[test]
    fn nothing_shows_a_password_and_nobody_has_one() {
        let password = Password::new("a few unrelated words".to_owned());
        assert!(!format!("{password:?}").contains("few"));
        let hash = PasswordHash::of(&password).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hash.proves(&password) && !hash.proves(&Password::new("a few unrelated word".to_owned())));
        assert!(argon2::PasswordHash::new(PasswordHash::nobody().as_str()).is_ok(), "a broken text would be quicker to refuse");
        assert!(!PasswordHash::nobody().proves(&password));
    }

    #[test]
    fn passwords_are_bounded_and_not_the_first_ones_tried() {
        let check = |text: &str| Password::new(text.to_owned()).check("someone@example.com", "/password").is_ok();
        assert!(check("correct horse") && check("öäüößéàñ") && check(&"x".repeat(256)));
        assert!(!check("short") && !check(&"x".repeat(257)) && !check("PASSWORD") && !check("Someone@Example.com"));
    }

    proptest! {
        #[test]
        fn whatever_is_presented_is_refused_without_a_panic(text in ".{0,120}", bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(KeyText::parse(&text).is_none() && TokenHash::of_presented(&text).is_none());
            let text = String::from_utf8_lossy(&bytes);
            prop_assert!(KeyText::parse(&text).is_none() && TokenHash::of_presented(&text).is_none());
        }

        #[test]
        fn only_base62_with_underscores_in_their_places_is_a_key(body in "[0-9A-Za-z_]{60}") {
            let sealed = sealed(&format!("{KEY_PREFIX}{body}"));
            let right = body.as_bytes()[PUBLIC_ID_CHARS] == b'_' && body.matches('_').count() == 1;
            prop_assert_eq!(KeyText::parse(sealed.expose()).is_some(), right);
        }
    }
}
