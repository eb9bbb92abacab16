//! The tables of `iptables-legacy`, by its socket options (linux/netfilter_ipv4/ip_tables.h,
//! netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h).

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::sys::socket::AddressFamily;
use tidegate_contract::Family;

use super::{
    Closed,
    ruleset::{Fate, Is, Step, Table, Value, of_match, of_target},
};

/// What the two programs have different.
struct Legacy {
    program: &'static str,
    family: Family,
    /// Names of the tables that are loaded; asking for another would load it.
    names: &'static str,
    socket: AddressFamily,
    level: libc::c_int,
    /// Bytes of `struct ipt_ip` or `ip6t_ip6`, which begins an entry, and where in it the flags
    /// are and that of `-g`; bytes of the whole head.
    match_bytes: usize,
    flags: (usize, u8),
    head: usize,
}

const LEGACY: [Legacy; 2] = [
    Legacy {
        program: "iptables-legacy",
        family: Family::Ipv4,
        names: "/proc/thread-self/net/ip_tables_names",
        socket: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
        match_bytes: 84,
        flags: (82, 2),
        head: 112,
    },
    Legacy {
        program: "ip6tables-legacy",
        family: Family::Ipv6,
        names: "/proc/thread-self/net/ip6_tables_names",
        socket: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
        match_bytes: 136,
        flags: (131, 4),
        head: 168,
    },
];

/// Tables that see what is for the node and may drop it; `nat`'s does not.
const TABLES: [&str; 2] = ["mangle", "filter"];

/// Chains that drop what is steered. What cannot be read is not claimed.
pub(super) fn closed() -> Vec<Closed> {
    let mut found = Vec::new();
    for legacy in &LEGACY {
        let loaded = fs::read_to_string(legacy.names).unwrap_or_default();
        for name in TABLES {
            if loaded.lines().any(|loaded| loaded == name) {
                found.extend(legacy.closed(name).ok().flatten());
            }
        }
    }
    found
}

/// A verdict: -1 - `NF_DROP`.
const DROP: i32 = -1;
/// Bytes of the head of a match or target, before its data, and of its name in it.
const PART: usize = 32;
const NAME: std::ops::Range<usize> = 2..31;

impl Legacy {
    fn closed(&self, name: &str) -> io::Result<Option<Closed>> {
        /// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`; the numbers of IPv6 are the same.
        const GET_INFO: libc::c_int = 64;
        const GET_ENTRIES: libc::c_int = 65;
        /// Bytes of `struct ipt_getinfo`, and where in it the beginnings of the hooks' chains,
        /// their policies, and the size of all entries stand.
        const INFO: usize = 84;
        const BEGINNINGS: usize = 36;
        const POLICIES: usize = 56;
        const SIZE: usize = 80;
        /// Where in `struct ipt_get_entries` the size and the entries stand.
        const ENTRIES_SIZE: usize = 32;
        const ENTRIES: usize = 40;
        /// `NF_INET_LOCAL_IN`.
        const INPUT: usize = 1;
        let mut info = vec![0; INFO];
        info[..name.len()].copy_from_slice(name.as_bytes());
        self.ask(GET_INFO, &mut info)?;
        let size = word(&info, SIZE)? as usize;
        let mut entries = vec![0; ENTRIES + size];
        entries[..name.len()].copy_from_slice(name.as_bytes());
        entries[ENTRIES_SIZE..ENTRIES_SIZE + 4].copy_from_slice(&(size as u32).to_ne_bytes());
        self.ask(GET_ENTRIES, &mut entries)?;
        let entries = &entries[ENTRIES..];
        let (table, names) = self.read(entries)?;
        let begins = word(&info, BEGINNINGS + 4 * INPUT)?.to_string();
        let policy = word(&info, POLICIES + 4 * INPUT)? as usize;
        let target = word(entries, policy + self.match_bytes + 4)? & 0xffff;
        let verdict = word(entries, policy + target as usize + PART)?;
        let Fate::Dropped(by) = table.fate(&begins, verdict.cast_signed() == DROP, self.family)
        else {
            return Ok(None);
        };
        let of = match name {
            "filter" => String::new(),
            other => format!(" -t {other}"),
        };
        let by = match names.get(&by) {
            Some(by) => format!(" (in chain {by})"),
            None => String::new(),
        };
        Ok(Some(Closed {
            what: format!("chain INPUT of {}{of}{by}", self.program),
            family: self.family,
        }))
    }

