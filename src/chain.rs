//! Chains of hashes: each entry of a log carries the hash of the one before in its own, so that none can be changed, taken out or put in
//! between without the ones behind it telling. Pure; what an entry says is the affair of who keeps the log.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The hash before a chain's first entry. `name` says which chain it is, such as `ledger 0192…`.
pub fn start(name: &str) -> String {
    sha256(format!("nimblesite {name}").as_bytes())
}

/// An entry's hash: SHA-256, in hex, of one line of JSON whose first value is the hash before, so that anyone can check a chain with common
/// tools, or in a browser.
pub fn next(line: &serde_json::Value) -> String {
    sha256(line.to_string().as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '["a",1]' | sha256sum` says the same.
    #[test]
    fn a_link_is_what_common_tools_make_of_its_line() {
        assert_eq!(next(&serde_json::json!(["a", 1])), "135f17a475a61afdeeaf3759ad2e45ad1c7abb192395abe47e41fc8e395dc1a9");
        assert_eq!(start("ledger x"), sha256(b"nimblesite ledger x"));
    }
}
