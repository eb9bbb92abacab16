//! One end of the socket between agent and proxy: whole messages as JSON, with
//! descriptors attached.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

/// Largest message, bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors one message carries (`SCM_MAX_FD` of the kernel).
pub(super) const MAX_DESCRIPTORS: usize = 253;

/// A connected `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Takes a connected, non-blocking socket; inside a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: register(socket)?,
        })
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// If it is too large, or the other side is gone.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        attached: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = encode(message)?;
        self.socket
            .async_io(Interest::WRITABLE, |socket| send(socket, &bytes, attached))
            .await
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none, else as [`Channel::send`].
    pub(super) fn try_send(&self, message: &impl Serialize) -> io::Result<()> {
        send(self.socket.get_ref(), &encode(message)?, &[])
    }

    /// The next message with its descriptors; `None` if the other side has closed.
    ///
    /// # Errors
    ///
    /// If it is no message of ours; the connection is of no use then.
    pub(super) async fn receive<T: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let (bytes, attached) = self.socket.async_io(Interest::READABLE, receive).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some((message, attached)))
    }
}

/// Makes a socket known to the runtime.
pub(super) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor stays open as long as the `AsyncFd`, which owns it.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a message of {} bytes, more than {MAX_MESSAGE}",
                bytes.len()
            ),
        ));
    }
    Ok(bytes)
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
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
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
pub(super) mod testing {
    //! Connected pairs for tests.

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// Both ends of a connection.
    pub(in super::super) fn pair() -> (Channel, Channel) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, Write},
        os::fd::AsFd,
    };

    use super::{testing::pair, *};

    #[tokio::test]
    async fn messages_and_descriptors_arrive_together() {
        let (one, other) = pair();
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
    async fn what_is_too_large_or_not_ours_is_an_error() {
        let (one, other) = pair();
        let error = one.send(&"x".repeat(MAX_MESSAGE), &[]).await.unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        one.send(&"no number", &[]).await.unwrap();
        assert!(other.receive::<u32>().await.is_err());
    }

    #[tokio::test]
    async fn a_full_socket_does_not_block() {
        let (one, _other) = pair();
        let message = "x".repeat(MAX_MESSAGE / 2);
        let full = loop {
            if let Err(error) = one.try_send(&message) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
