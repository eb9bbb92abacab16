//! Opaque bytes: after an accepted upgrade or CONNECT, or where no policy asks to look.

use std::io;

use tokio::io::AsyncWriteExt;

use super::{
    buffer::Buffer,
    ending::{cut_off, in_order},
};
use crate::{
    budget::Budget,
    leg::{Leg, ReadHalf, WriteHalf},
};

/// Copies both ways, half-closes included, until both ends have closed; a failure of one
/// end is passed to the other as a reset. `sent` and `received` hold what was read
/// already from the client and from upstream. Whatever comes is passed on only if `passes`
/// says that it still does; if not, both ends are reset.
pub(super) async fn relay(
    client: &mut Leg,
    sent: Buffer,
    upstream: &mut Leg,
    received: Buffer,
    passes: impl Fn() -> bool,
) {
    cut_off(client);
    cut_off(upstream);
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let copied = tokio::try_join!(
        copy(from_client, sent, to_upstream, &passes),
        copy(from_upstream, received, to_client, &passes)
    );
    if copied.is_ok() {
        in_order(client);
        in_order(upstream);
    }
}

/// One direction, to its end. While nothing comes it holds no memory.
async fn copy(
    mut from: ReadHalf<'_>,
    mut buffer: Buffer,
    mut to: WriteHalf<'_>,
    passes: &impl Fn() -> bool,
) -> io::Result<()> {
    loop {
        if !buffer.filled().is_empty() && !passes() {
            return Err(io::Error::other("it does not pass any more"));
        }
        to.write_all(buffer.filled()).await?;
        to.flush().await?;
        buffer.consume(usize::MAX);
        if buffer.fill(&mut from).await? == 0 {
            return to.shutdown().await;
        }
    }
}

/// As [`relay`], from the first byte on.
pub(crate) async fn carry(
    client: impl Into<Leg>,
    upstream: impl Into<Leg>,
    budget: &Budget,
    passes: impl Fn() -> bool,
) {
    let (mut client, mut upstream) = (client.into(), upstream.into());
    let buffers = (Buffer::of(budget), Buffer::of(budget));
    relay(&mut client, buffers.0, &mut upstream, buffers.1, passes).await;
}
