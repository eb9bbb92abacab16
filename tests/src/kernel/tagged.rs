//! A program that gives a packet a tag and then becomes one of ours: a test run can set
//! a packet's mark, but not its `tc_index`. Written in instructions, so that the object
//! under test has nothing in it that only tests need.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use tidegate_bpf::{
    map::Map,
    testing::{self, Instruction, MapKind, ProgramKind},
};

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
    _programs: Map<u32, u32>,
}

impl Tagged {
    /// Before this program.
    pub fn before(target: BorrowedFd<'_>) -> Result<Self> {
        let array = testing::create::<u32, u32>(MapKind::BPF_MAP_TYPE_PROG_ARRAY, 1)
            .context("create a program array")?;
        let program = load_before(&array).context("load the tagging program")?;
        let programs = Map::<u32, u32>::new(array)?;
        programs
            .put(&0, &(target.as_raw_fd() as u32))
            .context("put the program in the array")?;
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
        let outcome = testing::run(self.program.as_fd(), frame, &mut context, 1)?;
        anyhow::ensure!(outcome.answer != NOT_CALLED as u32, "the tail call failed");
        let mut mark = [0; 4];
        mark.copy_from_slice(&context[MARK..MARK + 4]);
        Ok((outcome.answer, u32::from_ne_bytes(mark)))
    }
}

fn load_before(array: &OwnedFd) -> io::Result<OwnedFd> {
    let instruction = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    let instructions = [
        // r2 = context.cb[0]; context.tc_index = r2
        instruction(0x61, 0x12, CB as i16, 0),
        instruction(0x63, 0x21, TC_INDEX, 0),
        // tail_call(context, array, 0); `1` says that the number is a map's descriptor.
        instruction(0x18, 0x12, 0, array.as_raw_fd()),
        instruction(0, 0, 0, 0),
        instruction(0xb7, 0x03, 0, 0),
        instruction(0x85, 0, 0, 12),
        instruction(0xb7, 0, 0, NOT_CALLED),
        instruction(0x95, 0, 0, 0),
    ];
    testing::load(ProgramKind::BPF_PROG_TYPE_SCHED_CLS, &instructions)
}
