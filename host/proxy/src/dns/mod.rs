//! DNS: a query is decided by its name and forwarded as it came; from its answer the
//! kernel learns addresses before the client does. `exchange` is what UDP and TCP have
//! in common, `learn` writes the kernel's table, `voice` answers as the server.

mod datagram;
mod exchange;
mod learn;
mod quotas;
mod tcp;
mod udp;
mod voice;

pub(super) use learn::boot_seconds;
pub(super) use quotas::Quotas;
pub(super) use tcp::serve;
pub(super) use udp::listen;

#[cfg(test)]
mod tests;
