//! `tidegate observe`

use std::net::SocketAddr;
use tidegate_policy::compiled::IdentityId;

use clap::Args;
use tidegate_api::client::{Client, ClientError};
use tidegate_contract::{FailureKind, L7Summary, rcode_name};
use tidegate_observe::{
    filter::FlowFilter,
    record::{FlowEvent, FlowRecord, FlowVerdict, Line, Party, Shadow},
    store::verdict_label,
};

use super::{
    ask::{Output, print_text},
    when,
};

/// Records from the past to begin with, if nothing is said.
const LAST: usize = 20;

/// Arguments of `observe`. Options AND; several values of one option OR.
#[derive(Debug, Args)]
pub(super) struct Observe {
    /// Keep printing what follows
    #[arg(short, long)]
    follow: bool,
    /// Matching records from the past to begin with: 20 if absent, or all with --since or
    /// --until (0 with --follow: only what follows)
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Not before: how long ago (30s, 5m, 2h, 1d), or a time (2026-01-31T16:00:00Z, @SECONDS)
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<u64>,
    /// Before this time, likewise
    #[arg(long, value_name = "TIME", value_parser = when::parse, conflicts_with = "follow")]
    until: Option<u64>,
    /// Workload at either end: name, namespace/name, namespace/, address, DNS name, `world`,
    /// `host`
    #[arg(short, long, value_name = "WHO")]
    workload: Vec<String>,
    /// Workload at the source
    #[arg(long, value_name = "WHO")]
    from: Vec<String>,
    /// Workload at the destination
    #[arg(long, value_name = "WHO")]
    to: Vec<String>,
    /// forwarded, dropped (error included), redirected, translated, audit, error
    #[arg(long)]
    verdict: Vec<String>,
    /// Verdict if what is in shadow were enforced, where that is another: forwarded, dropped
    /// (error included), redirected, error
    #[arg(long)]
    shadow_verdict: Vec<String>,
    /// tcp, udp, icmp, icmpv6, sctp, http, grpc, dns, tls, stream, kafka, or a plugin that reads
    /// a protocol of its own, e.g. redis
    #[arg(short, long)]
    protocol: Vec<String>,
    /// Port at either end
    #[arg(long)]
    port: Vec<u16>,
    /// Label at either end: key=value or source:key=value
    #[arg(short, long)]
    label: Vec<String>,
    /// Text of the rule that decided, or would in shadow
    #[arg(long)]
    rule: Vec<String>,
    /// Kind of failure, as `errorKind` in `-o json`: clientProtocol, upstreamConnection,
    /// upstreamTimeout, pluginFailed, …
    #[arg(long, value_name = "KIND")]
    error: Vec<FailureKind>,
    /// Server that was asked for in TLS: a name, or a pattern like *.example.com
    #[arg(long, value_name = "NAME")]
    server_name: Vec<String>,
}

pub(super) async fn run(args: Observe, client: &Client, output: Output) -> Result<(), ClientError> {
    let filter = FlowFilter {
        workload: args.workload,
        from: args.from,
        to: args.to,
        verdict: args.verdict,
        shadow_verdict: args.shadow_verdict,
        protocol: args.protocol,
        port: args.port,
        label: args.label,
        rule: args.rule,
        error: args.error,
        server_name: args.server_name,
        since_ns: args.since,
        until_ns: args.until,
    };
    let bounded = args.since.or(args.until).is_some();
    let last = args.last.or((!bounded).then_some(LAST));
    let mut lines = client.flows(&filter, last, args.follow).await?;
    while let Some(line) = lines.next_line().await? {
        match output {
            Output::Json => print_text(&format!("{line}\n"))?,
            Output::Table => print_text(&readable(&line))?,
        }
    }
    Ok(())
}

/// One line for people; what is not a record (lost events) is said as it is.
fn readable(line: &str) -> String {
    match serde_json::from_str::<Line>(line) {
        Ok(Line::Record(record)) => format!("{}\n", row(&record)),
        Ok(Line::Lost { lost_events }) => {
            format!("({lost_events} records lost: this reader is too slow)\n")
        }
        Err(_) => format!("{line}\n"),
    }
}

