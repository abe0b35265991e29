//! Which system calls a sandbox may make: an allow-list that `CPython`, shells, git and node live on. Whatever is not on it fails with EPERM;
//! another architecture's calls kill the process.

use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp::{self, Eq, MaskedEq, Ne},
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

#[rustfmt::skip]
/// Calls that are allowed whatever their arguments.
const ALLOWED: &[i64] = &[
    // Files that the mounts and Landlock let through.
    libc::SYS_read, libc::SYS_write, libc::SYS_close, libc::SYS_close_range, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_lseek, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_readv, libc::SYS_writev, libc::SYS_preadv, libc::SYS_pwritev,
    libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_sendfile, libc::SYS_splice, libc::SYS_tee, libc::SYS_copy_file_range,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fchmod,
    libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_truncate,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_sync_file_range, libc::SYS_flock, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_umask, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_fremovexattr, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Memory.
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_brk, libc::SYS_msync, libc::SYS_mincore,
    libc::SYS_madvise, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_munlockall,
    libc::SYS_memfd_create, libc::SYS_membarrier, libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt,
    libc::SYS_semget, libc::SYS_semop, libc::SYS_semctl, libc::SYS_semtimedop,
    // Waiting and time.
    libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_timer_create,
    libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete, libc::SYS_nanosleep,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_gettimeofday, libc::SYS_getitimer,
    libc::SYS_setitimer, libc::SYS_restart_syscall,
    // Processes and signals of its own namespace.
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_kill,
    libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_set_tid_address, libc::SYS_gettid,
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_prctl,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_capget, libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_rr_get_interval, libc::SYS_getcpu, libc::SYS_getrlimit, libc::SYS_setrlimit,
    libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_times, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getrandom,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
    // Sockets; which kinds there are is said below.
    libc::SYS_connect, libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_listen, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg,
    libc::SYS_recvmmsg, libc::SYS_shutdown, libc::SYS_setsockopt, libc::SYS_getsockopt,
];

#[rustfmt::skip]
/// What only this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_rename, libc::SYS_link, libc::SYS_unlink, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_lchown, libc::SYS_mknod, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_getdents, libc::SYS_pipe,
    libc::SYS_dup2, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_pause, libc::SYS_alarm, libc::SYS_time, libc::SYS_fork, libc::SYS_vfork,
    libc::SYS_getpgrp, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

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

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let is = |arg: u8, op: SeccompCmpOp, value: u64| SeccompCondition::new(arg, Dword, op, value);
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let flags = SeccompCondition::new(0, Qword, MaskedEq(number(NAMESPACES)), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![flags])?]);
    // Of the families of sockets there are two for the net, which the network namespace leaves empty, and the one for pipes with a name.
    let unix = SeccompRule::new(vec![is(0, Eq, number(libc::AF_UNIX))?])?;
    let mut sockets = vec![unix.clone()];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            sockets.push(SeccompRule::new(vec![is(0, Eq, number(family))?, is(1, MaskedEq(0xf), number(kind))?])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_socketpair, vec![unix]);
    let tricks = TERMINAL_TRICKS.iter().map(|trick| is(1, Ne, *trick)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(tricks)?]);
    // Asking is fine, changing is not.
    rules.insert(libc::SYS_personality, vec![SeccompRule::new(vec![is(0, Eq, 0xffff_ffff)?])?, SeccompRule::new(vec![is(0, Eq, 0)?])?]);
    // A filter may be followed by a stricter one: ours is.
    let set_filter = is(0, Eq, u64::from(libc::SECCOMP_SET_MODE_FILTER))?;
    rules.insert(libc::SYS_seccomp, vec![SeccompRule::new(vec![set_filter, SeccompCondition::new(1, Qword, Eq, 0)?])?]);
    Ok(rules)
}

/// Closes the door behind this thread and everything that it will start.
pub(super) fn restrict() -> Result<(), String> {
    let say = |error: &dyn std::fmt::Display| format!("the system calls could not be restricted: {error}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| say(&error))?;
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    // `clone3` hides its flags in memory, where no filter can look. It must look as if it did not exist, so that libraries take `clone`; of
    // two filters that refuse, the one installed last has the word.
    let absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
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
