//! Starts Chromium and says things to it in words: go there, fill that in, press this, see that.

use crate::{
    fake_provider::PATIENCE,
    harness::{Server, free_port},
};
use base64ct::{Base64, Encoding};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    panic::{AssertUnwindSafe, resume_unwind},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use thirtyfour::prelude::*;
use tokio::{
    process::{Child, Command},
    sync::Semaphore,
};

/// A browser is heavy: one test at a time has some.
static TURN: Semaphore = Semaphore::const_new(1);

/// Chromium's own address look-ups, reports and updates are off, and names other than the server's lead nowhere.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-US",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// chromedriver, and every browser that it opened.
struct Rig {
    at: String,
    homes: tempfile::TempDir,
    open: Mutex<Vec<WebDriver>>,
    _driver: Child,
}

/// One browser with cookies and a history of its own.
pub struct Browser {
    pub driver: WebDriver,
    base: String,
    rig: Arc<Rig>,
    /// The cookie jar's folder: a browser that has none of another's.
    _home: std::path::PathBuf,
}

/// Gives a test a browser, and takes it away again whatever happens. Without Chromium on the machine the test is skipped, and says so.
pub async fn browse(test: &str, server: &Server, visit: impl AsyncFnOnce(&Browser)) {
    if let Some(why) = missing().await {
        drop(writeln!(std::io::stderr(), "!!! SKIPPED TEST: {test}: {why}"));
        return;
    }
    let _turn = TURN.acquire().await.expect("nobody closes it");
    let rig = Arc::new(Rig::start().await);
    let browser = Browser::open(&rig, &server.base).await;
    let end = AssertUnwindSafe(visit(&browser)).catch_unwind().await;
    let open = std::mem::take(&mut *rig.open.lock().expect("no panic"));
    if end.is_err() {
        browser.show().await;
    }
    for driver in open {
        drop(driver.quit().await);
    }
    if let Err(panic) = end {
        resume_unwind(panic);
    }
}

/// What is not on this machine.
async fn missing() -> Option<String> {
    for program in ["chromium", "chromedriver"] {
        let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !there.is_ok_and(|status| status.success()) {
            return Some(format!("{program} is missing"));
        }
    }
    None
}

