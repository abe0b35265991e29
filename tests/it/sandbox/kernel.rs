//! Ways out that lead through the kernel. Numbers of system calls are those of `x86_64`; elsewhere these tests say that they did not run.

use super::{as_both, cage::skipped};

/// Whether the numbers below mean anything here.
fn numbers_fit(test: &str) -> bool {
    if cfg!(target_arch = "x86_64") {
        return true;
    }
    skipped(test, "its system calls are numbered for x86_64");
    false
}

fn all_end_in(said: &str, count: usize, codes: &[&str]) {
    let fine = |line: &str| codes.iter().any(|code| line.ends_with(&format!(" {code}")));
    assert!(said.lines().count() == count && said.lines().all(fine), "{count} lines ending in {codes:?}:\n{said}");
}

/// 11.
#[tokio::test]
async fn only_sockets_of_the_usual_families_can_be_made() {
    as_both("kernel::only_sockets_of_the_usual_families_can_be_made", async |cage| {
        let said = cage
            .attempt(
                r"
for name, family, kind, protocol in [('vsock', 40, 1, 0), ('netlink', 16, 3, 0), ('packet', 17, 3, 0), ('alg', 38, 5, 0), ('icmp', 2, 3, 1),
                                     ('bluetooth', 31, 3, 0), ('can', 29, 3, 1), ('raw6', 10, 3, 58), ('xdp', 44, 3, 0), ('seqpacket-inet', 2, 5, 0)]:
    attempt(name, lambda: socket.socket(family, kind, protocol).close())
",
            )
            .await;
        all_end_in(&said, 10, &["EPERM"]);
        let said = cage.attempt("attempt('unix', lambda: socket.socketpair()[0].close())\nattempt('tcp', lambda: socket.socket().close())").await;
        assert_eq!(said, "unix ok\ntcp ok\n");
    })
    .await;
}

/// 12, 13, 15, 17, 20, 57.
#[tokio::test]
async fn calls_that_lead_out_are_refused() {
    const TEST: &str = "kernel::calls_that_lead_out_are_refused";
    if !numbers_fit(TEST) {
        return;
    }
    as_both(TEST, async |cage| {
        let said = cage
            .attempt(
                r"
calls = dict(unshare_user=(272, 0x10000000), unshare_net=(272, 0x40000000), clone_user=(56, 0x10000011, 0, 0, 0, 0), setns=(308, 0, 0),
    mount=(165, b'none', b'/workspace', b'tmpfs', 0, 0), remount=(165, b'none', b'/usr', b'', 32, 0), umount=(166, b'/proc', 2),
    open_tree=(428, -100, b'/', 1), move_mount=(429, 0, b'', 0, b'', 0), fsopen=(430, b'tmpfs', 0), pivot_root=(155, b'/', b'/tmp'), chroot=(161, b'/tmp'),
    bpf=(321, 0, 0, 0), perf=(298, 0, 0, -1, -1, 0), io_uring=(425, 1, 0), userfaultfd=(323, 0), keyctl=(250, 0, 0, 0), add_key=(248, b'user', b'x', b'y', 1, -3),
    open_by_handle=(304, -100, 0, 0), name_to_handle=(303, -100, b'/', 0, 0, 0), syslog=(103, 3, 0, 0), reboot=(169, 0, 0, 0, 0), init_module=(175, 0, 0, 0),
    kexec=(246, 0, 0, 0, 0), swapon=(167, b'/tmp', 0), acct=(163, 0), settime=(227, 0, 0), sethostname=(170, b'x', 1), iopl=(172, 3), ioperm=(173, 0, 1, 1),
    modify_ldt=(154, 0, 0, 0), personality=(135, 0x40000), quotactl=(179, 0, 0, 0, 0), ptrace=(101, 0, 0, 0, 0), process_vm_writev=(311, 1, 0, 0, 0, 0, 0),
    kcmp=(312, 1, 1, 0, 0, 0), fanotify=(300, 0, 0), memfd_secret=(447, 0), affinity=(203, 0, 8, b'\1' * 8), scheduler=(144, 0, 1, b'\1\0\0\0'), sched_attr=(314, 0, 0, 0),
    x32_getpid=(0x40000000 + 39,), x32_unshare=(0x40000000 + 272, 0x10000000), vmsplice=(278, 1, 0, 0, 0), capset=(126, 0, 0), sync=(162,), nfsservctl=(180,),
    seccomp_listener=(317, 1, 8, 0))
for name, args in calls.items():
    print(name, call(*args))
print('clone3', call(435, 0, 0))
print('tiocsti', call(16, 0, 0x5412, b'x'))
print('tioclinux', call(16, 0, 0x541C, b'x'))
",
            )
            .await;
        let (others, last): (Vec<_>, Vec<_>) = said.lines().partition(|line| !line.starts_with("clone3"));
        all_end_in(&others.join("\n"), 50, &["EPERM"]);
        assert_eq!(last, ["clone3 ENOSYS"]);
        let said = cage
            .attempt(
                r"
attempt('nice', lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
attempt('realtime', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
import threading; t = threading.Thread(target=print, args=('threads', 'ok')); t.start(); t.join()
",
            )
            .await;
        assert!(said.contains("nice EACCES") || said.contains("nice EPERM"), "{said}");
        assert!(said.contains("realtime EPERM") && said.contains("threads ok"), "{said}");
    })
    .await;
}

/// 14.
#[tokio::test]
async fn calls_of_another_architecture_kill() {
    const TEST: &str = "kernel::calls_of_another_architecture_kill";
    if !numbers_fit(TEST) {
        return;
    }
    as_both(TEST, async |cage| {
        // mov eax, 20 (getpid of i386); int 0x80; ret
        let said = cage
            .attempt(
                r"
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b'\xb8\x14\0\0\0\xcd\x80\xc3')
child = os.fork()
if child == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    os._exit(0)
status = os.waitpid(child, 0)[1]
print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else ('exit', os.WEXITSTATUS(status)))
",
            )
            .await;
        assert!(said == "31\n" || said == "11\n", "SIGSYS, or a kernel without i386: {said}");
    })
    .await;
}

