//! Prometheus metrics, encoded from the readers' view at every scrape: nothing is
//! counted twice, nothing goes stale. Flow metrics carry Hubble's names, so that
//! existing dashboards find them; the rest is `tidegate_…`.

use std::{fmt, fmt::Write as _, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::store::FlowStore;
use crate::control::view::View;

/// The text exposition of one scrape (OpenMetrics 1.0).
pub fn render(view: &Arc<View>, flows: &Arc<FlowStore>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        view: Arc::clone(view),
        flows: Arc::clone(flows),
    }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Scrape {
    view: Arc<View>,
    flows: Arc<FlowStore>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(&mut encoder);
        node(&mut out, &self.view)?;
        datapath(&mut out, &self.view)?;
        proxy(&mut out, &self.view)?;
        flows(&mut out, &self.flows)
    }
}

/// Writes one metric family at a time.
struct Out<'a, 'e>(&'a mut DescriptorEncoder<'e>);

type Sample<const N: usize> = ([(&'static str, String); N], u64);

impl Out<'_, '_> {
    fn counter<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<N>>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, ConstCounter::new)
    }

    fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<N>>,
    ) -> fmt::Result {
        let gauge = |v: u64| ConstGauge::new(i64::try_from(v).unwrap_or(i64::MAX));
        self.family(name, help, MetricType::Gauge, samples, gauge)
    }

    fn family<const N: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<N>>,
        metric: impl Fn(u64) -> M,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            if N == 0 {
                // Without labels there is one sample, written without `{}`.
                return metric(value).encode(family);
            }
            metric(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn node(out: &mut Out<'_, '_>, view: &View) -> fmt::Result {
    out.gauge(
        "tidegate_build_info",
        "Always 1; the version is in the label",
        [([("version", view.version.clone())], 1)],
    )?;
    out.gauge(
        "tidegate_generation",
        "Generation of desired state in use",
        [
            ([("process", "kernel".into())], u64::from(view.generation)),
            (
                [("process", "proxy".into())],
                u64::from(view.proxy_generation),
            ),
        ],
    )?;
    let count = |items: usize| [([], items as u64)];
    out.gauge(
        "tidegate_ready",
        "1 while what was written is in force, as /readyz says",
        count(usize::from(view.obstacles().is_empty())),
    )?;
    out.gauge(
        "tidegate_endpoints",
        "Endpoints of this node",
        count(view.endpoints.len()),
    )?;
    out.gauge(
        "tidegate_endpoints_not_ready",
        "Endpoints whose policy is not in place",
        count(view.endpoints.iter().filter(|e| e.state != "ready").count()),
    )?;
    out.gauge(
        "tidegate_identities",
        "Security identities in use",
        count(view.identities.len()),
    )?;
    out.gauge(
        "tidegate_policies",
        "Policy documents in use",
        count(view.policies.len()),
    )?;
    out.gauge(
        "tidegate_services",
        "Service frontends",
        count(view.services.len()),
    )?;
    out.gauge(
        "tidegate_config_problems",
        "Problems in files, by severity",
        ["error", "warning"].map(|severity| {
            let found = view
                .problems
                .iter()
                .filter(|p| p.severity == severity)
                .count();
            ([("severity", severity.to_owned())], found as u64)
        }),
    )
}

fn datapath(out: &mut Out<'_, '_>, view: &View) -> fmt::Result {
    let d = &view.datapath;
    out.counter(
        "tidegate_programs_reattached",
        "Programs that somebody else had detached and that were attached again",
        [([], d.reattached)],
    )?;
    out.gauge(
        "tidegate_programs_missing",
        "Programs that should run somewhere and do not",
        [([], d.missing.len() as u64)],
    )?;
    let table = |value: fn(&crate::control::view::TableView) -> u64| {
        d.tables
            .iter()
            .map(move |t| ([("table", t.name.clone())], value(t)))
            .collect::<Vec<_>>()
    };
    out.gauge(
        "tidegate_table_entries",
        "Entries in a kernel table",
        table(|t| t.entries),
    )?;
    out.gauge(
        "tidegate_table_limit",
        "Most entries a kernel table holds",
        table(|t| t.limit),
    )?;
    let by = |label: &'static str, cells: &std::collections::BTreeMap<String, (u64, u64)>| {
        let cells = cells.iter();
        cells
            .map(|(k, (packets, _))| ([(label, k.clone())], *packets))
            .collect::<Vec<_>>()
    };
    out.counter(
        "tidegate_datapath_events",
        "Datapath counters",
        by("counter", &d.counters),
    )?;
    out.counter(
        "tidegate_dropped_packets",
        "Packets dropped in the kernel, by reason",
        by("reason", &d.drops),
    )?;
    out.counter(
        "tidegate_deny_list_packets",
        "Packets dropped by the deny list, by prefix",
        by("prefix", &d.deny_list),
    )
}

fn proxy(out: &mut Out<'_, '_>, view: &View) -> fmt::Result {
    let p = &view.proxy;
    out.gauge(
        "tidegate_proxy_up",
        "Is the proxy serving",
        [([], u64::from(p.state == "serving"))],
    )?;
    out.counter(
        "tidegate_proxy_starts",
        "Proxy starts since the agent began",
        [([], p.starts)],
    )?;
    let s = &p.stats;
    out.gauge(
        "tidegate_proxy_connections",
        "Open client connections",
        [([], s.connections)],
    )?;
    out.counter(
        "tidegate_proxy_accepted",
        "Client connections accepted",
        [([], s.accepted)],
    )?;
    out.gauge(
        "tidegate_proxy_connection_limit",
        "Most client connections at once",
        [([], s.connection_limit)],
    )?;
    out.counter(
        "tidegate_proxy_evicted",
        "Connections ended because another client needed the place",
        [([], s.evicted)],
    )?;
    out.counter(
        "tidegate_proxy_turned_away",
        "Connections reset because there was no place for them",
        [([], s.turned_away)],
    )?;
    let outcome = |name: &str, value| ([("outcome", name.to_owned())], value);
    out.counter(
        "tidegate_proxy_requests",
        "Requests and queries by outcome",
        [
            outcome("allowed", s.allowed),
            outcome("denied", s.denied),
            outcome("failed", s.failed),
        ],
    )?;
    out.counter(
        "tidegate_fqdn_overflow",
        "Addresses not learned because the table was full",
        [([], s.fqdn_overflow)],
    )?;
    let plugin = |value: fn(&crate::proxy::contract::PluginStats) -> u64| {
        s.plugins
            .iter()
            .map(move |(n, p)| ([("plugin", n.clone())], value(p)))
            .collect::<Vec<_>>()
    };
    out.counter("tidegate_plugin_calls", "Plugin calls", plugin(|p| p.calls))?;
    out.counter(
        "tidegate_plugin_call_nanoseconds",
        "Time spent in plugin calls",
        plugin(|p| p.call_ns),
    )?;
    out.gauge(
        "tidegate_plugin_instances",
        "Live instances",
        plugin(|p| p.instances),
    )?;
    out.counter(
        "tidegate_plugin_failures",
        "Plugin calls that failed, by kind",
        s.plugins.iter().flat_map(|(name, p)| {
            [
                ("trap", p.traps),
                ("deadline", p.deadlines),
                ("out-of-memory", p.out_of_memory),
            ]
            .map(|(kind, n)| ([("plugin", name.clone()), ("kind", kind.into())], n))
        }),
    )?;
    out.counter(
        "tidegate_plugin_counter",
        "Counters plugins keep",
        s.plugins.iter().flat_map(|(name, p)| {
            p.counters
                .iter()
                .map(move |(c, n)| ([("plugin", name.clone()), ("name", c.clone())], *n))
        }),
    )
}

fn flows(out: &mut Out<'_, '_>, flows: &FlowStore) -> fmt::Result {
    let totals = flows.totals();
    out.counter(
        "hubble_flows_processed",
        "Flow records by event, verdict and protocol",
        totals.flows.iter().map(|((event, verdict, protocol), n)| {
            (
                [
                    ("type", (*event).into()),
                    ("verdict", (*verdict).into()),
                    ("protocol", protocol.clone()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "hubble_drop",
        "Drops seen, by reason and protocol",
        totals.drops.iter().map(|((reason, protocol), n)| {
            (
                [("reason", reason.clone()), ("protocol", protocol.clone())],
                *n,
            )
        }),
    )?;
    out.counter(
        "hubble_http_requests",
        "HTTP requests by method, status and verdict",
        totals.http.iter().map(|((method, status, verdict), n)| {
            (
                [
                    ("method", method.clone()),
                    ("status", status.to_string()),
                    ("verdict", (*verdict).into()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "hubble_dns_responses",
        "DNS queries by RCODE of the answer and verdict",
        totals.dns.iter().map(|((rcode, verdict), n)| {
            (
                [
                    ("rcode", rcode_name(*rcode)),
                    ("verdict", (*verdict).into()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "hubble_lost_events",
        "Records lost before they reached the store, by source",
        totals
            .lost
            .iter()
            .map(|(source, n)| ([("source", (*source).into())], *n)),
    )
}

/// RCODE names of RFC 1035 §4.1.1.
fn rcode_name(rcode: i16) -> String {
    match rcode {
        -1 => "No Answer".into(),
        0 => "No Error".into(),
        1 => "Format Error".into(),
        2 => "Server Failure".into(),
        3 => "Non-Existent Domain".into(),
        4 => "Not Implemented".into(),
        5 => "Query Refused".into(),
        other => {
            let mut text = String::from("RCODE ");
            // Writing to a String cannot fail.
            let _ = write!(text, "{other}");
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::view::TableView, observe::filter::tests::record};

    #[test]
    fn a_scrape_shows_tables_flows_and_drops() {
        let mut view = View {
            version: "1.2.3".into(),
            generation: 7,
            ..View::default()
        };
        view.datapath.tables.push(TableView {
            name: "FLOWS".into(),
            entries: 3,
            limit: 10,
        });
        view.datapath.drops.insert("Policy denied".into(), (5, 300));
        let flows = Arc::new(FlowStore::new(4));
        flows.push(record(80));
        flows.lost("kernel", 2);
        let text = render(&Arc::new(view), &flows).expect("encodes");
        for line in [
            "tidegate_build_info{version=\"1.2.3\"} 1",
            "tidegate_generation{process=\"kernel\"} 7",
            "tidegate_table_entries{table=\"FLOWS\"} 3",
            "tidegate_table_limit{table=\"FLOWS\"} 10",
            "tidegate_dropped_packets_total{reason=\"Policy denied\"} 5",
            "hubble_flows_processed_total{type=\"flow-new\",verdict=\"FORWARDED\",protocol=\"tcp\"} 1",
            "hubble_lost_events_total{source=\"kernel\"} 2",
            "tidegate_proxy_up 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "missing {line:?} in\n{text}"
            );
        }
    }
}
