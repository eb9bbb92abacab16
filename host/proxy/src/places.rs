//! The places of one worker: who may have how many connections at once. Clients share
//! them fairly: while there is room everybody gets one; without room the client with the
//! most gives one back to a client that has fewer, the one that was idle longest first.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    time::{Duration, Instant},
};
use tidegate_policy::compiled::EndpointId;

use super::{
    budget::Memory,
    http::{Activity, Client as Connections},
    records::Counters,
};

/// Descriptors of the process for anything but relayed connections: listeners, maps,
/// plugins, and the sockets of DNS queries under way.
const RESERVED: u64 = 512;
/// Descriptors of one connection: its two legs.
const PER_CONNECTION: u64 = 2;
/// How long a client without an idle connection is not searched again for one.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// What bounds the connections of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resources {
    /// Descriptors it may have open.
    pub(super) descriptors: u64,
    /// Most connections each worker shall serve at once.
    pub(super) connections_per_cpu: u32,
    /// Memory of each worker for bytes on their way, MiB.
    pub(super) memory_per_cpu_mib: u32,
    /// Longest header list of HTTP/2, bytes.
    pub(super) header_list: u32,
}

/// How many connections a worker serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Most of all clients together.
    limit: usize,
    /// Most of one client. Below the limit, so that others need not wait for places.
    share: usize,
    /// Bytes of memory for what is on its way.
    memory: usize,
    /// Longest header list of HTTP/2, bytes.
    header_list: u32,
}

impl Capacity {
    /// What the process allows each of so many workers.
    ///
    /// # Errors
    ///
    /// If they are too few for two connections each.
    pub(super) fn of(resources: Resources, workers: usize) -> io::Result<Self> {
        let Resources {
            descriptors,
            connections_per_cpu,
            memory_per_cpu_mib,
            header_list,
        } = resources;
        let connections = descriptors.saturating_sub(RESERVED) / PER_CONNECTION;
        // A ninth is for those that are about to leave.
        let each = connections / (workers as u64).max(1) * 8 / 9;
        // No truncation: at most a `u32`.
        let limit = each.min(connections_per_cpu.into()) as usize;
        let share = limit * 3 / 4;
        if share == 0 {
            return Err(io::Error::other(format!(
                "{descriptors} descriptors are too few for {workers} workers: raise \
                 LimitNOFILE to 65536"
            )));
        }
        Ok(Self {
            limit,
            share,
            memory: (memory_per_cpu_mib as usize) << 20,
            header_list,
        })
    }

    /// Connections of so many workers together.
    pub(super) fn total(self, workers: usize) -> u64 {
        (self.limit * workers) as u64
    }

    /// Most that are open, those included that were asked to leave.
    const fn ceiling(self) -> usize {
        self.limit + self.limit / 8
    }
}

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A workload or host service of this node.
    Endpoint(EndpointId),
    /// An address, of IPv6 the first 64 bits, within which a host chooses freely.
    Address(IpAddr),
}

