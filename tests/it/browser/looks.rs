//! Every page for everybody: in light and dark, on a phone, by keyboard, quickly.

use super::{Browser, barriers, browse, places, sign_in};
use crate::{harness::Server, sandbox::shelf::boxed};
use serde_json::{Value, json};

#[tokio::test]
async fn every_page_is_for_everybody() {
    let server = boxed().start().await;
    let (tenant, at_hand) = super::lived_in(&server).await;
    browse("every_page_is_for_everybody", &server, async |browser| {
        for path in [
            "/dashboard/sign-in",
            "/dashboard/sign-in?with=key",
            "/dashboard/register",
            "/dashboard/forgot",
            "/dashboard/reset",
            "/dashboard/verify",
        ] {
            look(browser, path).await;
        }
        look(browser, "/dashboard/no-such-page").await;
        sign_in(browser, &tenant).await;
        look(browser, "/dashboard/tenants").await;
        for (_, path) in places(&at_hand) {
            look(browser, &path).await;
        }
        let operator = browser.another().await;
        operator.go("/dashboard/sign-in?with=operator").await;
        operator.fill("Operator token", crate::harness::OPERATOR).await;
        operator.press("Sign in").await;
        operator.sees("Acme Corp").await;
        look(&operator, "/dashboard/operator").await;
        look(&operator, "/dashboard/operator/models").await;
        look(&operator, "/dashboard/operator/audit").await;
        look(&operator, &format!("/dashboard/operator/tenants/{}", tenant.id)).await;
    })
    .await;
    server.done().await;
}

/// A new tenant's pages, on which nothing stands yet.
#[tokio::test]
async fn pages_without_data_say_what_to_do_next() {
    let server = Server::start().await;
    let tenant = server.tenant("Fresh").await;
    browse("pages_without_data_say_what_to_do_next", &server, async |browser| {
        sign_in(browser, &tenant).await;
        for path in
            ["/dashboard", "/dashboard/agents", "/dashboard/playground", "/dashboard/conversations", "/dashboard/logs", "/dashboard/wallet"]
        {
            look(browser, path).await;
            assert_eq!(browser.js("return document.querySelectorAll('.empty h2').length").await, 1, "{path}");
        }
    })
    .await;
    server.done().await;
}

/// Light and dark without a barrier, a phone without scrolling sideways, and calm.
async fn look(browser: &Browser, path: &str) {
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        browser.go(path).await;
        browser.find("main h1").await;
        browser.calm().await;
        assert_eq!(barriers(browser, &[]).await, Vec::<String>::new(), "{path}, {scheme}");
    }
    browser.size(360, 740).await;
    let wide = "return [...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > 361 && !one.closest('.table-wrap, pre, .tabs, .sr-only, .diff')) \
         .map(one => one.outerHTML.slice(0, 120)).slice(0, 5)";
    assert_eq!(browser.js("return document.documentElement.scrollWidth").await, 360, "{path} on a phone: {}", browser.js(wide).await);
    browser.size(1360, 900).await;
}

#[tokio::test]
async fn the_first_page_is_small_and_quick() {
    let server = boxed().start().await;
    let (tenant, ..) = super::lived_in(&server).await;
    browse("the_first_page_is_small_and_quick", &server, async |browser| {
        // How soon a page can be used is the machine's, and printed; how much it fetches is the page's.
        let measure = "const all = [performance.getEntriesByType('navigation')[0], ...performance.getEntriesByType('resource')]; \
             return [all.reduce((sum, one) => sum + one.transferSize, 0), all.length, performance.getEntriesByType('navigation')[0].domInteractive];";
        let first = {
            browser.go("/dashboard/sign-in").await;
            browser.js(measure).await
        };
        sign_in(browser, &tenant).await;
        browser.find(".uplot canvas").await;
        // A browser that has nothing yet.
        browser.forget().await;
        browser.go("/dashboard").await;
        browser.find(".uplot canvas").await;
        let overview = browser.js(measure).await;
        for (page, measured) in [("sign-in", first), ("overview", overview)] {
            let [bytes, requests, ms] = [0, 1, 2].map(|n| measured[n].as_f64().unwrap());
            println!("{page}: {bytes} bytes in {requests} requests, interactive after {ms:.0} ms");
            assert!(bytes > 5_000.0 && bytes < 150_000.0, "{page}: {bytes} bytes");
            assert!(requests > 3.0 && requests <= 12.0, "{page}: {requests} requests");
        }
    })
    .await;
    server.done().await;
}

#[tokio::test]
async fn the_keyboard_reaches_everything() {
    let server = boxed().start().await;
    let (tenant, ..) = super::lived_in(&server).await;
    browse("the_keyboard_reaches_everything", &server, async |browser| {
        sign_in(browser, &tenant).await;
        browser.go("/dashboard").await;
        let mut reached = Vec::new();
        for _ in 0..60 {
            browser.tab().await;
            let here = "const here = document.activeElement; const style = getComputedStyle(here); \
                 return here === document.body ? null : [here.matches('.skip') ? 'skip' : here.getAttribute('href') ?? here.getAttribute('aria-label') ?? here.tagName, \
                   style.outlineStyle !== 'none' || style.boxShadow !== 'none' || getComputedStyle(here, '::after').outlineStyle !== 'none'];";
            let here = browser.js(here).await;
            if here == Value::Null {
                break;
            }
            assert_eq!(here[1], json!(true), "no sign of where the keyboard is: {here}");
            reached.push(here[0].as_str().unwrap_or_default().to_owned());
        }
        for place in ["skip", "/dashboard/playground", "/dashboard/conversations", "/dashboard/wallet", "Change theme", "Sign out", "/dashboard?range=24h"] {
            assert!(reached.iter().any(|one| one == place), "{place} is out of reach: {reached:?}");
        }
        assert_eq!(reached[0], "skip");
    })
    .await;
    server.done().await;
}
