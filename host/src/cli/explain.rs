//! `tidegate explain frontend backend:8080`

use std::fmt::Write as _;

use clap::Args;

use super::{
    ask::{Output, print_json, print_text},
    client::{Client, ClientError, encode},
};
use crate::{
    cli::observe::party_text,
    observe::{
        explain::Explanation,
        record::{FlowDirection, FlowVerdict},
    },
};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Endpoint or address that connects
    from: String,
    /// Endpoint, service or address it connects to, with the port: `web:80`, `10.0.0.7:53`, `[fd00::7]:53`
    to: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`
    #[arg(short, long, default_value = "tcp")]
    protocol: String,
}

pub(super) async fn run(args: Explain, client: &Client, output: Output) -> Result<(), ClientError> {
    let (to, port) = split_port(&args.to);
    let port = port
        .map(|p| format!("&port={}", encode(p)))
        .unwrap_or_default();
    let path = format!(
        "/v1/explain?from={}&to={}&protocol={}{port}",
        encode(&args.from),
        encode(to),
        encode(&args.protocol)
    );
    let explanation: Explanation = client.get(&path).await?;
    match output {
        Output::Json => print_json(&explanation),
        Output::Table => print_text(&render(&explanation)),
    }
}

/// `name:port`, `address:port`, `[v6]:port`; a bare IPv6 address has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (
            host.trim_start_matches('[').trim_end_matches(']'),
            Some(port),
        ),
        None => (text.trim_start_matches('[').trim_end_matches(']'), None),
    }
}

fn render(e: &Explanation) -> String {
    let mut out = String::new();
    let verdict = match e.verdict {
        FlowVerdict::Forwarded => "ALLOWED in the kernel".to_owned(),
        FlowVerdict::Redirected => "ALLOWED if the L7 rules below agree (proxy)".to_owned(),
        FlowVerdict::Audit => format!(
            "PASSES in audit mode; enforced it would be DROPPED: {}",
            e.reason.as_deref().unwrap_or("unknown reason")
        ),
        _ => format!(
            "DROPPED: {}",
            e.reason.as_deref().unwrap_or("unknown reason")
        ),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} -> {} {}: {verdict}",
        party_text(&e.source),
        party_text(&e.destination),
        e.protocol
    );
    if let Some(s) = &e.service {
        let _ = writeln!(
            out,
            "  service  {} ({}): {}",
            s.frontend,
            s.algorithm,
            if s.backends.is_empty() {
                "no usable backend".into()
            } else {
                s.backends.join(", ")
            }
        );
    }
    for step in &e.steps {
        let direction = match step.direction {
            FlowDirection::Ingress => "ingress",
            FlowDirection::Egress => "egress ",
        };
        let _ = writeln!(out, "  {direction}  {}: {}", step.endpoint, step.outcome);
        if let Some(rule) = &step.rule {
            let place = step
                .place
                .as_deref()
                .map(|p| format!("  ({p})"))
                .unwrap_or_default();
            let _ = writeln!(out, "           rule   {rule}{place}");
        }
        let _ = writeln!(out, "           entry  {}", step.entry);
        for line in &step.l7 {
            let _ = writeln!(out, "           L7     {line}");
        }
    }
    if let Some(live) = &e.live {
        let _ = writeln!(
            out,
            "  live     {} flow{} now{}: {} packets, {} bytes",
            live.flows,
            if live.flows == 1 { "" } else { "s" },
            if live.redirected {
                ", steered to the proxy"
            } else {
                ""
            },
            live.packets,
            live.bytes
        );
    }
    let _ = writeln!(
        out,
        "  answered from the kernel's tables, generation {}",
        e.generation
    );
    out
}

#[cfg(test)]
mod tests {
    use super::split_port;

    #[test]
    fn ports_are_split_off_names_and_addresses() {
        for (text, expected) in [
            ("web:80", ("web", Some("80"))),
            ("shop/web:80", ("shop/web", Some("80"))),
            ("web", ("web", None)),
            ("10.0.0.7:53", ("10.0.0.7", Some("53"))),
            ("[fd00::7]:53", ("fd00::7", Some("53"))),
            ("fd00::7", ("fd00::7", None)),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }
}
