//! One end of the socket between agent and proxy: whole messages, as [`codec`] writes them,
//! with descriptors attached. A message too large for one packet travels in a sealed memory
//! file: how much a plugin or a folder has to say must not decide whether it is heard.
//!
//! [`listener`] makes the sockets that the agent keeps for the proxy, [`socket`] those of
//! either that speak with addresses of others.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

pub mod codec;
pub mod listener;
pub mod sealed;
pub mod socket;

/// Largest packet, bytes.
pub const MAX_PACKET: usize = 64 * 1024;
/// Largest message, bytes: more than all plugins together can have to say.
const MAX_MESSAGE: u64 = 32 << 20;
/// The packet that stands for a message in the memory file attached last. No message is
/// one space.
const IN_FILE: &[u8] = b" ";
/// Descriptors the kernel lets one packet carry (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;
/// Most descriptors one message carries; one more may hold the message.
pub const MAX_DESCRIPTORS: usize = SCM_MAX_FD - 1;

/// A connected `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Both ends of a connection.
    ///
    /// # Errors
    ///
    /// The kernel's, e.g. out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::new(one)?, Self::new(other)?))
    }

    /// Takes a connected, non-blocking socket; inside a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: register(socket)?,
        })
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// If it is too large, or the other side is gone.
    pub async fn send(
        &self,
        message: &impl Serialize,
        attached: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_packet(Packet::new(codec::encode(message)?)?, attached)
            .await
    }

    /// Sends a message that a peer of another version must understand.
    ///
    /// # Errors
    ///
    /// As [`Channel::send`].
    pub async fn send_plain(
        &self,
        message: &impl Serialize,
        attached: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_packet(Packet::new(codec::encode_plain(message)?)?, attached)
            .await
    }

    async fn send_packet(&self, message: Packet, attached: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| message.send(socket, attached))
            .await
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none, else as [`Channel::send`].
    pub fn try_send(&self, message: &impl Serialize) -> io::Result<()> {
        Packet::new(codec::encode(message)?)?.send(self.socket.get_ref(), &[])
    }

    /// The next message with its descriptors; `None` if the other side has closed.
    ///
    /// # Errors
    ///
    /// If it is no message of ours; the connection is of no use then.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let (mut bytes, mut attached) = self.socket.async_io(Interest::READABLE, receive).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes == IN_FILE {
            let file = attached.pop().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a message in no file")
            })?;
            bytes = sealed::read(&sealed::check(file, MAX_MESSAGE)?)?;
        }
        Ok(Some((codec::decode(&bytes)?, attached)))
    }
}

/// Makes a socket known to the runtime.
pub fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor stays open as long as the `AsyncFd`, which owns it.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

/// A message, as it goes out.
struct Packet {
    bytes: Vec<u8>,
    /// The message, if `bytes` only stand for it.
    file: Option<OwnedFd>,
}

impl Packet {
    fn new(bytes: Vec<u8>) -> io::Result<Self> {
        if bytes.len() <= MAX_PACKET {
            return Ok(Self { bytes, file: None });
        }
        if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_MESSAGE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes, more than {MAX_MESSAGE}",
                    bytes.len()
                ),
            ));
        }
        Ok(Self {
            file: Some(sealed::seal("tidegate-message", &bytes)?),
            bytes: IN_FILE.to_vec(),
        })
    }

    fn send(&self, socket: &OwnedFd, attached: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut all = attached.to_vec();
        all.extend(self.file.as_ref().map(AsFd::as_fd));
        send(socket, &self.bytes, &all)
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], attached: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<RawFd> = attached.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { &rights[..] };
    let data = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &data, control, flags, None)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut control = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let mut data = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut data, Some(&mut control), flags)?;
    let mut attached = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            attached.extend(fds.into_iter().map(|fd| {
                // SAFETY: the kernel has just made this descriptor for us; nobody else
                // knows it.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
    }
    if received
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message that is too large, or with too many descriptors",
        ));
    }
    let length = received.bytes;
    bytes.truncate(length);
    Ok((bytes, attached))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, Write},
        os::fd::AsFd,
    };

    use super::*;

    #[tokio::test]
    async fn messages_and_descriptors_arrive_together() {
        let (one, other) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"attached").unwrap();
        one.send(&"first", &[file.as_fd(), file.as_fd()])
            .await
            .unwrap();
        one.send(&"second", &[]).await.unwrap();
        let (message, mut fds) = other.receive::<String>().await.unwrap().unwrap();
        assert_eq!((message.as_str(), fds.len()), ("first", 2));
        let mut received = File::from(fds.remove(0));
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "attached");
        let (message, fds) = other.receive::<String>().await.unwrap().unwrap();
        assert_eq!((message.as_str(), fds.len()), ("second", 0));
        drop(one);
        assert!(other.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn no_message_is_too_large_for_its_packet() {
        let (one, other) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        for length in [MAX_PACKET - 2, MAX_PACKET - 1, 10 * MAX_PACKET, 5 << 20] {
            let message = "x".repeat(length);
            one.send(&message, &[file.as_fd()]).await.unwrap();
            let (received, fds) = other.receive::<String>().await.unwrap().unwrap();
            assert!(received == message, "{length}");
            assert_eq!(fds.len(), 1);
            one.try_send(&message).unwrap();
            let (received, fds) = other.receive::<String>().await.unwrap().unwrap();
            assert!(received == message && fds.is_empty(), "{length}");
        }
    }

    #[tokio::test]
    async fn what_is_not_ours_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&"no number", &[]).await.unwrap();
        assert!(other.receive::<u32>().await.is_err());
        // A message that says it is in a file, without one and with one that could change.
        send(one.socket.get_ref(), IN_FILE, &[]).unwrap();
        assert!(other.receive::<u32>().await.is_err());
        let mut open = tempfile::tempfile().unwrap();
        open.write_all(b"1").unwrap();
        send(one.socket.get_ref(), IN_FILE, &[open.as_fd()]).unwrap();
        assert!(other.receive::<u32>().await.is_err());
    }

    #[tokio::test]
    async fn a_full_socket_does_not_block() {
        let (one, _other) = Channel::pair().unwrap();
        let message = "x".repeat(MAX_PACKET / 2);
        let full = loop {
            if let Err(error) = one.try_send(&message) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
