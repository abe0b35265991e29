//! Sessions: how they begin and end, what they may, and who may use them.

use super::{Browser, Leads, PASSWORD, between, encoded};
use crate::{
    harness::{OPERATOR, Server, Settings, config_body},
    isolation::{path_with, random_id},
};
use nimblesite::{
    http::endpoint::{Endpoint, Handler},
    model::Role,
};
use serde_json::json;

fn pages() -> Vec<&'static Endpoint> {
    nimblesite::http::table().expect("a table").endpoints().filter(|endpoint| endpoint.is_page()).collect()
}

#[tokio::test]
async fn no_page_opens_without_a_session_and_none_with_a_wrong_one() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let rows = server.rows();
    let mut tried = 0;
    for endpoint in pages() {
        if matches!(endpoint.handler, Handler::Open(_) | Handler::Credentials(_)) {
            continue;
        }
        let path = path_with(endpoint, |_| random_id());
        for cookie in ["", "nimblesite=nu_nothing", &format!("nimblesite={}", tenant.owner.token), &format!("nimblesite={}", tenant.key)] {
            let browser = Browser::new(&server);
            cookie.clone_into(&mut browser.cookie.borrow_mut());
            let answer = browser.take(browser.request(endpoint.method, &path).header("Sec-Fetch-Site", "same-origin").body("")).await;
            assert_eq!(answer.status, 303, "{} with {cookie:?}: {}", endpoint.name, answer.body);
            assert!(answer.header("location").is_some_and(|to| to.starts_with("/dashboard/sign-in")), "{}", endpoint.name);
        }
        // A key or a token as the API takes them is no session.
        for header in [("X-API-Key", tenant.key.as_str()), ("Authorization", &format!("Bearer {}", tenant.owner.token))] {
            let browser = Browser::new(&server);
            let answer = browser.take(browser.request(endpoint.method, &path).header(header.0, header.1).body("")).await;
            assert_eq!(answer.status, 303, "{}", endpoint.name);
        }
        tried += 1;
    }
    assert!(tried > 5, "{tried}");
    assert_eq!(server.rows(), rows, "nothing was changed");
    server.done().await;
}

#[tokio::test]
async fn a_page_needs_the_role_and_a_form_its_token() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let mut browsers = Vec::new();
    for role in [Role::Viewer, Role::Member, Role::Admin] {
        let key = server.key(&tenant, role.name()).await.0;
        browsers.push((role, Browser::of_key(&server, &key).await));
    }
    let rows = server.rows();
    for endpoint in pages() {
        let path = path_with(endpoint, |_| random_id());
        for (role, browser) in &browsers {
            let ask = |token: &str| {
                let request = browser.request(endpoint.method, &path).header("Sec-Fetch-Site", "same-origin");
                browser.take(request.header("X-CSRF-Token", token).body(""))
            };
            let token = browser.token().await;
            match endpoint.handler {
                Handler::Page(needed, _) if *role < needed => {
                    let answer = ask(&token).await;
                    assert_eq!(answer.status, 403, "{} as {}: {}", endpoint.name, role.name(), answer.body);
                    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{}", endpoint.name);
                }
                Handler::Page(..) | Handler::Session(_) if endpoint.method != "GET" => {
                    for wrong in ["", "0", &"0".repeat(64), &token.to_uppercase()] {
                        let answer = ask(wrong).await;
                        assert!(
                            answer.status == 403 && answer.body.contains("own page"),
                            "{}: {} {}",
                            endpoint.name,
                            answer.status,
                            answer.body
                        );
                    }
                }
                Handler::OperatorPage(_) => assert_eq!(ask(&token).await.status, 404, "{}", endpoint.name),
                _ => {}
            }
        }
    }
    assert_eq!(server.rows(), rows, "nothing was changed");
    server.done().await;
}

