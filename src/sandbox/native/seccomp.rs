//! Which system calls a sandbox may make: an allow-list that `CPython`, shells, git and node live on. Whatever is not on it fails with EPERM;
//! another architecture's calls kill the process.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde_json::json;
use std::collections::BTreeMap;

/// A system call: its name, for those who know it by that, and its number.
type Call = (&'static str, i64);

macro_rules! calls {
    ($($call:ident),* $(,)?) => { &[$((stringify!($call), libc::$call)),*] };
}

#[rustfmt::skip]
/// Calls that are allowed whatever their arguments.
const ALLOWED: &[Call] = calls![
    // Files that the mounts and Landlock let through.
    SYS_read, SYS_write, SYS_close, SYS_close_range, SYS_fstat, SYS_newfstatat, SYS_statx,
    SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_sendfile, SYS_splice, SYS_tee, SYS_copy_file_range,
    SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat,
    SYS_readlinkat, SYS_faccessat, SYS_faccessat2, SYS_fchown, SYS_fchownat, SYS_utimensat,
    SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_fadvise64, SYS_readahead, SYS_fsync,
    SYS_fdatasync, SYS_sync_file_range, SYS_flock, SYS_fcntl, SYS_dup, SYS_dup3, SYS_pipe2,
    SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_umask, SYS_statfs, SYS_fstatfs,
    SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
    SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr,
    SYS_fremovexattr, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
    // Memory.
    SYS_mmap, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_brk, SYS_msync, SYS_mincore,
    SYS_madvise, SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall,
    SYS_memfd_create, SYS_membarrier, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt,
    SYS_semget, SYS_semop, SYS_semctl, SYS_semtimedop,
    // Waiting and time.
    SYS_futex, SYS_futex_waitv, SYS_set_robust_list, SYS_get_robust_list, SYS_rseq, SYS_ppoll,
    SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_timer_create,
    SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_nanosleep,
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_gettimeofday, SYS_getitimer,
    SYS_setitimer, SYS_restart_syscall,
    // Processes and signals of its own namespace.
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_kill,
    SYS_tkill, SYS_tgkill, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo, SYS_rt_sigsuspend, SYS_sigaltstack, SYS_set_tid_address, SYS_gettid,
    SYS_getpid, SYS_getppid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_prctl,
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid,
    SYS_getresgid, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid,
    SYS_setresgid, SYS_capget, SYS_getpriority, SYS_setpriority, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_getcpu, SYS_getrlimit, SYS_setrlimit,
    SYS_prlimit64, SYS_getrusage, SYS_times, SYS_sysinfo, SYS_uname, SYS_getrandom,
    SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self,
    // Sockets; which kinds there are is said below.
    SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_getsockname,
    SYS_getpeername, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg,
    SYS_recvmmsg, SYS_shutdown, SYS_setsockopt, SYS_getsockopt,
];

#[rustfmt::skip]
/// What only this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[Call] = calls![
    SYS_stat, SYS_lstat, SYS_access, SYS_mkdir, SYS_rmdir, SYS_rename, SYS_link,
    SYS_unlink, SYS_symlink, SYS_readlink, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_getdents, SYS_pipe,
    SYS_dup2, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd,
    SYS_signalfd, SYS_inotify_init, SYS_pause, SYS_alarm, SYS_time, SYS_fork, SYS_vfork,
    SYS_getpgrp, SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[Call] = &[];

/// New namespaces are the beginning of most ways out.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `ioctl`s by which a terminal's owner can be made to type.
const TERMINAL_TRICKS: [u64; 3] = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD];

