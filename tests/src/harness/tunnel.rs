//! A tunnel between two places, as a VPN's: a `tun` device in each, whose packets begin with
//! their IP header, and somebody in between who passes them on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::place::Place;

/// Longest packet passed on.
const PACKET: usize = 65_536;
/// How often a quiet tunnel looks whether it shall end, milliseconds.
const PAUSE_MS: u8 = 50;

/// Both devices, up, as long as it lives.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Tunnel {
    /// Makes a device of this name in both places.
    ///
    /// # Errors
    ///
    /// If there is such a device, or the kernel has none of the kind.
    pub fn between(here: &Place, there: &Place, name: &str) -> anyhow::Result<Self> {
        let open = |place: &Place| -> anyhow::Result<File> {
            let device = place.within(|| device(name))?;
            let device = device.with_context(|| format!("no tun device {name}"))?;
            place.configure(&[format!("link set {name} up")])?;
            Ok(device)
        };
        let (ours, theirs) = (open(here)?, open(there)?);
        let stop = Arc::new(AtomicBool::new(false));
        let ways = [(ours.try_clone()?, theirs.try_clone()?), (theirs, ours)];
        let threads = ways.map(|(from, to)| {
            let stop = stop.clone();
            std::thread::spawn(move || pass_on(from, to, &stop))
        });
        Ok(Self {
            stop,
            threads: threads.into(),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("lab: the tunnel ended early: {error}");
            }
        }
    }
}

/// `struct ifreq` with a name and flags (linux/if.h).
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

fn device(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    let space = request.name.get_mut(..name.len());
    let space = space.ok_or(io::ErrorKind::InvalidInput)?;
    space.copy_from_slice(name.as_bytes());
    // SAFETY: the call reads and writes one `ifreq`, which lives until it returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn pass_on(mut from: File, mut to: File, stop: &AtomicBool) -> io::Result<()> {
    let mut packet = vec![0; PACKET];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(PAUSE_MS))? == 0 {
            continue;
        }
        let length = from.read(&mut packet)?;
        match to.write(&packet[..length]) {
            // The other end is down, or does not like it: lost, as on any wire.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}