#[tokio::test]
async fn only_our_own_pages_write_with_a_session() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let token = browser.token().await;
    let chat = format!("/api/v1/chat/{config}");
    let rows = server.rows();
    let elsewhere: [&[(&str, &str)]; 7] = [
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", &server.base.replace("127.0.0.1", "sub.127.0.0.1"))],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[],
    ];
    for fields in elsewhere {
        for (path, body) in [(chat.as_str(), json!({"message": "go"}).to_string()), ("/dashboard/sign-out", encoded(&[("_csrf", &token)]))]
        {
            let mut request = browser.request("POST", path).header("X-CSRF-Token", &token).body(body);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let answer = browser.take(request).await;
            assert_eq!(answer.status, 403, "{path} from {fields:?}: {}", answer.body);
        }
        // Nor is anyone signed in from elsewhere, as somebody else.
        let mut request =
            browser.request("POST", "/dashboard/sign-in").body(encoded(&[("email", &tenant.owner.email), ("password", PASSWORD)]));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        assert_eq!(browser.take(request).await.status, 403, "{fields:?}");
    }
    // From our page, but without the token that stands in it.
    let request = browser.request("POST", &chat).header("Sec-Fetch-Site", "same-origin").body(json!({"message": "go"}).to_string());
    browser.take(request).await.problem(403, "cross_site");
    // Another page cannot read either, but a link may lead here.
    let read = |site: &'static str, mode: &'static str| {
        browser.take(browser.request("GET", "/api/v1/wallet").header("Sec-Fetch-Site", site).header("Sec-Fetch-Mode", mode))
    };
    assert_eq!(read("cross-site", "no-cors").await.status, 403);
    assert_eq!(read("same-site", "cors").await.status, 403);
    assert_eq!(read("same-origin", "cors").await.status, 200);
    assert_eq!(
        browser
            .take(browser.request("GET", "/dashboard").header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "navigate"))
            .await
            .status,
        200
    );
    assert_eq!(server.rows(), rows, "nothing was written");
    // Our own page's script, by the header that old browsers send, too.
    for header in [("Sec-Fetch-Site", "same-origin"), ("Origin", server.base.as_str())] {
        let request = browser.request("POST", &chat).header(header.0, header.1).header("X-CSRF-Token", &token);
        let answer = browser.take(request.body(json!({"message": "hello"}).to_string())).await.expect(200);
        assert!(answer.body.contains("hello"), "{}", answer.body);
    }
    // Where a key is shown, the cookie does not count.
    let request = browser.request("GET", "/api/v1/wallet").header("X-API-Key", "ns_live_wrong");
    browser.take(request).await.problem(401, "invalid_api_key");
    server.done().await;
}

