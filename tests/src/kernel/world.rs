//! A random small world: addresses, endpoints and policies, written to the maps and
//! kept for the model.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use anyhow::Result;
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    bridge::BridgePort,
    config::{DatapathConfig, flags as config_flags},
    endpoint::EndpointInfo,
    identity::{AddrInfo, FqdnInfo, reserved},
    maps::map,
    policy::{PolicyEntry, PolicyKey, direction, verdict},
};

use super::{
    object::{LOOPBACK, Object},
    random::Random,
};

/// An address and what the tables say of it.
pub struct Known {
    /// The address.
    pub addr: IpAddr,
    /// Leading bits the table entry covers.
    pub bits: u32,
    /// What it says.
    pub info: AddrInfo,
}

/// Everything that decides.
pub struct World {
    /// Active generation.
    pub generation: u32,
    /// Settings.
    pub config: DatapathConfig,
    /// By id.
    pub endpoints: HashMap<u32, EndpointInfo>,
    /// Address table, and so the addresses packets use.
    pub known: Vec<Known>,
    /// FQDN identities.
    pub fqdn: HashMap<IpAddr, FqdnInfo>,
    /// Policy table.
    pub policy: Vec<(PolicyKey, PolicyEntry)>,
    /// Endpoints whose device had its programs.
    pub guarded: HashSet<u32>,
    /// Do packets of the device of all hooks have tags of ours, if it is no workload's?
    pub tagging: bool,
    /// Is the device of all hooks a port of a bridge?
    pub bridged: bool,
    /// Classes that have a listener.
    pub listeners: HashSet<u32>,
}

/// The workloads.
pub const ENDPOINTS: [u32; 2] = [10, 11];
/// Ports that packets and policies use.
pub const PORTS: [u16; 4] = [53, 80, 443, 40_000];
/// Outside identities that policies know: the two world families, a prefix, two names.
const PREFIX_IDENTITY: u32 = reserved::LOCAL_SCOPE | 1;
const NAME_IDENTITIES: [u32; 2] = [reserved::LOCAL_SCOPE | 2, reserved::LOCAL_SCOPE | 3];

/// A time of `CLOCK_BOOTTIME` that is over on any machine which has come so far: the
/// grace of limits included, it is not by chance the present.
pub const EXPIRED: u32 = 1;

impl World {
    /// A world with policy ids from `first_policy` on (never reused while loaded).
    pub fn random(random: &mut Random, generation: u32, first_policy: u32) -> Self {
        let mut world = Self {
            generation,
            config: DatapathConfig {
                flags: random.pick(&[0, 0, 0, config_flags::AUDIT, config_flags::ALLOW_LOCALHOST]),
                deny_events_per_second: u32::MAX,
                ..DatapathConfig::default()
            },
            endpoints: HashMap::new(),
            known: addresses(),
            fqdn: HashMap::new(),
            policy: Vec::new(),
            guarded: ENDPOINTS
                .into_iter()
                .filter(|_| !random.one_in(4))
                .collect(),
            tagging: random.one_in(2),
            bridged: random.one_in(3),
            listeners: HashSet::new(),
        };
        for (i, &id) in ENDPOINTS.iter().enumerate() {
            let first = first_policy + 2 * i as u32;
            // Once in a while the policy of one generation is not in place.
            let in_place = |random: &mut Random, id| if random.one_in(24) { 0 } else { id };
            world.endpoints.insert(
                id,
                EndpointInfo {
                    identity: 300 + id,
                    policy_id: [in_place(random, first), in_place(random, first + 1)],
                    ..EndpointInfo::default()
                },
            );
            for policy in [first, first + 1] {
                for side in [direction::INGRESS, direction::EGRESS] {
                    world.add_rows(random, policy, side);
                }
            }
        }
        // Some of them are no addresses outside, whatever an answer said.
        for addr in [
            "192.0.2.9",
            "198.51.100.7",
            "10.0.0.11",
            "fd00::10",
            "10.0.0.1",
        ] {
            if random.one_in(2) {
                // Any of its places may be the one that decides, the last one too.
                let mut info = FqdnInfo::default();
                let last = info.identities.len() - 1;
                for identity in [NAME_IDENTITIES[0], NAME_IDENTITIES[1], 77] {
                    let place = random.pick(&[0, 1, last / 2, last - 1, last]);
                    info.identities[place] = identity;
                    info.expires[place] = random.pick(&[EXPIRED, u32::MAX]);
                }
                world.fqdn.insert(addr.parse().expect("literal"), info);
            }
        }
        world
    }

    /// Complete rows, as the compiler makes them: each with a catch-all. The wildcard
    /// row is left out at times: nothing must then be allowed by it.
    fn add_rows(&mut self, random: &mut Random, policy: u32, side: u8) {
        let mut identities = vec![
            300 + ENDPOINTS[0],
            300 + ENDPOINTS[1],
            reserved::HOST,
            reserved::WORLD_IPV4,
            reserved::WORLD_IPV6,
            PREFIX_IDENTITY,
        ];
        if side == direction::EGRESS {
            identities.extend(NAME_IDENTITIES);
        }
        identities.retain(|_| random.one_in(2));
        if !random.one_in(6) {
            identities.push(reserved::ANY);
        }
        for identity in identities {
            self.add_row(random, policy, identity, side);
        }
    }

