//! Sizes both sides agree on. Tables marked "default" may be resized by the
//! configuration; the agent publishes fill level and limit of each as gauges.

/// Most CPUs the listener table has room for.
pub const MAX_CPUS: u32 = 256;
/// Tracked flows (default). LRU: the oldest flow is evicted and re-evaluated when it speaks again.
pub const FLOWS: u32 = 262_144;
/// Datagrams whose later fragments are awaited (default). LRU: those of the oldest are then
/// unknown.
pub const FRAGMENTS: u32 = 16_384;
/// Policy entries of all endpoints together (default). Full: the generation is refused.
pub const POLICY_ENTRIES: u32 = 131_072;
/// Prefixes with an identity (default). Full: the generation is refused.
pub const IPCACHE_ENTRIES: u32 = 131_072;
/// Endpoints on this node (default). Full: the generation is refused.
pub const ENDPOINTS: u32 = 4_096;
/// Service frontends (default). Full: the generation is refused.
pub const SERVICES: u32 = 16_384;
/// Backends (default). Full: the generation is refused.
pub const BACKENDS: u32 = 65_536;
/// Backend slots of all services together (default). Full: the generation is refused.
pub const SERVICE_SLOTS: u32 = 131_072;
/// Entries of one Maglev table, a prime (Eisenbud et al., NSDI '16, §3.4).
pub const MAGLEV_TABLE: u32 = 1_021;
/// Services that may use Maglev at once (two tables each while one is replaced).
pub const MAGLEV_TABLES: u32 = 1_024;
/// Translated sockets remembered for replies and `getpeername` (LRU).
pub const REVERSE_NAT: u32 = 65_536;
/// Addresses learned for FQDN rules (default). Full: new names stay denied and are counted.
pub const FQDN_ADDRESSES: u32 = 65_536;
/// Seconds for which new flows may use a learned address that has expired: between an
/// answer and the connection it was asked for, programs take their time, and a TTL may be 0.
pub const FQDN_GRACE: u32 = 10;
/// FQDN selectors one address may match at once; more are counted and ignored (denied).
/// Selectors that no policy has any more, and expired ones, make place.
pub const FQDN_IDS_PER_ADDRESS: usize = 16;
/// What part of [`FQDN_ADDRESSES`] one workload's answers may take: a wildcard and a
/// server that answers with ever new addresses must leave room for the others.
pub const FQDN_SHARES: u32 = 8;
/// Steered host sockets in flight (LRU).
pub const STEERED: u32 = 65_536;
/// Prefixes on the XDP deny list (default). Full: the generation is refused.
pub const DENY_PREFIXES: u32 = 65_536;
/// Sockets enrolled for first-byte hints and the fast lane.
pub const FAST_SOCKETS: u32 = 65_536;
/// Bytes of the ring buffer for flow events.
pub const EVENT_RING_BYTES: u32 = 8 << 20;
/// Bytes of the ring buffer reserved for denies and errors.
pub const DENY_RING_BYTES: u32 = 1 << 20;
/// Deny events per second and CPU before the rest is only counted.
pub const DENY_EVENTS_PER_SECOND: u64 = 2_000;

/// Seconds after which an idle flow counts as gone (Cilium's `ct-*-timeout` defaults).
pub mod timeout {
    /// TCP, both directions seen.
    pub const TCP_ESTABLISHED: u64 = 8_000;
    /// TCP before the first reply.
    pub const TCP_SYN: u64 = 60;
    /// TCP after both FINs or a RST.
    pub const TCP_CLOSED: u64 = 10;
    /// The later fragments of a datagram (`net.ipv4.ipfrag_time`: after this long Linux
    /// itself gives a datagram up).
    pub const FRAGMENTS: u64 = 30;
    /// Everything else.
    pub const ANY: u64 = 60;
}

/// Group records in one report of IGMP or MLD; Linux writes as many as fit into a frame, 73
/// of the longer kind into 1,500 bytes.
pub const GROUP_RECORDS: u32 = 96;
