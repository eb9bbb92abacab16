//! What compilers add: the part of WASI preview 1 that a filter has a use for. There are no
//! files, no environment and no arguments.

use crate::{
    Outside,
    abi::{Function, errno},
    calls::Answer,
    memory::{Beyond, Memory},
    vm::Level,
};

/// Most random bytes of one call, and most of one log line.
const RANDOM: u32 = 64 << 10;
const LINE: usize = 4 << 10;
/// Most pieces of one line.
const PIECES: u32 = 1_024;

type Called = Result<u32, Beyond>;

/// Answers one call.
pub(crate) fn call(
    function: Function,
    a: &dyn Fn(usize) -> u32,
    memory: &mut Memory<'_>,
    outside: &mut dyn Outside,
) -> Answer {
    let called = match function {
        Function::FdWrite => write((a(0), a(1), a(2), a(3)), memory, outside),
        Function::FdStat => stat(a(0), a(1), memory),
        Function::ClockTime => match a(0) {
            0 => number(memory, a(2), outside.now_ns()),
            1 => number(memory, a(2), outside.monotonic_ns()),
            _ => Ok(errno::NOTSUP),
        },
        Function::ClockResolution => match a(0) {
            0 | 1 => number(memory, a(1), 1),
            _ => Ok(errno::NOTSUP),
        },
        Function::Random => random((a(0), a(1)), memory, outside),
        Function::EnvironSizes | Function::ArgsSizes => none(memory, a(0), a(1)),
        Function::Environ | Function::Args | Function::Yield => Ok(errno::SUCCESS),
        Function::FdPrestat
        | Function::FdPrestatName
        | Function::FdClose
        | Function::FdSeek
        | Function::FdStatSetFlags => Ok(errno::BADF),
        Function::Exit => return Answer::Exit(a(0)),
        // Nothing to read, and nothing to wait for.
        _ => Ok(errno::NOSYS),
    };
    Answer::Number(called.unwrap_or(errno::FAULT))
}

/// Standard output and error are log lines.
fn write(
    (descriptor, pieces, count, written_at): (u32, u32, u32, u32),
    memory: &mut Memory<'_>,
    outside: &mut dyn Outside,
) -> Called {
    let level = match descriptor {
        1 => Level::Info,
        2 => Level::Error,
        _ => return Ok(errno::BADF),
    };
    if count > PIECES {
        return Ok(errno::INVAL);
    }
    let (mut line, mut written) = (Vec::new(), 0_u32);
    for n in 0..count {
        let piece = pieces.checked_add(n * 8).ok_or(Beyond)?;
        let length = memory.word(piece.checked_add(4).ok_or(Beyond)?)?;
        let bytes = memory.bytes(memory.word(piece)?, length)?;
        let room = LINE.saturating_sub(line.len()).min(bytes.len());
        line.extend_from_slice(&bytes[..room]);
        written = written.saturating_add(length);
    }
    memory.write(written_at, &written.to_le_bytes())?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    if !line.is_empty() {
        outside.log(level, line);
    }
    Ok(errno::SUCCESS)
}

/// A descriptor that can be written to (`fdstat`, 24 bytes), for the two there are.
fn stat(descriptor: u32, at: u32, memory: &mut Memory<'_>) -> Called {
    if !matches!(descriptor, 1 | 2) {
        return Ok(errno::BADF);
    }
    let mut stat = [0; 24];
    // `fs_rights_base`: FD_WRITE.
    stat[8] = 64;
    memory.write(at, &stat)?;
    Ok(errno::SUCCESS)
}

fn random((at, length): (u32, u32), memory: &mut Memory<'_>, outside: &mut dyn Outside) -> Called {
    if length > RANDOM {
        return Ok(errno::INVAL);
    }
    memory.has(at, length)?;
    let mut bytes = vec![0; length as usize];
    outside.random(&mut bytes);
    memory.write(at, &bytes)?;
    Ok(errno::SUCCESS)
}

fn none(memory: &mut Memory<'_>, count_at: u32, bytes_at: u32) -> Called {
    memory.has(bytes_at, 4)?;
    memory.write(count_at, &[0; 4])?;
    memory.write(bytes_at, &[0; 4])?;
    Ok(errno::SUCCESS)
}

fn number(memory: &mut Memory<'_>, at: u32, number: u64) -> Called {
    memory.write(at, &number.to_le_bytes())?;
    Ok(errno::SUCCESS)
}
