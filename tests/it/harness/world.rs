//! People, tenants, keys, configs and conversations, made the way a client makes them: over HTTP.

use super::{Answer, Events, Server};
use serde_json::{Value, json};

/// The operator's token of every test server.
pub const OPERATOR: &str = "operator-token-canary-0123456789";

/// A verified, signed-in user.
#[derive(Debug, Clone)]
pub struct User {
    pub email: String,
    pub id: String,
    pub token: String,
}

/// A tenant, its owner and the owner's first key.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: String,
    pub name: String,
    pub key: String,
    pub key_id: String,
    pub owner: User,
}

/// A config that says little: `extra` replaces or adds fields.
pub fn config_body(name: &str, provider: &str, model: &str, extra: &Value) -> Value {
    let mut body = json!({"name": name, "system_prompt": "You are a test.", "model_config": {"provider": provider, "model": model}});
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        for (name, value) in extra {
            match (body.get_mut(name), value) {
                (Some(Value::Object(inner)), Value::Object(more)) => inner.extend(more.clone()),
                _ => drop(body.insert(name.clone(), value.clone())),
            }
        }
    }
    body
}

impl Server {
    /// One request. The credential's prefix says which header it goes into; an empty one sends none.
    pub async fn call(&self, method: &str, path: &str, credential: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path, credential);
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// A request to be finished by the test.
    pub fn request(&self, method: &str, path: &str, credential: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.base));
        match credential {
            "" => request,
            key if key.starts_with("ns_") => request.header("X-API-Key", key),
            token => request.header("Authorization", format!("Bearer {token}")),
        }
    }

    pub async fn get(&self, path: &str, credential: &str) -> Answer {
        self.call("GET", path, credential, None).await
    }

    pub async fn post(&self, path: &str, credential: &str, body: &Value) -> Answer {
        self.call("POST", path, credential, Some(body)).await
    }

    pub async fn patch(&self, path: &str, credential: &str, body: &Value) -> Answer {
        self.call("PATCH", path, credential, Some(body)).await
    }

    pub async fn delete(&self, path: &str, credential: &str) -> Answer {
        self.call("DELETE", path, credential, None).await
    }

    /// The text of the newest mail to an address, from the outbox.
    pub async fn mail_to(&self, email: &str) -> String {
        self.eventually(&format!("a mail to {email}"), || self.mails_to(email).pop()).await
    }

    /// The token in the newest mail to an address that has one; other mails may have come since.
    pub async fn mailed_token(&self, email: &str) -> String {
        self.eventually(&format!("a token for {email}"), || self.mails_to(email).iter().rev().find_map(|mail| token_in(mail))).await
    }

    /// The mails to an address, oldest first.
    fn mails_to(&self, email: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join("outbox")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "eml")).collect();
        paths.sort();
        let to = format!("To: {email}\r\n");
        paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).filter(|mail| mail.contains(&to)).collect()
    }

    /// A user who registered, proved the address and signed in.
    pub async fn user(&self, email: &str) -> User {
        let password = "correct horse battery staple";
        self.post("/api/v1/auth/register", "", &json!({"email": email, "password": password})).await.expect(202);
        let token = self.mailed_token(email).await;
        self.post("/api/v1/auth/verify", "", &json!({"token": token})).await.expect(200);
        let token =
            self.post("/api/v1/auth/login", "", &json!({"email": email, "password": password})).await.expect(200).text("/access_token");
        let id = self.get("/api/v1/auth/me", &token).await.expect(200).text("/id");
        User { email: email.to_owned(), id, token }
    }

    /// A tenant of a new user, without credit.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let slug: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let owner = self.user(&format!("{}@example.com", slug.to_lowercase())).await;
        self.tenant_of(&owner, name).await
    }

    /// A tenant of this user, without credit.
    pub async fn tenant_of(&self, owner: &User, name: &str) -> Tenant {
        let made = self.post("/api/v1/tenants", &owner.token, &json!({"name": name})).await.expect(201);
        Tenant {
            id: made.text("/id"),
            name: name.to_owned(),
            key: made.text("/api_key"),
            key_id: made.text("/api_key_id"),
            owner: owner.clone(),
        }
    }

    /// A tenant with ten dollars.
    pub async fn rich_tenant(&self, name: &str) -> Tenant {
        let tenant = self.tenant(name).await;
        self.credit(&tenant, "10.00").await;
        tenant
    }

    /// Adds credit, as the operator.
    pub async fn credit(&self, tenant: &Tenant, amount: &str) {
        let path = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
        let answer = self.post(&path, OPERATOR, &json!({"amount": amount})).await;
        assert!(answer.status < 300, "{} {}", answer.status, answer.body);
    }

    /// A key of the owner with this role; its text and id.
    pub async fn key(&self, tenant: &Tenant, role: &str) -> (String, String) {
        self.key_with(tenant, &json!({"name": role, "role": role})).await
    }

    pub async fn key_with(&self, tenant: &Tenant, body: &Value) -> (String, String) {
        let made = self.post("/api/v1/keys", &tenant.key, body).await.expect(201);
        (made.text("/key"), made.text("/id"))
    }

    /// A config on a model; its id.
    pub async fn config(&self, tenant: &Tenant, provider: &str, model: &str, extra: &Value) -> String {
        let name = format!("Config {}", self.next());
        self.post("/api/v1/configs", &tenant.key, &config_body(&name, provider, model, extra)).await.expect(201).text("/id")
    }

    /// A chat request with a plain answer.
    pub async fn chat(&self, key: &str, config: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/chat/{config}"), key, body).await
    }

    /// A message in a new conversation, answered; the conversation's id.
    pub async fn say(&self, key: &str, config: &str, message: &str) -> String {
        self.chat(key, config, &json!({"message": message})).await.expect(200).text("/conversation_id")
    }

    /// A chat request answered by events.
    pub async fn stream(&self, key: &str, config: &str, body: &Value) -> Events {
        let request = self.request("POST", &format!("/api/v1/chat/{config}"), key).header("Accept", "text/event-stream");
        Events::of(request.body(body.to_string()).send().await.expect("an answer"), 0)
    }

    /// The tenant's wallet as `(balance, held)`.
    pub async fn wallet(&self, key: &str) -> (String, String) {
        let wallet = self.get("/api/v1/wallet", key).await.expect(200);
        (wallet.text("/balance"), wallet.text("/held"))
    }

    /// The messages of a conversation as `role: content` lines; calls as `name(arguments)`.
    pub async fn history(&self, key: &str, conversation: &str) -> Vec<String> {
        let list = self.get(&format!("/api/v1/conversations/{conversation}/messages?limit=100"), key).await.expect(200);
        let rows = list.at("/data");
        let line = |row: &Value| {
            let mut line = format!("{}:", row["role"].as_str().unwrap_or_default());
            match &row["content"] {
                Value::Null => {}
                Value::String(text) => line.push_str(&format!(" {text}")),
                other => line.push_str(&format!(" {other}")),
            }
            for call in row["tool_calls"].as_array().into_iter().flatten() {
                line.push_str(&format!(" {}({})", call["name"].as_str().unwrap_or_default(), call["arguments"]));
            }
            if row["ok"] == false {
                line.push_str(" (failed)");
            }
            line
        };
        rows.as_array().expect("a list").iter().map(line).collect()
    }

    /// The newest rows of the log, newest first.
    pub async fn logs(&self, key: &str) -> Vec<Value> {
        self.get("/api/v1/logs?limit=100", key).await.expect(200).at("/data").as_array().cloned().unwrap_or_default()
    }
}

/// A whole user token in a mail, whichever way the mail is encoded.
fn token_in(mail: &str) -> Option<String> {
    let mail = mail.replace("=\r\n", "");
    mail.match_indices("nu_").find_map(|(at, _)| {
        let token: String = mail[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (token.len() == 53).then_some(token)
    })
}
