//! What the proxy reads from the kernel, and the tables it writes (`FQDN`, and what it has
//! taken or asks of `STEER_BY_TUPLE`).

mod policy;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    flow::{FlowEntry, FlowKey, flags},
    identity::FqdnInfo,
    limits::FQDN_SHARES,
    maps::map,
    steer::{PeerKey, SteerOrigin},
};

use tidegate_bpf::{Pod, map::Map};

use self::policy::PolicyTables;

/// Most addresses that leave the table of learned ones at a time, to make room.
const ROOM: usize = 64;
/// Seconds between two looks for such addresses, when there are none.
const LOOK: u32 = 5;

/// The kernel tables an agent hands over.
#[derive(Debug)]
pub(super) struct Tables {
    flows: Map<FlowKey, FlowEntry>,
    /// Written by read-change-write: the lock keeps workers from losing each other's
    /// additions.
    fqdn: Mutex<Map<Addr, FqdnInfo>>,
    /// No look for addresses that could leave that table before this, in seconds of
    /// `CLOCK_BOOTTIME`.
    none_before: AtomicU32,
    steered: Map<i32, SteerOrigin>,
    steer_by_tuple: Map<PeerKey, SteerOrigin>,
    policy: PolicyTables,
}

/// The table of this name, out of those handed over.
fn take<K: Pod, V: Pod>(tables: &mut BTreeMap<&str, OwnedFd>, name: &str) -> io::Result<Map<K, V>> {
    let failed = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {why}"));
    let fd = tables
        .remove(name)
        .ok_or_else(|| failed("not handed over".to_owned()))?;
    Map::new(fd).map_err(|error| failed(error.to_string()))
}

