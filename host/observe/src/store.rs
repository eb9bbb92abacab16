//! The latest flow records, and a feed for followers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_contract::L7Summary;
use tokio::sync::broadcast;

use super::{
    calls::Calls,
    record::{FlowEvent, FlowRecord, FlowVerdict},
};

/// Records kept for `observe` (2^n − 1, as Hubble's ring).
pub const DEFAULT_CAPACITY: usize = 16_383;

/// Keeps the latest records in memory and hands new ones to followers. A follower
/// that is too slow loses records and is told how many.
#[derive(Debug)]
pub struct FlowStore {
    inner: Mutex<Inner>,
    feed: broadcast::Sender<Arc<FlowRecord>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<FlowRecord>>,
    totals: FlowTotals,
}

/// Counters over everything seen, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Records seen.
    pub seen: u64,
    /// Records by (event, verdict, protocol).
    pub flows: BTreeMap<(&'static str, &'static str, String), u64>,
    /// HTTP requests by (method, status class or status, verdict).
    pub http: BTreeMap<(String, u16, &'static str), u64>,
    /// Calls of gRPC.
    pub grpc: Calls,
    /// DNS queries by (rcode if there was an answer, verdict).
    pub dns: BTreeMap<(Option<u8>, &'static str), u64>,
    /// Hellos of TLS by (version, verdict), and what came instead of one.
    pub tls: BTreeMap<(&'static str, &'static str), u64>,
    /// Requests that filters of byte streams told of, by (plugin, verdict).
    pub stream: BTreeMap<(String, &'static str), u64>,
    /// Other verdicts in shadow by (policy document, event, that verdict); of a flow when
    /// it begins, not again when it ends.
    pub shadow: BTreeMap<(String, &'static str, &'static str), u64>,
    /// Records lost before they came here, by source.
    pub lost: BTreeMap<&'static str, u64>,
}

impl FlowStore {
    /// An empty store for `capacity` records.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::default(),
            feed: broadcast::channel(1_024).0,
            capacity: capacity.max(1),
        }
    }

    /// Adds a record; the oldest makes room.
    pub fn push(&self, record: FlowRecord) {
        let record = Arc::new(record);
        let mut inner = self.lock();
        inner.totals.count(&record);
        if inner.ring.len() == self.capacity {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::clone(&record));
        // Sent under the lock, so that `subscribe` sees each record exactly once.
        // Having no follower is not an error.
        let _ = self.feed.send(record);
    }

    /// Counts records lost before they came here.
    pub fn lost(&self, source: &'static str, count: u64) {
        if count > 0 {
            *self.lock().totals.lost.entry(source).or_default() += count;
        }
    }

    /// What is kept now, oldest first, and everything that follows.
    pub fn subscribe(&self) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        let inner = self.lock();
        (inner.ring.iter().cloned().collect(), self.feed.subscribe())
    }

    /// Records kept, and the most it keeps.
    pub fn fill(&self) -> (usize, usize) {
        (self.lock().ring.len(), self.capacity)
    }

    /// Counters over everything seen.
    pub fn totals(&self) -> FlowTotals {
        self.lock().totals.clone()
    }

    // A panic while the lock was held leaves counters and records that are still
    // valid on their own, so poisoning carries no information here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowTotals {
    fn count(&mut self, r: &FlowRecord) {
        self.seen += 1;
        let verdict = verdict_label(r.verdict);
        *self
            .flows
            .entry((event_label(r.event), verdict, r.protocol.clone()))
            .or_default() += 1;
        if let Some(shadow) = &r.shadow
            && r.event != FlowEvent::FlowClosed
        {
            // The document is what the short form begins with.
            let rule = shadow.rules.first().and_then(|rule| rule.split(' ').next());
            let policy = rule.unwrap_or("unknown").to_owned();
            let key = (policy, event_label(r.event), verdict_label(shadow.verdict));
            *self.shadow.entry(key).or_default() += 1;
        }
        match &r.l7 {
            Some(L7Summary::Http {
                method,
                status,
                grpc,
                ..
            }) => {
                let method = known_method(method).to_owned();
                *self.http.entry((method, *status, verdict)).or_default() += 1;
                if let Some(call) = grpc {
                    self.grpc.count(call, verdict);
                }
            }
            Some(L7Summary::Dns { rcode, .. }) => {
                *self.dns.entry((*rcode, verdict)).or_default() += 1;
            }
            Some(L7Summary::Tls { version, .. }) => {
                let key = (known_version(version), verdict);
                *self.tls.entry(key).or_default() += 1;
            }
            Some(L7Summary::Stream { reader, .. }) => {
                let key = (reader.clone(), verdict);
                *self.stream.entry(key).or_default() += 1;
            }
            None => {}
        }
    }
}

