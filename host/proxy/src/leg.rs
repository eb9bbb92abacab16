//! One leg of a connection: the bytes of a socket as they are, or what passes within TLS
//! that begins and ends here. Whoever moves bytes need not know which it is, but that what
//! is written is on its way only once it is flushed.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt::Linger};
use tidegate_tls::Protocol;
use tokio::{
    io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, tcp},
};
use tokio_rustls::TlsStream;

use crate::budget::Taken;

/// One leg of a connection.
pub enum Leg {
    /// The bytes of a socket.
    Plain(TcpStream),
    /// What passes within TLS.
    Within(RefCell<Box<Within>>),
}

/// TLS that begins or ends here.
pub struct Within {
    stream: TlsStream<Replayed>,
    /// For the buffers of the session.
    _memory: Taken,
}

impl From<TcpStream> for Leg {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

/// A socket of which something was read already.
pub(crate) struct Replayed {
    held: Vec<u8>,
    passed: usize,
    socket: TcpStream,
}

impl Replayed {
    /// `held` came first.
    pub(crate) fn new(held: Vec<u8>, socket: TcpStream) -> Self {
        Self {
            held,
            passed: 0,
            socket,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.held[this.passed..];
        if rest.is_empty() {
            this.held = Vec::new();
            this.passed = 0;
            return Pin::new(&mut this.socket).poll_read(cx, space);
        }
        let count = rest.len().min(space.remaining());
        space.put_slice(&rest[..count]);
        this.passed += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl Within {
    fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0.socket()
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        let cut_off = getsockopt(self.socket(), Linger).is_ok_and(|linger| linger.l_onoff != 0);
        if !cut_off {
            // An end in order is said within TLS, too; who does not take it now sees it missing.
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut nobody);
        }
    }
}

/// What has a socket beneath.
pub(crate) trait OnSocket {
    /// Does something with it that is not reading or writing.
    fn on_socket<R>(&self, act: impl FnOnce(&TcpStream) -> R) -> R;
}

impl OnSocket for TcpStream {
    fn on_socket<R>(&self, act: impl FnOnce(&TcpStream) -> R) -> R {
        act(self)
    }
}

impl OnSocket for Leg {
    fn on_socket<R>(&self, act: impl FnOnce(&TcpStream) -> R) -> R {
        match self {
            Self::Plain(stream) => act(stream),
            Self::Within(within) => act(within.borrow().socket()),
        }
    }
}

/// What a peer did that owes us nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// It said something.
    Spoke,
    /// It ended or failed.
    Ended,
}

impl Leg {
    /// What passes within TLS; `memory` is what its buffers may take.
    pub(crate) fn within(stream: TlsStream<Replayed>, memory: Taken) -> Self {
        Self::Within(RefCell::new(Box::new(Within {
            stream,
            _memory: memory,
        })))
    }

    /// What both ends agreed to speak within TLS, if they agreed on something (RFC 7301).
    pub(crate) fn agreed(&self) -> Option<Protocol> {
        match self {
            Self::Plain(_) => None,
            Self::Within(within) => {
                let within = within.borrow();
                let (_, session) = within.stream.get_ref();
                session.alpn_protocol().and_then(Protocol::named)
            }
        }
    }

    /// Both directions, to be used at once.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Self::Within(within) => (ReadHalf::Within(within), WriteHalf::Within(within)),
        }
    }

    /// Ready once there is something to read, an end included.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Within(within) => {
                let mut within = within.borrow_mut();
                let bytes = Pin::new(&mut within.stream).poll_fill_buf(cx);
                bytes.map_ok(|_| ())
            }
        }
    }

    /// What it does while it owes us nothing. What it says is lost.
    pub(crate) fn poll_unasked(&self, cx: &mut Context<'_>) -> Poll<Unasked> {
        match self {
            Self::Plain(stream) => {
                while stream.poll_read_ready(cx).is_ready() {
                    match stream.try_read(&mut [0]) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Ok(1..) => return Poll::Ready(Unasked::Spoke),
                        Ok(0) | Err(_) => return Poll::Ready(Unasked::Ended),
                    }
                }
                Poll::Pending
            }
            Self::Within(within) => {
                let mut within = within.borrow_mut();
                let bytes = Pin::new(&mut within.stream).poll_fill_buf(cx);
                bytes.map(|bytes| match bytes {
                    Ok([_, ..]) => Unasked::Spoke,
                    Ok([]) | Err(_) => Unasked::Ended,
                })
            }
        }
    }

    /// Asks the kernel, which knows better than the last readiness event, what it has done
    /// that owes us nothing. Takes no byte.
    pub(crate) fn unasked(&self) -> Option<Unasked> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let came = self.on_socket(|socket| recv(socket.as_raw_fd(), &mut [0], flags));
        match (came, self) {
            (Ok(1..), Self::Plain(_)) => Some(Unasked::Spoke),
            (Ok(1..) | Err(nix::Error::EAGAIN | nix::Error::EINTR), Self::Within(_)) => {
                // Tickets and keys are said by nobody; what is said may have come before.
                let mut nobody = Context::from_waker(Waker::noop());
                match self.poll_unasked(&mut nobody) {
                    Poll::Ready(unasked) => Some(unasked),
                    Poll::Pending => None,
                }
            }
            (Err(nix::Error::EAGAIN | nix::Error::EINTR), Self::Plain(_)) => None,
            (Ok(0) | Err(_), _) => Some(Unasked::Ended),
        }
    }
}

/// What comes of a leg.
pub(crate) enum ReadHalf<'l> {
    Plain(tcp::ReadHalf<'l>),
    Within(&'l RefCell<Box<Within>>),
}

/// What goes to a leg.
pub(crate) enum WriteHalf<'l> {
    Plain(tcp::WriteHalf<'l>),
    Within(&'l RefCell<Box<Within>>),
}

impl OnSocket for WriteHalf<'_> {
    fn on_socket<R>(&self, act: impl FnOnce(&TcpStream) -> R) -> R {
        match self {
            Self::Plain(half) => act(half.as_ref()),
            Self::Within(within) => act(within.borrow().socket()),
        }
    }
}

/// Passes a call on to whichever stream it is.
macro_rules! on {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Self::Within(within) => {
                let mut within = within.borrow_mut();
                let $stream = Pin::new(&mut within.stream);
                $call
            }
        }
    };
}

/// The methods of [`AsyncWrite`], each passed on.
macro_rules! writes {
    () => {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            on!(self, stream => stream.poll_write(cx, bytes))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            on!(self, stream => stream.poll_write_vectored(cx, parts))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            on!(self, stream => stream.poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            on!(self, stream => stream.poll_shutdown(cx))
        }
    };
}

impl AsyncRead for Leg {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_read(cx, space))
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_read(cx, space))
    }
}

impl AsyncWrite for Leg {
    writes!();
}

impl AsyncWrite for WriteHalf<'_> {
    writes!();
}