impl Tables {
    /// Opens the tables, by name.
    ///
    /// # Errors
    ///
    /// If one is missing or has another layout.
    pub(super) fn open(mut tables: BTreeMap<&str, OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            flows: take(&mut tables, map::FLOWS)?,
            fqdn: Mutex::new(take(&mut tables, map::FQDN)?),
            none_before: AtomicU32::new(0),
            steered: take(&mut tables, map::STEERED)?,
            steer_by_tuple: take(&mut tables, map::STEER_BY_TUPLE)?,
            policy: PolicyTables::open(&mut tables)?,
        })
    }

    /// The kernel's entry of a flow that `source` opened. `None` also if it was opened
    /// from the other end: its rules are not those of what `source` asks for.
    pub(super) fn flow(
        &self,
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<FlowEntry>> {
        let entry = self.flows.get(&flow_key(protocol, source, destination))?;
        let is_low = is_low(source, destination);
        Ok(entry.filter(|entry| (entry.flags & flags::SRC_IS_LOW != 0) == is_low))
    }

    /// Where a steered host service's connection wanted to go, by the accepted socket.
    pub(super) fn steered(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SteerOrigin>> {
        self.steered.get(&socket.as_raw_fd())
    }

    /// The same by its client, and not again: what is left there if no hook of the kernel
    /// saw the accepted socket, because this process is not below the cgroup whose sockets
    /// are ours.
    pub(super) fn take_steered(&self, client: SocketAddr) -> io::Result<Option<SteerOrigin>> {
        let origin = self.steered_peer(proto::TCP, client)?;
        // One that was taken has no protocol.
        let origin = origin.filter(|origin| origin.protocol == proto::TCP);
        if origin.is_some() {
            let taken = SteerOrigin::default();
            self.steer_by_tuple
                .put(&peer_key(proto::TCP, client), &taken)?;
        }
        Ok(origin)
    }

    /// Where a steered host service's datagram wanted to go, by its sender.
    pub(super) fn steered_peer(
        &self,
        protocol: u8,
        peer: SocketAddr,
    ) -> io::Result<Option<SteerOrigin>> {
        self.steer_by_tuple.get(&peer_key(protocol, peer))
    }

    /// Opens a question: what is sent by the socket of this cookie, marked as a probe,
    /// is answered in [`Tables::probed`].
    pub(super) fn probe(&self, cookie: u64) -> io::Result<()> {
        let nothing = SteerOrigin::default();
        self.steer_by_tuple.put(&PeerKey::probe(cookie), &nothing)
    }

    /// The source address that the probe of this socket was about to leave the node
    /// with; `None` if it has not come that far.
    pub(super) fn probed(&self, cookie: u64) -> io::Result<Option<IpAddr>> {
        let seen = self.steer_by_tuple.get(&PeerKey::probe(cookie))?;
        let seen = seen.filter(|seen| seen.protocol != 0);
        Ok(seen.map(|seen| socket_addr(seen.dst, seen.dst_port).ip()))
    }

    /// The identities that names gave an address; none if it has no entry.
    pub(super) fn names_of(&self, address: IpAddr) -> io::Result<FqdnInfo> {
        Ok(self.names(&kernel_addr(address))?.unwrap_or_default())
    }

    fn names(&self, address: &Addr) -> io::Result<Option<FqdnInfo>> {
        let map = self
            .fqdn
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        map.get(address)
    }

    /// Addresses that one workload's answers may take of the table.
    pub(super) fn fqdn_share(&self) -> usize {
        let map = self
            .fqdn
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        map.capacity().div_ceil(FQDN_SHARES) as usize
    }

    /// Lets `change` edit the entry of an address, which it gets as it is now (empty
    /// if there is none), and writes it back.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the table is full.
    pub(super) fn change_fqdn(
        &self,
        address: IpAddr,
        change: impl FnOnce(&mut FqdnInfo),
    ) -> io::Result<()> {
        let key = kernel_addr(address);
        // A panic while the lock was held left the table as it was.
        let map = self
            .fqdn
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut info = map.get(&key)?.unwrap_or_default();
        change(&mut info);
        map.put(&key, &info)
    }

    /// Takes some addresses out of the full table all names of which are `dispensable`;
    /// how many. Reads the whole table, so not more often than every few seconds if there
    /// were none.
    pub(super) fn make_room(
        &self,
        now: u32,
        dispensable: impl Fn(u32) -> bool,
    ) -> io::Result<usize> {
        if now < self.none_before.load(Relaxed) {
            return Ok(0);
        }
        let map = self
            .fqdn
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut found = Vec::new();
        map.each_batch(|addresses, infos| {
            let all = addresses.iter().zip(infos).filter(|(_, info)| {
                let mut names = info.identities.iter().filter(|name| **name != 0);
                names.all(|name| dispensable(*name))
            });
            found.extend(all.map(|(address, _)| *address).take(ROOM - found.len()));
        })?;
        if found.is_empty() {
            self.none_before.store(now.saturating_add(LOOK), Relaxed);
        }
        map.delete_all(&found)?;
        Ok(found.len())
    }

    /// The entry of an address.
    #[cfg(test)]
    pub(super) fn fqdn(&self, address: IpAddr) -> Option<FqdnInfo> {
        self.fqdn
            .lock()
            .unwrap()
            .get(&kernel_addr(address))
            .unwrap()
    }
}

/// The kernel's form of an address.
pub(super) fn kernel_addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

/// An address from the kernel's form.
pub(super) fn socket_addr(addr: Addr, port: [u8; 2]) -> SocketAddr {
    let ip = match addr.as_v4() {
        Some(octets) => IpAddr::from(octets),
        None => IpAddr::from(addr.0),
    };
    SocketAddr::new(ip, u16::from_be_bytes(port))
}

fn end(end: SocketAddr) -> (Addr, [u8; 2]) {
    (kernel_addr(end.ip()), end.port().to_be_bytes())
}

fn peer_key(protocol: u8, peer: SocketAddr) -> PeerKey {
    let (addr, port) = end(peer);
    PeerKey {
        addr,
        port,
        protocol,
        pad: 0,
    }
}

/// Is `one` the low end of its key with `other`?
fn is_low(one: SocketAddr, other: SocketAddr) -> bool {
    end(one) <= end(other)
}

/// The key both ends agree on: the ends in the order of address, then port.
pub(super) fn flow_key(protocol: u8, one: SocketAddr, other: SocketAddr) -> FlowKey {
    let (low, high) = if is_low(one, other) {
        (end(one), end(other))
    } else {
        (end(other), end(one))
    };
    FlowKey {
        low_addr: low.0,
        high_addr: high.0,
        low_port: low.1,
        high_port: high.1,
        protocol,
        pad: [0; 3],
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Tables of real kernel maps for tests.

    use super::*;
    use tidegate_bpf::testing::{MapKind, create};
    use tidegate_ebpf_shared::{
        addr::AddrPrefix,
        config::DatapathConfig,
        endpoint::EndpointInfo,
        identity::AddrInfo,
        policy::{PolicyEntry, PolicyKey},
    };

    fn hash<K, V>(entries: u32) -> OwnedFd {
        of_kind::<K, V>(MapKind::BPF_MAP_TYPE_HASH, entries)
    }

    fn of_kind<K, V>(kind: MapKind, entries: u32) -> OwnedFd {
        create::<K, V>(kind, entries).expect("making a table needs root")
    }

    /// Descriptors by name. The socket storage is stood in for by a hash table of the same
    /// key and value.
    pub(in super::super) fn descriptors(fqdn_entries: u32) -> BTreeMap<&'static str, OwnedFd> {
        BTreeMap::from([
            (map::FLOWS, hash::<FlowKey, FlowEntry>(64)),
            (map::FQDN, hash::<Addr, FqdnInfo>(fqdn_entries)),
            (map::STEERED, hash::<i32, SteerOrigin>(64)),
            (map::STEER_BY_TUPLE, hash::<PeerKey, SteerOrigin>(64)),
            (
                map::CONFIG,
                of_kind::<u32, DatapathConfig>(MapKind::BPF_MAP_TYPE_ARRAY, 1),
            ),
            (
                map::GENERATION,
                of_kind::<u32, u32>(MapKind::BPF_MAP_TYPE_ARRAY, 1),
            ),
            (map::ENDPOINTS, hash::<u32, EndpointInfo>(4)),
            (
                map::IPCACHE,
                of_kind::<AddrPrefix, AddrInfo>(MapKind::BPF_MAP_TYPE_LPM_TRIE, 16),
            ),
            (
                map::POLICY,
                of_kind::<PolicyKey, PolicyEntry>(MapKind::BPF_MAP_TYPE_LPM_TRIE, 16),
            ),
        ])
    }

    impl Tables {
        /// Plays the kernel's part: admits a flow.
        pub(in super::super) fn admit(
            &self,
            protocol: u8,
            source: SocketAddr,
            destination: SocketAddr,
            mut entry: FlowEntry,
        ) {
            entry.flags &= !flags::SRC_IS_LOW;
            if is_low(source, destination) {
                entry.flags |= flags::SRC_IS_LOW;
            }
            self.flows
                .put(&flow_key(protocol, source, destination), &entry)
                .unwrap();
        }
    }

    impl Tables {
        /// Plays the socket hook's part: steers a host service's datagrams.
        pub(in super::super) fn steer(&self, protocol: u8, peer: SocketAddr, origin: SteerOrigin) {
            let key = peer_key(protocol, peer);
            self.steer_by_tuple.put(&key, &origin).unwrap();
        }
    }

    #[test]
    fn an_origin_is_taken_once() {
        let tables = Tables::open(descriptors(4)).unwrap();
        let client: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        assert!(tables.take_steered(client).unwrap().is_none());
        let origin = SteerOrigin {
            protocol: proto::TCP,
            endpoint: 3,
            ..SteerOrigin::default()
        };
        tables.steer(proto::TCP, client, origin);
        assert_eq!(tables.take_steered(client).unwrap(), Some(origin));
        assert_eq!(tables.take_steered(client).unwrap(), None, "and not again");
    }

    #[test]
    fn a_flow_is_its_initiators() {
        let tables = Tables::open(descriptors(4)).unwrap();
        for (source, destination) in [
            ("192.0.2.1:1000", "192.0.2.2:80"),
            ("[2001:db8::2]:1000", "[2001:db8::1]:80"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            tables.admit(6, source, destination, FlowEntry::default());
            assert!(tables.flow(6, source, destination).unwrap().is_some());
            // A connection the other way, between the same ends, is not this flow.
            assert!(tables.flow(6, destination, source).unwrap().is_none());
        }
    }

    #[test]
    fn both_directions_have_one_key() {
        for (one, other) in [
            ("192.0.2.1:1000", "192.0.2.2:80"),
            ("192.0.2.1:1000", "192.0.2.1:80"),
            ("[2001:db8::1]:53", "[2001:db8::2]:53"),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            let key = flow_key(6, one, other);
            assert_eq!(key, flow_key(6, other, one));
            assert!((key.low_addr, key.low_port) <= (key.high_addr, key.high_port));
        }
        let key = flow_key(
            6,
            "192.0.2.1:1000".parse().unwrap(),
            "192.0.2.1:80".parse().unwrap(),
        );
        assert_eq!(key.low_port, 80u16.to_be_bytes());
    }

    #[test]
    fn addresses_there_and_back() {
        for text in ["192.0.2.1:1000", "[2001:db8::1]:53"] {
            let addr: SocketAddr = text.parse().unwrap();
            let back = socket_addr(kernel_addr(addr.ip()), addr.port().to_be_bytes());
            assert_eq!(back, addr);
        }
    }
}
