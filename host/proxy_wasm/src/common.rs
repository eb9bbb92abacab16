//! What the instances of one binding share: values, queues, metrics. Nobody else's instances
//! see any of it. Everything is bounded; what does not fit is refused.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::abi::Status;

/// Values and queues together, bytes; names count.
const BYTES: usize = 1 << 20;
/// Values there may be.
const VALUES: usize = 4_096;
/// Queues, and what one of them may hold.
const QUEUES: usize = 16;
const QUEUED: usize = 1_024;
/// Metrics.
const METRICS: usize = 64;
/// Longest name of anything, bytes.
const NAME: usize = 1_024;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Of values, each recorded by itself.
    Histogram,
}

impl MetricKind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Counter,
            1 => Self::Gauge,
            2 => Self::Histogram,
            _ => return None,
        })
    }
}

/// How a metric changed, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: MetricKind,
    /// By how much: of a gauge, the difference.
    pub by: i64,
}

/// Shared by all instances of one binding, on all threads.
#[derive(Debug, Default)]
pub struct Common(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// With the number a change has to name.
    values: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    cas: u32,
    queues: Vec<Queue>,
    /// Of values and queues.
    bytes: usize,
    metrics: Vec<Metric>,
}

#[derive(Debug)]
struct Queue {
    name: Vec<u8>,
    items: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Metric {
    name: String,
    kind: MetricKind,
    value: u64,
}

impl Common {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value and its number.
    pub(crate) fn value(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        self.inner().values.get(key).cloned()
    }

    /// Changes a value; with `cas`, only if it is still the one of that number.
    pub(crate) fn set_value(&self, key: &[u8], value: &[u8], cas: u32) -> Status {
        let inner = &mut *self.inner();
        let known = inner.values.get(key);
        if known.is_some_and(|(_, now)| cas != 0 && cas != *now) {
            return Status::CasMismatch;
        }
        let before = known.map_or(0, |(value, _)| key.len() + value.len());
        let bytes = inner.bytes - before + key.len() + value.len();
        let full = known.is_none() && inner.values.len() >= VALUES;
        if full || key.len() > NAME || bytes > BYTES {
            return Status::InternalFailure;
        }
        inner.bytes = bytes;
        // 0 means that none is named.
        inner.cas = inner.cas.checked_add(1).unwrap_or(1);
        inner
            .values
            .insert(key.to_vec(), (value.to_vec(), inner.cas));
        Status::Ok
    }

    /// The number of a queue, which is made if there is none of this name.
    pub(crate) fn register(&self, name: &[u8]) -> Result<u32, Status> {
        let inner = &mut *self.inner();
        if let Some(known) = inner.queue_of(name) {
            return Ok(known);
        }
        if inner.queues.len() >= QUEUES || name.len() > NAME {
            return Err(Status::InternalFailure);
        }
        inner.queues.push(Queue {
            name: name.to_vec(),
            items: VecDeque::new(),
        });
        inner.queue_of(name).ok_or(Status::InternalFailure)
    }

    /// The number of a queue there is.
    pub(crate) fn resolve(&self, name: &[u8]) -> Option<u32> {
        self.inner().queue_of(name)
    }

    /// Puts something at the end.
    pub(crate) fn enqueue(&self, queue: u32, item: &[u8]) -> Status {
        let inner = &mut *self.inner();
        let bytes = inner.bytes.saturating_add(item.len());
        let Some(queue) = inner.queue(queue) else {
            return Status::NotFound;
        };
        if queue.items.len() >= QUEUED || bytes > BYTES {
            return Status::InternalFailure;
        }
        queue.items.push_back(item.to_vec());
        inner.bytes = bytes;
        Status::Ok
    }

    /// Takes what is first.
    pub(crate) fn dequeue(&self, queue: u32) -> Result<Vec<u8>, Status> {
        let inner = &mut *self.inner();
        let queue = inner.queue(queue).ok_or(Status::NotFound)?;
        let item = queue.items.pop_front().ok_or(Status::Empty)?;
        inner.bytes -= item.len();
        Ok(item)
    }

    /// Is something in this queue?
    pub(crate) fn is_waiting(&self, queue: u32) -> bool {
        let inner = &mut *self.inner();
        inner
            .queue(queue)
            .is_some_and(|queue| !queue.items.is_empty())
    }

    /// The number of a metric, which is made if there is none of this name and kind.
    pub(crate) fn define(&self, kind: u32, name: &[u8]) -> Result<u32, Status> {
        let kind = MetricKind::of(kind).ok_or(Status::BadArgument)?;
        let inner = &mut *self.inner();
        let name = String::from_utf8_lossy(name);
        let same = |metric: &Metric| metric.name == name && metric.kind == kind;
        let at = match inner.metrics.iter().position(same) {
            Some(known) => known,
            None if inner.metrics.len() >= METRICS || name.len() > NAME => {
                return Err(Status::InternalFailure);
            }
            None => {
                inner.metrics.push(Metric {
                    name: name.into_owned(),
                    kind,
                    value: 0,
                });
                inner.metrics.len() - 1
            }
        };
        u32::try_from(at).map_err(|_| Status::InternalFailure)
    }

    /// Sets a gauge, adds to a counter, or notes a value.
    pub(crate) fn record(&self, metric: u32, value: u64) -> Result<Change, Status> {
        let inner = &mut *self.inner();
        let metric = inner.metric(metric)?;
        let by = match metric.kind {
            MetricKind::Gauge => {
                let by = value.wrapping_sub(metric.value).cast_signed();
                metric.value = value;
                by
            }
            MetricKind::Counter | MetricKind::Histogram => {
                metric.value = metric.value.saturating_add(value);
                i64::try_from(value).unwrap_or(i64::MAX)
            }
        };
        Ok(metric.change(by))
    }

    /// Changes a counter or gauge.
    pub(crate) fn increment(&self, metric: u32, by: i64) -> Result<Change, Status> {
        let inner = &mut *self.inner();
        let metric = inner.metric(metric)?;
        match metric.kind {
            MetricKind::Counter if by >= 0 => {}
            MetricKind::Gauge => {}
            MetricKind::Counter | MetricKind::Histogram => return Err(Status::BadArgument),
        }
        metric.value = metric.value.saturating_add_signed(by);
        Ok(metric.change(by))
    }

    /// What a metric says.
    pub(crate) fn metric(&self, metric: u32) -> Result<u64, Status> {
        let inner = &mut *self.inner();
        let metric = inner.metric(metric)?;
        match metric.kind {
            MetricKind::Histogram => Err(Status::BadArgument),
            MetricKind::Counter | MetricKind::Gauge => Ok(metric.value),
        }
    }
}

impl Inner {
    /// Numbers begin at 1.
    fn queue_of(&self, name: &[u8]) -> Option<u32> {
        let at = self.queues.iter().position(|queue| queue.name == name)?;
        u32::try_from(at + 1).ok()
    }

    fn queue(&mut self, number: u32) -> Option<&mut Queue> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.queues.get_mut(at)
    }

    fn metric(&mut self, number: u32) -> Result<&mut Metric, Status> {
        let at = usize::try_from(number).map_err(|_| Status::NotFound)?;
        self.metrics.get_mut(at).ok_or(Status::NotFound)
    }
}

impl Metric {
    fn change(&self, by: i64) -> Change {
        Change {
            name: self.name.clone(),
            kind: self.kind,
            by,
        }
    }
}