fn row(r: &FlowRecord) -> String {
    let mut parts = vec![
        clock(r.time_ns),
        format!("{:<10}", verdict_label(r.verdict)),
        format!(
            "{} -> {}",
            party_text(&r.source),
            party_text(&r.destination)
        ),
        what(r),
    ];
    if let Some(reason) = &r.drop_reason_text {
        parts.push(format!("[{reason}]"));
    }
    if let Some(error) = &r.error
        && r.drop_reason_text.is_none()
    {
        parts.push(format!("[passed although: {error}]"));
    }
    let rules = r.rules.join(" and ");
    match (r.rules.is_empty(), r.none_matched) {
        (true, _) => {}
        (false, false) => parts.push(format!("by {rules}")),
        (false, true) => parts.push(format!("no rule matched, asked: {rules}")),
    }
    if let Some(plugin) = &r.plugin {
        parts.push(format!("({plugin})"));
    }
    parts.extend(r.shadow.as_ref().map(shadow_text));
    parts.join(" ")
}

/// `{in shadow: DROPPED by shop/strict ingressDeny[0]}`.
fn shadow_text(shadow: &Shadow) -> String {
    let by = match (&*shadow.rules.join(" and "), shadow.none_matched) {
        ("", _) => String::new(),
        (rules, false) => format!(" by {rules}"),
        (rules, true) => format!(", no rule matched, asked: {rules}"),
    };
    let unread = match shadow.verdict {
        FlowVerdict::Redirected => ", its L7 rules not judged",
        _ => "",
    };
    format!(
        "{{in shadow: {}{by}{unread}}}",
        verdict_label(shadow.verdict)
    )
}

fn what(r: &FlowRecord) -> String {
    let subject = match (&r.l7, &r.tcp_flags) {
        (Some(l7), _) => l7_text(l7),
        (None, Some(flags)) => format!("{} {flags}", r.protocol),
        (None, None) => r.protocol.clone(),
    };
    let detail = match r.event {
        FlowEvent::FlowClosed => r.traffic.map(|t| {
            let packets = t.tx_packets + t.rx_packets;
            format!(
                "closed, {packets} packets, {} bytes",
                t.tx_bytes + t.rx_bytes
            )
        }),
        FlowEvent::Translated => r.service.as_ref().map(|s| format!("via service {s}")),
        FlowEvent::DenyList => Some("deny list".into()),
        FlowEvent::SocketDenied | FlowEvent::SocketOpened => Some("at the socket".into()),
        FlowEvent::Rehearsed => Some("goes on".into()),
        _ => None,
    };
    let hint = r.hint.as_ref().map(|h| format!("looks like {h}"));
    let parts: Vec<String> = [Some(subject), detail, hint]
        .into_iter()
        .flatten()
        .collect();
    parts.join(", ")
}

fn l7_text(l7: &L7Summary) -> String {
    match l7 {
        L7Summary::Http {
            version,
            method,
            url,
            status,
            grpc,
            latency_us,
        } => {
            if let Some(call) = grpc {
                let answer = match *status {
                    0 => "no answer".into(),
                    // A call's answer that is none of gRPC's.
                    status if status != 200 && call.status.is_none() => status.to_string().into(),
                    _ => call.status_name(),
                };
                return format!("gRPC {url} {answer} {latency_us}us");
            }
            let status = if *status == 0 {
                "no answer".into()
            } else {
                status.to_string()
            };
            format!("{version} {method} {url} {status} {latency_us}us")
        }
        L7Summary::Tls {
            server_name,
            version,
            ech,
            status,
            alert,
            ..
        } => {
            let hidden = if *ech { "(outer name)" } else { "" };
            let alert = alert.map(|alert| format!("alert {alert}"));
            let version = match version.is_empty() {
                true => "TLS",
                false => version,
            };
            let words = [
                version,
                server_name,
                hidden,
                status,
                alert.as_deref().unwrap_or(""),
            ];
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            words.join(" ")
        }
        L7Summary::Stream {
            reader,
            command,
            targets,
            code,
            status,
            latency_us,
        } => {
            let answer = match (code, status.as_str()) {
                (None, _) => "no answer".into(),
                (Some(code), "") => code.to_string(),
                (Some(code), words) => format!("{code} {words}"),
            };
            let words = [reader, command, &targets.join(","), &answer];
            let words = words.into_iter().filter(|word| !word.is_empty());
            let words: Vec<&str> = words.map(String::as_str).collect();
            format!("{} {latency_us}us", words.join(" "))
        }
        L7Summary::Dns {
            query,
            qtype,
            rcode,
            ips,
            latency_us,
            ..
        } => {
            let answer = match rcode {
                None => "no answer".into(),
                Some(0) if !ips.is_empty() => ips
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
                Some(code) => rcode_name(*code).into_owned(),
            };
            format!("DNS {query} {qtype} {answer} {latency_us}us")
        }
    }
}

