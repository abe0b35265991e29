//! What belongs to the host or to another sandbox: its files, processes, sockets and secrets.

use super::{as_both, cage::secret};
use nimblesite::sandbox::Start;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, symlink},
            net::{SocketAddr, UnixListener},
        },
    },
    process::Command,
};

/// 1, 2, 21, 26, 27.
#[tokio::test]
async fn files_of_the_host_and_of_others_are_not_there_and_its_own_system_is_read_only() {
    as_both("host::files_of_the_host_and_of_others_are_not_there_and_its_own_system_is_read_only", async |cage| {
        let mut other = cage.boot("other").await;
        other.run("open('/workspace/theirs', 'w').write('theirs')").await;
        let data = cage.config.data.display().to_string();
        let mut sandbox = cage.boot("one").await;
        let code = format!(
            r"
for path in ['/etc/shadow', '/root', '/home', '{data}', '{data}/sandboxes/other/workspace/theirs', '/workspace/../../../etc/shadow',
             '/var', '/sys', '/sys/fs/cgroup', '/run/docker.sock', '/run/podman/podman.sock', '/dev/kvm', '/dev/mem', '/dev/sda', '/proc/kcore',
             '/proc/cmdline', '/proc/kallsyms', '/proc/config.gz', '/proc/keys', '/proc/sys', '/proc/sysrq-trigger', '/proc/meminfo']:
    attempt(path, lambda: os.stat(path) and 'there')
"
        );
        let said = sandbox.run(&code).await;
        assert_eq!(said.lines().count(), 22, "{said}");
        assert!(said.lines().all(|line| line.ends_with(" ENOENT")), "{said}");
        let said = sandbox
            .run(
                r"
for path in ['/usr/x', '/bundle/x', '/x', '/etc/x', '/run/x', '/dev/x', '/usr/bin/python3', '/bundle/tools.py', '/etc/passwd', '/etc/resolv.conf']:
    attempt(path, lambda: open(path, 'a').close())
attempt('hardlink', lambda: os.link('/usr/bin/su', '/workspace/su'))
attempt('rename', lambda: os.rename('/bundle/tools.py', '/workspace/tools.py'))
print(sorted(os.listdir('/')))
",
            )
            .await;
        let refused = ["EROFS", "EACCES", "EXDEV", "EPERM"];
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[..12].iter().all(|line| refused.iter().any(|code| line.ends_with(code))), "{said}");
        assert!(lines[12].contains("'workspace'") && !lines[12].contains("home"), "{said}");
        assert!(!cage.bundle.join("x").exists());
    })
    .await;
}

/// 3, 4, 5, 6, 7, 16.
#[tokio::test]
async fn processes_are_its_own_and_the_first_cannot_be_looked_into() {
    as_both("host::processes_are_its_own_and_the_first_cannot_be_looked_into", async |cage| {
        let mut sandbox = cage.boot("one").await;
        let said = sandbox
            .run(
                r"
print('pids', sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))
def leads(name):
    try: return os.readlink('/proc/self/fd/' + name)
    except FileNotFoundError: return 'pipe: the listing itself'
print('fds', [leads(name) for name in os.listdir('/proc/self/fd') if int(name) > 2 and not leads(name).startswith('pipe:')])
for name in ['environ', 'mem', 'maps', 'exe', 'fd/0', 'root/etc', 'cwd']:
    attempt(name, lambda: open('/proc/1/' + name, 'rb').read(1))
attempt('listing', lambda: os.listdir('/proc/1/fd'))
os.symlink('/proc/1/root', '/workspace/way-out')
attempt('link', lambda: os.listdir('/workspace/way-out'))
print('ptrace', call(101, 16, 1, 0, 0))
print('vm_readv', call(310, 1, 0, 0, 0, 0, 0))
print('kill', call(62, 1, 9), os.path.exists('/proc/1'))
",
            )
            .await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[..2], ["pids [1, 2]", "fds []"], "{said}");
        let refused = |line: &&str| line.ends_with("EACCES") || line.ends_with("EPERM");
        assert!(lines[2..11].iter().all(refused), "{said}");
        assert_eq!(lines[11..], ["ptrace EPERM", "vm_readv EPERM", "kill ok True"], "{said}");
        // The shell's child is not the runner, and may look into itself alone.
        let said = sandbox.shell("cat /proc/2/environ /proc/2/mem; echo; cat /proc/1/environ; ls /proc/2/fd").await;
        assert_eq!(said.matches("Permission denied").count(), 4, "{said}");
        // All processes that it can name: itself and its own.
        sandbox.send("tools/call", serde_json::json!({"name": "shell", "arguments": {"command": "kill -9 -1"}})).await;
        assert_eq!(sandbox.receive().await, None);
        assert_eq!(sandbox.running.exited().await.to_string(), "was ended by signal 9");
    })
    .await;
}

