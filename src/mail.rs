//! Mails: over SMTP, or as files in the data directory's `outbox/` where no server is set. The only file that names lettre.

use crate::{
    config::{Mail, Secret},
    error::Result,
};
use std::path::Path;

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

/// How mails leave. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {}

impl Mailer {
    /// Ready to send. `data` is the data directory, `public_url` stands in the mails. Must be called inside the runtime, where it works in
    /// the background.
    pub fn new(_config: &Mail, _data: &Path, _public_url: &str) -> Result<Self> {
        todo!()
    }

    /// Hands a letter over and returns at once: how long a mail takes tells no caller anything. When too many wait, it is dropped and the
    /// log says so.
    pub fn post(&self, _letter: Letter) {
        todo!()
    }

    /// Waits until all letters that were handed over have been sent or given up.
    pub async fn finish(&self) {
        todo!()
    }
}
