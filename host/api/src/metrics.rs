//! Prometheus metrics, encoded from the readers' view at every scrape: nothing is
//! counted twice, nothing goes stale. Flow metrics carry Hubble's names, so that
//! existing dashboards find them; the rest is `tidegate_…`.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use tidegate_contract::{
    durations::{BOUNDS_NS, Durations},
    rcode_description,
    units::Volume,
};
use tidegate_control::{
    standing::{EndpointState, ProxyState},
    view::View,
};
use tidegate_observe::store::FlowStore;

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

/// Durations as a histogram in seconds.
struct Seconds<'a>(&'a Durations);

impl EncodeMetric for Seconds<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9);
        let counts = self.0.counts.iter().copied();
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.seconds(), self.0.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

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

    /// Durations, in seconds as Prometheus wants them.
    fn durations<'d>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        samples: impl IntoIterator<Item = (String, &'d Durations)>,
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut family = self
            .0
            .encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for (value, durations) in samples {
            // A process of an older version counted none.
            if !durations.counts.is_empty() {
                Seconds(durations).encode(family.encode_family(&[(label, value)])?)?;
            }
        }
        Ok(())
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
            (
                [("process", "kernel".into())],
                u64::from(view.generation.get()),
            ),
            (
                [("process", "proxy".into())],
                u64::from(view.proxy_generation.get()),
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
        count(
            view.endpoints
                .iter()
                .filter(|e| e.state != EndpointState::Ready)
                .count(),
        ),
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
    let table = |value: fn(&tidegate_control::view::TableView) -> u64| {
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
    let packets = |cell: &Volume| cell.packets;
    let bytes = |cell: &Volume| cell.bytes;
    let by = |label: &'static str, cells: &Cells, value: fn(&Volume) -> u64| {
        let cells = cells.iter();
        cells
            .map(|(k, cell)| ([(label, k.clone())], value(cell)))
            .collect::<Vec<_>>()
    };
    out.counter(
        "tidegate_datapath_events",
        "What the kernel programs did: packets, flows, sockets and events, by counter",
        by("counter", &d.counters, packets),
    )?;
    out.counter(
        "tidegate_dropped_packets",
        "Packets dropped in the kernel, by reason",
        by("reason", &d.drops, packets),
    )?;
    out.counter(
        "tidegate_dropped_bytes",
        "Bytes dropped in the kernel, by reason",
        by("reason", &d.drops, bytes),
    )?;
    out.counter(
        "hubble_drop",
        "Packets dropped in the kernel, by reason, under the name Hubble has for it",
        by("reason", &d.drops, packets),
    )?;
    let lists = deny_lists(view);
    out.counter(
        "tidegate_deny_list_packets",
        "Packets dropped by a DenyList document, all its prefixes together",
        by("document", &lists, packets),
    )?;
    out.counter(
        "tidegate_deny_list_bytes",
        "Bytes dropped by a DenyList document, all its prefixes together",
        by("document", &lists, bytes),
    )
}

/// Packets and bytes by a label's value.
type Cells = BTreeMap<String, Volume>;

/// Hits of the deny list by the document that names the prefix: lists have thousands of
/// prefixes, a monitoring system should not have a series for each.
fn deny_lists(view: &View) -> Cells {
    let mut lists = Cells::new();
    for (prefix, hits) in &view.datapath.deny_list {
        let rule = prefix
            .parse()
            .ok()
            .and_then(|net: ipnet::IpNet| view.compiled.deny_list.get(&net))
            .and_then(|rule| view.compiled.rules.get(rule));
        let name = match rule {
            Some(rule) => rule.document(),
            None => "no longer listed".to_owned(),
        };
        let cell = lists.entry(name).or_default();
        cell.packets += hits.packets;
        cell.bytes += hits.bytes;
    }
    lists
}