/// 8, 9, 10.
#[tokio::test]
async fn no_socket_of_the_host_is_reached() {
    as_both("host::no_socket_of_the_host_is_reached", async |cage| {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let name = format!("nimblesite-test-{}", std::process::id());
        let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut sandbox = cage.boot("one").await;
        let code = format!(
            r"
def dial(kind, family, where):
    with socket.socket(family, kind) as s:
        s.settimeout(2)
        s.connect(where)
        s.send(b'x')
attempt('tcp', lambda: dial(socket.SOCK_STREAM, socket.AF_INET, ('127.0.0.1', {})))
attempt('udp', lambda: dial(socket.SOCK_DGRAM, socket.AF_INET, ('127.0.0.1', {})))
attempt('abstract', lambda: dial(socket.SOCK_STREAM, socket.AF_UNIX, '\0{name}'))
attempt('tcp6', lambda: dial(socket.SOCK_STREAM, socket.AF_INET6, ('::1', {})))
",
            tcp.local_addr().unwrap().port(),
            udp.local_addr().unwrap().port(),
            tcp.local_addr().unwrap().port(),
        );
        let said = sandbox.run(&code).await;
        let fine = ["EACCES", "ENETUNREACH", "ECONNREFUSED", "EPERM", "EADDRNOTAVAIL"];
        assert!(said.lines().count() == 4 && said.lines().all(|line| fine.iter().any(|code| line.ends_with(code))), "{said}");
        udp.set_nonblocking(true).unwrap();
        assert!(udp.recv(&mut [0; 8]).is_err(), "a datagram came through");
    })
    .await;
}

/// 41, 56: with the backend's own environment, which is empty.
#[tokio::test]
async fn secrets_are_where_the_tool_reads_them_and_nowhere_else() {
    as_both("host::secrets_are_where_the_tool_reads_them_and_nowhere_else", async |cage| {
        let canary = "canary-of-this-test-0123456789";
        let mut sandbox = cage.boot_as(&cage.spec("one"), vec![secret("KEY", canary)]).await;
        assert_eq!(sandbox.run("print(os.environ['KEY'])").await.trim(), canary);
        assert_eq!(sandbox.shell("env | grep -c canary; echo \"[$KEY]\"").await.trim(), "0\n[]");
        let said = sandbox.shell("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ac 'c[a]nary-of'; grep -rc 'c[a]nary-of' /workspace /tmp /run | grep -v :0").await;
        assert_eq!(said.lines().next(), Some("0"), "{said}");
        assert!(!said.contains(":1"), "{said}");
        let mut tar = Vec::new();
        cage.sandboxes.snapshot(&cage.spec("one"), &mut tar).await.unwrap();
        assert!(!String::from_utf8_lossy(&tar).contains(canary));
        // On the host: on no command line, and in no file of the data directory.
        let found = Command::new("grep").args(["-rac", "canary-of-this"]).arg(&cage.config.data).output().unwrap();
        assert!(!String::from_utf8_lossy(&found.stdout).lines().any(|line| !line.ends_with(":0")), "{found:?}");
        drop(sandbox);
        let mut shown = cage.spec("one");
        shown.secrets_in_shell = true;
        let mut sandbox = cage.boot_as(&shown, vec![secret("KEY", canary)]).await;
        assert_eq!(sandbox.shell("echo $KEY").await.trim(), canary, "only where it was asked for");
    })
    .await;
}

