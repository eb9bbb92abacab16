//! `tidegate explain frontend backend:8080`

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use tidegate_api::client::{Client, ClientError, encode};
use tidegate_contract::{GrpcCall, rcode_name};
use tidegate_observe::{
    explain::{CALL, Explanation, HELLO, InShadow, L7Answer, L7Question},
    record::{FlowDirection, FlowVerdict},
};

use super::ask::{Output, print_json, print_text};
use crate::cli::observe::party_text;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Who connects: endpoint, `host`, `world`, a DNS name that was learned, or an address
    from: String,
    /// What it connects to, likewise, or a service (`service:web` or `svc/web` where an
    /// endpoint has the name too); with the port as a number or by its name: `web:80`,
    /// `web:http`, `service:web:80`, `world:443`, `10.0.0.7:53`, `[fd00::7]:53`
    to: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`; if absent the named port's, else `tcp`, and `udp` for a
    /// DNS name
    #[arg(short, long)]
    protocol: Option<String>,
    #[command(subcommand)]
    message: Option<Message>,
}

/// What is asked on the connection.
#[derive(Debug, Subcommand)]
enum Message {
    /// An HTTP request: would the proxy let it pass
    Http {
        /// Method, e.g. `GET`
        method: String,
        /// Path and query, or a URL as records show it
        path: String,
        /// `Host`; if absent that of the URL, else the destination if it is a DNS name, else
        /// its address and port
        #[arg(long)]
        host: Option<String>,
        /// Further fields, `name: value`
        #[arg(short = 'H', long)]
        header: Vec<String>,
    },
    /// A call of gRPC: would the proxy let it pass
    Grpc {
        /// What is called: `package.Service/Method`
        call: String,
        /// `:authority`; if absent the destination if it is a DNS name, else its address and
        /// port
        #[arg(long)]
        host: Option<String>,
        /// Metadata, `name: value`
        #[arg(short = 'H', long)]
        header: Vec<String>,
    },
    /// A client's hello in TLS: would the proxy let it pass
    Sni {
        /// Server it asks for; none if absent
        name: Option<String>,
    },
    /// A DNS query: would the proxy let it pass
    Dns {
        /// Name asked for
        name: String,
        /// Type asked for
        #[arg(short = 't', long = "type", default_value = "A")]
        qtype: String,
    },
}

impl Message {
    /// As a client would send it that was told this destination.
    fn towards(mut self, to: &str, port: Option<&str>) -> Self {
        let (host, path) = match &mut self {
            Self::Http { host, path, .. } => (host, Some(path)),
            Self::Grpc { host, .. } => (host, None),
            Self::Sni { .. } | Self::Dns { .. } => return self,
        };
        let url = path.and_then(|path| {
            let (_, rest) = path.split_once("://")?;
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = (rest[..at].to_owned(), rest[at..].to_owned());
            *path = match target.starts_with('/') {
                true => target,
                false => format!("/{target}"),
            };
            Some(authority)
        });
        let named = is_dns_name(to).then(|| match port {
            None | Some("80" | "443") => to.to_owned(),
            Some(port) => format!("{to}:{port}"),
        });
        *host = host.take().or(url).or(named);
        self
    }
}

/// `api.example.com`, and neither an address nor one of this node's own names.
fn is_dns_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.contains('.') && text.bytes().all(plain) && text.parse::<std::net::IpAddr>().is_err()
}

impl From<Message> for L7Question {
    fn from(message: Message) -> Self {
        match message {
            Message::Http {
                method,
                path,
                host,
                header,
            } => Self::Http {
                method,
                target: path,
                host,
                headers: header,
            },
            Message::Grpc { call, host, header } => Self::Http {
                method: "POST".to_owned(),
                target: format!("/{}", call.trim_start_matches('/')),
                host,
                headers: ["content-type: application/grpc".to_owned()]
                    .into_iter()
                    .chain(header)
                    .collect(),
            },
            Message::Sni { name } => Self::Tls {
                server_name: name.unwrap_or_default(),
            },
            Message::Dns { name, qtype } => Self::Dns { name, qtype },
        }
    }
}

pub(super) async fn run(args: Explain, client: &Client, output: Output) -> Result<(), ClientError> {
    let (to, port) = split_port(&args.to);
    let mut path = format!("/v1/explain?from={}&to={}", encode(&args.from), encode(to));
    for (key, value) in [("port", port), ("protocol", args.protocol.as_deref())] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encode(value)));
        }
    }
    if let Some(message) = args.message {
        let message = message.towards(to, port);
        let message = serde_json::to_string(&L7Question::from(message))
            .map_err(|e| ClientError::Answer(format!("cannot be asked for: {e}")))?;
        path.push_str(&format!("&message={}", encode(&message)));
    }
    let explanation: Explanation = client.get(&path).await?;
    match output {
        Output::Json => print_json(&explanation),
        Output::Table => print_text(&render(&explanation)),
    }
}

/// `name:port`, `address:port`, `[v6]:port`; a bare IPv6 address has no port, and a colon
/// that says what a name is of (`service:web`) begins none.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return (text, None);
    }
    for kind in ["service:", "endpoint:", "reserved:"] {
        if let Some(name) = text.strip_prefix(kind) {
            let bare = name.find(':').map_or(text, |at| &text[..kind.len() + at]);
            return (bare, text[bare.len()..].strip_prefix(':'));
        }
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
        FlowVerdict::Redirected if e.l7.is_some() => "steered to the proxy".to_owned(),
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
    if let Some(shadow) = &e.shadow {
        let _ = writeln!(out, "  in shadow: {}", in_shadow(shadow));
    }
    if let Some(l7) = &e.l7 {
        out.push_str(&render_l7(l7));
    }
    if let Some(source) = e.upstream_source {
        let masqueraded = match source == e.source.address {
            true => "",
            false => ", for the node masquerades what is sent there",
        };
        let _ = writeln!(out, "  upstream the proxy speaks as {source}{masqueraded}");
    }
    for note in &e.notes {
        let _ = writeln!(out, "  note     {note}");
    }
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
        if let Some(shadow) = &step.shadow {
            let _ = writeln!(out, "           shadow {}", in_shadow(shadow));
            for line in &shadow.l7 {
                let _ = writeln!(out, "           shadow L7 {line}");
            }
        }
    }
    for one in &e.learned {
        let left = match one.left_s {
            0 => "expired, counts for live flows only".to_owned(),
            left => format!("{left} s left for new flows"),
        };
        let names = match &*one.names.join(", ") {
            "" => String::new(),
            names => format!(" ({names})"),
        };
        let _ = writeln!(out, "  name     {}{names}: {left}", one.selector);
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
    for obstacle in &e.obstacles {
        let _ = writeln!(out, "  obstacle {obstacle}");
    }
    let _ = writeln!(
        out,
        "  answered from the kernel's tables, generation {}",
        e.generation
    );
    out
}

/// `would be DROPPED by shop/strict ingressDeny[0]  (policies/strict.yaml:9)`.
fn in_shadow(shadow: &InShadow) -> String {
    let verdict = match shadow.verdict {
        FlowVerdict::Forwarded => "would be ALLOWED",
        FlowVerdict::Redirected => "would be steered to the proxy",
        _ => "would be DROPPED",
    };
    let rule = shadow.rule.as_ref().map(|rule| match &rule.place {
        Some(place) => format!(" by {}  ({place})", rule.rule),
        None => format!(" by {}", rule.rule),
    });
    let why = shadow.reason.as_ref().map(|why| format!("; {why}"));
    [Some(verdict.to_owned()), rule, why]
        .into_iter()
        .flatten()
        .collect()
}

fn render_l7(l7: &L7Answer) -> String {
    let by = match &l7.plugin {
        Some(plugin) => format!(" by {plugin}"),
        None => String::new(),
    };
    let code = |what: &str| match (l7.code, l7.asked.starts_with("DNS ")) {
        (None | Some(0), _) => what.to_owned(),
        (Some(code), true) => format!("{what}, {}", rcode_text(code)),
        (Some(code), false) if l7.asked.starts_with(HELLO) => format!("{what}, alert {code}"),
        (Some(code), false) if l7.asked.starts_with(CALL) => {
            format!("{what}, {}", grpc_name(code))
        }
        (Some(code), false) => format!("{what}, {code}"),
    };
    let verdict = match l7.verdict {
        FlowVerdict::Forwarded => "ALLOWED".to_owned(),
        FlowVerdict::Audit => "PASSES in audit mode; enforced it would be REFUSED".to_owned(),
        FlowVerdict::Error => code("not decided by policy"),
        _ => code("REFUSED"),
    };
    let mut out = format!("  {}: {verdict}{by}\n", l7.asked);
    if l7.none_matched {
        out.push_str("           rule   none matched; asked were\n");
    }
    for rule in &l7.rules {
        let place = match &rule.place {
            Some(place) => format!("  ({place})"),
            None => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "           rule   {}{place}", rule.rule);
    }
    if let Some(reason) = &l7.reason {
        let _ = writeln!(out, "           why    {reason}");
    }
    if let Some(shadow) = &l7.shadow {
        let _ = writeln!(out, "           shadow {}", in_shadow(shadow));
    }
    out
}

/// The name of gRPC's status.
fn grpc_name(code: u16) -> String {
    let call = GrpcCall {
        status: Some(code.into()),
        ..GrpcCall::default()
    };
    call.status_name().into_owned()
}

/// The name of an RCODE; a number that no header can carry stays one.
fn rcode_text(code: u16) -> String {
    u8::try_from(code).map_or_else(|_| code.to_string(), |code| rcode_name(code).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_host_that_a_client_would_write() {
        let http = |path: &str, host: Option<&str>| Message::Http {
            method: "GET".into(),
            path: path.into(),
            host: host.map(str::to_owned),
            header: Vec::new(),
        };
        for (to, port, path, host, asked) in [
            (
                "api.example",
                Some("443"),
                "/a",
                None,
                (Some("api.example"), "/a"),
            ),
            (
                "api.example",
                Some("81"),
                "/a",
                None,
                (Some("api.example:81"), "/a"),
            ),
            ("10.0.0.1", Some("80"), "/a", None, (None, "/a")),
            ("shop/web", Some("80"), "/a", None, (None, "/a")),
            (
                "web",
                None,
                "https://b.example/c?d",
                None,
                (Some("b.example"), "/c?d"),
            ),
            (
                "web",
                None,
                "http://b.example?d",
                None,
                (Some("b.example"), "/?d"),
            ),
            (
                "a.example",
                None,
                "http://b.example",
                Some("x"),
                (Some("x"), "/"),
            ),
        ] {
            let L7Question::Http { target, host, .. } =
                L7Question::from(http(path, host).towards(to, port))
            else {
                panic!("{to}");
            };
            assert_eq!((host.as_deref(), target.as_str()), asked, "{to} {path}");
        }
    }

    #[test]
    fn a_refused_request_names_code_plugin_rule_and_place() {
        let answer = L7Answer {
            asked: "GET /admin".into(),
            verdict: FlowVerdict::Dropped,
            code: Some(403),
            reason: None,
            reason_kind: None,
            rules: vec![tidegate_observe::explain::RulePlace {
                rule: "shop/web ingress[0].toPorts[0]".into(),
                place: Some("policies/web.yaml:9".into()),
            }],
            none_matched: true,
            plugin: Some("http@0.1.0".into()),
            shadow: None,
        };
        assert_eq!(
            render_l7(&answer),
            "  GET /admin: REFUSED, 403 by http@0.1.0\n           \
             rule   none matched; asked were\n           \
             rule   shop/web ingress[0].toPorts[0]  (policies/web.yaml:9)\n"
        );
    }

    #[test]
    fn a_call_is_asked_about_and_answered_in_the_words_of_grpc() {
        let asked = L7Question::from(Message::Grpc {
            call: "shop.Orders/Delete".into(),
            host: None,
            header: vec![],
        });
        let answer = L7Answer {
            asked: asked.to_string(),
            verdict: FlowVerdict::Dropped,
            code: Some(7),
            reason: None,
            reason_kind: None,
            rules: vec![],
            none_matched: false,
            plugin: None,
            shadow: None,
        };
        assert_eq!(
            render_l7(&answer),
            "  gRPC /shop.Orders/Delete: REFUSED, PERMISSION_DENIED\n"
        );
    }

    #[test]
    fn what_is_in_shadow_is_a_sentence_with_its_rule() {
        let shadow = InShadow {
            verdict: FlowVerdict::Dropped,
            reason: None,
            rule: Some(tidegate_observe::explain::RulePlace {
                rule: "shop/strict ingressDeny[0]".into(),
                place: Some("policies/strict.yaml:9".into()),
            }),
            l7: Vec::new(),
        };
        assert_eq!(
            in_shadow(&shadow),
            "would be DROPPED by shop/strict ingressDeny[0]  (policies/strict.yaml:9)"
        );
        let read = InShadow {
            verdict: FlowVerdict::Redirected,
            reason: Some("not judged".into()),
            rule: None,
            l7: Vec::new(),
        };
        assert_eq!(
            in_shadow(&read),
            "would be steered to the proxy; not judged"
        );
    }

    #[test]
    fn ports_are_split_off_names_and_addresses() {
        for (text, expected) in [
            ("web:80", ("web", Some("80"))),
            ("shop/web:80", ("shop/web", Some("80"))),
            ("web", ("web", None)),
            ("service:web:80", ("service:web", Some("80"))),
            ("service:shop/web", ("service:shop/web", None)),
            ("endpoint:web:http", ("endpoint:web", Some("http"))),
            ("reserved:world:443", ("reserved:world", Some("443"))),
            ("svc/web:80", ("svc/web", Some("80"))),
            ("10.0.0.7:53", ("10.0.0.7", Some("53"))),
            ("[fd00::7]:53", ("fd00::7", Some("53"))),
            ("fd00::7", ("fd00::7", None)),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }
}
