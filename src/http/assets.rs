//! Files of the pages, in the binary: the look and the small scripts that all of them share (`src/dashboard/assets/`), and the two readers of the
//! API document (`assets/`). Vendored ones are stored as gzip; everything goes out as gzip to clients that take it. `CHECKSUMS` in both folders
//! says which published package each of the vendored ones is from; their licences are in `licences/`.

use crate::error::{Error, Result};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use std::{
    io::{Read, Write},
    sync::OnceLock,
};

/// One file.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    stored: Stored,
}

enum Stored {
    /// Our own, and its gzip once somebody asked for it.
    Own(&'static str, OnceLock<Bytes>),
    Gzip(&'static [u8]),
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Own files of the dashboard are `include_str!`, vendored ones `include_bytes!` of their gzip.
macro_rules! asset {
    ($name:literal, $kind:ident, own $path:literal) => {
        Asset { name: $name, content_type: $kind, stored: Stored::Own(include_str!($path), OnceLock::new()) }
    };
    ($name:literal, $kind:ident, gzip $path:literal) => {
        Asset { name: $name, content_type: $kind, stored: Stored::Gzip(include_bytes!($path)) }
    };
}

static ASSETS: [Asset; 19] = [
    asset!("app.css", STYLE, own "../dashboard/assets/app.css"),
    asset!("app.js", SCRIPT, own "../dashboard/assets/app.js"),
    asset!("chart.js", SCRIPT, own "../dashboard/assets/chart.js"),
    asset!("editor.js", SCRIPT, own "../dashboard/assets/editor.js"),
    asset!("htmx.min.js", SCRIPT, gzip "../dashboard/assets/htmx.min.js.gz"),
    asset!("icons.svg", PICTURE, own "../dashboard/assets/icons.svg"),
    asset!("ledger.js", SCRIPT, own "../dashboard/assets/ledger.js"),
    asset!("logo.svg", PICTURE, own "../dashboard/assets/logo.svg"),
    asset!("playground.js", SCRIPT, own "../dashboard/assets/playground.js"),
    asset!("theme.js", SCRIPT, own "../dashboard/assets/theme.js"),
    asset!("upload.js", SCRIPT, own "../dashboard/assets/upload.js"),
    asset!("uPlot.iife.min.js", SCRIPT, gzip "../dashboard/assets/uPlot.iife.min.js.gz"),
    asset!("uPlot.min.css", STYLE, gzip "../dashboard/assets/uPlot.min.css.gz"),
    asset!("docs.css", STYLE, own "assets/docs.css"),
    asset!("redoc.js", SCRIPT, own "assets/redoc.js"),
    asset!("redoc.standalone.js", SCRIPT, gzip "assets/redoc.standalone.js.gz"),
    asset!("swagger.js", SCRIPT, own "assets/swagger.js"),
    asset!("swagger-ui-bundle.js", SCRIPT, gzip "assets/swagger-ui-bundle.js.gz"),
    asset!("swagger-ui.css", STYLE, gzip "assets/swagger-ui.css.gz"),
];

/// The file of this name.
pub(super) fn named(name: &str) -> Result<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| Error::not_found("file", name))
}

impl Asset {
    /// The file as it goes out, and whether it is gzip.
    pub(super) fn body(&self, takes_gzip: bool) -> Result<(Bytes, bool)> {
        match &self.stored {
            Stored::Own(text, packed) if takes_gzip => match packed.get() {
                Some(packed) => Ok((packed.clone(), true)),
                None => {
                    let fresh = pack(text.as_bytes())?;
                    Ok((packed.get_or_init(|| fresh).clone(), true))
                }
            },
            Stored::Own(text, _) => Ok((Bytes::from_static(text.as_bytes()), false)),
            Stored::Gzip(bytes) if takes_gzip => Ok((Bytes::from_static(bytes), true)),
            Stored::Gzip(bytes) => {
                let mut plain = Vec::new();
                GzDecoder::new(*bytes).read_to_end(&mut plain).map_err(Error::internal)?;
                Ok((plain.into(), false))
            }
        }
    }

    /// A strong validator (RFC 9110 §8.8.3), one for each encoding.
    pub(super) fn etag(&self, gzip: bool) -> String {
        let bytes = match &self.stored {
            Stored::Own(text, _) => text.as_bytes(),
            Stored::Gzip(bytes) => bytes,
        };
        etag(bytes, if gzip { "-gz" } else { "" })
    }

    /// How long a client may keep it without asking, in seconds: our own files change with a new version, and belong to its pages.
    pub(super) fn age_max(&self) -> u32 {
        match self.stored {
            Stored::Own(..) => 60,
            Stored::Gzip(_) => 86_400,
        }
    }
}

fn pack(plain: &[u8]) -> Result<Bytes> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(plain).and_then(|()| packer.finish()).map(Bytes::from).map_err(Error::internal)
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
        let checksums = [include_str!("assets/CHECKSUMS"), include_str!("../dashboard/assets/CHECKSUMS")].concat();
        for asset in ASSETS.iter().filter(|asset| matches!(asset.stored, Stored::Gzip(_))) {
            let (plain, gzip) = asset.body(false).unwrap();
            assert!(!gzip);
            let line = format!("{}  {}  ", blake3::hash(&plain).to_hex(), asset.name);
            assert!(checksums.lines().any(|known| known.starts_with(&line)), "not in assets/CHECKSUMS: {line}");
            assert!(asset.body(true).unwrap().0.len() * 2 < plain.len());
        }
    }

    #[test]
    fn every_file_is_the_same_in_both_encodings() {
        for asset in &ASSETS {
            let (packed, gzip) = asset.body(true).unwrap();
            let mut plain = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
            assert!(gzip && plain == asset.body(false).unwrap().0, "{}", asset.name);
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
