//! How a connection ends, as its peer sees it: in order, with a FIN, or cut off, with a
//! RST. What broke off on one leg must not look complete on the other.

use std::{cell::RefCell, future::poll_fn, io, pin::Pin, time::Duration};

use nix::sys::socket::{setsockopt, sockopt::Linger};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::leg::OnSocket;

/// How long the end of a connection may take in all.
const LINGER: Duration = Duration::from_secs(30);
/// How long the peer may send nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(5);
/// Most bytes that are still read, and forgotten: the rest of an upload by a client that
/// looks for an answer only when it has sent everything.
const HEARD_OUT: u64 = 64 << 20;

/// Whatever happens from now on, the peer sees the connection cut off, until [`in_order`]
/// is called: also if this process is killed.
pub(crate) fn cut_off(stream: &impl OnSocket) {
    // What fails here has ended already.
    let _ = stream.on_socket(|socket| socket.set_zero_linger());
}

/// Takes [`cut_off`] back: all was said.
pub(crate) fn in_order(stream: &impl OnSocket) {
    let off = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    // As above.
    let _ = stream.on_socket(|socket| setsockopt(socket, Linger, &off));
}

/// Sends `bytes`, ends our side, and hears the client out within bounds: bytes left
/// unread would be answered by a reset, which could cost it our last answer.
pub(crate) async fn last_words(
    client: &mut (impl OnSocket + AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) {
    in_order(client);
    let end = async {
        client.write_all(bytes).await?;
        client.shutdown().await?;
        let mut heard = 0;
        while heard < HEARD_OUT {
            match tokio::time::timeout(SILENCE, hear(client)).await {
                Ok(Ok(count @ 1..)) => heard += count as u64,
                _ => break,
            }
        }
        io::Result::Ok(())
    };
    // The connection is over whatever comes of this.
    let _ = tokio::time::timeout(LINGER, end).await;
}

thread_local! {
    /// What is read to be forgotten.
    static FORGOTTEN: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into_boxed_slice());
}

/// Reads and forgets; how much. 0 at the end.
async fn hear(peer: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    poll_fn(|cx| {
        FORGOTTEN.with_borrow_mut(|forgotten| {
            let mut space = ReadBuf::new(forgotten);
            let read = Pin::new(&mut *peer).poll_read(cx, &mut space);
            read.map_ok(|()| space.filled().len())
        })
    })
    .await
}
