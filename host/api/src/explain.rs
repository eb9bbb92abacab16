//! `/v1/explain`: names become addresses, the kernel tables answer, and the proxy where
//! a request or query is asked about.

use std::sync::{Arc, PoisonError};

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use tidegate_ebpf_shared::addr::proto;
use tidegate_observe::explain::{ExplainQuery, L7Question};

use super::{Readers, ends::Names, error};

/// Query of `/v1/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Endpoint, entity, DNS name or address.
    from: String,
    /// Endpoint, service, entity, DNS name or address.
    to: String,
    /// Destination port, as a number or by the destination's own name for it; for ICMP
    /// the type (8, or 128 for ICMPv6, if absent).
    port: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`; if absent the port's, or what the message needs.
    #[serde(default)]
    protocol: String,
    /// An [`L7Question`] as JSON.
    message: Option<String>,
}

pub(super) async fn answer(
    State(readers): State<Readers>,
    Query(question): Query<Question>,
) -> Response {
    let view = Arc::clone(&readers.view.borrow());
    let query = {
        let learned = readers.learned.lock();
        let learned = learned.unwrap_or_else(PoisonError::into_inner);
        let names = Names {
            view: &view,
            learned: &learned,
        };
        resolve(&question, &names)
    };
    let query = match query {
        Ok(query) => query,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    match readers.explain.explain(&query, &view).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e:#}")),
    }
}

fn resolve(question: &Question, names: &Names<'_>) -> Result<ExplainQuery, String> {
    let message = question.message.as_deref().map(message).transpose()?;
    let asked = protocol(&question.protocol)?;
    let from = names.end("from", &question.from)?;
    let to = names.end("to", &question.to)?;
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
    let (protocol, port) = match (&question.port, asked, &message) {
        (Some(text), asked, message) => {
            let (own, port) = to.port(text, asked)?;
            let usual = match message {
                Some(L7Question::Dns { .. }) => proto::UDP,
                _ => proto::TCP,
            };
            (asked.or(own).unwrap_or(usual), port)
        }
        (None, Some(proto::ICMP), _) => (proto::ICMP, 8),
        (None, Some(proto::ICMPV6), _) => (proto::ICMPV6, 128),
        (None, asked, Some(L7Question::Dns { .. })) => (asked.unwrap_or(proto::UDP), 53),
        (None, asked, _) => to.only_port(asked).ok_or_else(|| {
            format!(
                "port: missing; name the destination port, e.g. {}:80",
                question.to
            )
        })?,
    };
    let mut notes = from.notes;
    notes.extend(to.notes);
    Ok(ExplainQuery {
        source,
        host_service: from.host_service,
        destination,
        port,
        protocol,
        message,
        notes,
    })
}

fn protocol(text: &str) -> Result<Option<u8>, String> {
    Ok(Some(match text.to_ascii_lowercase().as_str() {
        "" => return Ok(None),
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "icmp" => proto::ICMP,
        "icmpv6" => proto::ICMPV6,
        other => {
            return Err(format!(
                "protocol: {other:?} is not known; use one of: tcp, udp, icmp, icmpv6"
            ));
        }
    }))
}

/// The message asked about. What could not stand in a request line or a field as one
/// word or one line would be read as something else, so it is refused here.
fn message(text: &str) -> Result<L7Question, String> {
    let message = serde_json::from_str(text).map_err(|e| format!("message: {e}"))?;
    let word = |field: &str, text: &str| {
        let broken = text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control());
        match broken {
            true => Err(format!("{field}: {text:?} is not one word")),
            false => Ok(()),
        }
    };
    match &message {
        L7Question::Http {
            method,
            target,
            host,
            headers,
        } => {
            word("method", method)?;
            word("path", target)?;
            host.as_deref().map_or(Ok(()), |host| word("host", host))?;
            let broken = |field: &&String| {
                !field.contains(':') || field.chars().any(|c| c.is_control() && c != '\t')
            };
            match headers.iter().find(broken) {
                Some(field) => Err(format!("header: {field:?} is not `name: value`"))?,
                None => Ok(message),
            }
        }
        L7Question::Tls { server_name } if server_name.is_empty() => Ok(message),
        L7Question::Tls { server_name } => word("name", server_name).map(|()| message),
        L7Question::Dns { name, qtype } => {
            word("name", name)?;
            match tidegate_observe::explain::qtype(qtype) {
                Some(_) => Ok(message),
                None => Err(format!(
                    "type: {qtype:?} is no type of DNS record; use e.g. A, AAAA, SRV or TYPE65"
                )),
            }
        }
    }
}
