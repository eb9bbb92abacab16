//! Opaque bytes after an accepted upgrade or CONNECT.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::buffer::Buffer;

/// Buffer of each direction, bytes.
const BUFFER: usize = 64 * 1024;

/// Copies both ways, half-closes included, until both ends have closed. `sent` and
/// `received` hold what was read already from the client and from upstream.
pub(super) async fn relay(
    client: &mut TcpStream,
    sent: Buffer,
    upstream: &mut TcpStream,
    received: Buffer,
) {
    let early = async {
        upstream.write_all(sent.filled()).await?;
        client.write_all(received.filled()).await
    };
    if early.await.is_err() {
        return;
    }
    drop((sent, received));
    let _ = tokio::io::copy_bidirectional_with_sizes(client, upstream, BUFFER, BUFFER).await;
}
