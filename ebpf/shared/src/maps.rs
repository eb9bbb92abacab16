//! Names of the maps, as in `ebpf/programs/src/maps.rs`, and of the programs.

/// Map names; also the file names of their pins.
pub mod map {
    /// `CONFIG: Array<DatapathConfig>`, one value. Agent writes, programs read.
    pub const CONFIG: &str = "CONFIG";
    /// `GENERATION: Array<u32>`, one value: the active generation. Agent writes.
    pub const GENERATION: &str = "GENERATION";
    /// `ENDPOINTS: HashMap<u32, EndpointInfo>`. Agent writes.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `INTERFACES: HashMap<u32 (ifindex), u32 (endpoint id)>`. Agent writes.
    pub const INTERFACES: &str = "INTERFACES";
    /// `BRIDGE_PORTS: HashMap<u32 (ifindex), BridgePort>`. Agent writes.
    pub const BRIDGE_PORTS: &str = "BRIDGE_PORTS";
    /// `GUARDED: HashMap<u32 (endpoint id), u32 (ifindex)>`: endpoints whose device has had
    /// `from_endpoint`; what comes from their addresses by any other way is not theirs. Agent writes.
    pub const GUARDED: &str = "GUARDED";
    /// `TAGGING: HashMap<u32 (ifindex), u32 (1)>`: what is no workload's device and takes in
    /// packets with tags of ours: outside devices, and what stands above a device of ours
    /// (bridge, VRF, VLAN). Agent writes.
    pub const TAGGING: &str = "TAGGING";
    /// `CGROUPS: HashMap<u64 (cgroup id), u32 (endpoint id)>`. Agent writes.
    pub const CGROUPS: &str = "CGROUPS";
    /// `IPCACHE: LpmTrie<Addr, AddrInfo>`. Agent writes.
    pub const IPCACHE: &str = "IPCACHE";
    /// `FQDN: HashMap<Addr, FqdnInfo>`. Proxy inserts, agent expires.
    pub const FQDN: &str = "FQDN";
    /// `POLICY: LpmTrie<PolicyKey without prefix_len, PolicyEntry>`. Agent writes.
    pub const POLICY: &str = "POLICY";
    /// `FLOWS: LruHashMap<FlowKey, FlowEntry>`. Programs write; agent and proxy read.
    pub const FLOWS: &str = "FLOWS";
    /// `FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry>`. Programs write.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `LISTENERS: SockMap`, see `steer::class`. Agent writes.
    pub const LISTENERS: &str = "LISTENERS";
    /// `STEER_BY_COOKIE: LruHashMap<u64, SteerOrigin>`. Connect hook writes.
    pub const STEER_BY_COOKIE: &str = "STEER_BY_COOKIE";
    /// `STEER_BY_TUPLE: LruHashMap<PeerKey, SteerOrigin>`. sockops (TCP) and sendmsg (UDP) write.
    pub const STEER_BY_TUPLE: &str = "STEER_BY_TUPLE";
    /// `STEERED: SkStorage<SteerOrigin>` on the proxy's accepted sockets. sockops writes, proxy reads by fd.
    pub const STEERED: &str = "STEERED";
    /// `SERVICES: HashMap<ServiceKey, ServiceEntry>`. Agent writes.
    pub const SERVICES: &str = "SERVICES";
    /// `SLOTS: HashMap<SlotKey, u32 (backend id)>`. Agent writes.
    pub const SLOTS: &str = "SLOTS";
    /// `BACKENDS: HashMap<u32, Backend>`. Agent writes.
    pub const BACKENDS: &str = "BACKENDS";
    /// `MAGLEV: Array<u32 (backend id)>`, tables one after the other. Agent writes.
    pub const MAGLEV: &str = "MAGLEV";
    /// `REVERSE_NAT: LruHashMap<ReverseKey, ReverseEntry>`. Socket hooks write.
    pub const REVERSE_NAT: &str = "REVERSE_NAT";
    /// `DENY_LIST: LpmTrie<Addr, u32 (counter slot)>`. Agent writes.
    pub const DENY_LIST: &str = "DENY_LIST";
    /// `DENY_COUNTS: PerCpuArray<Counter>` by slot. XDP writes.
    pub const DENY_COUNTS: &str = "DENY_COUNTS";
    /// `FAST_SOCKETS: SockHash<FlowTuple>`. sockops writes.
    pub const FAST_SOCKETS: &str = "FAST_SOCKETS";
    /// `EVENTS: RingBuf` of `Event`.
    pub const EVENTS: &str = "EVENTS";
    /// `DENIES: RingBuf` of `Event`, for denies and errors only.
    pub const DENIES: &str = "DENIES";
    /// `COUNTERS: PerCpuArray<Counter>` by `event::counter`.
    pub const COUNTERS: &str = "COUNTERS";

