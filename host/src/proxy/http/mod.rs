//! The byte path of one client connection that speaks HTTP: reads heads, asks the
//! flow's [`Inspector`], passes the original bytes on. It opens no listener, knows
//! no plugin runtime, and never waits for the agent.

mod buffer;
mod exchange;
mod h1;
mod inspect;
mod pump;
#[cfg(test)]
mod tests;
mod tunnel;
mod watchdog;

use tokio::net::TcpStream;

use self::buffer::Buffer;
pub use self::inspect::{Attribution, Decision, Denial, Inspector, Verdict};

/// Relays one client connection until either side closes.
pub async fn serve(mut client: TcpStream, inspector: &impl Inspector) {
    h1::serve(&mut client, Buffer::default(), inspector).await;
}
