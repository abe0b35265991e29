//! Secrets: key texts, passwords, tokens. Pure but for the machine's randomness. The only file that names argon2.
