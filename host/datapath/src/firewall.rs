//! Firewalls of this node that drop what is for the node unless a rule accepts it. Flows
//! steered to the proxy are for the node, so this is known before one of them is lost.
//!
//! Read only: nftables (what `iptables-nft` makes too) over netlink, and the tables of
//! `iptables-legacy` by its socket options. Whether a rule accepts them is not worked out; a
//! table with a rule that looks at a packet's mark counts as one that knows them.

use std::{collections::BTreeSet, fs, io, mem::size_of, os::fd::AsRawFd as _};

use nix::sys::socket::AddressFamily;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use tidegate_contract::{Concern, Family, Note};

use super::reach::LET_THEM_IN;

/// A chain that drops what is for the node, in a table without a rule about marks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClosedInput {
    /// What it drops: IPv4, IPv6, or both.
    families: &'static [Family],
    /// `chain INPUT of table ip filter`.
    what: String,
}

impl ClosedInput {
    /// What to know and to do about it.
    pub(super) fn notes(&self) -> impl Iterator<Item = Note> {
        let message = format!(
            "{} drops what no rule of it accepts, and none looks at packets' marks: if none \
             accepts flows steered to the proxy by other signs, they are lost; {LET_THEM_IN}",
            self.what
        );
        let families = self.families.iter();
        families.map(move |family| Note::new(Concern::steered(*family), message.clone()))
    }
}

/// What may keep flows from reaching the proxy on this node, for those who have not tried.
pub fn firewall_notes() -> Vec<Note> {
    let closed = closed_inputs();
    closed.iter().flat_map(ClosedInput::notes).collect()
}

/// Finds them. What cannot be read, for want of rights or of the kernel's support, is not
/// claimed.
pub(super) fn closed_inputs() -> Vec<ClosedInput> {
    let mut found = nftables().unwrap_or_default();
    found.extend(LEGACY.iter().filter_map(|legacy| legacy.closed_input()));
    found.sort();
    found
}

/// `NFNL_SUBSYS_NFTABLES` and its messages (linux/netfilter/nfnetlink.h, nf_tables.h).
const SUBSYSTEM: u16 = 10;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
/// `NF_INET_LOCAL_IN`.
const LOCAL_IN: u32 = 1;
/// `NF_DROP`, as a chain's policy.
const DROP: u32 = 0;

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

fn nftables() -> io::Result<Vec<ClosedInput>> {
    if !is_loaded() {
        return Ok(Vec::new());
    }
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut closed = Vec::new();
    dump(&mut socket, GET_CHAIN, |kind, family, message| {
        if kind == NEW_CHAIN {
            closed.extend(Chain::closed(family, message));
        }
    })?;
    if closed.is_empty() {
        return Ok(Vec::new());
    }
    let mut aware = BTreeSet::new();
    dump(&mut socket, GET_RULE, |kind, family, message| {
        if kind == NEW_RULE && looks_at_mark(message) {
            aware.extend(text(message, RULE_TABLE).map(|table| (family, table)));
        }
    })?;
    let unaware = closed
        .into_iter()
        .filter(|chain| !aware.contains(&(chain.family, chain.table.clone())));
    Ok(unaware.filter_map(Chain::told).collect())
}

/// A base chain for what is for the node, with policy drop.
struct Chain {
    family: u8,
    table: String,
    name: String,
}

/// Attributes of a chain: `NFTA_CHAIN_TABLE`, `_NAME`, `_HOOK` (`NFTA_HOOK_HOOKNUM`),
/// `_POLICY`; of a rule: `NFTA_RULE_TABLE`, `_EXPRESSIONS` (`NFTA_EXPR_NAME`, `_DATA`).
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const CHAIN_POLICY: u16 = 5;
const RULE_TABLE: u16 = 1;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

impl Chain {
    fn closed(family: u8, message: &[u8]) -> Option<Self> {
        let hook = attribute(message, CHAIN_HOOK)?;
        let drops = number(message, CHAIN_POLICY) == Some(DROP);
        (drops && number(hook, HOOK_NUMBER) == Some(LOCAL_IN)).then_some(())?;
        Some(Self {
            family,
            table: text(message, CHAIN_TABLE)?,
            name: text(message, CHAIN_NAME)?,
        })
    }

