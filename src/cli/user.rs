//! `nimblesite user`: accounts.

use super::{
    Desk, Room, every,
    failure::{Done, Failure},
    moment, parse,
};
use crate::{config::Secret, mail::Mailer, model, secret::Password};
use clap::Subcommand;
use std::{
    io::{IsTerminal, Read},
    time::Duration,
};

#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// Make an account; asks for the password on a terminal
    Create {
        /// The address
        #[arg(long, short)]
        email: String,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
        /// The address needs no proof; without this a verification mail is sent
        #[arg(long)]
        verified: bool,
    },
    /// List the accounts
    List,
    /// Mark an address as verified
    Verify {
        /// The address
        email: String,
    },
    /// Shut an account off; its keys and tokens are refused from the next request on
    Disable {
        /// The address
        email: String,
    },
    /// Print a link that signs someone in to the dashboard, once and soon
    Link {
        /// The address
        email: String,
    },
    /// Print a user token for scripts
    Token {
        /// The address
        email: String,
        /// How long it lasts, such as 1h or 30d
        #[arg(long, value_parser = parse::duration, default_value = "1h")]
        ttl: Duration,
    },
}

impl User {
    pub(super) fn run(self, desk: &Desk) -> Done {
        match self {
            Self::Create { email, password_stdin, verified } => {
                let password = if password_stdin { from_stdin()? } else { from_terminal()? };
                // The first account may be made before the first start of the server.
                desk.make_data_dir()?;
                desk.with_storage(async |room| create(room, &email, &password, verified).await)
            }
            Self::List => desk.with_storage(list),
            Self::Verify { email } => desk.with_storage(async |room| verify(room, &email).await),
            Self::Disable { email } => desk.with_storage(async |room| disable(room, &email).await),
            Self::Link { email } => desk.with_storage(async |room| link(room, &email).await),
            Self::Token { email, ttl } => desk.with_storage(async |room| token(room, &email, ttl).await),
        }
    }
}

async fn list(room: Room) -> Done {
    let Room { out, storage, operator, .. } = room;
    let users = every(|page| storage.user_list(&operator, page)).await?;
    out.things(&users, &["EMAIL", "STATE", "ID", "CREATED"], "No accounts yet; `nimblesite user create` makes one.", |user| {
        vec![user.email.clone(), state(user).to_owned(), user.id.to_string(), moment(user.created_at)]
    });
    Ok(())
}

async fn verify(room: Room, email: &str) -> Done {
    let user = room.storage.user_verify_by(&room.operator, email).await?;
    room.out.value(&user);
    room.out.say(format!("{} is verified.", user.email));
    Ok(())
}

async fn disable(room: Room, email: &str) -> Done {
    let user = room.storage.user_disable(&room.operator, email).await?;
    room.out.value(&user);
    room.out.say(format!("{} is disabled; keys and tokens are refused from the next request on.", user.email));
    Ok(())
}

async fn link(room: Room, email: &str) -> Done {
    let token = room.storage.sign_in_link(&room.operator, email).await?;
    let link = sign_in_link(&room.config.public_url, &token);
    room.out.value(&serde_json::json!({ "link": link, "expires_in": room.config.limits.sign_in_link_ms.as_secs() }));
    room.out.secret(&link);
    Ok(())
}

/// The page of a link's token.
pub(super) fn sign_in_link(url: &str, token: &Secret) -> String {
    format!("{url}/dashboard/link?token={}", token.expose())
}

async fn token(room: Room, email: &str, ttl: Duration) -> Done {
    let token = room.storage.user_token_issue(&room.operator, email, ttl).await?;
    room.out.value(&serde_json::json!({
        "token": token.access_token, "token_type": token.token_type, "expires_in": token.expires_in,
    }));
    room.out.secret(&token.access_token);
    Ok(())
}

async fn create(room: Room, email: &str, password: &Password, verified: bool) -> Done {
    let (user, letter) = room.storage.user_create(&room.operator, email, password, verified).await?;
    if let Some(letter) = letter {
        let mailer = Mailer::new(&room.config.mail, &room.config.data, &room.config.public_url, &room.config.limits)?;
        mailer.post(letter);
        mailer.finish().await;
    }
    room.out.value(&user);
    room.out.say(format!("Made {} ({}).", user.email, user.id));
    if !user.verified {
        let way = match room.config.mail.smtp_url {
            Some(_) => "A verification mail was sent".to_owned(),
            None => format!("A verification mail was written to {}", room.config.data.join("outbox").display()),
        };
        room.out.say(format!("{way}; `nimblesite user verify {}` does without it.", user.email));
    }
    Ok(())
}

fn state(user: &model::User) -> &'static str {
    match (user.disabled, user.verified) {
        (true, _) => "disabled",
        (false, true) => "verified",
        (false, false) => "unverified",
    }
}

/// The whole of stdin without its last line break, so that `echo` and files work alike.
fn from_stdin() -> Result<Password, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|error| Failure::io("the password could not be read from stdin", &error))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(Failure::Usage("stdin held no password".to_owned()));
    }
    Ok(Password::new(text.to_owned()))
}

fn from_terminal() -> Result<Password, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask for the password: pass --password-stdin and write it to stdin".to_owned()));
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(|error| Failure::io("the password could not be read", &error));
    let password = ask("Password: ")?;
    if password != ask("Once more: ")? {
        return Err(Failure::Failed("the two passwords differ; nothing was made".to_owned()));
    }
    Ok(Password::new(password))
}
