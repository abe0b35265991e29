//! Files of the documentation pages, in the binary. Large ones are stored as gzip and passed on so to every client that takes it.
//! `assets/CHECKSUMS` says which published package each of the vendored ones is from; their licences are in `assets/licences/`.

use crate::error::{Error, Result};
use bytes::Bytes;
use flate2::read::GzDecoder;
use std::io::Read;

/// One file.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    stored: Stored,
}

enum Stored {
    Plain(&'static [u8]),
    Gzip(&'static [u8]),
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const ASSETS: &[Asset] = &[
    Asset { name: "swagger-ui-bundle.js", content_type: SCRIPT, stored: Stored::Gzip(include_bytes!("assets/swagger-ui-bundle.js.gz")) },
    Asset { name: "swagger-ui.css", content_type: STYLE, stored: Stored::Gzip(include_bytes!("assets/swagger-ui.css.gz")) },
    Asset { name: "swagger.js", content_type: SCRIPT, stored: Stored::Plain(include_bytes!("assets/swagger.js")) },
    Asset { name: "redoc.standalone.js", content_type: SCRIPT, stored: Stored::Gzip(include_bytes!("assets/redoc.standalone.js.gz")) },
    Asset { name: "redoc.js", content_type: SCRIPT, stored: Stored::Plain(include_bytes!("assets/redoc.js")) },
    Asset { name: "page.css", content_type: STYLE, stored: Stored::Plain(include_bytes!("assets/page.css")) },
];

/// The file of this name.
pub(super) fn named(name: &str) -> Result<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| Error::not_found("file", name))
}

impl Asset {
    /// The file as it goes out, and whether it is gzip.
    pub(super) fn body(&self, takes_gzip: bool) -> Result<(Bytes, bool)> {
        match self.stored {
            Stored::Plain(bytes) => Ok((Bytes::from_static(bytes), false)),
            Stored::Gzip(bytes) if takes_gzip => Ok((Bytes::from_static(bytes), true)),
            Stored::Gzip(bytes) => {
                let mut plain = Vec::new();
                GzDecoder::new(bytes).read_to_end(&mut plain).map_err(Error::internal)?;
                Ok((plain.into(), false))
            }
        }
    }

    /// A strong validator (RFC 9110 §8.8.3), one for each encoding.
    pub(super) fn etag(&self, gzip: bool) -> String {
        let (Stored::Plain(bytes) | Stored::Gzip(bytes)) = self.stored;
        etag(bytes, if gzip { "-gz" } else { "" })
    }
}

/// A validator for some bytes.
pub(super) fn etag(bytes: &[u8], suffix: &str) -> String {
    let hash = blake3::hash(bytes).to_hex();
    format!("\"{}{suffix}\"", hash.get(..16).unwrap_or_default())
}

/// Whether an `Accept-Encoding` field takes gzip (RFC 9110 §12.5.3).
pub(super) fn takes_gzip(field: Option<&str>) -> bool {
    field.unwrap_or_default().split(',').any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let named = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip") || coding == "*");
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)));
        named && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendored_files_are_what_was_published() {
        let checksums = include_str!("assets/CHECKSUMS");
        for asset in ASSETS.iter().filter(|asset| matches!(asset.stored, Stored::Gzip(_))) {
            let (plain, gzip) = asset.body(false).unwrap();
            assert!(!gzip);
            let line = format!("{}  {}  ", blake3::hash(&plain).to_hex(), asset.name);
            assert!(checksums.lines().any(|known| known.starts_with(&line)), "not in assets/CHECKSUMS: {line}");
            assert!(asset.body(true).unwrap().0.len() * 2 < plain.len());
        }
    }

    #[test]
    fn gzip_goes_to_those_who_take_it() {
        for takes in ["gzip", "br, GZIP", "deflate, gzip;q=0.5", "*"] {
            assert!(takes_gzip(Some(takes)), "{takes}");
        }
        for not in [None, Some(""), Some("br"), Some("gzip;q=0"), Some("identity, gzip; q=0.0")] {
            assert!(!takes_gzip(not), "{not:?}");
        }
    }
}