    /// `None` for families of other packets (ARP, bridge, netdev).
    fn told(self) -> Option<ClosedInput> {
        let (family, families): (_, &[Family]) = match self.family {
            1 => ("inet", &[Family::Ipv4, Family::Ipv6]),
            2 => ("ip", &[Family::Ipv4]),
            10 => ("ip6", &[Family::Ipv6]),
            _ => return None,
        };
        Some(ClosedInput {
            families,
            what: format!("chain {} of table {family} {}", self.name, self.table),
        })
    }
}

/// Has a rule an expression about the packet's mark: nftables' own (`meta mark`, key
/// `NFT_META_MARK` in `NFTA_META_KEY`) or that of iptables (`NFTA_MATCH_NAME`)?
fn looks_at_mark(rule: &[u8]) -> bool {
    const META_KEY: u16 = 2;
    const META_MARK: u32 = 3;
    const MATCH_NAME: u16 = 1;
    let expressions = attribute(rule, RULE_EXPRESSIONS).unwrap_or_default();
    attributes(expressions).any(|(_, expression)| {
        let data = attribute(expression, EXPRESSION_DATA).unwrap_or_default();
        match text(expression, EXPRESSION_NAME).as_deref() {
            Some("meta") => number(data, META_KEY) == Some(META_MARK),
            Some("match") => text(data, MATCH_NAME).as_deref() == Some("mark"),
            _ => false,
        }
    })
}

/// Asks for all of a kind, of every family, and hands each answer to `each`: its kind, its
/// family and its attributes.
fn dump(socket: &mut Socket, kind: u16, mut each: impl FnMut(u16, u8, &[u8])) -> io::Result<()> {
    /// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
    const HEADER: usize = 16;
    const FAMILY: usize = 4;
    const REQUEST_AND_DUMP: u16 = 0x301;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let mut question = Vec::with_capacity(HEADER + FAMILY);
    question.extend(((HEADER + FAMILY) as u32).to_ne_bytes());
    question.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    question.extend(REQUEST_AND_DUMP.to_ne_bytes());
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
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The attributes of a message: `struct nlattr` and its content, aligned to four bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NESTED_OR_ORDER: u16 = 0xc000;
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED_OR_ORDER;
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, content)| (kind == wanted).then_some(content))
}

fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    let content = attribute(bytes, wanted)?;
    Some(u32::from_be_bytes(content.try_into().ok()?))
}

fn text(bytes: &[u8], wanted: u16) -> Option<String> {
    let content = attribute(bytes, wanted)?;
    let end = content.iter().position(|byte| *byte == 0);
    Some(String::from_utf8_lossy(&content[..end.unwrap_or(content.len())]).into_owned())
}

/// The table `filter` of `iptables-legacy` of one family.
struct Legacy {
    program: &'static str,
    families: &'static [Family],
    /// Names of the tables that are loaded; asking for another would load it.
    names: &'static str,
    family: AddressFamily,
    level: libc::c_int,
    /// Bytes of `struct ipt_ip` or `ip6t_ip6`, which begins an entry; `target_offset` is
    /// behind it and four bytes more.
    match_bytes: usize,
}

const LEGACY: [Legacy; 2] = [
    Legacy {
        program: "iptables-legacy",
        families: &[Family::Ipv4],
        names: "/proc/thread-self/net/ip_tables_names",
        family: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
        match_bytes: 84,
    },
    Legacy {
        program: "ip6tables-legacy",
        families: &[Family::Ipv6],
        names: "/proc/thread-self/net/ip6_tables_names",
        family: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
        match_bytes: 136,
    },
];

impl Legacy {
    fn closed_input(&self) -> Option<ClosedInput> {
        let names = fs::read_to_string(self.names).ok()?;
        names.lines().any(|name| name == "filter").then_some(())?;
        self.drops_unmarked().ok()?.then(|| ClosedInput {
            families: self.families,
            what: format!("chain INPUT of {}", self.program),
        })
    }

