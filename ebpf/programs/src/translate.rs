//! Service addresses to backends, once per connection, at the socket.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use tidegate_decide::service::{maglev_index, random_slot};
use tidegate_ebpf_shared::{
    addr::Addr,
    event::{counter, kind},
    service::{Backend, ReverseEntry, ReverseKey, ServiceEntry, ServiceKey, SlotKey, algorithm},
};

use crate::{
    attempt::Attempt,
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

/// Replaces a frontend by one of its backends.
#[inline(never)]
pub fn translate(attempt: &mut Attempt) -> Translation {
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
    let Some(backend) = backend(service, attempt.cookie) else {
        return Translation::NoBackend;
    };
    attempt.tuple.dst = backend.addr;
    attempt.tuple.dst_port = backend.port;
    Translation::Done
}

#[inline(always)]
fn backend(service: &ServiceEntry, cookie: u64) -> Option<&'static Backend> {
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
        pad: [0; 6],
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
