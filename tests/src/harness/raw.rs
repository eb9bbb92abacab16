//! Packets as a program with a raw socket makes them: whatever headers it likes, in
//! whatever fragments.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};

use super::place::Place;

/// TCP: flags (RFC 9293 §3.1), and what a connection's next numbers are.
pub mod tcp {
    use std::{io, net::TcpStream, os::fd::AsRawFd as _};

    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Data, with the acknowledgment that every segment has: ACK and PSH.
    pub const DATA: u8 = 24;

    /// The numbers of what a connection sends next and waits for next.
    ///
    /// # Errors
    ///
    /// The kernel's; `TCP_REPAIR` (linux/tcp.h) needs `CAP_NET_ADMIN`.
    pub fn numbers(stream: &TcpStream) -> io::Result<(u32, u32)> {
        const RECEIVE: libc::c_int = 1;
        const SEND: libc::c_int = 2;
        // Off without the window probe that would follow (`TCP_REPAIR_OFF_NO_WP`).
        const OFF: libc::c_int = -1;
        set(stream, libc::TCP_REPAIR, 1)?;
        let mut both = [0_u32; 2];
        for (queue, number) in [SEND, RECEIVE].into_iter().zip(&mut both) {
            set(stream, libc::TCP_REPAIR_QUEUE, queue)?;
            let mut length = size_of::<u32>() as libc::socklen_t;
            // SAFETY: the option writes one `u32`, which lives until the call returns.
            let result = unsafe {
                libc::getsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_TCP,
                    libc::TCP_QUEUE_SEQ,
                    (&raw mut *number).cast(),
                    &raw mut length,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        set(stream, libc::TCP_REPAIR, OFF)?;
        Ok((both[0], both[1]))
    }

    fn set(stream: &TcpStream, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the option reads one `c_int`, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_TCP,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// An IP packet, with everything in it.
#[derive(Clone, Debug)]
pub struct Packet {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    data: Vec<u8>,
}

impl Packet {
    /// A UDP datagram. Both ends are of one family, as below.
    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Self {
        let length = (8 + payload.len()) as u16;
        let ports = [src.port(), dst.port(), length, 0];
        let mut data: Vec<u8> = ports.into_iter().flat_map(u16::to_be_bytes).collect();
        data.extend(payload);
        Self::of(src, dst, UDP, data, 6)
    }

    /// A TCP segment.
    pub fn tcp(
        src: SocketAddr,
        dst: SocketAddr,
        (seq, ack): (u32, u32),
        flags: u8,
        payload: &[u8],
    ) -> Self {
        let mut data = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
        data.extend(seq.to_be_bytes());
        data.extend(ack.to_be_bytes());
        data.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        data.extend(payload);
        Self::of(src, dst, TCP, data, 16)
    }

    fn of(src: SocketAddr, dst: SocketAddr, protocol: u8, data: Vec<u8>, sum_at: usize) -> Self {
        let mut packet = Self {
            src: src.ip(),
            dst: dst.ip(),
            protocol,
            data,
        };
        let sum = packet.checksum();
        packet.data[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// RFC 1071, over the pseudo header and what follows it.
    fn checksum(&self) -> u16 {
        let mut bytes = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => Vec::new(),
        };
        bytes.extend([0, self.protocol]);
        bytes.extend((self.data.len() as u16).to_be_bytes());
        bytes.extend(&self.data);
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// In one piece.
    pub fn whole(&self) -> Vec<u8> {
        self.frame(self.protocol, 0, 0, &self.data)
    }

    /// Some of its data, `from..to`, as a fragment of the datagram `id`; it says that there
    /// are more unless it ends with the data.
    pub fn fragment(&self, id: u16, from: usize, to: usize) -> Vec<u8> {
        let more = to < self.data.len();
        let data = &self.data[from..to];
        if self.src.is_ipv4() {
            let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
            return self.frame(self.protocol, id, field, data);
        }
        let [high, low] = (from as u16 | u16::from(more)).to_be_bytes();
        let [id_high, id_low] = id.to_be_bytes();
        let header = [self.protocol, 0, high, low, 0, 0, id_high, id_low];
        self.frame(FRAGMENT, 0, 0, &[&header, data].concat())
    }

    fn frame(&self, protocol: u8, id: u16, field: u16, data: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let words = [0x4500, 20 + data.len() as u16, id, field];
                let mut ip: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
                // The kernel adds the header's checksum.
                ip.extend([64, protocol, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(data);
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((data.len() as u16).to_be_bytes());
                ip.extend([protocol, 64]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(data);
                ip
            }
            _ => Vec::new(),
        }
    }

    /// Sends one of its forms from a place.
    pub fn send(&self, place: &Place, bytes: &[u8]) -> anyhow::Result<()> {
        let socket = place
            .within(|| raw_socket(self.dst.is_ipv4()))?
            .context("cannot make a raw socket")?;
        // The port is in the packet; a raw socket of IPv6 takes none here.
        let to = SockaddrStorage::from(SocketAddr::new(self.dst, 0));
        sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty())
            .with_context(|| format!("cannot send a raw packet to {}", self.dst))?;
        Ok(())
    }
}

/// `IPPROTO_RAW`: headers come with the packet.
fn raw_socket(is_v4: bool) -> io::Result<OwnedFd> {
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call.
    let fd = unsafe {
        libc::socket(
            family,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_RAW,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