/// A constant of C's, all of which are above zero here.
fn number(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// One of a call's arguments, under a mask, has a value. The kernel reads `int`s of which the upper half is nobody's.
struct Check {
    arg: u8,
    mask: u64,
    value: u64,
}

const INT: u64 = 0xffff_ffff;

fn int(arg: u8, value: i32) -> Check {
    Check { arg, mask: INT, value: u64::from(value.cast_unsigned()) }
}

/// The bits by which a file, once it is started, gives its owner's rights away.
const SET_ID: u64 = 0o6000;
/// `O_CREAT` and `O_TMPFILE` alone look at a mode; without them the argument is whatever lay there.
const CREATES: u64 = 0o100 | 0o20_000_000;

/// Calls that give a file its mode, and which argument that is; and those that do only with these flags, the argument before. A folder's mode
/// the kernel strips itself. `openat2` keeps its mode in memory, see [`ABSENT`].
fn modes() -> Vec<(Call, Vec<Vec<Check>>)> {
    let plain = |arg| vec![vec![Check { arg, mask: SET_ID, value: 0 }]];
    let opens = |arg| vec![vec![Check { arg: arg - 1, mask: CREATES, value: 0 }], vec![Check { arg, mask: SET_ID, value: 0 }]];
    let mut calls = vec![
        (("SYS_fchmod", libc::SYS_fchmod), plain(1)),
        (("SYS_fchmodat", libc::SYS_fchmodat), plain(2)),
        (("SYS_fchmodat2", libc::SYS_fchmodat2), plain(2)),
        (("SYS_mknodat", libc::SYS_mknodat), plain(2)),
        (("SYS_openat", libc::SYS_openat), opens(3)),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        (("SYS_chmod", libc::SYS_chmod), plain(1)),
        (("SYS_mknod", libc::SYS_mknod), plain(1)),
        (("SYS_creat", libc::SYS_creat), plain(1)),
        (("SYS_open", libc::SYS_open), opens(2)),
    ]);
    calls
}

/// Calls that hide in memory, where no filter can look, what has to be looked at. They must look as if they did not exist, so that libraries
/// take the older ones.
const ABSENT: [Call; 2] = [("SYS_clone3", libc::SYS_clone3), ("SYS_openat2", libc::SYS_openat2)];

/// Calls that are allowed for some arguments: if all checks of one of the lists hold.
fn checked() -> Vec<(Call, Vec<Vec<Check>>)> {
    // Of the families of sockets there are two for the net, which the network namespace leaves empty, and the one for pipes with a name.
    let mut sockets = vec![vec![int(0, libc::AF_UNIX)]];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            sockets.push(vec![int(0, family), Check { arg: 1, mask: 0xf, value: number(kind) }]);
        }
    }
    let set_filter = Check { arg: 0, mask: INT, value: u64::from(libc::SECCOMP_SET_MODE_FILTER) };
    let mut calls = modes();
    calls.extend([
        (("SYS_clone", libc::SYS_clone), vec![vec![Check { arg: 0, mask: number(NAMESPACES), value: 0 }]]),
        (("SYS_ioctl", libc::SYS_ioctl), all_but(&TERMINAL_TRICKS).map(|check| vec![check]).collect()),
        (("SYS_socket", libc::SYS_socket), sockets),
        (("SYS_socketpair", libc::SYS_socketpair), vec![vec![int(0, libc::AF_UNIX)]]),
        // Asking is fine, changing is not.
        (("SYS_personality", libc::SYS_personality), vec![vec![int(0, -1)], vec![int(0, 0)]]),
        // A filter may be followed by a stricter one: ours is.
        (("SYS_seccomp", libc::SYS_seccomp), vec![vec![set_filter, Check { arg: 1, mask: u64::MAX, value: 0 }]]),
    ]);
    calls
}

