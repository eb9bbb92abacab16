//! Maps and programs made out of nothing, and programs run over packets: for tests and
//! benches.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use aya_obj::generated::BPF_F_NO_PREALLOC;
pub use aya_obj::generated::{bpf_map_type as MapKind, bpf_prog_type as ProgramKind};

use crate::call::{Command, bpf, bpf_fd, raw};

#[repr(C)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// A new map of the kernel with keys `K` and values `V`.
///
/// # Errors
///
/// The kernel's: making one needs root.
pub fn create<K, V>(kind: MapKind, entries: u32) -> io::Result<OwnedFd> {
    let flags = match kind {
        // The kernel makes no other ones.
        MapKind::BPF_MAP_TYPE_LPM_TRIE => BPF_F_NO_PREALLOC,
        _ => 0,
    };
    let mut attr = CreateMap {
        kind: kind as u32,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries: entries,
        flags,
    };
    // SAFETY: `BPF_MAP_CREATE` reads integers and answers with a descriptor.
    unsafe { bpf_fd(Command::BPF_MAP_CREATE, &mut attr) }
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high one.
    pub registers: u8,
    /// Offset.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// Loads a program.
///
/// # Errors
///
/// The kernel's: loading needs root, and the verifier's consent.
pub fn load(kind: ProgramKind, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: kind as u32,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: `BPF_PROG_LOAD` reads `count` instructions and the license up to its NUL, and
    // answers with a descriptor.
    unsafe { bpf_fd(Command::BPF_PROG_LOAD, &mut attr) }
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    answer: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return code.
    pub answer: u32,
    /// Mean time of a run, nanoseconds.
    pub nanoseconds: u32,
}

/// Runs a packet program over a frame as often as `repeat` says. `context` is what of
/// `struct __sk_buff` a run may set, and holds afterwards what the program left in it;
/// empty for none.
///
/// # Errors
///
/// The kernel's, as for frames too short for their ethertype.
pub fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &mut [u8],
    repeat: u32,
) -> io::Result<Outcome> {
    let before = context.to_vec();
    let has = |address: u64| if before.is_empty() { 0 } else { address };
    let mut attr = TestRun {
        program: raw(program),
        data_size_in: frame.len() as u32,
        // A program that sees no frame refuses one of no bytes.
        data_in: if frame.is_empty() {
            0
        } else {
            frame.as_ptr() as u64
        },
        repeat,
        context_size_in: before.len() as u32,
        context_size_out: before.len() as u32,
        context_in: has(before.as_ptr() as u64),
        context_out: has(context.as_mut_ptr() as u64),
        ..TestRun::default()
    };
    // SAFETY: `BPF_PROG_TEST_RUN` reads and writes as many bytes as the sizes say, all of
    // buffers that are alive.
    unsafe { bpf(Command::BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(Outcome {
        answer: attr.answer,
        nanoseconds: attr.duration,
    })
}