fn proxy(out: &mut Out<'_, '_>, view: &View) -> fmt::Result {
    let p = &view.proxy;
    out.gauge(
        "tidegate_proxy_up",
        "Is the proxy serving",
        [([], u64::from(p.state == ProxyState::Serving))],
    )?;
    out.counter(
        "tidegate_proxy_starts",
        "Proxy starts since the agent began",
        [([], p.starts)],
    )?;
    out.counter(
        "tidegate_proxy_hung",
        "Times the proxy was replaced because it, or one of its workers, hung",
        [([], p.hung)],
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
        "Addresses not learned because the table, the address's places or the workload's share was full",
        [([], s.fqdn_overflow)],
    )?;
    out.counter(
        "tidegate_proxy_records_lost",
        "L7 records lost because no agent read them in time",
        [([], s.records_lost)],
    )?;
    out.durations(
        "tidegate_l7_request_duration",
        "From request to answer: HTTP request head to response head, DNS query to answer, as filters of byte streams tell of them",
        "protocol",
        [
            ("http".to_owned(), &s.http),
            ("dns".to_owned(), &s.dns),
            ("stream".to_owned(), &s.stream),
        ],
    )?;
    let plugin = |value: fn(&tidegate_contract::PluginStats) -> u64| {
        s.plugins
            .iter()
            .map(move |(n, p)| ([("plugin", n.clone())], value(p)))
            .collect::<Vec<_>>()
    };
    out.counter("tidegate_plugin_calls", "Plugin calls", plugin(|p| p.calls))?;
    out.durations(
        "tidegate_plugin_call_duration",
        "How long plugin calls took",
        "plugin",
        s.plugins.iter().map(|(n, p)| (n.clone(), &p.durations)),
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
        "tidegate_tls_hellos",
        "TLS connections that were asked for a server name, by the highest version offered (`none`: it was not TLS) and verdict",
        totals.tls.iter().map(|((version, verdict), n)| {
            (
                [
                    ("version", (*version).into()),
                    ("verdict", (*verdict).into()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "tidegate_grpc_calls",
        "Calls of gRPC and gRPC-Web by service, method, name of the status (`no status` without one) and verdict; `other` is what no server has answered yet, and all beyond 512 methods. A call counts when it ends",
        totals.grpc.iter().map(|((service, method, status, verdict), n)| {
            (
                [
                    ("service", service.clone()),
                    ("method", method.clone()),
                    ("status", status.clone().into_owned()),
                    ("verdict", (*verdict).into()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "tidegate_stream_requests",
        "Requests that filters of byte streams told of, by plugin and verdict",
        totals.stream.iter().map(|((reader, verdict), n)| {
            (
                [("plugin", reader.clone()), ("verdict", (*verdict).into())],
                *n,
            )
        }),
    )?;
    out.counter(
        "hubble_dns_responses",
        "DNS queries by RCODE of the answer in Hubble's words (`Non-Existent Domain`, …; `No Answer` without one) and verdict",
        totals.dns.iter().map(|((rcode, verdict), n)| {
            (
                [
                    ("rcode", rcode_name(*rcode).into_owned()),
                    ("verdict", (*verdict).into()),
                ],
                *n,
            )
        }),
    )?;
    out.counter(
        "tidegate_shadow_verdicts",
        "What would have become of flows, packets and requests by a policy in shadow, where that is something else than what did",
        totals.shadow.iter().map(|((policy, event, verdict), n)| {
            (
                [
                    ("policy", policy.clone()),
                    ("type", (*event).into()),
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

/// An RCODE in Hubble's words, which dashboards ask for.
fn rcode_name(rcode: Option<u8>) -> Cow<'static, str> {
    rcode.map_or(Cow::Borrowed("No Answer"), rcode_description)
}

#[cfg(test)]
mod tests {
    use tidegate_contract::durations::Histogram;
    use tidegate_control::view::TableView;
    use tidegate_observe::testing::record;
    use tidegate_policy::compiled::{Compiled, RuleInfo};
    use tidegate_policy::compiled::{Generation, RuleId};

    use super::*;
    use tidegate_observe::record::{FlowEvent, FlowVerdict, Shadow};

    #[test]
    fn a_scrape_shows_tables_flows_and_drops() {
        let mut view = View {
            version: "1.2.3".into(),
            generation: Generation(7),
            ..View::default()
        };
        view.datapath.tables.push(TableView {
            name: "FLOWS".into(),
            entries: 3,
            limit: 10,
        });
        let dropped = Volume {
            packets: 5,
            bytes: 300,
        };
        view.datapath.drops.insert("Policy denied".into(), dropped);
        let mut compiled = Compiled::default();
        for (prefix, hits) in [("192.0.2.0/24", 2), ("192.0.2.9/32", 3), ("10.0.0.0/8", 4)] {
            let hits = Volume {
                packets: hits,
                bytes: hits,
            };
            view.datapath.deny_list.insert(prefix.into(), hits);
            if prefix.starts_with("192") {
                compiled
                    .deny_list
                    .insert(prefix.parse().expect("prefix"), RuleId(7));
            }
        }
        compiled.rules.insert(
            RuleId(7),
            Arc::new(RuleInfo {
                kind: "DenyList".into(),
                namespace: None,
                policy: "scanners".into(),
                path: "spec.cidrs[0]".into(),
                origin: "policies/deny.yaml".into(),
                line: 1,
                column: 1,
            }),
        );
        view.compiled = Arc::new(compiled);
        let calls = Histogram::default();
        for us in [1, 3] {
            calls.add(std::time::Duration::from_micros(us));
        }
        let stats = tidegate_contract::PluginStats {
            durations: calls.read(),
            ..Default::default()
        };
        view.proxy.stats.plugins.insert("http".into(), stats);
        let flows = Arc::new(FlowStore::new(4));
        flows.push(record(80));
        for event in [FlowEvent::FlowNew, FlowEvent::FlowClosed, FlowEvent::L7] {
            let mut refused = record(80);
            refused.event = event;
            refused.shadow = Some(Shadow {
                verdict: FlowVerdict::Dropped,
                rules: vec!["shop/strict ingressDeny[0]".into()],
                none_matched: false,
            });
            flows.push(refused);
        }
        flows.lost("kernel", 2);
        let text = render(&Arc::new(view), &flows).expect("encodes");
        for line in [
            "tidegate_build_info{version=\"1.2.3\"} 1",
            "tidegate_generation{process=\"kernel\"} 7",
            "tidegate_table_entries{table=\"FLOWS\"} 3",
            "tidegate_table_limit{table=\"FLOWS\"} 10",
            "tidegate_dropped_packets_total{reason=\"Policy denied\"} 5",
            "tidegate_dropped_bytes_total{reason=\"Policy denied\"} 300",
            "hubble_drop_total{reason=\"Policy denied\"} 5",
            "tidegate_deny_list_packets_total{document=\"scanners\"} 5",
            "tidegate_deny_list_packets_total{document=\"no longer listed\"} 4",
            "# UNIT tidegate_plugin_call_duration_seconds seconds",
            "tidegate_plugin_call_duration_seconds_bucket{le=\"0.000001\",plugin=\"http\"} 1",
            "tidegate_plugin_call_duration_seconds_bucket{le=\"0.000005\",plugin=\"http\"} 2",
            "tidegate_plugin_call_duration_seconds_bucket{le=\"+Inf\",plugin=\"http\"} 2",
            "tidegate_plugin_call_duration_seconds_count{plugin=\"http\"} 2",
            "hubble_flows_processed_total{type=\"flow-new\",verdict=\"FORWARDED\",protocol=\"tcp\"} 2",
            "tidegate_shadow_verdicts_total{policy=\"shop/strict\",type=\"flow-new\",verdict=\"DROPPED\"} 1",
            "tidegate_shadow_verdicts_total{policy=\"shop/strict\",type=\"l7\",verdict=\"DROPPED\"} 1",
            "hubble_lost_events_total{source=\"kernel\"} 2",
            "tidegate_proxy_up 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "missing {line:?} in\n{text}"
            );
        }
    }

    /// Families of a scrape: name, type and help.
    fn families(text: &str) -> Vec<[String; 3]> {
        let line = |kind: &str, name: &str| {
            let start = format!("# {kind} {name} ");
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(&start).map(str::to_owned))
        };
        let names = text.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some((name, kind.to_owned()))
        });
        names
            .map(|(name, kind)| {
                let help = line("HELP", name).unwrap_or_default();
                [name.to_owned(), kind, help.trim_end_matches('.').to_owned()]
            })
            .collect()
    }

    /// `TIDEGATE_BLESS=1` writes the list anew.
    #[test]
    fn the_documented_list_is_what_a_scrape_has() {
        let empty = (Arc::new(View::default()), Arc::new(FlowStore::new(1)));
        let text = render(&empty.0, &empty.1).expect("encodes");
        let mut rows = String::new();
        for [name, kind, help] in families(&text) {
            assert!(!help.is_empty(), "{name} has no help");
            let name = match kind.as_str() {
                "counter" => format!("{name}_total"),
                _ => name,
            };
            rows.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let page = std::fs::read_to_string(file).expect("docs/metrics.md");
        let (before, rest) = page.split_once("| --- | --- | --- |\n").expect("a table");
        let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            let page = format!("{before}| --- | --- | --- |\n{rows}{}", &rest[end..]);
            std::fs::write(file, page).expect("docs/metrics.md");
        } else {
            assert_eq!(
                rest[..end],
                rows,
                "run with TIDEGATE_BLESS=1 and look at the diff"
            );
        }
    }
}
