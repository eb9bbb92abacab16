//! One way of a connection through one filter: what is held, and what was said of it.

use std::collections::VecDeque;

/// Bytes one way that no filter has let pass yet.
#[derive(Debug, Default)]
pub(super) struct Lane {
    held: Vec<u8>,
    orders: VecDeque<Order>,
    /// Nothing is shown before it is so many bytes.
    wanted: usize,
    /// Something has come since the filter was asked last, or it wants to be asked again.
    fresh: bool,
    /// It is to be asked again about what there is: at once if something became of the
    /// front meanwhile, else when it has seen something of the other way.
    again: bool,
    /// Bytes of which it was said what becomes of them.
    ordered: u64,
    /// The sender says no more.
    ended: bool,
}

/// What is to be done with the front, one after the other.
#[derive(Debug)]
enum Order {
    Pass(u64),
    Drop(u64),
    Send(Vec<u8>),
}

impl Lane {
    /// What has come; `end` if it was the last. False if it was nothing.
    pub(super) fn add(&mut self, bytes: &[u8], end: bool) -> bool {
        let has_come = !bytes.is_empty() || end && !self.ended;
        self.held.extend_from_slice(bytes);
        self.fresh |= has_come;
        self.ended |= end;
        has_come
    }

    /// What the filter is to be shown now, if anything.
    pub(super) fn shown(&mut self) -> Option<(&[u8], bool)> {
        let enough = self.held.len() >= self.wanted && !self.held.is_empty();
        if !self.orders.is_empty() || !self.fresh || !(enough || self.ended) {
            return None;
        }
        self.fresh = false;
        self.again = false;
        self.wanted = 0;
        Some((&self.held, self.ended))
    }

    pub(super) fn pass(&mut self, count: u64) {
        self.ordered = self.ordered.saturating_add(count);
        self.orders.push_back(Order::Pass(count));
    }

    pub(super) fn discard(&mut self, count: u64) {
        self.ordered = self.ordered.saturating_add(count);
        self.orders.push_back(Order::Drop(count));
    }

    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        self.orders.push_back(Order::Send(bytes));
    }

    pub(super) fn want(&mut self, count: usize) {
        self.wanted = count;
        self.again = self.orders.is_empty() && !self.held.is_empty() && count <= self.held.len();
    }

    /// Bytes of which it was said what becomes of them, since the connection began.
    pub(super) fn ordered(&self) -> u64 {
        self.ordered
    }

    /// Is the filter to be asked again when it has seen something of the other way?
    pub(super) fn is_stalled(&self) -> bool {
        self.again && !self.fresh
    }

    /// What it waited for has come about: it is asked again.
    pub(super) fn resume(&mut self) {
        self.fresh |= self.again;
    }

    /// Is it to be asked again although nothing has come?
    pub(super) fn is_due(&self) -> bool {
        self.again && self.fresh && self.orders.is_empty()
    }

    /// Lets pass whatever is there and will come.
    pub(super) fn open(&mut self) {
        self.again = false;
        self.orders.push_back(Order::Pass(u64::MAX));
    }

    /// Carries out what was said as far as it goes, into `out`.
    pub(super) fn flow(&mut self, out: &mut Vec<u8>) {
        while let Some(order) = self.orders.front_mut() {
            let left = match order {
                Order::Pass(left) | Order::Drop(left) => left,
                Order::Send(bytes) => {
                    out.append(bytes);
                    self.orders.pop_front();
                    continue;
                }
            };
            let count = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(self.held.len());
            *left -= count as u64;
            let is_done = *left == 0;
            let gone = self.held.drain(..count);
            if let Order::Pass(_) = order {
                out.extend(gone);
            }
            if !is_done {
                break;
            }
            self.orders.pop_front();
        }
        if self.held.is_empty() && (!self.ended || !self.orders.is_empty()) {
            // There is nothing to show.
            self.fresh = false;
            self.again = false;
            self.held = Vec::new();
        }
    }

    /// Will nothing come out any more?
    pub(super) fn is_over(&self) -> bool {
        self.ended && !self.fresh && (self.orders.is_empty() || self.held.is_empty())
    }

    /// Is nothing of a message under way?
    pub(super) fn is_quiet(&self) -> bool {
        self.held.is_empty() && self.orders.is_empty()
    }

    /// Bytes that wait, and how many it may be before they are shown.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.held.len(), self.wanted)
    }

    /// Is it waiting for the filter, rather than for more?
    pub(super) fn is_held(&self) -> bool {
        self.orders.is_empty()
    }
}
