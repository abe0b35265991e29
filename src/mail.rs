//! Mails: over SMTP, or as files in the data directory's `outbox/` where no server is set. The only file that names lettre. It must not know
//! who may be written to or why: it gets letters and sends them.

use crate::{
    config::{Limits, Mail, Secret},
    error::{Error, Result},
};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// The time of one try to send over SMTP.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);
/// The wait before the second and last try.
const RETRY_AFTER: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

/// An e-mail address in the form that accounts are found by: lower case, at most 254 bytes (RFC 5321 §4.5.3.1.3); `pointer` names the field
/// in the error.
pub fn address(text: &str, pointer: &str) -> Result<String> {
    let lower = text.trim().to_lowercase();
    if lower.len() > 254 || lower.chars().any(char::is_control) || lower.parse::<Address>().is_err() {
        return Err(Error::invalid(pointer, "expected an e-mail address such as ada@example.com"));
    }
    Ok(lower)
}

/// What is to be told to someone by mail.
#[derive(Debug, Clone)]
pub enum Letter {
    /// Someone registered with this address and should prove it.
    Verify {
        /// The address.
        to: String,
        /// The token for `POST /api/v1/auth/verify`.
        token: Secret,
    },
    /// Someone registered with an address that has an account already.
    Known {
        /// The address.
        to: String,
    },
    /// Someone asked for a new password.
    Reset {
        /// The address.
        to: String,
        /// The token for `POST /api/v1/auth/password/reset`.
        token: Secret,
    },
    /// A member was added who has an account.
    Joined {
        /// The address.
        to: String,
        /// The tenant's name.
        tenant: String,
    },
    /// Someone without an account was asked into a tenant.
    Invited {
        /// The address.
        to: String,
        /// The tenant's name.
        tenant: String,
    },
}

impl Letter {
    /// Whom it goes to.
    pub fn to(&self) -> &str {
        match self {
            Self::Verify { to, .. } | Self::Known { to } | Self::Reset { to, .. } | Self::Joined { to, .. } | Self::Invited { to, .. } => {
                to
            }
        }
    }

    /// Subject and text. A token stands alone on its line, where no mail program breaks it. Nothing that others chose stands in a command
    /// to paste: an address may hold what a shell takes for its own.
    fn words(&self, url: &str) -> (&'static str, String) {
        match self {
            Self::Verify { token, .. } => (
                "Confirm your address",
                format!(
                    "Someone, probably you, registered this address at {url}.\n\nIf it was you, open this page:\n\n{url}/dashboard/verify?token={token}\n\n\
                     or, in a program, confirm it with this token:\n\n{token}\n\n\
                     for instance so:\n\ncurl -X POST {url}/api/v1/auth/verify -d '{{\"token\":\"{token}\"}}'\n\n\
                     If it was not you, ignore this mail: nobody can use the account without the token.\n",
                    token = token.expose()
                ),
            ),
            Self::Known { .. } => (
                "You have an account already",
                format!(
                    "Someone, perhaps you, tried to register this address at {url}, where it has an account already.\n\n\
                     If it was you, sign in at {url}/dashboard, or ask for a new password:\n\n\
                     curl -X POST {url}/api/v1/auth/password/forgot -d '{{\"email\":\"...\"}}'\n\n\
                     If it was not you, there is nothing to do: nothing has changed.\n"
                ),
            ),
            Self::Reset { token, .. } => (
                "Set a new password",
                format!(
                    "Someone, probably you, asked for a new password at {url}. Set it on this page:\n\n{url}/dashboard/reset?token={token}\n\n\
                     or, in a program, with this token:\n\n{token}\n\nfor instance so:\n\n\
                     curl -X POST {url}/api/v1/auth/password/reset -d '{{\"token\":\"{token}\",\"password\":\"...\"}}'\n\n\
                     If it was not you, ignore this mail: the old password stays.\n",
                    token = token.expose()
                ),
            ),
            Self::Joined { tenant, .. } => (
                "You were added to a tenant",
                format!(
                    "You are now a member of the tenant \"{tenant}\" at {url}.\n\nSee it at {url}/dashboard, or make a key for it with a user token:\n\n\
                         curl -X POST {url}/api/v1/keys -H \"Authorization: Bearer $USER_TOKEN\" -d '{{\"name\":\"...\",\"tenant_id\":\"...\"}}'\n"
                ),
            ),
            Self::Invited { tenant, .. } => (
                "You were invited to a tenant",
                format!(
                    "You were asked to join the tenant \"{tenant}\" at {url}. Register this address at {url}/dashboard/register, and you are in; or so:\n\n\
                         curl -X POST {url}/api/v1/auth/register -d '{{\"email\":\"...\",\"password\":\"...\"}}'\n\n\
                         If you do not want to, ignore this mail.\n"
                ),
            ),
        }
    }
}

