//! Rulesets of nftables (what `iptables-nft` makes too), over netlink (linux/netfilter/
//! nfnetlink.h, nf_tables.h).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use tidegate_contract::Family;

use super::{
    Closed,
    attributes::{all, find, number, text},
    expressions,
    ruleset::{Fate, Table},
};

/// `NFNL_SUBSYS_NFTABLES` and its messages.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_GENERATION: u16 = 15;
const GET_GENERATION: u16 = 16;

/// A table: its family and its name.
type Name = (u8, String);

/// A chain that begins with what is for the node.
struct Base {
    table: Name,
    chain: String,
    drops: bool,
}

/// What was read last, and the number of the ruleset that it was read from: the kernel counts
/// every change of one.
#[derive(Debug, Default)]
pub(crate) struct Ruleset {
    generation: Option<u32>,
    closed: Vec<Closed>,
}

impl Ruleset {
    /// Chains that drop what is steered. Read anew where something has changed.
    pub(super) fn closed(&mut self) -> io::Result<&[Closed]> {
        if !is_loaded() {
            *self = Self::default();
            return Ok(&self.closed);
        }
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let now = generation(&mut socket)?;
        if now.is_none() || now != self.generation {
            self.closed = read(&mut socket)?;
            // Changed meanwhile, it is read again.
            self.generation = now;
        }
        Ok(&self.closed)
    }
}

/// The number of the ruleset there is now.
fn generation(socket: &mut Socket) -> io::Result<Option<u32>> {
    /// `NFTA_GEN_ID`.
    const ID: u16 = 1;
    let mut generation = None;
    ask(socket, GET_GENERATION, Wanted::One, |kind, _, message| {
        if kind == NEW_GENERATION {
            generation = number(message, ID);
        }
    })?;
    Ok(generation)
}

fn read(socket: &mut Socket) -> io::Result<Vec<Closed>> {
    let mut bases = Vec::new();
    ask(socket, GET_CHAIN, Wanted::All, |kind, family, message| {
        if kind == NEW_CHAIN {
            bases.extend(Base::read(family, message));
        }
    })?;
    if bases.is_empty() {
        return Ok(Vec::new());
    }
    let mut dormant = BTreeSet::new();
    ask(socket, GET_TABLE, Wanted::All, |kind, family, message| {
        /// `NFTA_TABLE_NAME`, `NFTA_TABLE_FLAGS` with `NFT_TABLE_F_DORMANT`.
        const NAME: u16 = 1;
        const FLAGS: u16 = 2;
        const DORMANT: u32 = 1;
        if kind == NEW_TABLE && number(message, FLAGS).unwrap_or(0) & DORMANT != 0 {
            dormant.extend(text(message, NAME).map(|name| (family, name)));
        }
    })?;
    bases.retain(|base| !dormant.contains(&base.table));
    let mut tables: BTreeMap<Name, Table> = BTreeMap::new();
    ask(socket, GET_RULE, Wanted::All, |kind, family, message| {
        /// `NFTA_RULE_TABLE`, `_CHAIN`, `_EXPRESSIONS`.
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        let (Some(table), Some(chain)) = (text(message, TABLE), text(message, CHAIN)) else {
            return;
        };
        if kind == NEW_RULE {
            let list = find(message, EXPRESSIONS).unwrap_or_default();
            let expressions = all(list).map(|(_, expression)| expression);
            let table = tables.entry((family, table)).or_default();
            table
                .0
                .entry(chain)
                .or_default()
                .push(expressions::steps(expressions));
        }
    })?;
    Ok(bases
        .iter()
        .flat_map(|base| {
            let table = tables.entry(base.table.clone()).or_default();
            base.closed(table)
        })
        .collect())
}

impl Base {
    /// `None` for hooks and types of other chains.
    fn read(family: u8, message: &[u8]) -> Option<Self> {
        /// `NFTA_CHAIN_TABLE`, `_NAME`, `_HOOK` (`NFTA_HOOK_HOOKNUM`), `_POLICY`, `_TYPE`.
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const HOOK_NUMBER: u16 = 1;
        const POLICY: u16 = 5;
        const TYPE: u16 = 7;
        /// `NF_DROP`, as a chain's policy.
        const DROP: u32 = 0;
        /// `NF_INET_LOCAL_IN`.
        const INPUT: u32 = 1;
        let is_input = number(find(message, HOOK)?, HOOK_NUMBER)? == INPUT;
        (is_input && text(message, TYPE)? == "filter").then_some(())?;
        Some(Self {
            table: (family, text(message, TABLE)?),
            chain: text(message, NAME)?,
            drops: number(message, POLICY) == Some(DROP),
        })
    }

    /// Of each family of its packets. None of other packets' (ARP, bridge, netdev).
    fn closed(&self, table: &Table) -> Vec<Closed> {
        let (family, name) = &self.table;
        let (family, families): (_, &[Family]) = match family {
            1 => ("inet", &[Family::Ipv4, Family::Ipv6]),
            2 => ("ip", &[Family::Ipv4]),
            10 => ("ip6", &[Family::Ipv6]),
            _ => return Vec::new(),
        };
        let closed = families.iter().filter_map(|of| {
            let Fate::Dropped(by) = table.fate(&self.chain, self.drops, *of) else {
                return None;
            };
            let by = match by == self.chain {
                true => String::new(),
                false => format!(" (in chain {by})"),
            };
            Some(Closed {
                what: format!("chain {} of table {family} {name}{by}", self.chain),
                family: *of,
            })
        });
        closed.collect()
    }
}

/// Is nftables there? Asking a kernel that could load it would load it.
fn is_loaded() -> bool {
    let Ok(loaded) = fs::read_to_string("/proc/modules") else {
        // A kernel that loads nothing.
        return true;
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let built_in = format!("/lib/modules/{}/modules.builtin", release.trim());
    let built_in = fs::read_to_string(built_in).unwrap_or_default();
    loaded.lines().any(|line| line.starts_with("nf_tables "))
        || built_in.lines().any(|line| line.ends_with("/nf_tables.ko"))
}

/// How many answers there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One,
    /// All of a kind, of every family.
    All,
}

/// Asks for something, and hands each answer to `each`: its kind, its family and its attributes.
fn ask(
    socket: &mut Socket,
    kind: u16,
    wanted: Wanted,
    mut each: impl FnMut(u16, u8, &[u8]),
) -> io::Result<()> {
    /// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
    const HEADER: usize = 16;
    const FAMILY: usize = 4;
    const REQUEST: u16 = 1;
    const DUMP: u16 = 0x300;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let mut question = Vec::with_capacity(HEADER + FAMILY);
    question.extend(((HEADER + FAMILY) as u32).to_ne_bytes());
    question.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    let flags = match wanted {
        Wanted::One => REQUEST,
        Wanted::All => REQUEST | DUMP,
    };
    question.extend(flags.to_ne_bytes());
    question.resize(HEADER + FAMILY, 0);
    socket.send(&question, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(header) = rest.get(..HEADER) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(message) = rest.get(HEADER..length) else {
                return Err(io::Error::other("a netlink message of no length"));
            };
            match u16::from_ne_bytes([header[4], header[5]]) {
                DONE => return Ok(()),
                ERROR => return Err(io::Error::other("refused by nf_tables")),
                kind if kind >> 8 == SUBSYSTEM && message.len() >= FAMILY => {
                    each(kind & 0xff, message[0], &message[FAMILY..]);
                    if wanted == Wanted::One {
                        return Ok(());
                    }
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
