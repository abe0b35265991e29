//! The pictures of `docs/img/`: every page, in light and dark, and some on a phone. Made only when a folder is named:
//! `NIMBLESITE_PICTURES=docs/img cargo test --locked --features failpoints --test it browser::pictures`. A folder whose name ends in `.png` gets PNGs.

use super::{AtHand, Browser, browse, lived_in, places, sign_in};
use crate::{
    fake_provider::Reply,
    harness::{OPERATOR, Server, Tenant},
    sandbox::shelf::boxed,
};
use rusqlite::Connection;
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// A page is as tall as what it says, between these.
const HEIGHTS: (u32, u32) = (720, 1_640);
/// Pages that are shown on a phone, too.
const ON_A_PHONE: [&str; 6] = ["overview", "agent", "conversation", "logs", "keys", "sign-in"];

struct Camera {
    folder: PathBuf,
    ending: &'static str,
}

impl Camera {
    async fn take(&self, browser: &Browser, name: &str, path: &str) {
        for scheme in ["light", "dark"] {
            browser.prefers(scheme).await;
            for (size, width) in [("", 1_280), ("-phone", 360)] {
                if width == 360 && !ON_A_PHONE.contains(&name) {
                    continue;
                }
                browser.size(width, HEIGHTS.0).await;
                browser.go(path).await;
                let height = browser.height().await.clamp(HEIGHTS.0, HEIGHTS.1);
                browser.size(width, height).await;
                // Charts draw themselves anew for the new size.
                tokio::time::sleep(Duration::from_millis(500)).await;
                browser.picture(&self.folder.join(format!("{name}{size}-{scheme}.{}", self.ending))).await;
            }
        }
    }
}

/// A week of a shop's support desk.
async fn a_week(server: &Server, tenant: &Tenant, at_hand: &AtHand) {
    let support = server.get("/api/v1/configs", &tenant.key).await.at("/data");
    let named = |name: &str| support.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()["id"].as_str().unwrap().to_owned();
    let agents = [named("Support"), named("Support"), at_hand.config.clone()];
    for n in 0..60_usize {
        let tokens = [(420, 38), (1_204, 96), (2_811, 160), (760, 51)][n % 4];
        server.vendor.otherwise(Reply::text("It is on its way and arrives tomorrow.").tokens(tokens.0, tokens.1));
        let said = json!({"message": format!("Where is parcel {}?", 4_711 + n), "template_vars": {"tone": "a friend"}});
        server.chat(&tenant.key, &agents[n % 3], &said).await.expect(200);
    }
    // The same rows, as a week would have written them: less at night, slower with longer answers.
    let (_, file) = server.tenant_files().into_iter().find(|(id, _)| *id == tenant.id).unwrap();
    let db = Connection::open(file).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let rows: Vec<String> = {
        let mut asked = db.prepare("SELECT id FROM logs ORDER BY id DESC").unwrap();
        asked.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    for (n, id) in rows.iter().enumerate() {
        let n = i64::try_from(n).unwrap();
        let hours = n * 9 / 4 + [0, 5, 1, 8, 2][usize::try_from(n % 5).unwrap()];
        let (latency, first) = (640 + n * 7_919 % 2_300, 210 + n * 7_919 % 610);
        let sql = "UPDATE logs SET created_at = created_at - ?2 * 3600000, latency_ms = ?3, provider_ms = ?3 - 12, time_to_first_token_ms = ?4 WHERE id = ?1";
        db.execute(sql, rusqlite::params![id, hours, latency, first]).unwrap();
    }
}

#[tokio::test]
async fn every_page_in_light_and_dark() {
    let Some(folder) = std::env::var_os("NIMBLESITE_PICTURES") else { return };
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let ending = if folder.extension().is_some_and(|end| end == "png") { "png" } else { "webp" };
    std::fs::create_dir_all(&folder).unwrap();
    let camera = Camera { folder, ending };
    let server = boxed().start().await;
    let (tenant, at_hand) = lived_in(&server).await;
    a_week(&server, &tenant, &at_hand).await;
    let fresh = server.tenant("Fresh Start").await;
    browse("every_page_in_light_and_dark", &server, async |browser| {
        for (name, path) in
            [("home", "/"), ("docs", "/docs"), ("redoc", "/redoc"), ("errors", "/docs/errors"), ("sign-in", "/dashboard/sign-in")]
        {
            camera.take(browser, name, path).await;
        }
        camera.take(browser, "no-page", "/dashboard/no-such-page").await;
        sign_in(browser, &tenant).await;
        for (name, path) in places(&at_hand) {
            camera.take(browser, name, &path).await;
        }
        camera.take(browser, "tenants", "/dashboard/tenants").await;
        let newcomer = browser.another().await;
        sign_in(&newcomer, &fresh).await;
        camera.take(&newcomer, "overview-empty", "/dashboard").await;
        let operator = browser.another().await;
        operator.go("/dashboard/sign-in?with=operator").await;
        operator.fill("Operator token", OPERATOR).await;
        operator.press("Sign in").await;
        operator.sees("Acme Corp").await;
        let account = format!("/dashboard/operator/tenants/{}", tenant.id);
        for (name, path) in [
            ("operator", "/dashboard/operator"),
            ("operator-models", "/dashboard/operator/models"),
            ("operator-audit", "/dashboard/operator/audit"),
            ("operator-tenant", &account),
        ] {
            camera.take(&operator, name, path).await;
        }
    })
    .await;
    server.done().await;
}