/// `shop/frontend:4711 (256)`; the best name there is, with the identity.
pub(super) fn party_text(p: &Party) -> String {
    let with_port = |host: String| {
        if p.port == 0 {
            host
        } else {
            format!("{host}:{}", p.port)
        }
    };
    let who = match (&p.endpoint, p.names.first()) {
        (Some(endpoint), _) => with_port(endpoint.clone()),
        (None, Some(name)) => with_port(name.clone()),
        // A socket that connects has no address yet; the kernel gives it one afterwards.
        (None, None) if p.address.is_unspecified() => "a local socket".to_owned(),
        (None, None) if p.port == 0 => p.address.to_string(),
        (None, None) => SocketAddr::new(p.address, p.port).to_string(),
    };
    let reserved = p.labels.iter().find_map(|l| l.strip_prefix("reserved:"));
    match reserved {
        Some(name) => format!("{who} ({})", name.trim_end_matches('=')),
        None if p.identity == IdentityId(0) => who,
        None => format!("{who} ({})", p.identity),
    }
}

/// `HH:MM:SS.mmm` UTC.
fn clock(time_ns: u64) -> String {
    let ms = time_ns / 1_000_000;
    let (h, m, s) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{h:02}:{m:02}:{s:02}.{:03}", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use tidegate_observe::{record::FlowVerdict, testing::record};

    use super::*;

    #[test]
    fn a_denied_request_reads_as_one_sentence() {
        let mut r = record(80);
        r.time_ns = 3_661_002_000_000;
        r.event = FlowEvent::L7;
        r.verdict = FlowVerdict::Dropped;
        r.drop_reason_text = Some("Policy denied".into());
        r.plugin = Some("http@0.1.0".into());
        r.none_matched = true;
        r.l7 = Some(L7Summary::Http {
            version: "HTTP/1.1".into(),
            method: "DELETE".into(),
            url: "http://backend/admin".into(),
            status: 403,
            grpc: None,
            latency_us: 42,
        });
        assert_eq!(
            row(&r),
            "01:01:01.002 DROPPED    shop/frontend:40000 (256) -> shop/backend:80 (256) \
             HTTP/1.1 DELETE http://backend/admin 403 42us [Policy denied] \
             no rule matched, asked: shop/backend ingress[0] (http@0.1.0)"
        );
    }

    #[test]
    fn what_would_become_of_it_in_shadow_comes_last() {
        let mut r = record(80);
        let shadow = |verdict| Shadow {
            verdict,
            rules: vec!["shop/strict ingress[0]".into()],
            none_matched: false,
        };
        for (verdict, expected) in [
            (
                FlowVerdict::Dropped,
                "{in shadow: DROPPED by shop/strict ingress[0]}",
            ),
            (
                FlowVerdict::Redirected,
                "{in shadow: REDIRECTED by shop/strict ingress[0], its L7 rules not judged}",
            ),
        ] {
            r.shadow = Some(shadow(verdict));
            let told = row(&r);
            assert!(told.ends_with(expected), "{told}");
        }
    }

    #[test]
    fn a_socket_without_an_address_is_called_one() {
        let mut r = record(80);
        r.source.endpoint = None;
        r.source.identity = IdentityId(0);
        r.source.labels.clear();
        for unspecified in ["::", "0.0.0.0"] {
            r.source.address = unspecified.parse().expect("literal address");
            assert_eq!(party_text(&r.source), "a local socket");
        }
    }

    #[test]
    fn lost_records_are_said() {
        assert_eq!(
            readable("{\"lostEvents\":7}"),
            "(7 records lost: this reader is too slow)\n"
        );
    }
}
