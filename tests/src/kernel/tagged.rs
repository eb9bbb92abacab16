//! A program that gives a packet a tag and then becomes one of ours: a test run can set
//! a packet's mark, but not its `tc_index`. Written in instructions, so that the object
//! under test has nothing in it that only tests need.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
/// `BPF_MAP_TYPE_PROG_ARRAY`.
const PROG_ARRAY: u32 = 3;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `struct __sk_buff` (linux/bpf.h): its size, and where its fields are.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const TC_INDEX: i16 = 44;
const CB: usize = 48;
/// What the program answers if the tail call failed.
const NOT_CALLED: i32 = 77;

/// How a packet arrives at a hook.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Its mark.
    pub mark: u32,
    /// Its tag.
    pub tag: u16,
    /// Interface it entered the node by; 0 if the node's stack made it.
    pub ingress_ifindex: u32,
}

/// One of our programs, run behind a tag.
pub struct Tagged {
    program: OwnedFd,
    _programs: OwnedFd,
}

impl Tagged {
    /// Before this program.
    pub fn before(target: BorrowedFd<'_>) -> Result<Self> {
        let programs = create_array().context("create a program array")?;
        update(&programs, target).context("put the program in the array")?;
        let program = load(&programs).context("load the tagging program")?;
        Ok(Self {
            program,
            _programs: programs,
        })
    }

    /// Runs it over a frame: return code and mark afterwards.
    ///
    /// # Errors
    ///
    /// The kernel's, as for frames too short for their ethertype.
    pub fn run(&self, frame: &[u8], arrival: Arrival) -> Result<(u32, u32)> {
        let mut context = [0_u8; CONTEXT];
        let mut set = |at: usize, value: u32| {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        };
        set(MARK, arrival.mark);
        set(INGRESS_IFINDEX, arrival.ingress_ifindex);
        set(CB, u32::from(arrival.tag));
        let mut after = [0_u8; CONTEXT];
        let mut attr = TestRun {
            program: self.program.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            context_size_in: CONTEXT as u32,
            context_size_out: CONTEXT as u32,
            context_in: context.as_ptr() as u64,
            context_out: after.as_mut_ptr() as u64,
            repeat: 1,
            ..TestRun::default()
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        anyhow::ensure!(attr.answer != NOT_CALLED as u32, "the tail call failed");
        let mut mark = [0; 4];
        mark.copy_from_slice(&after[MARK..MARK + 4]);
        Ok((attr.answer, u32::from_ne_bytes(mark)))
    }
}

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The part of `union bpf_attr` that creates a map.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The part that updates one.
#[repr(C)]
#[derive(Default)]
struct Update {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The part that runs one.
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
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

fn create_array() -> io::Result<OwnedFd> {
    let mut attr = Create {
        kind: PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    let fd = bpf(MAP_CREATE, &mut attr)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn update(programs: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, target.as_raw_fd() as u32);
    let mut attr = Update {
        map: programs.as_fd().as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        ..Update::default()
    };
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

fn load(programs: &OwnedFd) -> io::Result<OwnedFd> {
    let instruction = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    let array = programs.as_raw_fd();
    let instructions = [
        // r2 = context.cb[0]; context.tc_index = r2
        instruction(0x61, 0x12, CB as i16, 0),
        instruction(0x63, 0x21, TC_INDEX, 0),
        // tail_call(context, array, 0); `1` says that the number is a map's descriptor.
        instruction(0x18, 0x12, 0, array),
        instruction(0, 0, 0, 0),
        instruction(0xb7, 0x03, 0, 0),
        instruction(0x85, 0, 0, 12),
        instruction(0xb7, 0, 0, NOT_CALLED),
        instruction(0x95, 0, 0, 0),
    ];
    let license = c"GPL";
    let mut attr = Load {
        kind: SCHED_CLS,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is the part of `union bpf_attr` that the command reads, with its
    // true size, and the addresses in it are of live buffers of the sizes stated.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
