//! What the agent will be told, kept until it can be: bounded, and never waited for.
//! What does not fit is dropped and counted.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_contract::{L7Record, ProxyStats};
use tidegate_contract::{L7Summary, durations::Histogram};
use tokio::sync::Notify;

/// Records of one worker kept while the agent is away or slow.
const MAX_RECORDS: usize = 8_192;
/// Learned names likewise.
const MAX_LEARNED: usize = 4_096;
/// Longest URL or query name kept in a record, bytes.
pub(super) const MAX_TEXT: usize = 2_048;

/// Records and counters of all workers.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// One a worker.
    outboxes: Mutex<Vec<Arc<Outbox>>>,
    /// Records lost on their way to the agent that it was not told of yet.
    untold: AtomicU64,
    /// Told when something waits that did not before.
    pub(super) wake: Notify,
    /// Counters.
    pub(super) counters: Counters,
}

/// What one worker has for the agent. Only it and whoever sends it use the lock, and the
/// latter for a moment: no worker waits for another.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Waiting>);

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Pushing to a vector does not leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for the agent.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Decided requests and queries.
    pub(super) records: Vec<L7Record>,
    /// Resolved names.
    pub(super) learned: Vec<Learned>,
    /// Records lost since the last time they were taken.
    pub(super) lost: u64,
}

/// A name and its addresses with their time to live in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) name: String,
    pub(super) addresses: Vec<(IpAddr, u32)>,
}

/// Counters since the start of the process, and the gauge of open connections.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) connection_limit: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) allowed: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) records_lost: AtomicU64,
    pub(super) fqdn_overflow: AtomicU64,
    pub(super) http: Histogram,
    pub(super) dns: Histogram,
    pub(super) stream: Histogram,
}

impl Counters {
    /// Adds one.
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// As the agent is told; what other rooms know is left empty.
    pub(super) fn stats(&self) -> ProxyStats {
        ProxyStats {
            pid: std::process::id(),
            connections: self.connections.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            connection_limit: self.connection_limit.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            allowed: self.allowed.load(Relaxed),
            denied: self.denied.load(Relaxed),
            failed: self.failed.load(Relaxed),
            records_lost: self.records_lost.load(Relaxed),
            fqdn_overflow: self.fqdn_overflow.load(Relaxed),
            http: self.http.read(),
            dns: self.dns.read(),
            stream: self.stream.read(),
            ..ProxyStats::default()
        }
    }
}

impl Records {
    /// An outbox for one worker.
    pub(super) fn enrol(&self) -> Arc<Outbox> {
        let outbox = Arc::<Outbox>::default();
        self.outboxes().push(outbox.clone());
        outbox
    }

    /// Counts a decided request or query, and keeps its record if there is room.
    pub(super) fn keep(&self, outbox: &Outbox, record: L7Record) {
        let outcome = match (record.allowed, &record.error) {
            (true, _) => &self.counters.allowed,
            (false, None) => &self.counters.denied,
            (false, Some(_)) => &self.counters.failed,
        };
        Counters::add(outcome);
        let answered = match &record.l7 {
            L7Summary::Http { latency_us, .. } => Some((&self.counters.http, *latency_us)),
            L7Summary::Dns { latency_us, .. } => Some((&self.counters.dns, *latency_us)),
            L7Summary::Stream { latency_us, .. } => Some((&self.counters.stream, *latency_us)),
            // When it is answered nobody sees.
            L7Summary::Tls { .. } => None,
        };
        if let Some((histogram, us)) = answered {
            histogram.add(Duration::from_micros(us));
        }
        let mut waiting = outbox.waiting();
        if waiting.records.len() < MAX_RECORDS {
            waiting.records.push(record);
        } else {
            waiting.lost += 1;
            Counters::add(&self.counters.records_lost);
        }
        self.tell(waiting);
    }

    /// Keeps a resolved name. One that is lost costs the agent the name in its lists,
    /// not the client its connection: the kernel's table is written already.
    pub(super) fn learned(&self, outbox: &Outbox, learned: Learned) {
        let mut waiting = outbox.waiting();
        if waiting.learned.len() < MAX_LEARNED {
            waiting.learned.push(learned);
        }
        self.tell(waiting);
    }

    /// Takes what waits, of all workers.
    pub(super) fn take(&self) -> Waiting {
        let mut all = Waiting {
            lost: self.untold.swap(0, Relaxed),
            ..Waiting::default()
        };
        for outbox in &*self.outboxes() {
            let Waiting {
                records,
                learned,
                lost,
            } = std::mem::take(&mut *outbox.waiting());
            all.records.extend(records);
            all.learned.extend(learned);
            all.lost += lost;
        }
        all
    }

    /// Gives back what was taken and did not get through: records that are lost now,
    /// and a count of earlier losses that nobody was told.
    pub(super) fn not_sent(&self, records: u64, untold: u64) {
        if records + untold > 0 {
            self.counters.records_lost.fetch_add(records, Relaxed);
            self.untold.fetch_add(records + untold, Relaxed);
        }
    }

    fn outboxes(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        // As above.
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, waiting: MutexGuard<'_, Waiting>) {
        let first = waiting.records.len() + waiting.learned.len() == 1;
        drop(waiting);
        if first {
            self.wake.notify_one();
        }
    }
}

/// Cuts a text to [`MAX_TEXT`] bytes, at a character boundary.
pub(super) fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}

#[cfg(test)]
mod tests {
    use tidegate_contract::{FailureKind, L7Summary};
    use tidegate_policy::compiled::{EndpointId, Generation, IdentityId};

    use super::*;

    pub(super) fn record(allowed: bool, error: Option<&str>) -> L7Record {
        L7Record {
            time_ns: 0,
            transport: 17,
            source: "192.0.2.1:1".parse().unwrap(),
            destination: "192.0.2.2:53".parse().unwrap(),
            identities: (IdentityId(1), IdentityId(2)),
            endpoints: (EndpointId(0), EndpointId(0)),
            allowed,
            audited: false,
            rules: vec![],
            unmatched: false,
            plugin: None,
            error: error.map(|what| FailureKind::RulesUnknown.because(what.to_owned())),
            ingress: false,
            rehearsed: None,
            generation: Generation(1),
            l7: L7Summary::Dns {
                query: "a.example.".into(),
                qtype: "A".into(),
                rcode: None,
                ips: vec![],
                ttl: 0,
                latency_us: 0,
            },
        }
    }

    #[test]
    fn outcomes_are_counted_and_overflow_is_too() {
        let records = Records::default();
        let (one, other) = (records.enrol(), records.enrol());
        records.keep(&one, record(true, Some("passed in spite of it")));
        records.keep(&one, record(false, None));
        records.keep(&one, record(false, Some("plugin trapped")));
        for _ in 3..MAX_RECORDS + 5 {
            records.keep(&one, record(true, None));
        }
        // What one worker has too much costs another nothing.
        records.keep(&other, record(true, None));
        let stats = records.counters.stats();
        assert_eq!((stats.denied, stats.failed, stats.records_lost), (1, 1, 5));
        let waiting = records.take();
        assert_eq!((waiting.records.len(), waiting.lost), (MAX_RECORDS + 1, 5));
        assert_eq!(records.take().lost, 0);
        records.not_sent(2, 5);
        assert_eq!(records.take().lost, 7);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = "é".repeat(MAX_TEXT);
        text.insert(0, 'a');
        shorten(&mut text);
        assert_eq!(text.len(), MAX_TEXT - 1);
    }
}