#[tokio::test]
async fn the_cookie_is_for_this_host_s_pages_alone_and_the_pages_run_no_script_of_others() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::new(&server);
    let answer = browser.send("/dashboard/sign-in", &[("email", &tenant.owner.email), ("password", PASSWORD)]).await.leads("/dashboard");
    let set = answer.header("set-cookie").expect("a cookie").to_owned();
    assert!(set.starts_with("nimblesite=nu_") && set.contains("; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800"), "{set}");
    assert!(!set.contains("Secure") && !set.contains("Domain"), "{set}");
    let page = browser.get("/dashboard").await.expect(200);
    let policy = page.header("content-security-policy").expect("a policy");
    for part in
        ["default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert_eq!((page.header("cache-control"), page.header("x-content-type-options")), (Some("no-store"), Some("nosniff")));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    for inline in [" style=", "<style", "<script>", " onclick=", " onload=", " onsubmit=", " onchange=", "javascript:"] {
        assert!(!page.body.contains(inline), "{inline} stands in the page itself");
    }
    server.done().await;
    // Behind a proxy that speaks TLS.
    let server = Settings::default().toml("public_url = \"https://ns.example\"").process().start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::new(&server);
    let form = encoded(&[("email", &tenant.owner.email), ("password", PASSWORD)]);
    let answer = browser
        .take(browser.request("POST", "/dashboard/sign-in").header("Origin", "https://ns.example").body(form))
        .await
        .leads("/dashboard");
    let set = answer.header("set-cookie").expect("a cookie").to_owned();
    assert!(set.starts_with("__Host-nimblesite=nu_") && set.ends_with("; Secure"), "{set}");
    browser.get("/dashboard").await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_session_is_what_its_member_is_at_every_request() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let bob = server.user("bob@example.com").await;
    server.post("/api/v1/members", &tenant.key, &json!({"email": bob.email, "role": "admin"})).await.expect(202);
    let browser = Browser::of_user(&server, &bob.email).await;
    let token = browser.token().await;
    let make = |name: &'static str| {
        let request = browser.request("POST", "/api/v1/configs").header("Sec-Fetch-Site", "same-origin").header("X-CSRF-Token", &token);
        browser.take(request.body(config_body(name, "echo", "echo", &json!({})).to_string()))
    };
    make("One").await.expect(201);
    let member = format!("/api/v1/members/{}", bob.id);
    server.patch(&member, &tenant.key, &json!({"role": "viewer"})).await.expect(200);
    make("Two").await.problem(403, "insufficient_role");
    browser.get("/dashboard").await.expect(200);
    server.delete(&member, &tenant.key).await.expect(204);
    assert_eq!(make("Three").await.status, 409, "the tenant is no longer theirs");
    browser.get("/dashboard").await.leads("/dashboard/tenants");
    // One that is theirs again is there again; an account that was shut off is not.
    server.post("/api/v1/members", &tenant.key, &json!({"email": bob.email, "role": "viewer"})).await.expect(202);
    browser.get("/dashboard").await.expect(200);
    server.operate(&["user", "disable", &bob.email]).await;
    browser.get("/dashboard").await.leads("/dashboard/sign-in");
    server.done().await;
}

#[tokio::test]
async fn a_key_s_session_may_what_the_key_may_and_dies_with_it() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let (key, key_id) = server.key(&tenant, "member").await;
    let browser = Browser::of_key(&server, &key).await;
    let page = browser.get("/dashboard").await.expect(200);
    assert!(page.body.contains("Acme") && page.body.contains("key, member"));
    // It has no account, and no other tenants.
    assert_eq!(browser.get("/dashboard/account").await.status, 404);
    assert_eq!(browser.get("/dashboard/tenants").await.status, 404);
    let token = browser.token().await;
    let request = browser.request("POST", &format!("/api/v1/chat/{config}")).header("Sec-Fetch-Site", "same-origin");
    browser.take(request.header("X-CSRF-Token", &token).body(json!({"message": "hi"}).to_string())).await.expect(200);
    let logs = server.logs(&tenant.key).await;
    assert_eq!(logs[0]["key_id"], key_id.as_str(), "what it does is the key's doing");
    server.delete(&format!("/api/v1/keys/{key_id}"), &tenant.key).await.expect(204);
    browser.get("/dashboard").await.leads("/dashboard/sign-in");
    let browser = Browser::new(&server);
    let refused = browser.send("/dashboard/sign-in/key", &[("api_key", &key)]).await;
    assert!(refused.status == 401 && refused.header("set-cookie").is_none(), "{}", refused.status);
    server.done().await;
}

#[tokio::test]
async fn signing_out_ends_one_session_or_all_and_a_new_password_does_so_too() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let email = tenant.owner.email.as_str();
    let (one, two, three) =
        (Browser::of_user(&server, email).await, Browser::of_user(&server, email).await, Browser::of_user(&server, email).await);
    let kept = one.cookie.borrow().clone();
    one.send("/dashboard/sign-out", &[]).await.leads("/dashboard/sign-in?said=signed-out");
    assert!(one.cookie.borrow().is_empty());
    *one.cookie.borrow_mut() = kept;
    one.get("/dashboard").await.leads("/dashboard/sign-in");
    two.get("/dashboard").await.expect(200);
    two.send("/dashboard/sign-out/everywhere", &[]).await.leads("/dashboard/sign-in?said=signed-out");
    three.get("/dashboard").await.leads("/dashboard/sign-in");
    let (one, two) = (Browser::of_user(&server, email).await, Browser::of_user(&server, email).await);
    let wrong = one.send("/dashboard/account/password", &[("current_password", "wrong wrong"), ("new_password", "another good one")]).await;
    assert!(wrong.status == 422 && wrong.body.contains("not the account"), "{}", wrong.body);
    let right = [("current_password", PASSWORD), ("new_password", "another good one")];
    one.send("/dashboard/account/password", &right).await.leads("/dashboard/sign-in?said=reset");
    two.get("/dashboard").await.leads("/dashboard/sign-in");
    let old = Browser::new(&server).send("/dashboard/sign-in", &[("email", email), ("password", PASSWORD)]).await;
    assert!(old.status == 401 && old.body.contains("address or the password is wrong"), "{}", old.status);
    server.done().await;
}

