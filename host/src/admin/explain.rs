//! `/v1/explain`: names become addresses, the kernel tables answer.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use tidegate_ebpf_shared::{addr::proto, identity::reserved};
use tidegate_policy::compiled::Location;

use super::{Readers, error};
use crate::{
    control::view::{EndpointView, View},
    observe::explain::ExplainQuery,
};

/// Query of `/v1/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Endpoint or address.
    from: String,
    /// Endpoint, service or address.
    to: String,
    /// Destination port; for ICMP the type (8, or 128 for ICMPv6, if absent).
    port: Option<u16>,
    /// `tcp` (if absent), `udp`, `icmp`, `icmpv6`.
    #[serde(default)]
    protocol: String,
}

pub(super) async fn answer(
    State(readers): State<Readers>,
    Query(question): Query<Question>,
) -> Response {
    let view = Arc::clone(&readers.view.borrow());
    let query = match resolve(&question, &view) {
        Ok(query) => query,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    match readers.explain.explain(&query, &view) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e:#}")),
    }
}

fn resolve(question: &Question, view: &View) -> Result<ExplainQuery, String> {
    let protocol = match question.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "icmp" => proto::ICMP,
        "icmpv6" => proto::ICMPV6,
        other => {
            return Err(format!(
                "protocol: {other:?} is not known; use one of: tcp, udp, icmp, icmpv6"
            ));
        }
    };
    let from = end("from", &question.from, view)?;
    let to = end("to", &question.to, view)?;
    // Both ends must be of one family: the first pair that is.
    let (source, destination) = from
        .addresses
        .iter()
        .flat_map(|s| to.addresses.iter().map(move |d| (*s, *d)))
        .find(|(s, d)| s.is_ipv4() == d.is_ipv4())
        .ok_or_else(|| {
            format!(
                "from {:?} and to {:?} have no address family in common",
                question.from, question.to
            )
        })?;
    let port = match (question.port, protocol) {
        (Some(port), _) => port,
        (None, proto::ICMP) => 8,
        (None, proto::ICMPV6) => 128,
        (None, _) => {
            return Err("port: missing; name the destination port, e.g. web:80".into());
        }
    };
    Ok(ExplainQuery {
        source,
        host_service: from.host_service,
        destination,
        port,
        protocol,
    })
}

/// One end of the question.
#[derive(Clone, Default)]
struct End {
    addresses: Vec<IpAddr>,
    /// Endpoint id of a host service that was named, else 0.
    host_service: u32,
}

impl End {
    /// A host service without addresses of its own has the node's.
    fn of(endpoint: &EndpointView, view: &View) -> Self {
        let shared = matches!(endpoint.location, Location::Cgroup(_));
        Self {
            addresses: if shared && endpoint.addresses.is_empty() {
                node_addresses(view).collect()
            } else {
                endpoint.addresses.clone()
            },
            host_service: if shared { endpoint.id } else { 0 },
        }
    }
}

/// Addresses with the identity of the node, except loopback, which no other end has.
fn node_addresses(view: &View) -> impl Iterator<Item = IpAddr> {
    let entries = view.compiled.ipcache.iter();
    entries
        .filter(|(_, entry)| entry.identity == reserved::HOST)
        .map(|(net, _)| net.addr())
        .filter(|address| !address.is_loopback())
}

/// An endpoint, a service or a literal address.
fn end(field: &str, text: &str, view: &View) -> Result<End, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(End {
            addresses: vec![address],
            ..End::default()
        });
    }
    let named = |name: &str| name == text || name.split('/').next_back() == Some(text);
    let mut found: Vec<(&str, End)> = view
        .endpoints
        .iter()
        .filter(|e| named(&e.name))
        .map(|e| (e.name.as_str(), End::of(e, view)))
        .collect();
    if found.is_empty() {
        for service in view
            .services
            .iter()
            .filter(|s| named(service_name(&s.name)))
        {
            match found
                .iter_mut()
                .find(|(name, _)| *name == service_name(&service.name))
            {
                Some((_, end)) => end.addresses.push(service.addr),
                None => {
                    let end = End {
                        addresses: vec![service.addr],
                        ..End::default()
                    };
                    found.push((service_name(&service.name), end));
                }
            }
        }
    }
    match found.as_slice() {
        [(_, end)] if !end.addresses.is_empty() => Ok(end.clone()),
        [(name, _)] => Err(format!("{field}: {name} has no address")),
        [] => Err(format!(
            "{field}: no endpoint or service is called {text:?}{}",
            suggestion(text, view)
        )),
        several => Err(format!(
            "{field}: {text:?} is ambiguous; use one of: {}",
            several
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

/// A compiled service carries its port name behind a colon if it has several ports.
fn service_name(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

fn suggestion(text: &str, view: &View) -> String {
    let names = view.endpoints.iter().map(|e| e.name.as_str());
    let names = names.chain(view.services.iter().map(|s| service_name(&s.name)));
    names
        .map(|name| {
            let bare = name.split('/').next_back().unwrap_or(name);
            (
                strsim::jaro_winkler(text, bare).max(strsim::jaro_winkler(text, name)),
                name,
            )
        })
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}