/// 56: everything that can be read inside, searched for what the server and the test have in their environment.
#[tokio::test]
async fn nothing_of_the_servers_environment_is_inside() {
    as_both("host::nothing_of_the_servers_environment_is_inside", async |cage| {
        let mut sandbox = cage.boot("one").await;
        let inside = sandbox.run("print(sorted(os.environ))").await;
        assert_eq!(
            inside.trim(),
            "['HOME', 'LANG', 'LC_CTYPE', 'PATH', 'TMPDIR', 'USER']"
                .replace("'LC_CTYPE', ", if inside.contains("LC_CTYPE") { "'LC_CTYPE', " } else { "" })
        );
        // The test's own environment has its manifest's path, as every test that cargo runs.
        let planted = env!("CARGO_MANIFEST_DIR");
        let said = sandbox
            .shell(&format!("cat /proc/[0-9]*/environ /proc/[0-9]*/task/*/environ 2>/dev/null | grep -ac 'CARGO_MANIFEST_DIR={planted}'"))
            .await;
        assert!(said.starts_with('0'), "{said}");
    })
    .await;
}

/// 49.
#[tokio::test]
async fn one_bundle_in_two_sandboxes_carries_nothing_from_one_to_the_other() {
    as_both("host::one_bundle_in_two_sandboxes_carries_nothing_from_one_to_the_other", async |cage| {
        let (mut one, mut two) = (cage.boot("one").await, cage.boot("two").await);
        let before = fs::read(cage.bundle.join("tools.py")).unwrap();
        one.shell("echo changed > /bundle/tools.py; chmod 777 /bundle /bundle/tools.py; touch /bundle/new; mkdir -p /bundle/__pycache__")
            .await;
        assert_eq!(two.run("print(os.listdir('/bundle'))").await.trim(), "['tools.py']");
        assert_eq!(fs::read(cage.bundle.join("tools.py")).unwrap(), before);
        one.run("open('/tmp/shared', 'w'); open('/dev/shm/shared', 'w')").await;
        assert_eq!(two.run("print(os.listdir('/tmp'), os.listdir('/dev/shm'))").await.trim(), "[] []");
    })
    .await;
}

/// 46: whatever lies in a workspace, a boot follows none of it.
#[tokio::test]
async fn a_boot_follows_nothing_that_lies_in_a_workspace() {
    as_both("host::a_boot_follows_nothing_that_lies_in_a_workspace", async |cage| {
        let victim = cage.dir().join("victim");
        fs::create_dir(&victim).unwrap();
        let mut sandbox = cage.boot("one").await;
        let victim_path = victim.display();
        sandbox.shell(&format!("ln -s /etc .cache; ln -s {victim_path} .local; ln -s {victim_path} tmp; mkfifo pipe")).await;
        drop(sandbox);
        let mut again = cage.boot("one").await;
        assert_eq!(again.shell("ls -A").await, ".cache\n.local\npipe\ntmp\n");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    })
    .await;
}

/// A bundle that is a link, as a tenant cannot make it but a broken unpacking might, shows what it leads to and no more, read-only.
#[tokio::test]
async fn a_program_of_a_bundle_runs_as_it_is() {
    as_both("host::a_program_of_a_bundle_runs_as_it_is", async |cage| {
        fs::write(cage.bundle.join("server"), "#!/bin/sh\nread line\necho \"{\\\"got\\\": $line, \\\"key\\\": \\\"$KEY\\\", \\\"arg\\\": \\\"$1\\\", \\\"set\\\": \\\"$SET\\\"}\"\nexit 7\n").unwrap();
        fs::set_permissions(cage.bundle.join("server"), fs::Permissions::from_mode(0o755)).unwrap();
        let linked = cage.dir().join("linked");
        symlink(&cage.bundle, &linked).unwrap();
        let mut spec = cage.spec("one");
        spec.bundle = Some(linked);
        spec.start = Start::Command { command: "./server".into(), args: vec!["word".into()], env: vec![("SET".into(), "up".into())] };
        let mut sandbox = cage.boot_as(&spec, vec![secret("KEY", "value")]).await;
        sandbox.send("anything", serde_json::Value::Null).await;
        let answer = sandbox.receive().await.unwrap();
        assert_eq!((answer["key"].as_str(), answer["arg"].as_str(), answer["set"].as_str()), (Some("value"), Some("word"), Some("up")));
        assert_eq!(answer["got"]["method"], "anything");
        assert_eq!(sandbox.running.exited().await.to_string(), "exited with code 7");
    })
    .await;
}

