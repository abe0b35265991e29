//! The pages in a real browser: Debian's Chromium, without a window, led by chromedriver. What a person can do in the dashboard is done here the way
//! a person does it: by the labels and the words on the buttons.
//!
//! Whatever a test does, at the end of each page that it looked at no request has left the server's origin, no script has failed, and the
//! content security policy had nothing to refuse: [`Browser::calm`].

mod documents;
#[allow(dead_code, reason = "the tests of the dashboard, which come with its pages, use all of it")]
mod rig;

pub use rig::{Browser, browse};

use flate2::read::GzDecoder;
use std::{io::Read, sync::LazyLock};

/// axe-core, the accessibility checker: see `tests/vendor/axe-core/`.
static AXE: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("../../vendor/axe-core/axe.min.js.gz");
    GzDecoder::new(packed).read_to_string(&mut text).expect("axe-core as it was packed");
    text
});

/// What axe-core finds on the page that is shown and calls serious or critical: a line each. `without` is left out of its sight.
pub async fn barriers(browser: &Browser, without: &[&str]) -> Vec<String> {
    browser.js(&AXE).await;
    let script = "return axe.run({exclude: arguments[0].map(one => [one])}, {resultTypes: ['violations']}).then(found => found.violations \
           .filter(one => ['serious', 'critical'].includes(one.impact)) \
           .flatMap(one => one.nodes.map(node => `${one.id}: ${node.target.join(' ')}: ${node.failureSummary}`)));";
    let found = browser.js_with(script, vec![without.into()]).await;
    serde_json::from_value(found).expect("lines")
}