/// 19: no file of a sandbox gives its owner's rights to whoever starts it on the host, by any of the calls that give a file its mode.
#[tokio::test]
async fn no_file_gets_a_setuid_bit() {
    const TEST: &str = "kernel::no_file_gets_a_setuid_bit";
    if !numbers_fit(TEST) {
        return;
    }
    as_both(TEST, async |cage| {
        let said = cage
            .attempt(
                r"
os.chdir('/workspace')
fd = os.open('file', os.O_CREAT | os.O_RDWR, 0o640)
for bit in (0o4000, 0o2000):
    mode = bit | 0o755
    for name, args in dict(chmod=(90, b'file', mode), fchmod=(91, fd, mode), fchmodat=(268, -100, b'file', mode), fchmodat2=(452, -100, b'file', mode, 0),
                           open=(2, b'new', os.O_CREAT | os.O_RDWR, mode), openat=(257, -100, b'new', os.O_CREAT | os.O_RDWR, mode), creat=(85, b'new', mode),
                           tmpfile=(257, -100, b'.', os.O_TMPFILE | os.O_RDWR, mode), mknod=(133, b'new', 0o100000 | mode, 0),
                           mknodat=(259, -100, b'new', 0o100000 | mode, 0)).items():
        print(name, call(*args))
",
            )
            .await;
        all_end_in(&said, 20, &["EPERM"]);
        let said = cage
            .attempt(
                r"
import struct, subprocess
print(call(437, -100, b'new', struct.pack('QQQ', os.O_CREAT | os.O_RDWR, 0o4755, 0), 24), os.path.exists('/workspace/new'))
os.chdir('/workspace')
attempt('mkdir', lambda: os.mkdir('folder', 0o6755))
# What needs no mode may leave anything in its place.
print(call(257, -100, b'/workspace', os.O_RDONLY, 0o7777))
os.chmod('file', 0o1777); os.mkfifo('pipe'); os.close(os.open('other', os.O_CREAT | os.O_EXCL, 0o777))
print([oct(os.stat(name).st_mode) for name in ('file', 'folder', 'other')])
print(subprocess.run('touch t; chmod 755 t; chmod u+s t', shell=True, capture_output=True, text=True).stderr.count('not permitted'))
",
            )
            .await;
        assert_eq!(said, "ENOSYS False\nmkdir ok\nok\n['0o101777', '0o40755', '0o100755']\n1\n");
    })
    .await;
}

/// 18, 19, 22, 23, 24, 25, 28.
#[tokio::test]
async fn no_privilege_can_be_gained() {
    as_both("kernel::no_privilege_can_be_gained", async |cage| {
        let mut sandbox = cage.boot("one").await;
        let said = sandbox
            .run(
                r"
import shutil, stat
status = dict(line.rstrip('\n').split(':\t', 1) for line in open('/proc/self/status') if ':\t' in line)
print([int(status[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')], status['NoNewPrivs'], status['Seccomp'])
print(os.getresuid(), os.getgroups() in ([], [65534], [1000]), open('/proc/self/uid_map').read().split()[0::2])
attempt('setuid', lambda: os.setuid(0))
attempt('setgroups', lambda: os.setgroups([0]))
attempt('block', lambda: os.mknod('/workspace/sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
attempt('char', lambda: os.mknod('/workspace/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
attempt('chown', lambda: os.chown('/workspace', 0, 0))
attempt('oom', lambda: open('/proc/self/oom_score_adj', 'w').write('-1000'))
attempt('uid_map', lambda: open('/proc/self/uid_map', 'w').write('0 0 1'))
",
            )
            .await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "[0, 0, 0, 0, 0] 1 2", "{said}");
        assert_eq!(lines[1], "(1000, 1000, 1000) True ['1000', '1']", "{said}");
        let refused = ["EPERM", "EINVAL", "EACCES", "EROFS"];
        assert!(lines.len() == 9 && lines[2..].iter().all(|line| refused.iter().any(|code| line.ends_with(code))), "{said}");
        let said = sandbox
            .run(
                r"
import shutil, subprocess
shutil.copy('/usr/bin/python3', '/workspace/python'); os.chmod('/workspace/python', 0o755)
print(subprocess.run(['/workspace/python', '-I', '-c', 'import os; print(os.getresuid())'], capture_output=True, text=True).stdout.strip())
fd = os.memfd_create('x', 0)
os.write(fd, open('/usr/bin/id', 'rb').read())
print(subprocess.run([f'/proc/self/fd/{fd}', '-u'], pass_fds=[fd], capture_output=True, text=True).stdout.strip())
print(subprocess.run(['su', '-c', 'id'], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0)
",
            )
            .await;
        assert_eq!(said, "(1000, 1000, 1000)\n1000\nTrue\n");
    })
    .await;
}
