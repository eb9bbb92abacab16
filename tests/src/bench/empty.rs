//! Programs that do nothing, two instructions long: what a hook costs by itself. The
//! loader wants an object file, so these go to the kernel by hand.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// `bpf(2)` commands (linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;

/// Program types (linux/bpf.h).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Kind {
    /// tcx.
    Tcx = 3,
    /// XDP.
    Xdp = 6,
}

/// A loaded program that returns a constant.
pub(super) struct Empty {
    program: OwnedFd,
}

impl Empty {
    /// Loads a program that returns `code`.
    pub(super) fn load(kind: Kind, code: i32) -> Result<Self> {
        // `r0 = code; exit` (linux/bpf.h, `struct bpf_insn`).
        let mut instructions = [0_u8; 16];
        instructions[0] = 0xb7;
        instructions[4..8].copy_from_slice(&code.to_ne_bytes());
        instructions[8] = 0x95;
        let license = c"GPL";
        let mut attributes = [0_u8; 128];
        put(&mut attributes, 0, &(kind as u32).to_ne_bytes());
        put(&mut attributes, 4, &2_u32.to_ne_bytes());
        put(&mut attributes, 8, &address(instructions.as_ptr()));
        put(&mut attributes, 16, &address(license.as_ptr()));
        let fd = bpf(PROG_LOAD, &mut attributes).context("load an empty program")?;
        // SAFETY: the kernel has just given us this descriptor.
        let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { program })
    }

    /// Runs it over a frame: the return code and the mean nanoseconds.
    pub(super) fn run(&self, frame: &[u8], repeat: u32) -> Result<(u32, u32)> {
        let mut attributes = [0_u8; 128];
        put(&mut attributes, 0, &self.program.as_raw_fd().to_ne_bytes());
        put(&mut attributes, 8, &(frame.len() as u32).to_ne_bytes());
        put(&mut attributes, 16, &address(frame.as_ptr()));
        put(&mut attributes, 32, &repeat.to_ne_bytes());
        bpf(PROG_TEST_RUN, &mut attributes).context("run an empty program")?;
        Ok((word(&attributes, 4), word(&attributes, 36)))
    }
}

fn bpf(command: libc::c_long, attributes: &mut [u8; 128]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes as many bytes as it is told, and follows
    // only pointers to memory that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            attributes.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn address<T>(pointer: *const T) -> [u8; 8] {
    (pointer as u64).to_ne_bytes()
}

fn put(attributes: &mut [u8; 128], at: usize, bytes: &[u8]) {
    attributes[at..at + bytes.len()].copy_from_slice(bytes);
}

fn word(attributes: &[u8; 128], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&attributes[at..at + 4]);
    u32::from_ne_bytes(bytes)
}