/// A client chooses its method; metrics must not grow with what it invents.
fn known_method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            method
        }
        _ => "other",
    }
}

/// As [`known_method`].
fn known_version(version: &str) -> &'static str {
    const VERSIONS: [&str; 5] = ["TLS 1.3", "TLS 1.2", "TLS 1.1", "TLS 1.0", "SSL 3.0"];
    let known = VERSIONS.iter().find(|known| **known == version);
    known.copied().unwrap_or("none")
}

/// Metric label of an event.
pub fn event_label(event: FlowEvent) -> &'static str {
    match event {
        FlowEvent::FlowNew => "flow-new",
        FlowEvent::FlowClosed => "flow-closed",
        FlowEvent::Drop => "drop",
        FlowEvent::DenyList => "deny-list",
        FlowEvent::Translated => "translated",
        FlowEvent::SocketDenied => "socket-denied",
        FlowEvent::SocketOpened => "socket-opened",
        FlowEvent::Rehearsed => "rehearsed",
        FlowEvent::L7 => "l7",
    }
}

/// Metric label of a verdict, Hubble's names.
pub fn verdict_label(verdict: FlowVerdict) -> &'static str {
    match verdict {
        FlowVerdict::Forwarded => "FORWARDED",
        FlowVerdict::Dropped => "DROPPED",
        FlowVerdict::Redirected => "REDIRECTED",
        FlowVerdict::Translated => "TRANSLATED",
        FlowVerdict::Audit => "AUDIT",
        FlowVerdict::Error => "ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;

    #[test]
    fn the_oldest_record_makes_room_and_totals_go_on() {
        let store = FlowStore::new(2);
        for port in 1..=3 {
            store.push(record(port));
        }
        let (kept, _) = store.subscribe();
        let ports: Vec<u16> = kept.iter().map(|r| r.destination.port).collect();
        assert_eq!(ports, [2, 3]);
        assert_eq!(store.fill(), (2, 2));
        assert_eq!(store.totals().seen, 3);
    }

    #[test]
    fn a_follower_sees_each_record_once() {
        let store = FlowStore::new(8);
        store.push(record(1));
        let (kept, mut feed) = store.subscribe();
        store.push(record(2));
        assert_eq!(kept.len(), 1);
        assert_eq!(feed.try_recv().expect("fed").destination.port, 2);
        assert!(feed.try_recv().is_err());
    }

    #[test]
    fn an_invented_method_does_not_make_a_new_series() {
        let store = FlowStore::new(8);
        for method in ["GET", "FOO1", "FOO2"] {
            let mut r = record(80);
            r.l7 = Some(L7Summary::Http {
                version: "HTTP/1.1".into(),
                method: method.into(),
                url: "http://a/".into(),
                status: 200,
                grpc: None,
                latency_us: 1,
            });
            store.push(r);
        }
        let methods: Vec<String> = store.totals().http.into_keys().map(|k| k.0).collect();
        assert_eq!(methods, ["GET", "other"]);
    }
}
