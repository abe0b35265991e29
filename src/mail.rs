//! Mails: over SMTP, or as files in the data directory's `outbox/` where no server is set.

/// How mails leave.
pub struct Mailer {}