#[tokio::test]
async fn a_session_ends_when_nobody_uses_it() {
    let server = Settings::default().limit("session_ms", 600).start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    for _ in 0..6 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        browser.get("/dashboard").await.expect(200);
    }
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    browser.get("/dashboard").await.leads("/dashboard/sign-in");
    server.done().await;
    let server = Settings::default().limit("session_whole_ms", 600).start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    browser.get("/dashboard").await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    browser.get("/dashboard").await.leads("/dashboard/sign-in");
    server.done().await;
}

#[tokio::test]
async fn people_register_prove_reset_and_sign_in_by_forms() {
    let server = Server::start().await;
    let browser = Browser::new(&server);
    let short = browser.send("/dashboard/register", &[("email", "ann@example.com"), ("password", "short")]).await;
    assert!(short.status == 422 && short.body.contains("ann@example.com") && short.body.contains("aria-invalid"), "{}", short.body);
    let sent = browser.send("/dashboard/register", &[("email", "ann@example.com"), ("password", PASSWORD)]).await.expect(202);
    let again = browser.send("/dashboard/register", &[("email", "Ann@example.com"), ("password", PASSWORD)]).await.expect(202);
    assert_eq!(sent.body, again.body);
    let early = browser.send("/dashboard/sign-in", &[("email", "ann@example.com"), ("password", PASSWORD)]).await;
    assert!(early.status == 403 && early.body.contains("not proved"), "{}", early.status);
    let token = server.mailed_token("ann@example.com").await;
    let page = browser.get(&format!("/dashboard/verify?token={token}")).await.expect(200);
    assert!(page.body.contains(&token), "the page fills it in");
    browser.send("/dashboard/verify", &[("token", &token)]).await.leads("/dashboard/sign-in?said=verified");
    browser.send("/dashboard/forgot", &[("email", "ann@example.com")]).await.expect(202);
    browser.send("/dashboard/forgot", &[("email", "nobody@example.com")]).await.expect(202);
    let mut reset = server.mailed_token("ann@example.com").await;
    while reset == token {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        reset = server.mailed_token("ann@example.com").await;
    }
    browser.send("/dashboard/reset", &[("token", &reset), ("password", "a newer password")]).await.leads("/dashboard/sign-in?said=reset");
    let form = [("email", "ann@example.com"), ("password", "a newer password"), ("next", "/dashboard/account")];
    browser.send("/dashboard/sign-in", &form).await.leads("/dashboard/account");
    // Without a tenant there is one thing to do.
    browser.get("/dashboard").await.leads("/dashboard/tenants");
    let empty = browser.send("/dashboard/tenants", &[("name", " ")]).await;
    assert!(empty.status == 422 && empty.body.contains("1 to 200 characters"), "{}", empty.body);
    let made = browser.send("/dashboard/tenants", &[("name", "Ann & <b>Co</b>")]).await.expect(201);
    let key = between(&made.body, "<code id=\"first-key\">", "<");
    server.get("/api/v1/wallet", &key).await.expect(200);
    let page = browser.get("/dashboard").await.expect(200);
    assert!(page.body.contains("Ann &amp; &lt;b&gt;Co&lt;/b&gt;") && !page.body.contains("<b>Co"), "a name is text");
    // A second tenant, and the way between them; a stranger's is not there.
    browser.send("/dashboard/tenants", &[("name", "Second")]).await.expect(201);
    let stranger = server.tenant("Stranger").await;
    let theirs = browser.send("/dashboard/tenants/choose", &[("tenant_id", &stranger.id)]).await;
    let nobodys = browser.send("/dashboard/tenants/choose", &[("tenant_id", &random_id())]).await;
    assert_eq!((theirs.status, nobodys.status), (404, 404));
    let first = server.get("/api/v1/tenant", &key).await.text("/id");
    browser.send("/dashboard/tenants/choose", &[("tenant_id", &first)]).await.leads("/dashboard");
    assert!(browser.get("/dashboard").await.body.contains("Ann &amp;"));
    // Where one is sent after signing in is in the dashboard.
    for next in [
        "https://evil.example/",
        "//evil.example",
        "/dashboard/../api",
        "/dashboard//evil",
        "/\\evil",
        "/dashboard/x\r\nset-cookie: a=b",
        "javascript:alert(1)",
    ] {
        let form = [("email", "ann@example.com"), ("password", "a newer password"), ("next", next)];
        let to = Browser::new(&server).send("/dashboard/sign-in", &form).await;
        assert!(to.header("location").is_some_and(|to| to.starts_with("/dashboard")), "{next}: {:?}", to.headers);
    }
    server.done().await;
}

