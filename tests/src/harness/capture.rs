//! What really arrives somewhere: frames as a packet socket sees them, before any
//! server had a chance to look.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};

use super::place::Place;

/// Longest frame looked at: segmentation offload makes frames of up to 64 KiB.
const FRAME: usize = 65_536 + 64;

/// How often a quiet capture looks whether it shall end, milliseconds.
const PAUSE_MS: u8 = 50;

/// Counts frames on all devices of a place, each by the first text it contains.
pub struct Capture {
    counts: Arc<[(Vec<u8>, AtomicU64)]>,
    longest: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Starts to look for these texts in frames that enter or leave `place`.
    ///
    /// # Errors
    ///
    /// If no packet socket can be made there.
    pub fn start(place: &Place, texts: &[impl AsRef<[u8]>]) -> anyhow::Result<Self> {
        let socket = place
            .within(packet_socket)?
            .context("cannot make a packet socket")?;
        let counts: Arc<[_]> = texts
            .iter()
            .map(|text| (text.as_ref().to_vec(), AtomicU64::new(0)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(AtomicUsize::new(0));
        let (seen, stopped, length) = (counts.clone(), stop.clone(), longest.clone());
        let thread = std::thread::spawn(move || watch(&socket, &seen, &length, &stopped));
        Ok(Self {
            counts,
            longest,
            stop,
            thread: Some(thread),
        })
    }

    /// Frames so far that contained this text, which must be one of those looked for.
    pub fn count(&self, text: impl AsRef<[u8]>) -> anyhow::Result<u64> {
        let text = text.as_ref();
        let mut counts = self.counts.iter();
        let (_, count) = counts
            .find(|(wanted, _)| wanted == text)
            .with_context(|| format!("{} is not looked for", text.escape_ascii()))?;
        Ok(count.load(Ordering::Relaxed))
    }

    /// Bytes of the longest frame so far, before segmentation.
    pub fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("lab: the capture ended early: {error}");
        }
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    let every_protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: a plain system call.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            every_protocol,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn watch(
    socket: &OwnedFd,
    counts: &[(Vec<u8>, AtomicU64)],
    longest: &AtomicUsize,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut frame = vec![0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(PAUSE_MS))? == 0 {
            continue;
        }
        // The frame's true length, whatever fits.
        let length = recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC)?;
        longest.fetch_max(length, Ordering::Relaxed);
        let n = length.min(frame.len());
        let found = counts
            .iter()
            .find(|(text, _)| frame[..n].windows(text.len()).any(|part| part == text));
        if let Some((_, count)) = found {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
