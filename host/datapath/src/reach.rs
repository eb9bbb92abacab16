//! Do steered flows reach the proxy? Between the hook that steers them and the socket
//! lookup stands the node's own firewall, which drops without a word to us.

use tidegate_contract::{Concern, Note};

/// What was counted up to the last look, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    steered: u64,
    picked: u64,
    lost: u64,
}

impl Reach {
    /// Takes the counters as they are now. A look at which no flow began says nothing
    /// new: what was found before stands.
    pub(super) fn look(&mut self, steered: u64, picked: u64) {
        let began = steered.saturating_sub(self.steered);
        let arrived = picked.saturating_sub(self.picked);
        if began > 0 {
            self.lost = if arrived == 0 { began } else { 0 };
        }
        (self.steered, self.picked) = (steered, picked);
    }

    /// What the operator should know and do, if nothing arrived at the last look.
    pub(super) fn note(&self) -> Option<Note> {
        (self.lost > 0).then(|| {
            let message = format!(
                "{} flows were steered to the proxy and none arrived: a firewall of this node \
                 drops them where it takes in what is for the node; let them in: `iptables -I \
                 INPUT -m mark --mark 0x200/0xf00 -j ACCEPT` (and ip6tables), or `meta mark & \
                 0xf00 == 0x200 accept` in every nftables chain of hook input",
                self.lost
            );
            Note::new(Concern::STEERED, message)
        })
    }
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
            reach.look(steered, picked);
            assert_eq!(reach.lost, lost, "{steered} {picked}");
            let note = reach.note().map(|note| note.message).unwrap_or_default();
            assert_eq!(note.contains("INPUT -m mark"), lost > 0, "{note}");
        }
    }
}