#[tokio::test]
async fn a_link_signs_in_once_and_not_for_long() {
    let server = Settings::default().limit("sign_in_link_ms", 3_000).start().await;
    let tenant = server.tenant("Acme").await;
    let link = |text: String| between(&text, "/dashboard/link?token=", "\n");
    let first = link(server.operate(&["user", "link", &tenant.owner.email]).await);
    let browser = Browser::new(&server);
    // Looking at it does not use it up.
    for _ in 0..2 {
        let page = browser.get(&format!("/dashboard/link?token={first}")).await.expect(200);
        assert!(page.body.contains(&first) && page.header("set-cookie").is_none());
    }
    browser.send("/dashboard/link", &[("token", &first)]).await.leads("/dashboard");
    browser.get("/dashboard").await.expect(200);
    let again = Browser::new(&server).send("/dashboard/link", &[("token", &first)]).await;
    assert!(again.status == 401 && again.header("set-cookie").is_none(), "{}", again.status);
    let second = link(server.operate(&["user", "link", &tenant.owner.email]).await);
    tokio::time::sleep(std::time::Duration::from_millis(3_200)).await;
    assert_eq!(Browser::new(&server).send("/dashboard/link", &[("token", &second)]).await.status, 401);
    server.done().await;
}

#[tokio::test]
async fn deleting_a_tenant_ends_its_keys_sessions_and_unchooses_it_for_its_people() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let (person, key) = (Browser::of_user(&server, &tenant.owner.email).await, Browser::of_key(&server, &tenant.key).await);
    server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&json!({"confirm": "Acme"}))).await.expect(204);
    person.get("/dashboard").await.leads("/dashboard/tenants");
    key.get("/dashboard").await.leads("/dashboard/sign-in");
    server.done().await;
}

#[tokio::test]
async fn the_operator_s_session_shows_no_tenant_s_page_and_ends_with_the_token() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::new(&server);
    assert_eq!(browser.send("/dashboard/sign-in/operator", &[("token", "wrong")]).await.status, 401);
    assert_eq!(browser.send("/dashboard/sign-in/operator", &[("token", &tenant.key)]).await.status, 401);
    browser.send("/dashboard/sign-in/operator", &[("token", OPERATOR)]).await.leads("/dashboard/operator");
    browser.get("/dashboard").await.leads("/dashboard/tenants");
    let answer = browser.take(browser.request("GET", "/api/v1/wallet").header("Sec-Fetch-Site", "same-origin")).await;
    assert_eq!(answer.status, 409, "it opens no tenant");
    server.done().await;
}