    /// The chains by where they begin, and the names of those that people made. A chain ends
    /// where the next begins.
    fn read(&self, entries: &[u8]) -> io::Result<(Table, BTreeMap<String, String>)> {
        let mut table = Table::default();
        let mut names = BTreeMap::new();
        let mut at = 0;
        let mut chain = "0".to_owned();
        while at < entries.len() {
            let offsets = word(entries, at + self.match_bytes + 4)?;
            let (target, next) = ((offsets & 0xffff) as usize, (offsets >> 16) as usize);
            let entry = entries
                .get(at..at + next)
                .filter(|entry| target <= entry.len());
            let entry = entry.filter(|_| next > 0).ok_or_else(other_layout)?;
            let head = part(entry, target)?;
            if head == "ERROR" {
                // The beginning of a chain, or the end of all.
                chain = (at + next).to_string();
                names.insert(
                    chain.clone(),
                    text(entry.get(target + PART..).unwrap_or_default()),
                );
            } else {
                // Base chains begin where the last one's policy ends.
                let rules = table.0.entry(chain.clone()).or_default();
                rules.push(self.rule(entry, target, at)?);
                let is_last = self.asks_nothing(entry) && target == self.head;
                if is_last && head.is_empty() && word(entry, target + PART)? >> 31 == 1 {
                    chain = (at + next).to_string();
                }
            }
            at += next;
        }
        Ok((table, names))
    }

    /// No addresses, devices or protocol.
    fn asks_nothing(&self, entry: &[u8]) -> bool {
        let (flags, _) = self.flags;
        let mut asked = entry[..self.match_bytes].iter().enumerate();
        asked.all(|(at, byte)| *byte == 0 || at == flags)
    }

    fn rule(&self, entry: &[u8], target: usize, at: usize) -> io::Result<Vec<Step>> {
        const ACCEPT: i32 = -2;
        const RETURN: i32 = -5;
        let mut steps = Vec::new();
        if !self.asks_nothing(entry) {
            steps.push(Step::If(Value::Unknown, Is::Equal, 0));
        }
        let mut from = self.head;
        while from < target {
            let size = (word(entry, from)? & 0xffff) as usize;
            let data = entry
                .get(from + PART..from + size)
                .ok_or_else(other_layout)?;
            steps.extend(of_match(&part(entry, from)?, data));
            from += size;
        }
        let name = part(entry, target)?;
        if !name.is_empty() {
            steps.extend(of_target(&name));
            return Ok(steps);
        }
        let (flags, goes) = self.flags;
        match word(entry, target + PART)?.cast_signed() {
            ACCEPT => steps.push(Step::Accept),
            DROP => steps.push(Step::Drop),
            RETURN => steps.push(Step::Return),
            // Without a target, on to the next.
            to if to as usize == at + entry.len() => {}
            to if to < 0 => steps.push(Step::Undecided),
            to if entry[flags] & goes != 0 => steps.push(Step::Goto(to.to_string())),
            to => steps.push(Step::Jump(to.to_string())),
        }
        Ok(steps)
    }

    fn ask(&self, option: libc::c_int, answer: &mut [u8]) -> io::Result<()> {
        const PROTOCOL_RAW: libc::c_int = libc::IPPROTO_RAW;
        // SAFETY: takes numbers only.
        let socket = unsafe {
            libc::socket(
                self.socket as libc::c_int,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                PROTOCOL_RAW,
            )
        };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
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

/// Name of a match or target.
fn part(entry: &[u8], at: usize) -> io::Result<String> {
    let head = entry.get(at..at + PART).ok_or_else(other_layout)?;
    Ok(text(&head[NAME]))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..at + size_of::<u32>());
    let word = word.and_then(|word| word.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or_else(other_layout)
}

fn other_layout() -> io::Error {
    io::Error::other("a table of another layout")
}
