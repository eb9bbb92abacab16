//! Reading rows the way the kernel does.

use crate::{
    compiled::{Decision, PolicyRow, PortMatch, Rehearsed, Verdict},
    peer::reserved,
    terms::{Direction, IdentityId, L7Id, RuleId},
};

/// Decides for a peer: its own row, or else the wildcard row; within the row the
/// longest prefix. For ICMP, `port` is `type << 8`. Without any row it is a default deny.
pub fn lookup(
    rows: &[PolicyRow],
    identity: IdentityId,
    direction: Direction,
    protocol: u8,
    port: u16,
) -> Decision {
    let row = |identity| {
        let of_row = rows
            .iter()
            .filter(move |r| r.identity == identity && r.direction == direction);
        of_row
            .filter_map(|r| Some((matched_bits(r.ports, protocol, port)?, r.decision)))
            .max_by_key(|(bits, _)| *bits)
    };
    let found = row(identity).or_else(|| row(reserved::ANY));
    found.map_or(
        Decision {
            verdict: Verdict::DefaultDeny,
            rule: RuleId(0),
            l7: L7Id(0),
            shadow: None,
        },
        |(_, decision)| decision,
    )
}

/// What the rows of several identities of one address allow together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnyOf {
    /// Rule sets, any of which may allow; each once.
    pub sets: Vec<L7Id>,
    /// A row allows without asking.
    pub plain: bool,
}

/// What any of these identities allows, the address's own first: an address that names
/// resolved to has the rules of each of them, and those of the prefixes it lies in. Where
/// one denies, nothing.
pub fn lookup_any(
    rows: &[PolicyRow],
    identities: &[IdentityId],
    direction: Direction,
    protocol: u8,
    port: u16,
) -> AnyOf {
    let ask = |identity| {
        let decision = lookup(rows, identity, direction, protocol, port);
        let Decision {
            verdict, rule, l7, ..
        } = decision;
        Rehearsed { verdict, rule, l7 }
    };
    unite(identities, ask).1
}

/// The same if what is in shadow were enforced, and the strongest verdict of all, which
/// is the kernel's.
pub fn rehearse_any(
    rows: &[PolicyRow],
    identities: &[IdentityId],
    direction: Direction,
    protocol: u8,
    port: u16,
) -> (Rehearsed, AnyOf) {
    unite(identities, |identity| {
        lookup(rows, identity, direction, protocol, port).rehearsed()
    })
}

fn unite(identities: &[IdentityId], ask: impl Fn(IdentityId) -> Rehearsed) -> (Rehearsed, AnyOf) {
    let everybody = ask(reserved::ANY);
    let mut strongest = everybody;
    let mut any = AnyOf::default();
    for (position, identity) in identities.iter().enumerate() {
        let said = ask(*identity);
        if position == 0 {
            strongest = said;
        } else if (said.verdict, said.l7) == (everybody.verdict, everybody.l7) {
            // What is said of everybody is in the first row already, together with what
            // limits it there; a name of which nothing else is said adds nothing.
            continue;
        } else if said.verdict > strongest.verdict {
            strongest = said;
        }
        match said.verdict {
            Verdict::Redirect if !any.sets.contains(&said.l7) => any.sets.push(said.l7),
            Verdict::Allow => any.plain = true,
            Verdict::Deny | Verdict::Redirect | Verdict::DefaultDeny => {}
        }
    }
    if strongest.verdict == Verdict::Deny {
        any = AnyOf::default();
    }
    (strongest, any)
}

/// Bits of protocol and port that an entry fixes, if it covers them.
fn matched_bits(ports: PortMatch, protocol: u8, port: u16) -> Option<u8> {
    match ports {
        PortMatch::Any => Some(0),
        PortMatch::Protocol(own) => (own == protocol).then_some(8),
        PortMatch::Ports {
            protocol: own,
            port: first,
            bits,
        } => {
            let shift = 16 - u32::from(bits.min(16));
            let same = u32::from(first) >> shift == u32::from(port) >> shift;
            (own == protocol && same).then_some(8 + bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_allows_unless_one_denies() {
        let row = |identity, verdict, l7| PolicyRow {
            identity: IdentityId(identity),
            direction: Direction::Egress,
            ports: PortMatch::Any,
            decision: Decision {
                verdict,
                rule: RuleId(1),
                l7: L7Id(l7),
                shadow: None,
            },
        };
        let rows = [
            row(0, Verdict::DefaultDeny, 0),
            row(1, Verdict::Redirect, 7),
            row(2, Verdict::Redirect, 7),
            row(3, Verdict::Redirect, 8),
            row(4, Verdict::Allow, 0),
            row(5, Verdict::Deny, 0),
        ];
        let check = |identities: &[u32], sets: &[u32], plain| {
            let identities: Vec<_> = identities.iter().copied().map(IdentityId).collect();
            let any = lookup_any(&rows, &identities, Direction::Egress, 6, 80);
            let sets = sets.iter().copied().map(L7Id).collect();
            assert_eq!(any, AnyOf { sets, plain }, "{identities:?}");
        };
        // Somebody of whom nothing else is said than of everybody adds nothing to that.
        let open = [row(0, Verdict::Allow, 0), row(1, Verdict::Redirect, 7)];
        let any = lookup_any(
            &open,
            &[IdentityId(1), IdentityId(9)],
            Direction::Egress,
            6,
            80,
        );
        assert_eq!((any.sets, any.plain), (vec![L7Id(7)], false));
        check(&[9], &[], false);
        check(&[9, 1, 2, 3], &[7, 8], false);
        check(&[9, 1, 4], &[7], true);
        for denied in [&[5, 1, 4], &[1, 5, 4], &[1, 4, 5]] {
            check(denied, &[], false);
        }
    }
}