/// How mails leave. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    queue: mpsc::Sender<Item>,
}

enum Item {
    Letter(Letter),
    /// Answered when all before it are done.
    Mark(oneshot::Sender<()>),
}

/// Where mails go.
enum Way {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Outbox(Arc<PathBuf>),
}

impl Mailer {
    /// Ready to send. `data` is the data directory, `public_url` stands in the mails. Must be called inside the runtime, where it works in
    /// the background until the last clone is gone.
    pub fn new(config: &Mail, data: &Path, public_url: &str, limits: &Limits) -> Result<Self> {
        let from: Mailbox = config
            .from
            .parse()
            .map_err(|_| Error::invalid("mail.from", "expected an address such as \"Nimblesite <no-reply@example.com>\""))?;
        let way = match &config.smtp_url {
            None => Way::Outbox(Arc::new(data.join("outbox"))),
            Some(url) => {
                let expected = "expected smtps://user:password@host:port, or smtp://user:password@host:port?tls=required";
                // The reason is left out: it may quote the URL, and so the password.
                let builder =
                    AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose()).map_err(|_| Error::invalid("mail.smtp_url", expected))?;
                Way::Smtp(builder.timeout(Some(SMTP_TIMEOUT)).build())
            }
        };
        let (queue, letters) = mpsc::channel(limits.mail_queue_max.max(1));
        let office = Office { way, from, url: public_url.to_owned(), hourly_max: limits.mails_per_address_per_hour, sent: HashMap::new() };
        drop(tokio::spawn(office.work(letters)));
        Ok(Self { queue })
    }

    /// Hands a letter over and returns at once: how long a mail takes tells no caller anything. When too many wait, it is dropped and the
    /// log says so.
    pub fn post(&self, letter: Letter) {
        if self.queue.try_send(Item::Letter(letter)).is_err() {
            tracing::error!("a mail was dropped: too many wait to be sent (limits.mail_queue_max)");
        }
    }

    /// Waits until all letters that were handed over have been sent or given up.
    pub async fn finish(&self) {
        let (mark, done) = oneshot::channel();
        if self.queue.send(Item::Mark(mark)).await.is_ok() {
            // An error only says that the office is gone, and nothing is left to wait for.
            drop(done.await);
        }
    }
}

/// What sends, one letter after the other.
struct Office {
    way: Way,
    from: Mailbox,
    url: String,
    hourly_max: usize,
    /// Letters to an address since the beginning of its hour.
    sent: HashMap<String, (Instant, usize)>,
}

impl Office {
    async fn work(mut self, mut letters: mpsc::Receiver<Item>) {
        while let Some(item) = letters.recv().await {
            match item {
                Item::Letter(letter) => self.letter(&letter).await,
                Item::Mark(done) => drop(done.send(())),
            }
        }
    }