    fn add_row(&mut self, random: &mut Random, policy: u32, identity: u32, side: u8) {
        let mut key = PolicyKey {
            prefix_len: PolicyKey::ROW,
            policy_id: policy.to_be_bytes(),
            identity: identity.to_be_bytes(),
            direction: side,
            protocol: 0,
            port: [0; 2],
        };
        self.policy.push((key, entry(random)));
        for protocol in [6, 17, 1, 58] {
            key.protocol = protocol;
            key.port = [0; 2];
            if random.one_in(3) {
                key.prefix_len = PolicyKey::PROTOCOL;
                self.policy.push((key, entry(random)));
            }
            for _ in 0..random.below(3) {
                // A port, or a block of ports whose other bits are zero.
                let bits = random.pick(&[16, 16, 12, 6]);
                let port = if protocol == 1 || protocol == 58 {
                    random.pick(&[8_u16, 128, 3, 13]) << 8
                } else {
                    random.pick(&PORTS)
                };
                key.prefix_len = PolicyKey::PROTOCOL + bits;
                key.port = (port & (u16::MAX << (16 - bits))).to_be_bytes();
                self.policy.retain(|(other, _)| *other != key);
                self.policy.push((key, entry(random)));
            }
        }
    }

    /// Writes everything to the maps.
    pub fn publish(&self, object: &mut Object) -> Result<()> {
        object.set(map::CONFIG, self.config)?;
        object.set(map::GENERATION, self.generation)?;
        for (&id, &info) in &self.endpoints {
            object
                .hash::<u32, EndpointInfo>(map::ENDPOINTS)?
                .insert(id, info, 0)?;
        }
        for id in ENDPOINTS {
            let mut guarded = object.hash::<u32, u32>(map::GUARDED)?;
            if self.guarded.contains(&id) {
                guarded.insert(id, LOOPBACK, 0)?;
            } else {
                let _ = guarded.remove(&id);
            }
        }
        let mut tagging = object.hash::<u32, u32>(map::TAGGING)?;
        if self.tagging {
            tagging.insert(LOOPBACK, 1, 0)?;
        } else {
            let _ = tagging.remove(&LOOPBACK);
        }
        let mut ports = object.hash::<u32, BridgePort>(map::BRIDGE_PORTS)?;
        if self.bridged {
            ports.insert(LOOPBACK, BridgePort::default(), 0)?;
        } else {
            let _ = ports.remove(&LOOPBACK);
        }
        for known in &self.known {
            let key = AddrPrefix {
                prefix_len: known.bits,
                addr: addr(known.addr),
            };
            object.set_prefix(map::IPCACHE, key, known.info)?;
        }
        let mut fqdn = object.hash::<Addr, FqdnInfo>(map::FQDN)?;
        let stale: Vec<Addr> = fqdn.keys().collect::<Result<_, _>>()?;
        for key in stale {
            fqdn.remove(&key)?;
        }
        for (&name, &info) in &self.fqdn {
            fqdn.insert(addr(name), info, 0)?;
        }
        for &(key, entry) in &self.policy {
            object.set_policy(key, entry)?;
        }
        Ok(())
    }
}

/// The mapped form of an address.
pub fn addr(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

fn addresses() -> Vec<Known> {
    let known = |text: &str, bits: u32, identity, endpoint| {
        let addr: IpAddr = text.parse().expect("literal");
        Known {
            addr,
            bits: bits
                + if addr.is_ipv4() {
                    Addr::V4_PREFIX_BITS
                } else {
                    0
                },
            info: AddrInfo { identity, endpoint },
        }
    };
    vec![
        known("10.0.0.10", 32, 310, 10),
        known("10.0.0.11", 32, 311, 11),
        known("fd00::10", 128, 310, 10),
        known("fd00::11", 128, 311, 11),
        known("10.0.0.1", 32, reserved::HOST, 0),
        known("fd00::1", 128, reserved::HOST, 0),
        known("192.0.2.0", 24, PREFIX_IDENTITY, 0),
        known("0.0.0.0", 0, reserved::WORLD_IPV4, 0),
    ]
}

fn entry(random: &mut Random) -> PolicyEntry {
    let verdict = random.pick(&[
        verdict::ALLOW,
        verdict::ALLOW,
        verdict::ALLOW,
        verdict::ALLOW,
        verdict::REDIRECT,
        verdict::REDIRECT,
        verdict::DEFAULT_DENY,
        verdict::DENY,
    ]);
    let shadowed = random.one_in(4);
    PolicyEntry {
        rule: 1 + random.below(1000) as u32,
        l7: if verdict == verdict::REDIRECT {
            1 + random.below(50) as u32
        } else {
            0
        },
        shadow_rule: if shadowed {
            2000 + random.below(100) as u32
        } else {
            0
        },
        verdict,
        shadow_verdict: if shadowed {
            random.pick(&[0, 1, 2, 3])
        } else {
            verdict
        },
        ..PolicyEntry::default()
    }
}
