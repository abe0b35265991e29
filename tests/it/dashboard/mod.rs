//! The dashboard, asked as a browser asks: with a cookie, with what browsers say of where a request comes from, and with forms.

mod forms;
mod large;
mod pages;
mod sessions;

use crate::harness::{Answer, Process, Server};
use reqwest::redirect;

/// A browser's profile: one cookie, and pages that it was shown.
pub struct Browser<'a> {
    server: &'a Server,
    client: reqwest::Client,
    pub cookie: std::cell::RefCell<String>,
}

pub const PASSWORD: &str = "correct horse battery staple";

impl<'a> Browser<'a> {
    pub fn new(server: &'a Server) -> Self {
        let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().expect("a client");
        Self { server, client, cookie: String::new().into() }
    }

    /// Signed in as a user of the harness.
    pub async fn of_user(server: &'a Server, email: &str) -> Self {
        let browser = Self::new(server);
        browser.send("/dashboard/sign-in", &[("email", email), ("password", PASSWORD)]).await.leads("/dashboard");
        browser
    }

    /// Signed in with a key.
    pub async fn of_key(server: &'a Server, key: &str) -> Self {
        let browser = Self::new(server);
        browser.send("/dashboard/sign-in/key", &[("api_key", key)]).await.leads("/dashboard");
        browser
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.server.base));
        let cookie = self.cookie.borrow();
        if cookie.is_empty() { request } else { request.header("Cookie", cookie.as_str()) }
    }

    pub async fn take(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        if let Some(set) = answer.header("set-cookie") {
            let pair = set.split(';').next().expect("a cookie");
            *self.cookie.borrow_mut() = if pair.ends_with('=') { String::new() } else { pair.to_owned() };
        }
        answer
    }

    /// A page, by a click within the dashboard.
    pub async fn get(&self, path: &str) -> Answer {
        self.take(self.request("GET", path).header("Sec-Fetch-Site", "same-origin")).await
    }

    /// What stands in a page's head for its scripts, and in its forms.
    pub async fn token(&self) -> String {
        let page = self.get("/dashboard/tenants").await;
        let page = if page.status == 200 { page } else { self.get("/dashboard").await };
        let page = if page.status == 200 { page } else { self.get("/dashboard/operator").await };
        between(&page.body, "name=\"csrf-token\" content=\"", "\"")
    }

    /// A form, with its page's token if one is signed in.
    pub async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = if self.cookie.borrow().is_empty() { String::new() } else { self.token().await };
        let mut fields = fields.to_vec();
        fields.push(("_csrf", &token));
        self.take(self.request("POST", path).header("Sec-Fetch-Site", "same-origin").body(encoded(&fields))).await
    }
}

impl Server {
    /// What the command line prints, beside the running server.
    pub async fn operate(&self, args: &[&str]) -> String {
        let output = Process::command(&self.data()).args(args).output().await.expect("the binary");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Fields as a form sends them.
pub fn encoded(fields: &[(&str, &str)]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let text = |text: &str| {
        text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect::<String>()
    };
    fields.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect::<Vec<_>>().join("&")
}

/// The first text between two others.
pub fn between(text: &str, before: &str, after: &str) -> String {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before} is not in {text}")).1;
    rest.split(after).next().expect("an end").to_owned()
}

/// What a browser does with an answer.
pub trait Leads {
    /// It sends the browser on to this path.
    fn leads(self, to: &str) -> Self;
}

impl Leads for Answer {
    fn leads(self, to: &str) -> Self {
        assert_eq!((self.status, self.header("location")), (303, Some(to)), "{}", self.body);
        self
    }
}
