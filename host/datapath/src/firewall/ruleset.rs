//! What a ruleset makes of flows steered to the proxy, as far as can be told without a packet:
//! their mark is known, and that they are for no address of the node. Of all else a rule may
//! ask, nothing is known, and it is taken not to match: who accepts them by other signs is not
//! found here.

use std::collections::BTreeMap;

use tidegate_contract::Family;
use tidegate_ebpf_shared::mark;

/// Longest way through chains that the kernel allows (`NFT_JUMP_STACK_SIZE`).
const JUMPS: usize = 16;

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The packet's mark, after a mask and an exclusive or.
    Mark {
        /// Bits that count.
        mask: u32,
        /// Bits that are turned.
        xor: u32,
    },
    /// Something made of the packet's mark, which is not followed.
    OfMark,
    /// The packet's family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    Family,
    /// This number, for every steered packet.
    Number(u32),
    /// Something we do not know.
    Unknown,
}

/// How it compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// In a set, or not, that we do not read.
    InSet {
        inverted: bool,
    },
}

/// One thing that a rule asks or does; in this order, as far as what it asks is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Goes on if it compares like this.
    If(Value, Is, u32),
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// Writes the packet's mark: with this, or with what we do not know.
    SetMark(Option<u32>),
    /// Something that may decide, and is not worked out: a queue, a translation.
    Undecided,
}

/// Rules of one chain.
pub(super) type Rules = Vec<Vec<Step>>;

/// What becomes of steered flows in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Rules of this chain, or its policy, drop them.
    Dropped(String),
    Accepted,
    /// Not known.
    Undecided,
}

enum End {
    Fate(Fate),
    /// To whoever jumped here.
    Returned,
}

/// The chains of one table, by name.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) BTreeMap<String, Rules>);

/// What is known of a packet on its way.
#[derive(Clone, Copy)]
struct Packet {
    family: Family,
    mark: Option<u32>,
}

impl Table {
    /// What becomes of steered packets of a family that enter this chain, with this policy.
    pub(super) fn fate(&self, chain: &str, policy_drops: bool, family: Family) -> Fate {
        let mut packet = Packet {
            family,
            mark: Some(mark::TO_PROXY),
        };
        match self.walk(chain, &mut packet, 0) {
            End::Fate(fate) => fate,
            End::Returned if policy_drops => Fate::Dropped(chain.to_owned()),
            End::Returned => Fate::Accepted,
        }
    }

    fn walk(&self, chain: &str, packet: &mut Packet, jumps: usize) -> End {
        if jumps > JUMPS {
            return End::Fate(Fate::Undecided);
        }
        for rule in self.0.get(chain).into_iter().flatten() {
            if let Some(end) = self.rule(chain, rule, packet, jumps) {
                return end;
            }
        }
        End::Returned
    }

    /// `None` if the next rule is asked.
    fn rule(&self, chain: &str, rule: &[Step], packet: &mut Packet, jumps: usize) -> Option<End> {
        // A set or range of marks may have ours.
        let mut perhaps = false;
        for step in rule {
            match step {
                Step::If(Value::OfMark, ..) | Step::If(Value::Mark { .. }, Is::InSet { .. }, _) => {
                    perhaps = true;
                }
                Step::If(value, is, against) if packet.compares(*value, *is, *against) => {}
                Step::If(..) => return None,
                Step::Drop if perhaps => return None,
                Step::Accept | Step::Jump(_) | Step::Goto(_) | Step::Return if perhaps => {
                    return Some(End::Fate(Fate::Undecided));
                }
                Step::Undecided => return Some(End::Fate(Fate::Undecided)),
                Step::SetMark(_) if perhaps => packet.mark = None,
                Step::SetMark(mark) => packet.mark = *mark,
                Step::Accept => return Some(End::Fate(Fate::Accepted)),
                Step::Drop => return Some(End::Fate(Fate::Dropped(chain.to_owned()))),
                Step::Return => return Some(End::Returned),
                Step::Goto(to) => return Some(self.walk(to, packet, jumps + 1)),
                Step::Jump(to) => match self.walk(to, packet, jumps + 1) {
                    End::Returned => {}
                    end @ End::Fate(_) => return Some(end),
                },
            }
        }
        None
    }
}

impl Packet {
    /// For certain.
    fn compares(&self, value: Value, is: Is, against: u32) -> bool {
        let number = match value {
            Value::Mark { mask, xor } => self.mark.map(|mark| (mark & mask) ^ xor),
            Value::Family => Some(match self.family {
                Family::Ipv4 => 2,
                Family::Ipv6 => 10,
            }),
            Value::Number(number) => Some(number),
            Value::OfMark | Value::Unknown => None,
        };
        number.is_some_and(|number| match is {
            Is::Equal => number == against,
            Is::Unequal => number != against,
            Is::Less => number < against,
            Is::LessOrEqual => number <= against,
            Is::Greater => number > against,
            Is::GreaterOrEqual => number >= against,
            // Sets of what is for the node: nobody lists what is not, to leave it out.
            Is::InSet { inverted } => inverted,
        })
    }
}

/// What a match of iptables asks, which nftables has, too: its name and its data (linux/
/// netfilter/xt_mark.h). `None` if it asks nothing.
pub(super) fn of_match(name: &str, data: &[u8]) -> Option<Step> {
    let word = |at: usize| {
        let bytes = data.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let unknown = Step::If(Value::Unknown, Is::Equal, 0);
    Some(match (name, word(0), word(4)) {
        ("comment", ..) => return None,
        ("mark", Some(value), Some(mask)) => {
            let is = match data.get(8) {
                Some(0) | None => Is::Equal,
                Some(_) => Is::Unequal,
            };
            Step::If(Value::Mark { mask, xor: 0 }, is, value)
        }
        _ => unknown,
    })
}

/// What a target of iptables does. `None` if it decides nothing.
pub(super) fn of_target(name: &str) -> Option<Step> {
    match name {
        "REJECT" | "DROP" => Some(Step::Drop),
        "MARK" | "CONNMARK" => Some(Step::SetMark(None)),
        "LOG" | "NFLOG" | "TRACE" | "AUDIT" | "CT" | "NOTRACK" | "TCPMSS" | "SET" | "TOS"
        | "DSCP" | "TTL" | "HL" | "CLASSIFY" | "CHECKSUM" | "TCPOPTSTRIP" | "RATEEST" => None,
        _ => Some(Step::Undecided),
    }
}
