//! The system calls a helper process keeps. Everything else fails with `EPERM` from then
//! on (seccomp(2)): code that broke out of its sandbox into the process finds no file it
//! could open, no program it could start and no process it could look into.

use std::{collections::BTreeMap, io};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// A system call that stays allowed.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    number: c_long,
    only: Only,
}

/// What an argument must be like.
#[derive(Clone, Copy, Debug)]
enum Only {
    /// Anything.
    Any,
    /// The argument of this index, one of these values.
    OneOf(u8, &'static [u32]),
    /// The argument of this index, with all these bits set.
    With(u8, u32),
    /// The first argument, this process.
    OwnProcess,
}

impl Call {
    /// With any arguments.
    pub const fn any(number: c_long) -> Self {
        Self {
            number,
            only: Only::Any,
        }
    }

    /// Only while the argument of index `argument` is one of `values`.
    pub const fn one_of(number: c_long, argument: u8, values: &'static [u32]) -> Self {
        Self {
            number,
            only: Only::OneOf(argument, values),
        }
    }

    fn rules(self) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let rule = |argument, operator, value: u32| {
            let condition = SeccompCondition::new(
                argument,
                SeccompCmpArgLen::Dword,
                operator,
                u64::from(value),
            )?;
            SeccompRule::new(vec![condition])
        };
        match self.only {
            Only::Any => Ok(Vec::new()),
            Only::OneOf(argument, values) => values
                .iter()
                .map(|value| rule(argument, SeccompCmpOp::Eq, *value))
                .collect(),
            Only::With(argument, bits) => {
                let operator = SeccompCmpOp::MaskedEq(u64::from(bits));
                Ok(vec![rule(argument, operator, bits)?])
            }
            Only::OwnProcess => Ok(vec![rule(0, SeccompCmpOp::Eq, std::process::id())?]),
        }
    }
}

/// What any Rust program needs: memory, threads of its own, time, and the descriptors it
/// has. None of them takes a path but `statx`, which only looks.
pub const BASIC: &[Call] = &[
    // Descriptors.
    Call::any(libc::SYS_read),
    Call::any(libc::SYS_readv),
    Call::any(libc::SYS_pread64),
    Call::any(libc::SYS_write),
    Call::any(libc::SYS_writev),
    Call::any(libc::SYS_close),
    Call::any(libc::SYS_dup),
    Call::any(libc::SYS_fcntl),
    Call::any(libc::SYS_statx),
    Call::any(libc::SYS_fstat),
    Call::any(libc::SYS_lseek),
    Call::one_of(
        libc::SYS_ioctl,
        1,
        // Is this a terminal? Do not block.
        &[libc::TCGETS as u32, libc::FIONBIO as u32],
    ),
    // Memory. Executable memory is what a compiler's output is, so it cannot be refused.
    Call::any(libc::SYS_brk),
    Call::any(libc::SYS_mmap),
    Call::any(libc::SYS_mprotect),
    Call::any(libc::SYS_mremap),
    Call::any(libc::SYS_munmap),
    Call::any(libc::SYS_madvise),
    Call::any(libc::SYS_membarrier),
    Call::any(libc::SYS_memfd_create),
    Call::any(libc::SYS_ftruncate),
    // Threads; `clone` makes no process.
    Call {
        number: libc::SYS_clone,
        only: Only::With(0, libc::CLONE_THREAD as u32),
    },
    Call::any(libc::SYS_exit),
    Call::any(libc::SYS_exit_group),
    Call::any(libc::SYS_futex),
    Call::any(libc::SYS_getpid),
    Call::any(libc::SYS_gettid),
    Call::any(libc::SYS_rseq),
    Call::any(libc::SYS_sched_getaffinity),
    Call::any(libc::SYS_sched_setaffinity),
    Call::any(libc::SYS_sched_yield),
    Call::any(libc::SYS_set_robust_list),
    Call::one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u32]),
    // Signals to itself: an abort, a trap in compiled code.
    Call::any(libc::SYS_restart_syscall),
    Call::any(libc::SYS_rt_sigaction),
    Call::any(libc::SYS_rt_sigprocmask),
    Call::any(libc::SYS_rt_sigreturn),
    Call::any(libc::SYS_sigaltstack),
    Call {
        number: libc::SYS_tgkill,
        only: Only::OwnProcess,
    },
    // Time and chance.
    Call::any(libc::SYS_clock_gettime),
    Call::any(libc::SYS_clock_nanosleep),
    Call::any(libc::SYS_getrandom),
];

/// Allows this thread, and those it starts from now on, these calls and no others. It
/// cannot be undone, and no new privileges can be had afterwards.
///
/// # Errors
///
/// On a machine for which no filter can be made, or a kernel without seccomp.
pub fn allow_only(calls: &[&[Call]]) -> io::Result<()> {
    // `clone3` keeps its flags in memory, where no filter sees them. The C library falls
    // back to `clone` if the kernel does not know it.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    apply(clone3, SeccompAction::Allow, unknown)?;

    let rules: Result<BTreeMap<_, _>, _> = calls
        .iter()
        .copied()
        .flatten()
        // Answered by the first filter.
        .chain(&[Call::any(libc::SYS_clone3)])
        .map(|call| Ok((call.number, call.rules()?)))
        .collect();
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    apply(rules.map_err(invalid)?, refused, SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(invalid)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(invalid)?;
    let program = BpfProgram::try_from(filter).map_err(invalid)?;
    apply_filter(&program).map_err(io::Error::other)
}

fn invalid(error: seccompiler::BackendError) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, error)
}

#[cfg(test)]
mod tests {
    use std::{fs, io, net::TcpListener, process::Command, thread};

    use super::*;

    /// Filters are a thread's own, so each case has its thread.
    fn confined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            allow_only(&[BASIC]).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn no_file_program_or_socket_can_be_had() {
        assert!(confined(|| refused(fs::read("/etc/passwd"))));
        assert!(confined(|| refused(fs::write("/dev/null", "x"))));
        assert!(confined(|| refused(Command::new("/bin/true").status())));
        assert!(confined(|| refused(TcpListener::bind("127.0.0.1:0"))));
    }

    #[test]
    fn no_process_can_be_made_or_met() {
        // SAFETY: these calls are refused; if one were not, the child would end at once
        // and the signal 0 would only ask whether the process is there.
        let forked = confined(|| unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            child
        });
        assert_eq!(forked, -1);
        // SAFETY: as above.
        assert_eq!(confined(|| unsafe { libc::kill(1, 0) }), -1);
        // SAFETY: as above.
        let other = confined(|| unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) });
        assert_eq!(other, -1);
    }

    #[test]
    fn threads_memory_and_time_go_on() {
        let sum = confined(|| {
            let work = || {
                thread::sleep(std::time::Duration::from_millis(1));
                vec![1_u64; 1 << 20].iter().sum::<u64>()
            };
            let threads = [thread::spawn(work), thread::spawn(work)];
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(sum, [1 << 20; 2]);
    }
}
