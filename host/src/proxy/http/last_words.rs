//! Ends a client connection so that the client can read what we said last.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long the end of a connection may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Most bytes that are still read, and forgotten.
const HEARD_OUT: usize = 1 << 20;

/// Sends `bytes`, ends our side, and hears the client out for a moment: bytes left
/// unread would be answered by a reset, which could cost it our last answer.
pub(super) async fn last_words(client: &mut TcpStream, bytes: &[u8]) {
    let end = async {
        client.write_all(bytes).await?;
        client.shutdown().await?;
        let mut ignored = [0; 4096];
        let mut left = HEARD_OUT;
        while left > 0 {
            match client.read(&mut ignored).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        std::io::Result::Ok(())
    };
    // The connection is over whatever comes of this.
    let _ = tokio::time::timeout(LIMIT, end).await;
}
