//! What this kernel must and may offer, probed rather than guessed from versions.

use std::{fs, io};

use serde::Serialize;

use super::{DatapathError, place};

/// Something the datapath wants of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFeature {
    /// What it is.
    pub name: &'static str,
    /// Is it there.
    pub present: bool,
    /// What does not work without it.
    pub needed_for: &'static str,
}

/// What is there and what is not, for `status` and for refusals people can act on.
pub fn kernel_features() -> Vec<KernelFeature> {
    let (major, minor) = release();
    let at_least = |wanted: (u32, u32)| (major, minor) >= wanted;
    let feature = |name, present, needed_for| KernelFeature {
        name,
        present,
        needed_for,
    };
    vec![
        feature(
            "tcx (Linux 6.6)",
            at_least((6, 6)),
            "policy on workload devices",
        ),
        feature(
            "sk_lookup (Linux 5.9)",
            at_least((5, 9)),
            "steering to the proxy",
        ),
        feature(
            "socket map links (Linux 6.10)",
            at_least((6, 10)),
            "first-byte hints",
        ),
        feature(
            "cgroup v2",
            place::cgroup_mount().is_some(),
            "service addresses and host services",
        ),
        feature(
            "BPF JIT",
            fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .is_ok_and(|text| text.trim() != "0"),
            "speed: programs are interpreted without it",
        ),
    ]
}

/// The refusal of a process without the rights to load programs.
pub(super) fn not_permitted(source: io::Error) -> DatapathError {
    DatapathError::NotPermitted {
        uid: nix::unistd::geteuid().as_raw(),
        source,
    }
}

/// Says at once if this process may not do what `Datapath::open` is about to.
pub(super) fn check_rights() -> Result<(), DatapathError> {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN | CAP_BPF;
    match effective {
        Some(bits) if bits & needed != needed => {
            Err(not_permitted(io::Error::from_raw_os_error(libc::EPERM)))
        }
        // Without procfs the kernel's own answer must do.
        _ => Ok(()),
    }
}

fn release() -> (u32, u32) {
    let Ok(name) = nix::sys::utsname::uname() else {
        return (0, 0);
    };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
