//! Programs that do nothing, two instructions long: what a hook costs by itself. The
//! loader wants an object file, so these go to the kernel by hand.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
pub(super) use tidegate_bpf::testing::ProgramKind;
use tidegate_bpf::testing::{self, Instruction};

/// A loaded program that returns a constant.
pub(super) struct Empty {
    program: OwnedFd,
}

impl Empty {
    /// Loads a program that returns `code`.
    pub(super) fn load(kind: ProgramKind, code: i32) -> Result<Self> {
        let instruction = |code, immediate| Instruction {
            code,
            registers: 0,
            offset: 0,
            immediate,
        };
        // r0 = code; exit
        let instructions = [instruction(0xb7, code), instruction(0x95, 0)];
        let program = testing::load(kind, &instructions).context("load an empty program")?;
        Ok(Self { program })
    }

    /// Runs it over a frame: the return code and the mean nanoseconds.
    pub(super) fn run(&self, frame: &[u8], repeat: u32) -> Result<(u32, u32)> {
        let outcome = testing::run(self.program.as_fd(), frame, &mut [], repeat)
            .context("run an empty program")?;
        Ok((outcome.answer, outcome.nanoseconds))
    }
}
