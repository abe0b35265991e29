//! An agent whose tools the server runs, with nothing but the dashboard: from the form to the files of its workspace.

use super::{browse, sign_in};
use crate::sandbox::shelf::{CANARY, boxed, example, zipped};
use serde_json::json;

#[tokio::test]
async fn a_bundle_is_uploaded_runs_and_its_files_are_seen() {
    let server = boxed().start().await;
    let tenant = server.tenant("Acme").await;
    let folder = tempfile::tempdir().unwrap();
    let (broken, whole) = (folder.path().join("broken.zip"), folder.path().join("notebook.zip"));
    std::fs::write(&broken, zipped(&[("readme.txt", "no manifest")])).unwrap();
    std::fs::write(&whole, example("sandbox-python")).unwrap();
    browse("a_bundle_is_uploaded_runs_and_its_files_are_seen", &server, async |browser| {
        sign_in(browser, &tenant).await;
        browser.go("/dashboard/agents/new").await;
        browser.fill("Name", "Notebook").await;
        browser.fill("Tools run", "sandboxed").await;
        browser.press("Make the agent").await;
        browser.sees("The agent is made.").await;
        let path = browser.path().await;
        let config = path.trim_start_matches("/dashboard/agents/").split('?').next().unwrap().to_owned();
        let secrets = json!({"workspace_secrets": {"NOTEBOOK_KEY": CANARY}});
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &secrets).await.expect(200);
        browser.press("Sandbox").await;
        browser.sees("No bundle yet").await;
        // What is wrong with an archive is said where it was chosen.
        browser.choose_file("Archive", &broken).await;
        browser.press("Upload").await;
        browser.sees("manifest.json").await;
        browser.sees("The archive has no such file at its root").await;
        browser.choose_file("Archive", &whole).await;
        browser.press("Upload").await;
        browser.sees("The bundle is in.").await;
        for words in ["note_write", "note_sign", "given", "not begun", "Nothing lies there yet"] {
            browser.sees(words).await;
        }
        browser.press("note_write").await;
        browser.sees("What to remember.").await;
        browser.calm().await;

        // A tool runs, and what it left is seen.
        browser.press("Playground").await;
        browser.fill("Message", "call note_write {\"name\": \"shopping\", \"text\": \"two lemons\"}").await;
        browser.press("Send").await;
        browser.sees("Noted 10 characters as shopping.").await;
        browser.go(&format!("/dashboard/agents/{config}/sandbox")).await;
        browser.sees("running").await;
        browser.sees("notes/shopping.txt").await;
        let fetched = "return fetch(document.querySelector('#files .row-link').href).then(answer => answer.text())";
        assert_eq!(browser.js(fetched).await, "two lemons");
        assert!(!browser.words().await.contains(CANARY));
        for out in ["../../etc/passwd", "/etc/passwd", "notes/../../bundle/manifest.json", "nothing.txt", "notes"] {
            let asked = "return fetch(`/api/v1/configs/${arguments[0]}/sandbox/file?path=${encodeURIComponent(arguments[1])}`).then(answer => answer.status)";
            assert_eq!(browser.js_with(asked, vec![config.clone().into(), out.into()]).await, 404, "{out}");
        }
        browser.calm().await;

        browser.press("Make one").await;
        browser.sees("The snapshot is made.").await;
        browser.sees("asked for").await;

        // Stopped, it keeps its files; removed, it has none.
        browser.press("Stop").await;
        browser.sees("A call that runs in it fails.").await;
        browser.press("Stop").await;
        browser.sees("The sandbox is stopped.").await;
        browser.sees("notes/shopping.txt").await;
        browser.press("Remove the workspace").await;
        browser.sees("Only a snapshot can bring them back.").await;
        browser.press("Remove the workspace").await;
        browser.sees("The workspace is removed.").await;
        browser.sees("Nothing lies there yet").await;
        browser.press("Restore").await;
        browser.sees("What lies there now is gone.").await;
        browser.press("Restore").await;
        browser.sees("The snapshot is in the place of the workspace.").await;
        browser.sees("notes/shopping.txt").await;
        browser.press("Take the bundle away").await;
        browser.sees("Running tools are stopped.").await;
        browser.press("Take it away").await;
        browser.sees("No bundle yet").await;
        browser.calm().await;
    })
    .await;
    server.done().await;
}
