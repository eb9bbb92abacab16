//! The byte path of one client connection that speaks HTTP: reads heads, asks the
//! flow's [`Inspector`], passes the original bytes on. It opens no listener, knows
//! no plugin runtime, and never waits for the agent.

mod buffer;
mod ending;
mod exchange;
mod flow;
mod h1;
mod h2;
mod inspect;
mod line;
mod opening;
mod pump;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod tunnel;
mod watchdog;

use std::{io, time::Duration};

use tidegate_tls::Protocol;
use tidegate_wire::http2::frame::PREFACE;

use self::buffer::Buffer;
pub(crate) use self::inspect::Inspector;
pub(super) use self::{
    ending::{cut_off, in_order, last_words},
    tunnel::carry,
    watchdog::{Activity, Client, Phase},
};
use crate::leg::Leg;

/// Relays one client connection until either side closes. HTTP/2 is recognised by
/// its preface (RFC 9113 §3.4).
pub(super) async fn serve(client: impl Into<Leg>, inspector: &impl Inspector, activity: &Activity) {
    let mut client = client.into();
    let mut buffer = Buffer::of(activity.budget());
    let speaks = tokio::time::timeout(FIRST_BYTES, speaks_http2(&mut client, &mut buffer));
    let speaks = tokio::select! {
        speaks = speaks => speaks,
        () = activity.evicted() => return,
    };
    let speaks = speaks.map(|speaks| speaks.map(|speaks| speaks.held_to(client.agreed())));
    match speaks {
        Ok(Ok(Speaks::Http2)) => h2::serve(&mut client, buffer, inspector, activity).await,
        Ok(Ok(Speaks::BrokenHttp2)) => h2::reject_preface(&mut client).await,
        Ok(Ok(Speaks::Http1)) => h1::serve(&mut client, buffer, inspector, activity).await,
        // Gone, or silent.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Would a request with this head pass? Read and decided as [`serve`] would; what is
/// refused is told to [`Inspector::record`].
pub(super) fn would_pass(head: &[u8], inspector: &impl Inspector) -> bool {
    h1::would_pass(head, inspector)
}

/// How long a client may take to say which version it speaks.
const FIRST_BYTES: Duration = Duration::from_secs(300);

/// What the first bytes of a connection are.
enum Speaks {
    Http1,
    Http2,
    /// The first line of HTTP/2's preface, and not the rest.
    BrokenHttp2,
}

impl Speaks {
    /// Who agreed on a version within TLS is held to it: a server that was chosen for the
    /// one would be told the other by what somebody else may read differently.
    fn held_to(self, agreed: Option<Protocol>) -> Self {
        match (agreed, self) {
            (Some(Protocol::Http1), _) => Self::Http1,
            (Some(Protocol::Http2), Self::Http1) => Self::BrokenHttp2,
            (_, speaks) => speaks,
        }
    }
}

/// Bytes of the preface that begin no request of HTTP/1: its version is not one.
const REQUEST_LINE: usize = "PRI * HTTP/2".len();

/// Reads until the first bytes are, or cannot become, the preface of HTTP/2.
async fn speaks_http2(client: &mut Leg, buffer: &mut Buffer) -> io::Result<Speaks> {
    loop {
        let seen = buffer.filled();
        let compared = seen.len().min(PREFACE.len());
        if seen[..compared] != PREFACE[..compared] {
            return Ok(match seen.starts_with(&PREFACE[..REQUEST_LINE]) {
                true => Speaks::BrokenHttp2,
                false => Speaks::Http1,
            });
        }
        if compared == PREFACE.len() {
            return Ok(Speaks::Http2);
        }
        if buffer.fill(client).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
