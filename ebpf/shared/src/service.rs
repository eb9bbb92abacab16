//! Services: frontends, their backends, and what replies must look like.

use crate::{addr::Addr, layout};

/// Key of the `SERVICES` table: a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ServiceKey {
    /// Frontend address.
    pub addr: Addr,
    /// Frontend port, big-endian.
    pub port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// 0.
    pub pad: u8,
}
layout!(ServiceKey, 20);

/// Value of the `SERVICES` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceEntry {
    /// Service id; key prefix of its slots.
    pub id: u32,
    /// Usable backends, in slots 0..count. 0: connects are refused.
    pub backends: u32,
    /// One of [`algorithm`].
    pub algorithm: u32,
    /// Maglev table number (table n is `MAGLEV[n * MAGLEV_TABLE ..]`), if Maglev.
    pub maglev: u32,
}
layout!(ServiceEntry, 16);

/// How a backend is chosen.
pub mod algorithm {
    /// Uniformly at random per connection.
    pub const RANDOM: u32 = 0;
    /// By Maglev table, with the socket cookie as the hash input.
    pub const MAGLEV: u32 = 1;
}

/// Key of the `SLOTS` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SlotKey {
    /// Service id.
    pub service: u32,
    /// 0..[`ServiceEntry::backends`]; or [`SlotKey::MEMBER`] and a fingerprint of a
    /// backend's address and port: there while the backend may keep whom it serves.
    pub slot: u32,
}
layout!(SlotKey, 8);

impl SlotKey {
    /// Slots with this bit say which backends a service has, datagram services only.
    pub const MEMBER: u32 = 1 << 31;
}

/// Value of the `BACKENDS` table, keyed by backend id (`u32`, never 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    /// Backend address.
    pub addr: Addr,
    /// Backend port, big-endian.
    pub port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// One of [`state`].
    pub state: u8,
}
layout!(Backend, 20);

/// Backend states, Cilium's numbering.
pub mod state {
    /// Takes new connections.
    pub const ACTIVE: u8 = 0;
    /// Keeps its connections, takes new ones only if nothing is active.
    pub const TERMINATING: u8 = 1;
    /// Failed its health check.
    pub const QUARANTINED: u8 = 2;
    /// Taken out by the operator.
    pub const MAINTENANCE: u8 = 3;
}

/// Key of the `REVERSE_NAT` table: what a translated socket talks to, or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ReverseKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Backend (or proxy listener) address; frontend address of a
    /// [`ReverseKey::CHOICE`].
    pub addr: Addr,
    /// Its port, big-endian.
    pub port: [u8; 2],
    /// [`ReverseKey::REPLY`] or [`ReverseKey::CHOICE`].
    pub kind: u8,
    /// 0.
    pub pad: [u8; 5],
}
layout!(ReverseKey, 32);

impl ReverseKey {
    /// Whom replies of this address are to come from.
    pub const REPLY: u8 = 0;
    /// Which backend the datagrams of this socket to this frontend go to.
    pub const CHOICE: u8 = 1;
}

/// Value of the `REVERSE_NAT` table: what the application believes it talks to, or the
/// backend it really does ([`ReverseKey::CHOICE`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReverseEntry {
    /// Frontend (or original destination, or backend) address.
    pub addr: Addr,
    /// Its port, big-endian.
    pub port: [u8; 2],
    /// 0.
    pub pad: [u8; 2],
    /// Service id, or 0 for a steered socket.
    pub service: u32,
}
layout!(ReverseEntry, 24);
