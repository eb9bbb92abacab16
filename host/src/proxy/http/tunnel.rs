//! Opaque bytes: after an accepted upgrade or CONNECT, or where no policy asks to look.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    buffer::Buffer,
    ending::{cut_off, in_order},
};

/// Buffer of each direction, bytes.
const BUFFER: usize = 64 * 1024;

/// Copies both ways, half-closes included, until both ends have closed; a failure of one
/// end is passed to the other as a reset. `sent` and `received` hold what was read
/// already from the client and from upstream.
pub(super) async fn relay(
    client: &mut TcpStream,
    sent: Buffer,
    upstream: &mut TcpStream,
    received: Buffer,
) {
    cut_off(client);
    cut_off(upstream);
    let early = async {
        tokio::try_join!(
            upstream.write_all(sent.filled()),
            client.write_all(received.filled())
        )
    };
    if early.await.is_err() {
        return;
    }
    drop((sent, received));
    let copied = tokio::io::copy_bidirectional_with_sizes(client, upstream, BUFFER, BUFFER).await;
    if copied.is_ok() {
        in_order(client);
        in_order(upstream);
    }
}

/// As [`relay`], from the first byte on.
pub(in crate::proxy) async fn carry(client: &mut TcpStream, upstream: &mut TcpStream) {
    relay(client, Buffer::default(), upstream, Buffer::default()).await;
}