/// 8: on this machine, but in a network namespace that the test made: neither its address nor its port is there for a sandbox, with a door or without.
#[tokio::test]
async fn an_address_of_another_network_namespace_is_not_reached() {
    use std::io::{BufRead, BufReader};
    const TEST: &str = "host::an_address_of_another_network_namespace_is_not_reached";
    // It listens on an address of the documentation's range, on its own loopback: nothing leaves the namespace.
    const LISTENER: &str = "ip link set lo up && ip addr add 192.0.2.10/32 dev lo && exec /usr/bin/python3 -u -c '
import socket
s = socket.create_server((\"192.0.2.10\", 8099)); print(\"listens\")
c, _ = s.accept(); print(\"reached\")'";
    let mut listener = match Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", LISTENER])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
    {
        Ok(listener) => listener,
        Err(error) => return super::cage::skipped(TEST, &format!("a namespace to listen in needs unshare: {error}")),
    };
    let mut said = BufReader::new(listener.stdout.take().unwrap()).lines();
    if said.next().and_then(Result::ok).as_deref() != Some("listens") {
        drop(listener.kill());
        drop(listener.wait());
        return super::cage::skipped(TEST, "a namespace to listen in needs unshare, ip and leave to make one");
    }
    as_both(TEST, async |cage| {
        for door in [false, true] {
            let mut spec = cage.spec("one");
            spec.network = door;
            let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
            let told = sandbox
                .run("attempt('tcp', lambda: socket.create_connection(('192.0.2.10', 8099), 2).close())\nattempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.10', 8099)))")
                .await;
            assert!(told.lines().count() == 2 && told.lines().all(|line| ["EACCES", "ENETUNREACH", "EPERM"].iter().any(|code| line.ends_with(code))), "{told}");
        }
    })
    .await;
    assert!(matches!(listener.try_wait(), Ok(None)), "nobody reached it");
    listener.kill().unwrap();
    listener.wait().unwrap();
}

/// 41, 56: all that can be read inside, searched: for what the server's environment holds, and for a secret of another sandbox.
#[tokio::test]
async fn a_search_through_all_that_is_inside_finds_neither_the_server_s_environment_nor_another_s_secret() {
    const SEARCH: &str = r#"
import stat
wanted = [part.encode() for part in WANTED]
found, read = [], 0
def look(path):
    global read
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode): return
        with open(path, "rb", buffering=0) as file:
            data, read = file.read(1 << 20), read + 1
    except OSError: return
    found.extend(f"{path}: {part}" for part in wanted if part in data)
for top in ("/bundle", "/workspace", "/tmp", "/dev", "/etc", "/run", "/proc"):
    for folder, folders, files in os.walk(top, followlinks=False):
        # Of one's own memory, one knows what is in it: these words, too.
        if folder.count("/") > 5: folders.clear()
        for name in files:
            if name not in ("mem", "kmsg"): look(os.path.join(folder, name))
print(read > 100, found)
"#;
    as_both("host::a_search_through_all_that_is_inside_finds_neither_the_server_s_environment_nor_another_s_secret", async |cage| {
        let theirs = "other-sandbox-secret-5d41c0";
        let _other = cage.boot_as(&cage.spec("other"), vec![secret("KEY", theirs)]).await;
        let mut sandbox = cage.boot("one").await;
        // In halves, so that the search does not find itself.
        let (one, two) = theirs.split_at(8);
        let manifest = env!("CARGO_MANIFEST_DIR");
        let (half, rest) = manifest.split_at(manifest.len() / 2);
        let wanted = format!("WANTED = [{one:?} + {two:?}, 'CARGO_MANIFEST_DIR=' + {half:?} + {rest:?}]\n");
        assert_eq!(sandbox.run(&format!("{wanted}{SEARCH}")).await, "True []\n");
    })
    .await;
}
