//! The deny list's program against a model of it: whose frames are refused, counted where
//! and told how.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    config::DatapathConfig,
    event::{Counter, Event, kind},
    maps::{map, program},
    policy::verdict,
    reason,
};

use super::{
    compare::without_time,
    frames::{Spec, garbage},
    object::{LOOPBACK, Object},
    random::Random,
    world::addr,
};

/// XDP return codes (linux/bpf.h, `enum xdp_action`).
const DROP: u32 = 1;
const PASS: u32 = 2;

/// Prefixes around the addresses frames have: of one, of some, of a whole family, of
/// everybody; with their own bits of the address.
const PREFIXES: [(&str, u32); 10] = [
    ("10.0.0.10", 32),
    ("10.0.0.0", 31),
    ("10.0.0.0", 24),
    ("192.0.0.0", 9),
    ("0.0.0.0", 0),
    ("fd00::10", 128),
    ("fd00::", 64),
    ("2001:db8::", 32),
    ("::", 1),
    ("::", 0),
];

/// How many frames were refused and let through.
#[derive(Debug, Default)]
pub struct Tally {
    /// By an entry that a wider one holds, too: the longer prefix counts.
    pub nested: u64,
    /// By any entry.
    pub refused: u64,
    /// By none, although the list is not empty.
    pub passed: u64,
}

/// The loaded program and what its counters should say.
pub struct Comparison {
    object: Object,
    counts: [Counter; PREFIXES.len()],
    refused: Counter,
}

impl Comparison {
    /// Loads the program.
    pub fn new() -> Result<Self> {
        let mut object = Object::load(&[program::DENY_LIST])?;
        let config = DatapathConfig {
            deny_events_per_second: u32::MAX,
            ..DatapathConfig::default()
        };
        object.set(map::CONFIG, config)?;
        Ok(Self {
            object,
            counts: Default::default(),
            refused: Counter::default(),
        })
    }

    /// Another list, and a few dozen frames.
    pub fn case(&mut self, random: &mut Random, tally: &mut Tally) -> Result<()> {
        let chance = random.pick(&[2, 4, 16]);
        let listed: Vec<usize> = (0..PREFIXES.len())
            .filter(|_| random.one_in(chance))
            .collect();
        for &slot in &listed {
            self.object
                .set_prefix(map::DENY_LIST, prefix(slot), slot as u32)?;
        }
        for _ in 0..40 {
            let frame = if random.one_in(8) {
                garbage(random)
            } else {
                Spec::random(random).build(random)
            };
            self.frame(&listed, &frame, tally)?;
        }
        for slot in listed {
            let counted = self.object.counter(map::DENY_COUNTS, slot as u32)?;
            assert_eq!(counted, self.counts[slot], "{:?}", PREFIXES[slot]);
            let mut list: LpmTrie<_, Addr, u32> =
                LpmTrie::try_from(self.object.map(map::DENY_LIST)?)?;
            let prefix = prefix(slot);
            list.remove(&Key::new(prefix.prefix_len, prefix.addr))?;
        }
        let counted = self
            .object
            .counter(map::COUNTERS, u32::from(reason::DENY_LIST))?;
        assert_eq!(counted, self.refused);
        Ok(())
    }

    fn frame(&mut self, listed: &[usize], frame: &[u8], tally: &mut Tally) -> Result<()> {
        let run = self
            .object
            .xdp(program::DENY_LIST, frame, 1)
            .context("run the program")?;
        let source = source(frame);
        let covering = listed.iter().copied().filter(|slot| {
            let prefix = prefix(*slot);
            let differing = source.map(|source| bits(source) ^ bits(prefix.addr));
            differing.is_some_and(|bits| bits.leading_zeros() >= prefix.prefix_len)
        });
        let covering: Vec<usize> = covering.collect();
        let entry = covering
            .iter()
            .copied()
            .max_by_key(|slot| prefix(*slot).prefix_len);
        let context = || format!("listed {listed:?}, frame {frame:02x?}");
        let denies = without_time(self.object.events(map::DENIES)?);
        let Some(slot) = entry else {
            assert_eq!((run.code, denies), (PASS, vec![]), "{}", context());
            tally.passed += u64::from(!listed.is_empty());
            return Ok(());
        };
        for counter in [&mut self.counts[slot], &mut self.refused] {
            counter.packets += 1;
            counter.bytes += frame.len() as u64;
        }
        let (dst, protocol, [src_port, dst_port]) = beyond(frame).unwrap_or_default();
        let told = Event {
            kind: kind::DENY_LIST,
            src: source.unwrap_or_default(),
            dst,
            protocol,
            src_port,
            dst_port,
            verdict: verdict::DENY,
            shadow_verdict: verdict::DENY,
            reason: reason::DENY_LIST,
            ifindex: LOOPBACK,
            ..Event::default()
        };
        assert_eq!((run.code, denies), (DROP, vec![told]), "{}", context());
        tally.refused += 1;
        tally.nested += u64::from(covering.len() > 1);
        Ok(())
    }
}

/// The source address, if the frame has a whole IP header; right or wrong otherwise.
fn source(frame: &[u8]) -> Option<Addr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            frame.get(14..34)?;
            let octets: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
            Some(Addr::v4(octets))
        }
        [0x86, 0xdd] => {
            frame.get(14..54)?;
            Some(Addr(frame.get(22..38)?.try_into().ok()?))
        }
        _ => None,
    }
}

/// Destination, protocol and ports of a frame with a whole IP header; ports only of the
/// transports that have some, right behind a header without options.
fn beyond(frame: &[u8]) -> Option<(Addr, u8, [[u8; 2]; 2])> {
    let (dst, protocol, at) = if frame[12..14] == [0x08, 0x00] {
        let octets: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
        let plain = frame[14] & 15 == 5 && frame[20] & 0x1f == 0 && frame[21] == 0;
        (Addr::v4(octets), frame[23], plain.then_some(34))
    } else {
        let octets: [u8; 16] = frame.get(38..54)?.try_into().ok()?;
        (Addr(octets), frame[20], Some(54))
    };
    let ports = at.and_then(|at| frame.get(at..at + 4));
    let ports = ports.filter(|_| [6, 17, 132].contains(&protocol));
    let ports = ports.map(|ports| [[ports[0], ports[1]], [ports[2], ports[3]]]);
    Some((dst, protocol, ports.unwrap_or_default()))
}

fn prefix(slot: usize) -> AddrPrefix {
    let (text, length) = PREFIXES[slot];
    let address: IpAddr = text.parse().expect("literal");
    let family = if address.is_ipv4() {
        Addr::V4_PREFIX_BITS
    } else {
        0
    };
    AddrPrefix {
        prefix_len: family + length,
        addr: addr(address),
    }
}

fn bits(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.0)
}
