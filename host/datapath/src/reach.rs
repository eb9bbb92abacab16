//! Do steered flows reach the proxy? Between the hook that steers them and the socket
//! lookup stands the node's own firewall, which drops without a word to us.

use tidegate_contract::{Concern, Note};

use super::firewall::{ClosedInput, LET_THEM_IN, Ruleset, closed_inputs};

/// What was counted up to the last look, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    steered: u64,
    picked: u64,
    lost: u64,
    /// Dropped where NAT had led them: at their socket, or where they would have left.
    past: u64,
    diverted: bool,
    /// Some rule needs the proxy.
    expected: bool,
    /// Firewalls that may drop them, and the connections that had arrived when these were
    /// found first.
    closed: (Vec<ClosedInput>, u64),
    /// What was read of these.
    nftables: Ruleset,
}

impl Reach {
    /// Takes the counters as they are now. A look at which no flow began says nothing
    /// new: what was found before stands.
    pub(super) fn look(
        &mut self,
        Arrivals {
            steered,
            picked,
            past,
        }: Arrivals,
    ) {
        let began = steered.saturating_sub(self.steered);
        let arrived = picked.saturating_sub(self.picked);
        if began > 0 {
            self.lost = if arrived == 0 { began } else { 0 };
            self.diverted = past > self.past;
        }
        (self.steered, self.picked, self.past) = (steered, picked, past);
    }

    /// Does some rule need the proxy?
    pub(super) fn expect(&mut self, expected: bool) {
        self.expected = expected;
    }

    /// Looks for firewalls that may drop what is steered.
    pub(super) fn look_at_firewalls(&mut self) {
        let closed = closed_inputs(&mut self.nftables);
        self.closed(closed);
    }

    /// Takes the firewalls that may drop what is steered, as they are now.
    fn closed(&mut self, closed: Vec<ClosedInput>) {
        if self.closed.0 != closed {
            self.closed = (closed, self.picked);
        }
    }

    /// What the operator should know and do: if nothing arrived at the last look, or before
    /// anything has, if something may keep it from arriving.
    pub(super) fn notes(&self) -> Vec<Note> {
        let (closed, arrived) = &self.closed;
        match self.note() {
            Some(note) => vec![note],
            // They do arrive.
            None if self.picked > *arrived || !self.expected => Vec::new(),
            None => closed.iter().map(ClosedInput::note).collect(),
        }
    }

    fn note(&self) -> Option<Note> {
        (self.lost > 0).then(|| {
            let why = match self.diverted {
                true => {
                    "address translation of this node (nat or DNAT rules) leads them to another \
                     socket, workload or way out, where they are refused; leave out what has the \
                     mark: `iptables -t nat -I PREROUTING -m mark --mark 0x200/0xf00 -j ACCEPT` \
                     (and ip6tables), or `meta mark & 0xf00 == 0x200 accept` in every nftables \
                     chain of type nat"
                }
                false => &format!(
                    "a firewall of this node drops them where it takes in what is for the node; \
                     {LET_THEM_IN}"
                ),
            };
            let message = format!(
                "{} flows were steered to the proxy and none arrived: {why}",
                self.lost
            );
            Note::new(Concern::STEERED, message)
        })
    }
}

/// Counters of what is on its way to the proxy, since the maps were made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    /// Flows steered.
    pub(super) steered: u64,
    /// Connections the listeners were chosen for.
    pub(super) picked: u64,
    /// Packets dropped for `reason::NOT_STEERED`.
    pub(super) past: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_is_told_and_until_it_is_broken() {
        let mut reach = Reach::default();
        // Counters as found, flows said to be lost.
        for (steered, picked, lost) in [
            (0, 0, 0),
            (5, 9, 0),
            (7, 9, 2),
            // Nobody tried.
            (7, 9, 2),
            (8, 9, 1),
            (9, 10, 0),
            // New maps.
            (0, 0, 0),
            (3, 0, 3),
        ] {
            reach.look(Arrivals {
                steered,
                picked,
                past: 0,
            });
            assert_eq!(reach.lost, lost, "{steered} {picked}");
            let note = reach.note().map(|note| note.message).unwrap_or_default();
            assert_eq!(note.contains("INPUT -m mark"), lost > 0, "{note}");
        }
    }

    #[test]
    fn what_may_happen_is_told_until_a_flow_arrives() {
        let mut reach = Reach::default();
        let look = |reach: &mut Reach, steered, picked| {
            reach.look(Arrivals {
                steered,
                picked,
                past: 0,
            });
            reach.notes().len()
        };
        let closed = || vec![ClosedInput::made_up("chain a")];
        assert_eq!(look(&mut reach, 1, 1), 0);
        reach.closed(closed());
        assert_eq!(look(&mut reach, 1, 1), 0, "nothing needs the proxy");
        reach.expect(true);
        assert_eq!(look(&mut reach, 1, 1), 1);
        assert_eq!(look(&mut reach, 2, 1), 1, "one is lost: said as that");
        assert!(reach.notes()[0].message.starts_with("1 flows were steered"));
        assert_eq!(look(&mut reach, 3, 2), 0);
        reach.closed(closed());
        assert_eq!(look(&mut reach, 3, 2), 0, "it is the same firewall");
        reach.closed(vec![ClosedInput::made_up("chain b")]);
        assert_eq!(look(&mut reach, 3, 2), 1, "another one");
    }

    #[test]
    fn who_refused_them_is_told_apart() {
        let mut reach = Reach::default();
        for (steered, past, remedy) in [
            (1, 3, "-t nat -I PREROUTING"),
            // Nobody tried: packets that are sent again say nothing new.
            (1, 9, "-t nat -I PREROUTING"),
            (2, 9, "-I INPUT"),
        ] {
            reach.look(Arrivals {
                steered,
                past,
                ..Arrivals::default()
            });
            let note = reach.note().expect("nothing arrived").message;
            assert!(note.contains(remedy), "{steered} {past}: {note}");
        }
    }
}
