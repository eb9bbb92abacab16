//! Counters of the kernel programs, summed over CPUs.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tidegate_ebpf_shared::{
    event::{Counter, counter},
    reason,
};

use super::{DatapathError, encode, reach::Arrivals, reader::Reader, table::PerCpu};

/// What the kernel programs have counted since their maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets refused, by `tidegate_ebpf_shared::reason`; reasons never met are absent.
    pub drops: BTreeMap<u8, Counter>,
    /// Packets passed by policy.
    pub forwarded: Counter,
    /// Packets steered to the proxy.
    pub redirected: Counter,
    /// Flows admitted.
    pub flows_created: u64,
    /// Flows the table had no room for.
    pub flow_insert_failed: u64,
    /// Flow events lost because the ring was full.
    pub events_lost: u64,
    /// Deny events lost because their ring was full.
    pub denies_lost: u64,
    /// Deny events not sent because of the rate limit.
    pub denies_suppressed: u64,
    /// Events about what is in shadow not sent because of the rate limit.
    pub rehearsed_suppressed: u64,
    /// Sockets translated to a backend.
    pub translated: u64,
    /// Host sockets steered to the proxy.
    pub sockets_steered: u64,
    /// Socket operations refused.
    pub sockets_denied: u64,
    /// Listeners picked for steered flows.
    pub listener_picked: u64,
    /// Messages moved by the fast lane.
    pub fast_lane: Counter,
}

/// Packets and bytes a prefix of the deny list has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenyCount {
    /// The prefix.
    pub net: IpNet,
    /// Refused since it was listed.
    pub count: Counter,
}

impl Reader {
    /// The kernel's counters.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let cell = |index| sum(&self.raw().counters, index);
        let count = |index| cell(index).map(|counter| counter.packets);
        let mut drops = BTreeMap::new();
        for reason in 0..=u8::MAX {
            let dropped = cell(u32::from(reason))?;
            if dropped.packets > 0 {
                drops.insert(reason, dropped);
            }
        }
        Ok(Counters {
            drops,
            forwarded: cell(counter::FORWARDED)?,
            redirected: cell(counter::REDIRECTED)?,
            flows_created: count(counter::FLOWS_CREATED)?,
            flow_insert_failed: count(counter::FLOW_INSERT_FAILED)?,
            events_lost: count(counter::EVENTS_LOST)?,
            denies_lost: count(counter::DENIES_LOST)?,
            denies_suppressed: count(counter::DENIES_SUPPRESSED)?,
            rehearsed_suppressed: count(counter::REHEARSED_SUPPRESSED)?,
            translated: count(counter::TRANSLATED)?,
            sockets_steered: count(counter::SOCKETS_STEERED)?,
            sockets_denied: count(counter::SOCKETS_DENIED)?,
            listener_picked: count(counter::LISTENER_PICKED)?,
            fast_lane: cell(counter::FAST_LANE)?,
        })
    }

    /// What became of flows steered to the proxy.
    pub(super) fn arrivals(&self) -> Result<Arrivals, DatapathError> {
        let count = |index| {
            let counted = sum(&self.raw().counters, index);
            counted.map(|counter| counter.packets)
        };
        Ok(Arrivals {
            steered: count(counter::FLOWS_STEERED)?,
            picked: count(counter::LISTENER_PICKED)?,
            past: count(reason::NOT_STEERED.into())?,
        })
    }

    /// What each prefix of the deny list has refused.
    pub fn deny_counts(&self) -> Result<Vec<DenyCount>, DatapathError> {
        let mut counts = Vec::new();
        for (key, slot) in self.raw().deny_list.entries()? {
            if let Some(net) = encode::net(key) {
                let count = sum(&self.raw().deny_counts, slot)?;
                counts.push(DenyCount { net, count });
            }
        }
        counts.sort_by_key(|count| count.net);
        Ok(counts)
    }
}

fn sum(table: &PerCpu<Counter>, index: u32) -> Result<Counter, DatapathError> {
    let total = |total: Counter, cpu: &Counter| Counter {
        packets: total.packets + cpu.packets,
        bytes: total.bytes + cpu.bytes,
    };
    let values = table.get(index)?;
    Ok(values.iter().fold(Counter::default(), total))
}
