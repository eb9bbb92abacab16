//! The connection window of the client, which upstream's bodies and our own share.

/// Kept back for bodies of our own, bytes.
const RESERVE: u32 = 16 * 1024;
/// What every connection begins with (RFC 9113 §6.9.2).
const INITIAL: u32 = 65_535;
/// RFC 9113 §6.9.1.
pub(super) const MOST: i64 = 0x7fff_ffff;

/// What the client takes on its connection. Upstream's part is as upstream knows it; a
/// little is kept back from the client's updates, and lent to upstream when that has
/// nothing left: a client may update its window only when all of it is used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientWindow {
    upstreams: i64,
    kept: u32,
}

impl ClientWindow {
    pub(super) fn new() -> Self {
        Self {
            upstreams: i64::from(INITIAL),
            kept: 0,
        }
    }

    /// The client takes `credit` more; returns what to tell upstream of it, or nothing
    /// if that is more than a window can be.
    pub(super) fn credit(&mut self, credit: u32) -> Option<u32> {
        let all = self.upstreams + i64::from(self.kept) + i64::from(credit);
        if all > MOST {
            return None;
        }
        let spare = u32::try_from(all - 2 * i64::from(RESERVE)).unwrap_or(0);
        let kept = credit.min(RESERVE - self.kept).min(spare);
        self.kept += kept;
        self.upstreams += i64::from(credit - kept);
        Some(credit - kept)
    }

    /// Upstream sent a body's bytes; returns what to lend it now.
    pub(super) fn sent(&mut self, bytes: u32) -> u32 {
        self.upstreams -= i64::from(bytes);
        if self.upstreams > i64::from(RESERVE) {
            return 0;
        }
        let lent = std::mem::take(&mut self.kept);
        self.upstreams += i64::from(lent);
        lent
    }

    /// What a body of our own may take.
    pub(super) fn kept(&self) -> u32 {
        self.kept
    }

    /// We sent a body of our own.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.kept -= bytes;
    }

    /// What an upstream that only knows the initial window is to be told.
    pub(super) fn beyond_initial(&self) -> u32 {
        u32::try_from(self.upstreams - i64::from(INITIAL)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_waits_for_its_whole_window_is_never_kept_waiting() {
        for window in [INITIAL, 3 * INITIAL, 1 << 20] {
            let mut client = ClientWindow::new();
            let mut upstream = INITIAL;
            if window > INITIAL {
                upstream += client.credit(window - INITIAL).expect("fits");
            }
            for round in 0..10 {
                let mut used = 0;
                while upstream > 0 {
                    let piece = upstream.min(16_384);
                    upstream = upstream - piece + client.sent(piece);
                    used += piece;
                }
                assert_eq!(used, window, "round {round}");
                upstream += client.credit(window).expect("fits");
            }
        }
    }

    #[test]
    fn no_window_is_larger_than_the_standards() {
        let mut client = ClientWindow::new();
        assert!(client.credit(0x7fff_ffff - INITIAL).is_some());
        assert_eq!(client.credit(1), None);
    }
}
