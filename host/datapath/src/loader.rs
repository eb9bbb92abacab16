//! Loads the embedded object: maps are made, or adopted from their pins; every
//! program passes the verifier before anything that runs is touched.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};
use tidegate_bpf::program::ProgramInfo;
use tidegate_ebpf_shared::maps::map;

use super::{
    DatapathError,
    bpffs::Pins,
    kernel_features,
    tables::{TableLimits, copies},
};

/// Loaded programs by name.
pub(super) struct Programs(BTreeMap<String, LoadedProgram>);

/// A program the verifier has accepted.
pub(super) struct LoadedProgram {
    /// Its descriptor.
    pub(super) fd: OwnedFd,
    /// Kernel's id.
    pub(super) id: u32,
}

impl Programs {
    /// A program by its name in `tidegate_ebpf_shared::maps::program`.
    pub(super) fn get(&self, name: &'static str) -> Result<&LoadedProgram, DatapathError> {
        self.0.get(name).ok_or(DatapathError::MissingProgram(name))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &LoadedProgram)> {
        self.0
            .iter()
            .map(|(name, program)| (name.as_str(), program))
    }
}

/// Makes or adopts the maps and loads every program. Nothing is attached.
pub(super) fn load(pins: &Pins, limits: &TableLimits) -> Result<Programs, DatapathError> {
    let paths = map::ALL.map(|name| (name, pins.maps.join(name)));
    let mut loader = EbpfLoader::new();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
        if let Some(capacity) = limits.of(name) {
            loader.map_max_entries(name, capacity.saturating_mul(copies(name)));
        }
    }
    let mut object = loader
        .load(tidegate_artifacts::KERNEL)
        .map_err(|error| refused(error, |error| DatapathError::Object(Box::new(error))))?;
    let mut programs = BTreeMap::new();
    for (name, program) in object.programs_mut() {
        let failed = |source| DatapathError::Program {
            program: name.to_owned(),
            source: Box::new(source),
        };
        load_program(program).map_err(failed)?;
        let fd = program
            .fd()
            .and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?))
            .map_err(failed)?;
        let id = ProgramInfo::of(fd.as_fd())
            .map_err(|error| failed(error.into()))?
            .id;
        programs.insert(name.to_owned(), LoadedProgram { fd, id });
    }
    Ok(Programs(programs))
}

/// The verifier's turn. It gives up with `EAGAIN` where a signal waits for this thread, and has
/// said nothing of the program then (`do_check` of `kernel/bpf/verifier.c`; libbpf tries as
/// often).
fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match load_once(program) {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            outcome => return outcome,
        }
    }
    load_once(program)
}

/// aya keeps the kinds apart; all of ours load without arguments.
fn load_once(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// A refusal for lack of rights gets its own, clearer, error.
fn refused<E: std::error::Error + 'static>(
    error: E,
    otherwise: impl FnOnce(E) -> DatapathError,
) -> DatapathError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return kernel_features::not_permitted(io::Error::from_raw_os_error(libc::EPERM));
        }
        cause = current.source();
    }
    otherwise(error)
}