impl Rig {
    async fn start() -> Self {
        let (port, homes) = (free_port(), tempfile::tempdir().expect("a directory"));
        let driver = Command::new("chromedriver")
            .args([format!("--port={port}"), "--log-level=OFF".to_owned()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver");
        let at = format!("http://127.0.0.1:{port}");
        let until = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < until, "chromedriver does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { at, homes, open: Mutex::default(), _driver: driver }
    }
}

impl Browser {
    async fn open(rig: &Arc<Rig>, base: &str) -> Self {
        let home = rig.homes.path().join(format!("{}", rig.open.lock().expect("no panic").len()));
        let mut capabilities = DesiredCapabilities::chrome();
        for flag in FLAGS {
            capabilities.add_arg(flag).expect("a flag");
        }
        capabilities.add_arg(&format!("--user-data-dir={}", home.display())).expect("a flag");
        capabilities.set("goog:loggingPrefs", json!({"browser": "ALL", "performance": "ALL"})).expect("what is logged");
        let driver = WebDriver::new(&rig.at, capabilities).await.expect("a browser");
        rig.open.lock().expect("no panic").push(driver.clone());
        let browser = Self { driver, base: base.to_owned(), rig: Arc::clone(rig), _home: home };
        browser.size(1360, 900).await;
        browser
    }

    /// Another person's browser.
    pub async fn another(&self) -> Self {
        Self::open(&self.rig, &self.base).await
    }

    /// A command of Chromium's own protocol.
    async fn tell(&self, method: &str, parameters: Value) {
        self.driver.cdp().send_raw(method, parameters).await.expect("a DevTools command");
    }

    /// How large the page is, in CSS pixels.
    pub async fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.tell("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the reader's system prefers: `light` or `dark`.
    pub async fn prefers(&self, scheme: &str) {
        self.tell("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]})).await;
    }

    /// Opens a path of the server, or another address.
    pub async fn go(&self, path: &str) {
        let url = if path.starts_with('/') { format!("{}{path}", self.base) } else { path.to_owned() };
        self.driver.goto(url).await.expect("a page");
    }

    /// The path that is shown, with its query.
    pub async fn path(&self) -> String {
        self.driver.current_url().await.expect("an address").as_str().replace(&self.base, "")
    }

    /// The value of a script.
    pub async fn js(&self, script: &str) -> Value {
        self.js_with(script, Vec::new()).await
    }

    pub async fn js_with(&self, script: &str, arguments: Vec<Value>) -> Value {
        let found = self.driver.execute(script.to_owned(), arguments).await;
        found.unwrap_or_else(|error| panic!("a script failed on {}: {error}", &script[..script.len().min(200)])).json().clone()
    }

    /// Looks until a script finds something that is neither null, false nor empty.
    pub async fn until(&self, what: &str, script: &str, arguments: Vec<Value>) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            // While a page gives way to the next, there is nothing to ask.
            let found = self.driver.execute(script.to_owned(), arguments.clone()).await.map(|found| found.json().clone());
            match found {
                Ok(Value::Null | Value::Bool(false)) | Err(_) => {}
                Ok(Value::String(text)) if text.is_empty() => {}
                Ok(found) => return found,
            }
            assert!(Instant::now() < until, "in vain on {}: {what}\n{}", self.path().await, self.words().await);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// All that the page says.
    pub async fn words(&self) -> String {
        self.js("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page says this.
    pub async fn sees(&self, words: &str) {
        self.until(&format!("sees {words:?}"), "return document.body.innerText.includes(arguments[0])", vec![words.into()]).await;
    }

    /// Waits for an element.
    pub async fn find(&self, css: &str) -> WebElement {
        self.until(&format!("an element {css}"), "return document.querySelector(arguments[0]) !== null", vec![css.into()]).await;
        self.driver.find(By::Css(css)).await.expect("an element")
    }

    /// The text of an element.
    pub async fn text(&self, css: &str) -> String {
        self.find(css).await.text().await.expect("a text")
    }

    /// The element that a script finds, seen and ready to be used.
    async fn point(&self, what: &str, script: &str, arguments: Vec<Value>) -> WebElement {
        let seen = format!("const found = (() => {{ {script} }})(); return found ?? null;").replace("arguments", "given");
        let seen = format!("const given = arguments; {seen}");
        self.until(what, &seen, arguments.clone()).await;
        let found = self.driver.execute(seen, arguments).await.expect("a script").element().expect("an element");
        found.scroll_into_view().await.expect("it can be seen");
        found
    }

    /// Presses the button or link with these words on it, or with this name for those who cannot see.
    pub async fn press(&self, words: &str) {
        let element = self.point(&format!("a button {words:?}"), CONTROL, vec![words.into()]).await;
        element.click().await.unwrap_or_else(|error| panic!("{words:?} cannot be pressed: {error}"));
    }

    /// Presses it twice as fast as nobody can.
    pub async fn press_twice(&self, words: &str) {
        let element = self.point(&format!("a button {words:?}"), CONTROL, vec![words.into()]).await;
        let twice = "arguments[0].click(); arguments[0].click();";
        self.driver.execute(twice, vec![element.to_json().expect("an element")]).await.expect("two clicks");
    }

    /// Writes into the field with this label, in place of what stands there.
    pub async fn fill(&self, label: &str, text: &str) {
        let field = self.point(&format!("a field {label:?}"), FIELD, vec![label.into()]).await;
        if field.tag_name().await.expect("a name") == "select" {
            let choose = "const [field, text] = arguments; const option = [...field.options].find(one => one.text.trim() === text || one.value === text); \
                 field.value = option.value; field.dispatchEvent(new Event('change', {bubbles: true}));";
            let chosen = self.driver.execute(choose, vec![field.to_json().expect("an element"), text.into()]).await;
            chosen.unwrap_or_else(|error| panic!("{label:?} has no choice {text:?}: {error}"));
            return;
        }
        field.clear().await.expect("an empty field");
        field.send_keys(text).await.expect("keys");
    }

    /// Presses a button in the part of the page that says this.
    pub async fn press_in(&self, part: &str, says: &str, words: &str) {
        let find = "const part = [...document.querySelectorAll(arguments[0])].find(one => one.innerText.includes(arguments[1])); \
             return [...part?.querySelectorAll('button') ?? []].find(one => one.innerText.trim() === arguments[2]);";
        let button = self.point(&format!("{words:?} beside {says:?}"), find, vec![part.into(), says.into(), words.into()]).await;
        button.click().await.unwrap_or_else(|error| panic!("{words:?} beside {says:?} cannot be pressed: {error}"));
    }

    /// The tabulator key.
    pub async fn tab(&self) {
        self.driver.action_chain().send_keys(Key::Tab).perform().await.expect("a key");
    }

    /// The escape key.
    pub async fn escape(&self) {
        self.driver.action_chain().send_keys(Key::Escape).perform().await.expect("a key");
    }

    /// Types where the keyboard is; a line break is the enter key.
    pub async fn type_keys(&self, text: &str) {
        let (words, enter) = text.strip_suffix('\n').map_or((text, false), |words| (words, true));
        self.driver.action_chain().send_keys(words).perform().await.expect("keys");
        if enter {
            self.driver.action_chain().send_keys(Key::Enter).perform().await.expect("a key");
        }
    }

    /// Chooses a file in the field with this label.
    pub async fn choose_file(&self, label: &str, path: &Path) {
        let field = self.point(&format!("a field {label:?}"), FIELD, vec![label.into()]).await;
        field.send_keys(path.to_str().expect("a path")).await.expect("a file");
    }

    /// As if the browser had never been here, but for its cookies.
    pub async fn forget(&self) {
        self.tell("Network.clearBrowserCache", json!({})).await;
    }

    /// A picture of the window: a PNG, or by its name a WebP, which is smaller.
    pub async fn picture(&self, path: &Path) {
        let format = if path.extension().is_some_and(|end| end == "webp") { "webp" } else { "png" };
        let shot = json!({"format": format, "quality": 74, "optimizeForSpeed": false});
        let taken = self.driver.cdp().send_raw("Page.captureScreenshot", shot).await.expect("a picture");
        let bytes = Base64::decode_vec(taken["data"].as_str().expect("its bytes")).expect("base64");
        std::fs::write(path, bytes).expect("a file");
    }

    /// How tall the page is, in CSS pixels.
    pub async fn height(&self) -> u32 {
        let height = self.js("return Math.ceil(document.documentElement.scrollHeight)").await;
        height.as_u64().and_then(|height| u32::try_from(height).ok()).expect("a height")
    }

    /// Since it was asked last: no request went elsewhere, no script failed, nothing was refused by the content security policy.
    pub async fn calm(&self) {
        self.calm_but_for("").await;
    }

    /// The same where the content security policy has something to refuse: what names this.
    pub async fn calm_but_for(&self, refused: &str) {
        let (mut elsewhere, mut blocked) = (BTreeMap::new(), BTreeSet::new());
        for entry in self.driver.get_log("performance").await.expect("the network's log") {
            let entry: Value = serde_json::from_str(&entry.message).expect("JSON");
            let (event, with) = (&entry["message"]["method"], &entry["message"]["params"]);
            let id = with["requestId"].as_str().unwrap_or_default().to_owned();
            if event == "Network.requestWillBeSent" {
                elsewhere.insert(id, with["request"]["url"].as_str().unwrap_or_default().to_owned());
            } else if event == "Network.loadingFailed" && with["blockedReason"] == "csp" {
                blocked.insert(id);
            }
        }
        // The browser opens with pages of its own.
        elsewhere.retain(|id, url| {
            !blocked.contains(id)
                && ![&self.base, "data:", "blob:", "about:", "chrome:", "chrome-untrusted:"].iter().any(|own| url.starts_with(own))
        });
        assert_eq!(elsewhere, BTreeMap::new(), "requests to elsewhere");
        let severe = self.driver.get_log("browser").await.expect("the console").into_iter().filter(|entry| entry.level == "SEVERE");
        // An answer that is a refusal is noted by the browser; it is the test's own business.
        let known = |message: &str| {
            message.contains("the server responded with a status of 4") || (!refused.is_empty() && message.contains(refused))
        };
        let wrong: Vec<_> = severe.map(|entry| entry.message).filter(|message| !known(message)).collect();
        assert_eq!(wrong, Vec::<String>::new(), "the console on {}", self.path().await);
    }

    /// What is shown when a test fails, for whoever has to find out why.
    async fn show(&self) {
        let path = std::env::temp_dir().join("nimblesite-browser-test.png");
        if self.driver.screenshot(&path).await.is_ok() {
            drop(writeln!(std::io::stderr(), "the page when the test failed: {}", path.display()));
        }
    }
}

/// A button, link or summary by its words; what is shown last lies on top.
const CONTROL: &str = "const shown = one => one.checkVisibility() && !one.disabled; \
    const name = one => (one.getAttribute('aria-label') ?? one.innerText).trim().replace(/\\s+/g, ' '); \
    return [...document.querySelectorAll('button, a, summary, label.choice, [role=button]')].filter(one => shown(one) && name(one) === arguments[0]).pop();";

/// A field by its label.
const FIELD: &str = "const text = one => one.innerText.trim(); \
    const label = [...document.querySelectorAll('label')].filter(one => one.control?.checkVisibility() && text(one) === arguments[0]).pop(); \
    return label?.control ?? [...document.querySelectorAll('[aria-label]')].filter(one => one.matches('input, textarea, select') && one.checkVisibility() && one.getAttribute('aria-label') === arguments[0]).pop();";
