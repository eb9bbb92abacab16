//! The maps, and who writes each; those that one program keeps for itself lie with it. What a
//! layout means is said where it is defined, in `tidegate-ebpf-shared`; names are listed
//! there too, in `maps`.

use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash, SockMap},
};
use tidegate_decide::rate::TokenBucket;
use tidegate_ebpf_shared::{
    addr::Addr,
    bridge::BridgePort,
    config::DatapathConfig,
    endpoint::EndpointInfo,
    event::{Counter, counter},
    flow::{FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey},
    identity::{AddrInfo, FqdnInfo},
    limits,
    policy::PolicyEntry,
    service::{Backend, ReverseEntry, ReverseKey, ServiceEntry, ServiceKey, SlotKey},
    steer::{PeerKey, SteerOrigin, class},
};

/// `BPF_F_NO_PREALLOC`: memory only for what is there.
const ON_DEMAND: u32 = 1;

/// One value. The agent writes.
#[map]
pub static CONFIG: Array<DatapathConfig> = Array::with_max_entries(1, 0);
/// One value: the active generation. The agent writes.
#[map]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);
/// By endpoint id. The agent writes.
#[map]
pub static ENDPOINTS: HashMap<u32, EndpointInfo> = HashMap::with_max_entries(limits::ENDPOINTS, 0);
/// Endpoint id by interface index. The agent writes.
#[map]
pub static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(limits::ENDPOINTS, 0);
/// Devices that are ports of a bridge, by interface index. The agent writes.
#[map]
pub static BRIDGE_PORTS: HashMap<u32, BridgePort> =
    HashMap::with_max_entries(limits::ENDPOINTS, ON_DEMAND);
/// Interface index by endpoint id, of those whose packets are decided. The agent writes.
#[map]
pub static GUARDED: HashMap<u32, u32> = HashMap::with_max_entries(limits::ENDPOINTS, 0);
/// Devices, besides those of workloads, whose packets have tags of ours. The agent writes.
#[map]
pub static TAGGING: HashMap<u32, u32> = HashMap::with_max_entries(limits::ENDPOINTS, ON_DEMAND);
/// Endpoint id by cgroup id. The agent writes.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(limits::ENDPOINTS, 0);
/// Identity and endpoint by address prefix; keys are `AddrPrefix`. The agent writes.
#[map]
pub static IPCACHE: LpmTrie<Addr, AddrInfo> = LpmTrie::with_max_entries(limits::IPCACHE_ENTRIES, 0);
/// FQDN identities by address. The proxy inserts, the agent expires.
#[map]
pub static FQDN: HashMap<Addr, FqdnInfo> =
    HashMap::with_max_entries(limits::FQDN_ADDRESSES, ON_DEMAND);
/// Policy; keys are `PolicyKey`. The agent writes.
#[map]
pub static POLICY: LpmTrie<[u8; 12], PolicyEntry> =
    LpmTrie::with_max_entries(limits::POLICY_ENTRIES, 0);
/// Live flows. Programs write; agent and proxy read.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(limits::FLOWS, 0);
/// What first fragments said. Programs write.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(limits::FRAGMENTS, 0);
/// The proxy's listeners, `class * MAX_CPUS + cpu`. The agent writes.
#[map]
pub static LISTENERS: SockMap = SockMap::with_max_entries(class::COUNT * limits::MAX_CPUS, 0);
/// Origin of a steered socket by its cookie, until it connects. `connect` writes.
#[map]
pub static STEER_BY_COOKIE: LruHashMap<u64, SteerOrigin> =
    LruHashMap::with_max_entries(limits::STEERED, 0);
/// Origin by the client's address. sockops (TCP) and `sendmsg` (UDP) write.
#[map]
pub static STEER_BY_TUPLE: LruHashMap<PeerKey, SteerOrigin> =
    LruHashMap::with_max_entries(limits::STEERED, 0);
/// Origin in the proxy's accepted socket. sockops writes, the proxy reads by fd.
#[btf_map]
pub static STEERED: SkStorage<SteerOrigin> = SkStorage::new();
/// Frontends. The agent writes.
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry> =
    HashMap::with_max_entries(limits::SERVICES, ON_DEMAND);
/// Backend id by service and slot. The agent writes.
#[map]
pub static SLOTS: HashMap<SlotKey, u32> =
    HashMap::with_max_entries(limits::SERVICE_SLOTS, ON_DEMAND);
/// Backends by id. The agent writes.
#[map]
pub static BACKENDS: HashMap<u32, Backend> = HashMap::with_max_entries(limits::BACKENDS, ON_DEMAND);
/// Maglev tables one after the other: backend ids. The agent writes.
#[map]
pub static MAGLEV: Array<u32> =
    Array::with_max_entries(limits::MAGLEV_TABLE * limits::MAGLEV_TABLES, 0);
/// What a translated socket believes it talks to. Socket hooks write.
#[map]
pub static REVERSE_NAT: LruHashMap<ReverseKey, ReverseEntry> =
    LruHashMap::with_max_entries(limits::REVERSE_NAT, 0);
/// Counter slot by source prefix; keys are `AddrPrefix`. The agent writes.
#[map]
pub static DENY_LIST: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(limits::DENY_PREFIXES, 0);
/// Packets refused, by slot. XDP writes.
#[map]
pub static DENY_COUNTS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(limits::DENY_PREFIXES, 0);
/// Sockets of workloads that opted in. sockops writes.
#[map]
pub static FAST_SOCKETS: SockHash<FlowKey> = SockHash::with_max_entries(limits::FAST_SOCKETS, 0);
/// Flow events. Programs write, the agent reads.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(limits::EVENT_RING_BYTES, 0);
/// Denies and errors. Programs write, the agent reads.
#[map]
pub static DENIES: RingBuf = RingBuf::with_byte_size(limits::DENY_RING_BYTES, 0);
/// Counters by `event::counter`. Programs write, the agent sums.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(counter::COUNT, 0);
/// Rate limit of deny events. Programs only: nothing to read, nothing to keep.
#[map]
pub static DENY_TOKENS: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
/// Rate limit of events about what is only rehearsed. Programs only, as above.
#[map]
pub static REHEARSED_TOKENS: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