impl Client {
    /// One that is no endpoint.
    pub(super) fn outside(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let prefix = u128::from(v6) >> 64 << 64;
                Ipv6Addr::from(prefix).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The places of one worker.
pub(super) struct Places {
    capacity: Capacity,
    memory: Rc<Memory>,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<Client, Seats>,
    /// Connections that were not asked to leave, of all clients.
    staying: usize,
    /// All connections.
    open: usize,
    next: u64,
    /// Most that were open since [`Places::has_emptied`] said so.
    peak: usize,
}

/// The connections of one client, in the order in which they came.
struct Seats {
    /// What they have together.
    client: Connections,
    seats: BTreeMap<u64, Rc<Activity>>,
    staying: usize,
    /// Nothing was idle when it was searched; not before then again.
    searched_until: Option<Instant>,
}

/// A place, given back when dropped.
pub(super) struct Place {
    places: Rc<Places>,
    client: Client,
    number: u64,
    activity: Rc<Activity>,
}

impl Place {
    /// What the connection in it does.
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl Places {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            memory: Memory::new(capacity.memory),
            capacity,
            table: RefCell::default(),
        }
    }

    /// Are so many about to leave that nobody gets a place before they had their turn?
    pub(super) fn is_crowded(&self) -> bool {
        self.table.borrow().open >= self.capacity.ceiling()
    }

    /// Have so many connections gone, or so much memory with them, that the allocator should
    /// look what it keeps?
    pub(super) fn has_emptied(&self) -> bool {
        let of_memory = self.memory.has_emptied();
        let mut table = self.table.borrow_mut();
        let emptied = table.peak >= 2 * table.open + 64;
        if emptied {
            table.peak = table.open;
        }
        emptied || of_memory
    }

    /// A place for one more connection of a client; `None` if there is none for it.
    pub(super) fn take(self: &Rc<Self>, client: Client, counters: &Counters) -> Option<Place> {
        let mut table = self.table.borrow_mut();
        let evicted = table.make_room(client, self.capacity);
        for _ in 0..evicted.unwrap_or_default() {
            Counters::add(&counters.evicted);
        }
        if evicted.is_none() {
            Counters::add(&counters.turned_away);
            tracing::debug!(?client, "no place for a connection");
            return None;
        }
        Some(Place {
            places: self.clone(),
            client,
            number: table.next,
            activity: table.seat(client, &self.memory, self.capacity.header_list),
        })
    }
}

impl Table {
    /// Makes room for one more connection of `client`: how many others were asked to
    /// leave for it, or `None` if it has to step back itself.
    fn make_room(&mut self, client: Client, capacity: Capacity) -> Option<usize> {
        if self.open >= capacity.ceiling() {
            return None;
        }
        let held = self.clients.get(&client).map_or(0, |seats| seats.staying);
        if held >= capacity.share {
            self.evict(client, false)
        } else if self.staying >= capacity.limit {
            let (largest, most) = self
                .clients
                .iter()
                .map(|(client, seats)| (*client, seats.staying))
                .max_by_key(|(_, staying)| *staying)?;
            // Somebody with fewer goes first, whatever the other does with its many.
            self.evict(largest, most > held + 1)
        } else {
            Some(0)
        }
    }

    /// Asks idle connections of a client to leave, those first that were idle longest; if
    /// there is none and `busy` may go too, the one that does the same thing longest.
    fn evict(&mut self, client: Client, busy: bool) -> Option<usize> {
        let seats = self.clients.get_mut(&client)?;
        let evicted = seats.evict_idle();
        let evicted = match evicted {
            0 if busy => seats.evict_oldest(),
            evicted => evicted,
        };
        self.staying -= evicted;
        (evicted > 0).then_some(evicted)
    }

    fn seat(&mut self, client: Client, memory: &Rc<Memory>, header_list: u32) -> Rc<Activity> {
        let seats = self.clients.entry(client).or_insert_with(|| Seats {
            client: Connections::new(memory.budget(), header_list),
            seats: BTreeMap::new(),
            staying: 0,
            searched_until: None,
        });
        let activity = Rc::new(Activity::of(&seats.client));
        seats.seats.insert(self.next, activity.clone());
        seats.staying += 1;
        self.staying += 1;
        self.open += 1;
        self.peak = self.peak.max(self.open);
        self.next += 1;
        activity
    }

    fn leave(&mut self, client: Client, number: u64) {
        let Some(seats) = self.clients.get_mut(&client) else {
            return;
        };
        if let Some(activity) = seats.seats.remove(&number) {
            self.open -= 1;
            if !activity.is_evicted() {
                seats.staying -= 1;
                self.staying -= 1;
            }
        }
        if seats.seats.is_empty() {
            self.clients.remove(&client);
        }
    }
}

impl Seats {
    /// A sixty-fourth of a client's connections at once, so that a flood does not search
    /// them all for each newcomer.
    fn evict_idle(&mut self) -> usize {
        let now = Instant::now();
        if self.searched_until.is_some_and(|until| now < until) {
            return 0;
        }
        let staying = self.seats.values().filter(|seat| !seat.is_evicted());
        let mut idle: Vec<_> = staying
            .filter_map(|seat| Some((seat.idle_since()?, seat)))
            .collect();
        let count = (1 + self.staying / 64).min(idle.len());
        if count == 0 {
            self.searched_until = Some(now + SEARCH_PAUSE);
            return 0;
        }
        idle.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
        for (_, seat) in &idle[..count] {
            seat.evict();
        }
        self.staying -= count;
        count
    }

    fn evict_oldest(&mut self) -> usize {
        let staying = self.seats.values().filter(|seat| !seat.is_evicted());
        let Some(seat) = staying.min_by_key(|seat| seat.since()) else {
            return 0;
        };
        seat.evict();
        self.staying -= 1;
        1
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table.borrow_mut();
        table.leave(self.client, self.number);
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
