//! Expressions of nftables: small instructions on registers, of which those about the packet's
//! mark, its family and its way are followed (`nft --debug=netlink list ruleset` shows them).

use std::collections::BTreeMap;

use super::{
    attributes::{find, number, text},
    ruleset::{Is, Step, Value, of_match, of_target},
};

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

const UNKNOWN: Step = Step::If(Value::Unknown, Is::Equal, 0);

/// What a rule with these expressions does.
pub(super) fn steps<'a>(expressions: impl Iterator<Item = &'a [u8]>) -> Vec<Step> {
    let mut registers = Registers::default();
    let mut steps = Vec::new();
    for expression in expressions {
        let name = text(expression, NAME).unwrap_or_default();
        let data = find(expression, DATA).unwrap_or_default();
        steps.extend(registers.step(&name, data));
    }
    steps
}

/// What is in the registers that we know of.
#[derive(Default)]
struct Registers(BTreeMap<u32, Value>);

impl Registers {
    fn get(&self, register: Option<u32>) -> Value {
        let value = register.and_then(|register| self.0.get(&register));
        value.copied().unwrap_or(Value::Unknown)
    }

    fn set(&mut self, register: Option<u32>, value: Value) {
        if let Some(register) = register {
            self.0.insert(register, value);
        }
    }

    /// What an expression does; `None` if it decides nothing by itself.
    fn step(&mut self, name: &str, data: &[u8]) -> Option<Step> {
        match name {
            "meta" => self.meta(data),
            "bitwise" => {
                self.bitwise(data);
                None
            }
            "fib" => {
                self.fib(data);
                None
            }
            "cmp" => self.cmp(data),
            // `NFTA_RANGE_SREG`; in network byte order, so that those of marks are turned before.
            "range" => Some(Step::If(
                self.get(number(data, 1)),
                Is::InSet { inverted: false },
                0,
            )),
            "byteorder" => {
                // `NFTA_BYTEORDER_SREG`, `_DREG`.
                let value = match self.get(number(data, 1)) {
                    Value::Mark { .. } | Value::OfMark => Value::OfMark,
                    _ => Value::Unknown,
                };
                self.set(number(data, 2), value);
                None
            }
            "lookup" => self.lookup(data),
            "immediate" => self.immediate(data),
            "reject" => Some(Step::Drop),
            // `NFTA_MATCH_NAME`, `_INFO`; those of a target are alike.
            "match" => {
                let info = find(data, 3).unwrap_or_default();
                of_match(&text(data, 1).unwrap_or_default(), info)
            }
            "target" => of_target(&text(data, 1).unwrap_or_default()),
            // They load something that is not known, or write what does not matter.
            "payload" | "ct" | "rt" | "socket" | "osf" | "exthdr" | "tunnel" | "xfrm" | "hash"
            | "numgen" | "inner" => {
                // `…_DREG`: 1 of all of them but `numgen` and `hash`.
                let place = if name == "hash" { 2 } else { 1 };
                self.set(number(data, place), Value::Unknown);
                None
            }
            "counter" | "log" | "notrack" | "objref" | "dup" | "last" => None,
            // Questions: how much, how often, from where.
            "limit" | "quota" | "connlimit" | "dynset" => Some(UNKNOWN),
            // Queues, translations, proxies, and what comes.
            _ => Some(Step::Undecided),
        }
    }

    /// `NFTA_META_DREG`, `_KEY`, `_SREG`; keys `NFT_META_MARK`, `NFT_META_NFPROTO`.
    fn meta(&mut self, data: &[u8]) -> Option<Step> {
        const MARK: Option<u32> = Some(3);
        const FAMILY: Option<u32> = Some(15);
        let key = number(data, 2);
        if let Some(source) = number(data, 3) {
            let mark = match self.get(Some(source)) {
                Value::Number(mark) => Some(mark),
                _ => None,
            };
            return (key == MARK).then_some(Step::SetMark(mark));
        }
        let value = match key {
            MARK => Value::Mark {
                mask: u32::MAX,
                xor: 0,
            },
            FAMILY => Value::Family,
            _ => Value::Unknown,
        };
        self.set(number(data, 1), value);
        None
    }