    /// Every map the agent pins, in the order `tidegate status` lists them.
    pub const ALL: [&str; 28] = [
        CONFIG,
        GENERATION,
        ENDPOINTS,
        INTERFACES,
        BRIDGE_PORTS,
        GUARDED,
        TAGGING,
        CGROUPS,
        IPCACHE,
        FQDN,
        POLICY,
        FLOWS,
        FRAGMENTS,
        LISTENERS,
        STEER_BY_COOKIE,
        STEER_BY_TUPLE,
        STEERED,
        SERVICES,
        SLOTS,
        BACKENDS,
        MAGLEV,
        REVERSE_NAT,
        DENY_LIST,
        DENY_COUNTS,
        FAST_SOCKETS,
        EVENTS,
        DENIES,
        COUNTERS,
    ];
}

/// Program names; also the file names of their links.
pub mod program {
    /// tcx ingress on the host side of a workload's veth: packets from the workload.
    pub const FROM_ENDPOINT: &str = "from_endpoint";
    /// tcx egress on the host side of a workload's veth: packets to the workload.
    pub const TO_ENDPOINT: &str = "to_endpoint";
    /// tcx ingress on an outside device.
    pub const FROM_OUTSIDE: &str = "from_outside";
    /// tcx egress on every device but those of workloads: what needs the proxy must not
    /// leave.
    pub const TO_OUTSIDE: &str = "to_outside";
    /// tcx ingress on what stands above workloads' devices (a bridge, a VLAN of it): what needs
    /// the proxy is shown to nobody there either.
    pub const HANDED_UP: &str = "handed_up";
    /// XDP on an outside device: the deny list.
    pub const DENY_LIST: &str = "deny_list";
    /// As [`FROM_OUTSIDE`], where packets begin with their IP header (`tun`, WireGuard).
    pub const FROM_OUTSIDE_IP: &str = "from_outside_ip";
    /// As [`TO_OUTSIDE`], there.
    pub const TO_OUTSIDE_IP: &str = "to_outside_ip";
    /// As [`DENY_LIST`], there.
    pub const DENY_LIST_IP: &str = "deny_list_ip";
    /// sk_lookup in the node's network namespace.
    pub const PICK_LISTENER: &str = "pick_listener";
    /// cgroup connect4.
    pub const CONNECT4: &str = "connect4";
    /// cgroup connect6.
    pub const CONNECT6: &str = "connect6";
    /// cgroup sendmsg4.
    pub const SENDMSG4: &str = "sendmsg4";
    /// cgroup sendmsg6.
    pub const SENDMSG6: &str = "sendmsg6";
    /// cgroup recvmsg4.
    pub const RECVMSG4: &str = "recvmsg4";
    /// cgroup recvmsg6.
    pub const RECVMSG6: &str = "recvmsg6";
    /// cgroup getpeername4.
    pub const GETPEERNAME4: &str = "getpeername4";
    /// cgroup getpeername6.
    pub const GETPEERNAME6: &str = "getpeername6";
    /// cgroup sockops. Not named after its ELF section, which has a symbol of that name.
    pub const SOCKOPS: &str = "socket_ops";
    /// cgroup `sock_create`.
    pub const OPEN_SOCKET: &str = "open_socket";
    /// cgroup egress: packets of sockets whose kind has no hook at `connect`.
    pub const HOST_PACKET: &str = "host_packet";
    /// cgroup ingress: what needs the proxy is for no other socket.
    pub const TO_SOCKET: &str = "to_socket";
    /// sk_msg on `FAST_SOCKETS`.
    pub const FIRST_BYTES: &str = "first_bytes";
}
