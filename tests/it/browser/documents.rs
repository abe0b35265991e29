//! The pages that explain the server: they work, in both themes and on a phone, for everybody, and load nothing from elsewhere.

use super::{barriers, browse};
use crate::harness::Server;

#[tokio::test]
async fn the_documents_work_for_everybody_and_load_nothing_from_elsewhere() {
    let server = Server::start().await;
    browse("the_documents_work_for_everybody_and_load_nothing_from_elsewhere", &server, async |browser| {
        for scheme in ["light", "dark"] {
            browser.prefers(scheme).await;
            for (path, words) in [
                ("/", "Agents as a service"),
                ("/docs/errors", "insufficient_credit"),
                ("/docs", "Accounts"),
                ("/redoc", "What can be called, and what it costs."),
            ] {
                browser.go(path).await;
                browser.sees(words).await;
                // Redoc asks for its maker's logo; the policy keeps that request from leaving.
                browser.calm_but_for(if path == "/redoc" { "https://cdn.redoc.ly/redoc/logo-mini.svg" } else { "" }).await;
                // What the two readers of the API document draw is theirs.
                assert_eq!(barriers(browser, &["#swagger-ui", "#redoc"]).await, Vec::<String>::new(), "{path}, {scheme}");
            }
        }
        browser.size(360, 740).await;
        for path in ["/", "/docs/errors"] {
            browser.go(path).await;
            assert_eq!(browser.js("return document.documentElement.scrollWidth").await, 360, "{path} fits a phone");
        }
    })
    .await;
    server.done().await;
}

#[tokio::test]
async fn a_theme_that_was_chosen_stays() {
    let server = Server::start().await;
    browse("a_theme_that_was_chosen_stays", &server, async |browser| {
        browser.prefers("light").await;
        browser.go("/").await;
        let paper = "return getComputedStyle(document.documentElement).backgroundColor";
        let light = browser.js(paper).await;
        browser.press("Change theme").await;
        let dark = browser.js(paper).await;
        assert_ne!(light, dark);
        browser.go("/docs/errors").await;
        assert_eq!(browser.js(paper).await, dark);
        browser.press("Change theme").await;
        browser.go("/").await;
        assert_eq!(browser.js(paper).await, light);
    })
    .await;
    server.done().await;
}