    async fn letter(&mut self, letter: &Letter) {
        if !self.may_write_to(letter.to(), Instant::now()) {
            tracing::warn!("a mail was not sent: its address got too many this hour (limits.mails_per_address_per_hour)");
            return;
        }
        let outcome = match self.message(letter) {
            Ok(message) => self.send(message).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "a mail was not sent");
        }
    }

    /// Whether the address has not had its share of this hour. Whoever makes us write to strangers gets no further than that.
    fn may_write_to(&mut self, to: &str, now: Instant) -> bool {
        if self.sent.len() > 10_000 {
            self.sent.retain(|_, (since, _)| now.duration_since(*since) < HOUR);
        }
        let (since, count) = self.sent.entry(to.to_owned()).or_insert((now, 0));
        if now.duration_since(*since) >= HOUR {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= self.hourly_max
    }

    fn message(&self, letter: &Letter) -> Result<Message> {
        let to: Address = letter.to().parse().map_err(|_| Error::internal("a letter's address is none"))?;
        let (subject, text) = letter.words(&self.url);
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(None)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(Error::internal)
    }

    async fn send(&self, message: Message) -> Result<()> {
        match &self.way {
            Way::Outbox(folder) => {
                let folder = Arc::clone(folder);
                let path = tokio::task::spawn_blocking(move || file_write(&folder, &message.formatted()))
                    .await
                    .map_err(Error::internal)?
                    .map_err(|error| Error::internal(format!("outbox: {error}")))?;
                tracing::info!(path = %path.display(), "no mail server is set (mail.smtp_url); a mail was written to a file");
                Ok(())
            }
            Way::Smtp(smtp) => {
                if let Err(error) = smtp.send(message.clone()).await {
                    tracing::warn!(%error, "a mail could not be sent; trying once more");
                    tokio::time::sleep(RETRY_AFTER).await;
                    smtp.send(message).await.map_err(Error::internal)?;
                }
                Ok(())
            }
        }
    }
}

/// Puts a mail into the outbox, for the eyes of the operator only: it may hold a token.
fn file_write(folder: &Path, mail: &[u8]) -> std::io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // UUIDv7 names sort by time. Renamed when whole, so that nobody reads half a mail.
    let path = folder.join(format!("{}.eml", uuid::Uuid::now_v7()));
    let part = path.with_extension("part");
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?.write_all(mail)?;
    fs::rename(&part, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mailer(data: &Path, hourly_max: usize) -> Mailer {
        let config = Mail { smtp_url: None, from: "Nimblesite <no-reply@localhost>".to_owned() };
        Mailer::new(&config, data, "http://127.0.0.1:8080", &Limits { mails_per_address_per_hour: hourly_max, ..Limits::default() })
            .unwrap()
    }

    fn outbox(data: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(data.join("outbox")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn addresses_have_one_form() {
        assert_eq!(address(" Ada.Lovelace@Example.COM ", "/email"), Ok("ada.lovelace@example.com".to_owned()));
        for text in ["", "ada", "@example.com", "ada@", "a b@example.com", "ada@example.com\r\nBcc: x@y.z", "ada@exa mple.com"] {
            assert!(matches!(address(text, "/email"), Err(Error::ValidationFailed { .. })), "{text:?}");
        }
        assert!(address(&format!("{}@example.com", "a".repeat(250)), "/email").is_err());
    }

    #[tokio::test]
    async fn without_a_server_a_mail_is_a_private_file_with_the_token_on_its_own_line() {
        let data = tempfile::tempdir().unwrap();
        let mailer = mailer(data.path(), 10);
        let token = "nu_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg_012345";
        mailer.post(Letter::Reset { to: "ada@example.com".to_owned(), token: Secret::new(token.to_owned()) });
        mailer.finish().await;
        let files = outbox(data.path());
        assert_eq!(files.len(), 1);
        assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(data.path().join("outbox")).unwrap().permissions().mode() & 0o777, 0o700);
        let mail = fs::read_to_string(&files[0]).unwrap();
        assert!(mail.contains("To: ada@example.com\r\n") && mail.contains(&format!("\r\n{token}\r\n")), "{mail}");
    }

    #[tokio::test]
    async fn one_address_gets_its_share_of_an_hour_and_others_theirs() {
        let data = tempfile::tempdir().unwrap();
        let mailer = mailer(data.path(), 2);
        for to in ["ada@example.com", "ada@example.com", "ada@example.com", "bob@example.com"] {
            mailer.post(Letter::Known { to: to.to_owned() });
        }
        mailer.finish().await;
        assert_eq!(outbox(data.path()).len(), 3);
    }

    #[tokio::test]
    async fn a_bad_server_url_is_refused_without_being_quoted() {
        let config = Mail { smtp_url: Some(Secret::new("ftp://me:hunter2@host".to_owned())), from: "a@b.c".to_owned() };
        let error = Mailer::new(&config, Path::new("/nowhere"), "", &Limits::default()).err().unwrap();
        assert!(matches!(&error, Error::ValidationFailed { .. }) && !error.to_string().contains("hunter2"));
    }
}
