//! What can go wrong between the agent and the kernel, in words an operator can act on.

use std::{io, path::PathBuf};
use tidegate_policy::compiled::Generation;

/// An error of the datapath. Each says what was tried; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process may not use BPF at all.
    #[error(
        "loading kernel programs needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN for the bpffs mount); this process runs as uid {uid} and the kernel said no"
    )]
    NotPermitted {
        /// Effective user id.
        uid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The place for pins could not be prepared.
    #[error("cannot {action} {path}")]
    Bpffs {
        /// What was tried: `mount a bpffs at`, …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another agent tends these pins, or this network namespace.
    #[error(
        "another agent (pid {pid}) works with {}; two would overwrite each other's tables: stop it first, or give this one its own `node.runDir`, `node.bpffs` and `node.stateDir`, in a network namespace of its own", path.display()
    )]
    Owned {
        /// What both want.
        path: PathBuf,
        /// Its process id.
        pid: String,
    },
    /// The embedded object was refused as a whole (maps could not be made, …).
    #[error("cannot load the kernel object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The verifier or the loader refused a program.
    #[error("cannot load kernel program {program}")]
    Program {
        /// Name as in `tidegate_ebpf_shared::maps::program`.
        program: String,
        /// The loader's words, with the end of the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// The embedded object has no such program.
    #[error("the kernel object has no program {0}")]
    MissingProgram(&'static str),
    /// A pinned table has another capacity than the configuration asks for.
    #[error(
        "{key}: table {table} is pinned with room for {found} entries, and the configuration asks for {wanted}; a live table cannot be resized: set {key} to {found}, or run `tidegate cleanup` (drops policy and connection state) and start again"
    )]
    Capacity {
        /// Map name.
        table: &'static str,
        /// Key of the configuration that sets it.
        key: &'static str,
        /// Entries the pinned map has room for.
        found: u32,
        /// Entries the configuration asks for.
        wanted: u32,
    },
    /// A table does not have the layout this binary was built for.
    #[error(
        "table {table} has keys of {found_key} and values of {found_value} bytes, this binary expects {key} and {value}; run `tidegate cleanup` and start again"
    )]
    Layout {
        /// Map name.
        table: &'static str,
        /// Bytes of a key as found.
        found_key: u32,
        /// Bytes of a value as found.
        found_value: u32,
        /// Bytes of a key as expected.
        key: usize,
        /// Bytes of a value as expected.
        value: usize,
    },
    /// A table operation failed.
    #[error("cannot {action} table {table}")]
    Table {
        /// Map name.
        table: &'static str,
        /// What was tried: `open`, `read`, `write`, `delete from`.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The generation needs more room than a table has. Nothing was changed.
    #[error(
        "table {table} has room for {limit} entries, and this needs {needed}; raise the table's limit or simplify"
    )]
    Full {
        /// Map name.
        table: &'static str,
        /// Entries needed at the peak.
        needed: usize,
        /// Entries there is room for.
        limit: u32,
    },
    /// Generations only go up.
    #[error("generation {given} is not newer than generation {active}, which is active")]
    StaleGeneration {
        /// Generation asked for.
        given: Generation,
        /// Generation in force.
        active: Generation,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {place}")]
    Attach {
        /// Program name.
        program: &'static str,
        /// Device, cgroup or namespace.
        place: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A listener could not be put in place.
    #[error("cannot use the proxy's listener of class {class} on CPU {cpu}: {reason}")]
    Listener {
        /// `tidegate_ebpf_shared::steer::class`.
        class: u32,
        /// CPU.
        cpu: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The routing rule or table for steered packets could not be changed.
    #[error("cannot {action} (routing of steered packets)")]
    Routes {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The event rings could not be opened.
    #[error("cannot read the event ring {ring}")]
    Events {
        /// Map name.
        ring: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl DatapathError {
    /// Adapter for table operations: `.map_err(DatapathError::table(NAME, "read"))`.
    pub(super) fn table(table: &'static str, action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Table {
            table,
            action,
            source,
        }
    }
}
