//! The runner: functions as tools, their results, and the descriptors of the protocol.

use super::as_both;
use nimblesite::sandbox::ExitCause;

#[tokio::test]
async fn a_function_is_a_tool_and_its_workspace_stays() {
    as_both("runner::a_function_is_a_tool_and_its_workspace_stays", async |cage| {
        let mut sandbox = cage.boot("first").await;
        assert_eq!(sandbox.run("open('/workspace/note', 'w').write('kept'); print('written')").await, "written\n");
        assert_eq!(sandbox.shell("cat note").await, "kept");
        sandbox.to = None;
        assert_eq!(sandbox.running.exited().await, ExitCause::Exit(0), "the end of its stdin ends it");
        assert_eq!(cage.boot("first").await.run("print(open('/workspace/note').read())").await, "kept\n");
        assert_eq!(cage.boot("second").await.run("print(os.listdir('/workspace'))").await, "[]\n", "each has its own");
    })
    .await;
}