    /// Is the policy of INPUT drop, and no rule of the table about marks?
    fn drops_unmarked(&self) -> io::Result<bool> {
        /// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`; the numbers of IPv6 are the same.
        const GET_INFO: libc::c_int = 64;
        const GET_ENTRIES: libc::c_int = 65;
        /// Bytes of `struct ipt_getinfo`, and where in it the ends of the chains (their
        /// policies) and the size of all entries stand.
        const INFO: usize = 84;
        const UNDERFLOW: usize = 32 + 4 + 5 * 4;
        const SIZE: usize = 80;
        /// Where in `struct ipt_get_entries` the size and the entries stand.
        const ENTRIES_SIZE: usize = 32;
        const ENTRIES: usize = 40;
        let mut info = vec![0; INFO];
        info[..6].copy_from_slice(b"filter");
        self.ask(GET_INFO, &mut info)?;
        let size = word(&info, SIZE)? as usize;
        let policy = word(&info, UNDERFLOW + 4 * LOCAL_IN as usize)? as usize;
        let mut entries = vec![0; ENTRIES + size];
        entries[..6].copy_from_slice(b"filter");
        entries[ENTRIES_SIZE..ENTRIES_SIZE + 4].copy_from_slice(&(size as u32).to_ne_bytes());
        self.ask(GET_ENTRIES, &mut entries)?;
        let entry = ENTRIES + policy;
        let target = word(&entries, entry + self.match_bytes + 4)? & 0xffff;
        // Behind the head of a standard target stands its verdict: -1 - NF_DROP.
        const TARGET_HEAD: usize = 32;
        let verdict = word(&entries, entry + target as usize + TARGET_HEAD)?;
        let is_about_marks = entries.windows(6).any(|bytes| bytes == b"\0mark\0");
        Ok(verdict == u32::MAX - DROP && !is_about_marks)
    }

    fn ask(&self, option: libc::c_int, answer: &mut [u8]) -> io::Result<()> {
        const PROTOCOL_RAW: libc::c_int = libc::IPPROTO_RAW;
        // SAFETY: takes numbers only.
        let socket = unsafe {
            libc::socket(
                self.family as libc::c_int,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                PROTOCOL_RAW,
            )
        };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and owned by nobody else.
        let socket =
            unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
        let mut length = answer.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `answer`, which has as many.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                self.level,
                option,
                answer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..at + size_of::<u32>());
    let word = word.and_then(|word| word.try_into().ok());
    word.map(u32::from_ne_bytes)
        .ok_or_else(|| io::Error::other("a table of another layout"))
}

#[cfg(test)]
impl ClosedInput {
    pub(super) fn made_up(what: &str) -> Self {
        Self {
            families: &[Family::Ipv4],
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a network namespace of its own.
    fn in_namespace(body: fn()) {
        let run = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
            body();
        };
        if let Err(panic) = std::thread::spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn run(command: &str) {
        let mut words = command.split(' ');
        let program = words.next().expect("a program");
        let status = Command::new(program).args(words).status().expect(program);
        assert!(status.success(), "{command}");
    }

    fn found() -> Vec<String> {
        closed_inputs()
            .into_iter()
            .map(|closed| closed.what)
            .collect()
    }

    #[test]
    fn a_firewall_that_drops_by_default_is_found_until_it_knows_the_mark() {
        in_namespace(|| {
            assert_eq!(found(), [""; 0]);
            run("nft add table inet f");
            run("nft add chain inet f in { type filter hook input priority 0 ; policy drop ; }");
            run("nft add chain inet f out { type filter hook output priority 0 ; policy drop ; }");
            run("nft add rule inet f in ct state established accept");
            assert_eq!(found(), ["chain in of table inet f"]);
            let notes: Vec<Note> = closed_inputs()[0].notes().collect();
            assert_eq!(notes.len(), 2, "of both families");
            assert!(
                notes[0]
                    .message
                    .contains("INPUT -m mark --mark 0x200/0xf00")
            );
            run("nft add rule inet f in meta mark & 0xf00 == 0x200 accept");
            assert_eq!(found(), [""; 0]);
            run("nft delete table inet f");
            for (program, what) in [
                ("iptables-nft", "chain INPUT of table ip filter"),
                ("ip6tables-nft", "chain INPUT of table ip6 filter"),
                ("iptables-legacy", "chain INPUT of iptables-legacy"),
                ("ip6tables-legacy", "chain INPUT of ip6tables-legacy"),
            ] {
                run(&format!("{program} -A INPUT -i lo -j ACCEPT"));
                assert_eq!(found(), [""; 0], "{program}: its policy is to accept");
                run(&format!("{program} -P INPUT DROP"));
                assert_eq!(found(), [what]);
                run(&format!(
                    "{program} -I INPUT -m mark --mark 0x200/0xf00 -j ACCEPT"
                ));
                assert_eq!(found(), [""; 0], "{program}: it knows them");
                run(&format!("{program} -P INPUT ACCEPT"));
            }
        });
    }
}