/// Checks of a second argument of which one holds for every `int` but these: "not equal" in the words of "equal under a mask".
fn all_but(codes: &[u64]) -> impl Iterator<Item = Check> {
    let mut blocks = vec![Check { arg: 1, mask: 0, value: 0 }];
    std::iter::from_fn(move || {
        while let Some(Check { arg, mask, value }) = blocks.pop() {
            if !codes.iter().any(|code| code & mask == value) {
                return Some(Check { arg, mask, value });
            } else if mask != INT {
                let (bit, mask) = (1 << (31 - mask.count_ones()), mask >> 1 | 1 << 31);
                blocks.extend([Check { arg, mask, value }, Check { arg, mask, value: value | bit }]);
            }
        }
        None
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|(_, call)| (*call, Vec::new())).collect();
    for ((_, call), lists) in checked() {
        let rule = |checks: Vec<Check>| {
            let conditions = checks.iter().map(|check| SeccompCondition::new(check.arg, Qword, MaskedEq(check.mask), check.value));
            conditions.collect::<Result<_, _>>().and_then(SeccompRule::new)
        };
        rules.insert(call, lists.into_iter().map(rule).collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

/// The same list in the words of container engines, whose library knows calls by name and of comparisons, under a mask, only equality.
pub(in crate::sandbox) fn profile() -> String {
    let plain = |call: &'static str| call.trim_start_matches("SYS_");
    let allowed: Vec<&str> = ALLOWED.iter().chain(ALLOWED_HERE).map(|(name, _)| plain(name)).collect();
    let mut calls = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    let told = |check: &Check| json!({ "index": check.arg, "value": check.mask, "valueTwo": check.value, "op": "SCMP_CMP_MASKED_EQ" });
    let mut allow = |name: &str, checks: &[Check]| {
        let args: Vec<_> = checks.iter().map(told).collect();
        calls.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args }));
    };
    for ((name, _), lists) in checked() {
        lists.iter().for_each(|checks| allow(plain(name), checks));
    }
    calls.push(json!({ "names": ABSENT.map(|(name, _)| plain(name)), "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    let arch = if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "architectures": [arch], "syscalls": calls }).to_string()
}

/// Closes the door behind this thread and everything that it will start.
pub(super) fn restrict() -> Result<(), String> {
    let say = |error: &dyn std::fmt::Display| format!("the system calls could not be restricted: {error}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| say(&error))?;
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    // Of two filters that refuse, the one installed last has the word.
    let absent = Rules::from(ABSENT.map(|(_, call)| (call, Vec::new())));
    let filters = [
        rules().and_then(|rules| SeccompFilter::new(rules, errno(libc::EPERM), SeccompAction::Allow, arch)),
        SeccompFilter::new(absent, SeccompAction::Allow, errno(libc::ENOSYS), arch),
    ];
    for filter in filters {
        let program = filter.and_then(BpfProgram::try_from).map_err(|error| say(&error))?;
        seccompiler::apply_filter(&program).map_err(|error| say(&error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_a_terminal_s_trick_is_allowed_by_exactly_one_check() {
        let checks: Vec<Check> = all_but(&TERMINAL_TRICKS).collect();
        let holding = |code: u64| checks.iter().filter(|check| code & check.mask == check.value).count();
        for code in (0x5300..0x5600).chain([0, 1, 0x8004_5430, 0xffff_ffff]) {
            assert_eq!(holding(code), usize::from(!TERMINAL_TRICKS.contains(&code)), "{code:#x}");
            // The kernel does not look at the upper half; neither may the check.
            assert_eq!(holding(code | 0xdead_0000_0000_0000), holding(code), "{code:#x}");
        }
        assert!(checks.len() < 64, "{}", checks.len());
    }

    #[test]
    fn engines_get_the_same_list_in_their_words() {
        let profile: serde_json::Value = serde_json::from_str(&profile()).unwrap();
        assert_eq!((&profile["defaultAction"], &profile["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
        let calls = profile["syscalls"].as_array().unwrap();
        let allowed = calls[0]["names"].as_array().unwrap();
        assert_eq!(allowed.len(), ALLOWED.len() + ALLOWED_HERE.len());
        for never in [
            "mount",
            "unshare",
            "setns",
            "ptrace",
            "bpf",
            "io_uring_setup",
            "keyctl",
            "clone",
            "clone3",
            "socket",
            "ioctl",
            "openat2",
            "fchmod",
        ] {
            assert!(!allowed.contains(&json!(never)), "{never}");
        }
        let of = |name: &str| calls.iter().filter(|rule| rule["names"] == json!([name])).collect::<Vec<_>>();
        let clone = of("clone");
        assert_eq!(clone.len(), 1);
        assert_eq!(clone[0]["args"], json!([{ "index": 0, "value": number(NAMESPACES), "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]));
        assert_eq!(of("socket").len(), 5);
        let absent = calls.iter().find(|rule| rule["errnoRet"] == json!(libc::ENOSYS)).unwrap();
        assert_eq!(absent["names"], json!(["clone3", "openat2"]));
        assert_eq!(rules().unwrap().len(), allowed.len() + checked().len(), "each call has one place");
    }
}
