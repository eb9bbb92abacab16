//! Service addresses to backends, once per connection, at the socket.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use tidegate_decide::service::{maglev_index, member_slot, random_slot};
use tidegate_ebpf_shared::{
    addr::Addr,
    event::{counter, kind},
    service::{Backend, ReverseEntry, ReverseKey, ServiceEntry, ServiceKey, SlotKey, algorithm},
};

use crate::{
    attempt::{Attempt, Call},
    counters::count_shared,
    events,
    maps::{BACKENDS, EVENTS, MAGLEV, REVERSE_NAT, SERVICES, SLOTS},
};

/// What a destination turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Translation {
    /// Not a service.
    None,
    /// A service; the attempt now goes to a backend.
    Done,
    /// A service without a usable backend.
    NoBackend,
}

/// Replaces a frontend by one of its backends: for a connect by any, for a datagram by
/// the one that this socket's datagrams go to as long as the service has it.
#[inline(never)]
pub fn translate(attempt: &mut Attempt, call: Call) -> Translation {
    attempt.asked = attempt.tuple.dst;
    attempt.asked_port = attempt.tuple.dst_port;
    let key = ServiceKey {
        addr: attempt.tuple.dst,
        port: attempt.tuple.dst_port,
        protocol: attempt.tuple.protocol,
        pad: 0,
    };
    // SAFETY: the agent replaces values as a whole.
    let Some(service) = (unsafe { SERVICES.get(&key) }) else {
        return Translation::None;
    };
    attempt.service = service.id;
    let backend = match call {
        Call::Connect => chosen(service, attempt.cookie),
        Call::Datagram => kept(service, attempt).or_else(|| {
            let backend = chosen(service, attempt.cookie)?;
            keep(attempt, backend);
            Some(backend)
        }),
    };
    let Some(backend) = backend else {
        return Translation::NoBackend;
    };
    attempt.tuple.dst = backend.addr;
    attempt.tuple.dst_port = backend.port;
    Translation::Done
}

/// The backend that the socket's datagrams went to before, if the service still has it.
#[inline(always)]
fn kept(service: &ServiceEntry, attempt: &Attempt) -> Option<&'static Backend> {
    if service.backends == 0 {
        return None;
    }
    // SAFETY: read only; entries are replaced as a whole.
    let before = unsafe { REVERSE_NAT.get(&choice(attempt)) }?;
    let slot = SlotKey {
        service: service.id,
        slot: member_slot(&before.addr, before.port),
    };
    // SAFETY: the agent replaces values as a whole; ids are not reused while a slot
    // names them.
    let backend = unsafe { BACKENDS.get(SLOTS.get(&slot)?) }?;
    (backend.addr == before.addr && backend.port == before.port).then_some(backend)
}

/// Remembers where the socket's datagrams to this frontend go.
#[inline(always)]
fn keep(attempt: &Attempt, backend: &Backend) {
    let entry = ReverseEntry {
        addr: backend.addr,
        port: backend.port,
        pad: [0; 2],
        service: attempt.service,
    };
    // Refused, the next datagram chooses again.
    let _ = REVERSE_NAT.insert(&choice(attempt), &entry, 0);
}

#[inline(always)]
fn choice(attempt: &Attempt) -> ReverseKey {
    ReverseKey {
        cookie: attempt.cookie,
        addr: attempt.asked,
        port: attempt.asked_port,
        kind: ReverseKey::CHOICE,
        pad: [0; 5],
    }
}

#[inline(always)]
fn chosen(service: &ServiceEntry, cookie: u64) -> Option<&'static Backend> {
    if service.backends == 0 {
        return None;
    }
    let id = maglev(service, cookie).or_else(|| {
        // SAFETY: the helper takes nothing and only reads.
        let random = unsafe { bpf_get_prandom_u32() };
        let slot = SlotKey {
            service: service.id,
            slot: random_slot(random, service.backends),
        };
        // SAFETY: the agent replaces values as a whole.
        unsafe { SLOTS.get(&slot) }.copied()
    })?;
    // SAFETY: the agent replaces values as a whole; ids are not reused while a slot
    // names them.
    unsafe { BACKENDS.get(&id) }
}

/// The backend of the Maglev table; `None` if the service uses none, or while the
/// table is not filled yet.
#[inline(always)]
fn maglev(service: &ServiceEntry, cookie: u64) -> Option<u32> {
    if service.algorithm != algorithm::MAGLEV {
        return None;
    }
    MAGLEV
        .get(maglev_index(service.maglev, cookie))
        .copied()
        .filter(|&id| id != 0)
}

/// Remembers what the application believes it talks to when it talks to `actual`;
/// true if that is news.
#[inline(never)]
pub fn remember(attempt: &Attempt, actual: &Addr, port: u32) -> bool {
    let key = ReverseKey {
        cookie: attempt.cookie,
        addr: *actual,
        port: (port as u16).to_ne_bytes(),
        kind: ReverseKey::REPLY,
        pad: [0; 5],
    };
    let entry = ReverseEntry {
        addr: attempt.asked,
        port: attempt.asked_port,
        pad: [0; 2],
        service: attempt.service,
    };
    // SAFETY: read only; entries are replaced as a whole.
    if unsafe { REVERSE_NAT.get(&key) }.is_some_and(|known| *known == entry) {
        return false;
    }
    let _ = REVERSE_NAT.insert(&key, &entry, 0);
    true
}

/// Counts a translation, and reports it unless this socket made the same one before.
#[inline(never)]
pub fn report(attempt: &Attempt, news: bool) {
    count_shared(counter::TRANSLATED);
    if !news {
        return;
    }
    events::emit(&EVENTS, counter::EVENTS_LOST, |event| {
        event.kind = kind::TRANSLATED;
        events::of_tuple(event, &attempt.tuple);
        event.frontend = attempt.asked;
        event.frontend_port = attempt.asked_port;
    });
}