    /// `NFTA_BITWISE_SREG`, `_DREG`, `_MASK`, `_XOR`, and `_OP`, of which only the first has
    /// these.
    fn bitwise(&mut self, data: &[u8]) {
        let value = match (self.get(number(data, 1)), value(data, 4), value(data, 5)) {
            (Value::Mark { mask, xor }, Some(and), Some(turned))
                if number(data, 6).unwrap_or(0) == 0 =>
            {
                Value::Mark {
                    mask: mask & and,
                    xor: (xor & and) ^ turned,
                }
            }
            _ => Value::Unknown,
        };
        self.set(number(data, 2), value);
    }

    /// `NFTA_FIB_DREG`, `_RESULT`, `_FLAGS`. A steered packet is for no address of the node: its
    /// type is `RTN_UNICAST`.
    fn fib(&mut self, data: &[u8]) {
        const TYPE: Option<u32> = Some(3);
        const UNICAST: u32 = 1;
        const DESTINATION: u32 = 2;
        const MARK: u32 = 4;
        let flags = number(data, 3).unwrap_or(0);
        let value = match number(data, 2) {
            TYPE if flags & (DESTINATION | MARK) == DESTINATION => Value::Number(UNICAST),
            _ => Value::Unknown,
        };
        self.set(number(data, 1), value);
    }

    /// `NFTA_CMP_SREG`, `_OP`, `_DATA`.
    fn cmp(&self, data: &[u8]) -> Option<Step> {
        let is = match number(data, 2) {
            Some(0) => Is::Equal,
            Some(1) => Is::Unequal,
            Some(2) => Is::Less,
            Some(3) => Is::LessOrEqual,
            Some(4) => Is::Greater,
            Some(5) => Is::GreaterOrEqual,
            _ => return Some(UNKNOWN),
        };
        Some(match value(data, 3) {
            Some(against) => Step::If(self.get(number(data, 1)), is, against),
            None => UNKNOWN,
        })
    }

    /// `NFTA_LOOKUP_SREG`, `_DREG`, `_FLAGS` (`NFT_LOOKUP_F_INV`).
    fn lookup(&mut self, data: &[u8]) -> Option<Step> {
        let looked_up = self.get(number(data, 2));
        match (number(data, 3), looked_up) {
            // A verdict by something: by the mark it may be anything.
            (Some(VERDICT), Value::Mark { .. } | Value::OfMark) => Some(Step::Undecided),
            (Some(VERDICT), _) => Some(UNKNOWN),
            (into @ Some(_), _) => {
                self.set(into, Value::Unknown);
                Some(UNKNOWN)
            }
            (None, value) => {
                let inverted = number(data, 5).unwrap_or(0) & 1 != 0;
                Some(Step::If(value, Is::InSet { inverted }, 0))
            }
        }
    }

    /// `NFTA_IMMEDIATE_DREG`, `_DATA`: a value, or a verdict (`NFTA_VERDICT_CODE`, `_CHAIN`).
    fn immediate(&mut self, data: &[u8]) -> Option<Step> {
        const IS_VERDICT: u16 = 2;
        const DROP: i32 = 0;
        const ACCEPT: i32 = 1;
        const CONTINUE: i32 = -1;
        const JUMP: i32 = -3;
        const GOTO: i32 = -4;
        const RETURN: i32 = -5;
        let into = number(data, 1);
        if into != Some(VERDICT) {
            let value = value(data, 2).map_or(Value::Unknown, Value::Number);
            self.set(into, value);
            return None;
        }
        let verdict = find(find(data, 2)?, IS_VERDICT)?;
        let chain = text(verdict, 2);
        Some(match (number(verdict, 1)?.cast_signed(), chain) {
            (DROP, _) => Step::Drop,
            (ACCEPT, _) => Step::Accept,
            (RETURN, _) => Step::Return,
            (JUMP, Some(chain)) => Step::Jump(chain),
            (GOTO, Some(chain)) => Step::Goto(chain),
            (CONTINUE, _) => return None,
            _ => Step::Undecided,
        })
    }
}

/// What `NFTA_DATA_VALUE` of an attribute holds, as a number of the machine.
fn value(data: &[u8], attribute: u16) -> Option<u32> {
    let bytes = find(find(data, attribute)?, 1)?;
    match *bytes {
        [byte] => Some(byte.into()),
        _ => Some(u32::from_ne_bytes(bytes.try_into().ok()?)),
    }
}
