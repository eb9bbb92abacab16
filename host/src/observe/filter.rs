//! Selecting flow records: fields AND, values of one field OR, as in Hubble.

use serde::{Deserialize, Serialize};

use super::{
    record::{FlowRecord, FlowVerdict, L7Summary, Party},
    store::verdict_label,
};

/// What `observe` asks for. Empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FlowFilter {
    /// Workload at either end: `name`, `namespace/name`, `namespace/` or an address.
    pub workload: Vec<String>,
    /// Workload at the source.
    pub from: Vec<String>,
    /// Workload at the destination.
    pub to: Vec<String>,
    /// Verdict, Hubble's names, any case.
    pub verdict: Vec<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `http`, `dns`.
    pub protocol: Vec<String>,
    /// Port at either end.
    pub port: Vec<u16>,
    /// Label at either end, `key=value` or `source:key=value`.
    pub label: Vec<String>,
    /// Rules whose text contains this.
    pub rule: Vec<String>,
}

/// A filter value that can never match, with what would.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not known; use one of: {expected}")]
pub struct UnknownValue {
    field: &'static str,
    value: String,
    expected: &'static str,
}

const VERDICTS: &str = "forwarded, dropped, redirected, translated, audit, error";
const PROTOCOLS: &str = "tcp, udp, icmp, icmpv6, sctp, http, dns";

impl FlowFilter {
    /// Refuses values that no record can ever have.
    pub fn check(&self) -> Result<(), UnknownValue> {
        known("verdict", &self.verdict, VERDICTS)?;
        known("protocol", &self.protocol, PROTOCOLS)
    }

    /// Does the record pass.
    pub fn matches(&self, r: &FlowRecord) -> bool {
        let ends = [&r.source, &r.destination];
        any(&self.workload, |w| ends.iter().any(|p| is_workload(p, w)))
            && any(&self.from, |w| is_workload(&r.source, w))
            && any(&self.to, |w| is_workload(&r.destination, w))
            && any(&self.verdict, |v| is_verdict(r.verdict, v))
            && any(&self.protocol, |p| is_protocol(r, p))
            && any(&self.port, |p| ends.iter().any(|e| e.port == *p))
            && any(&self.label, |l| ends.iter().any(|p| has_label(p, l)))
            && any(&self.rule, |t| {
                r.rules.iter().any(|rule| rule.contains(t.as_str()))
            })
    }
}

fn known(
    field: &'static str,
    values: &[String],
    expected: &'static str,
) -> Result<(), UnknownValue> {
    match values
        .iter()
        .find(|v| !expected.split(", ").any(|e| e.eq_ignore_ascii_case(v)))
    {
        Some(value) => Err(UnknownValue {
            field,
            value: value.clone(),
            expected,
        }),
        None => Ok(()),
    }
}

fn any<T>(wanted: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

fn is_workload(party: &Party, wanted: &str) -> bool {
    if let Ok(address) = wanted.parse::<std::net::IpAddr>() {
        return party.address == address;
    }
    if party.names.iter().any(|name| name == wanted) || is_reserved(party, wanted) {
        return true;
    }
    let Some(endpoint) = &party.endpoint else {
        return false;
    };
    match wanted.strip_suffix('/') {
        Some(namespace) => endpoint.split('/').next() == Some(namespace),
        None => endpoint == wanted || endpoint.split('/').next_back() == Some(wanted),
    }
}

/// `world`, `host`, …: the reserved label of an identity.
fn is_reserved(party: &Party, wanted: &str) -> bool {
    party.labels.iter().any(|l| {
        l.strip_prefix("reserved:")
            .map(|l| l.trim_end_matches('='))
            .is_some_and(|name| name == wanted || (wanted == "world" && name.starts_with("world-")))
    })
}

fn is_verdict(verdict: FlowVerdict, wanted: &str) -> bool {
    verdict_label(verdict).eq_ignore_ascii_case(wanted)
}

fn is_protocol(r: &FlowRecord, wanted: &str) -> bool {
    match &r.l7 {
        Some(L7Summary::Http { .. }) if wanted.eq_ignore_ascii_case("http") => true,
        Some(L7Summary::Dns { .. }) if wanted.eq_ignore_ascii_case("dns") => true,
        _ => r.protocol.eq_ignore_ascii_case(wanted),
    }
}

fn has_label(party: &Party, wanted: &str) -> bool {
    party.labels.iter().any(|label| {
        label == wanted
            || label
                .split_once(':')
                .is_some_and(|(_, bare)| bare == wanted)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::observe::record::FlowEvent;

    /// A forwarded TCP flow from `shop/frontend` to `shop/backend:port`.
    pub(crate) fn record(port: u16) -> FlowRecord {
        let party = |address: [u8; 4], port, name: &str| Party {
            address: address.into(),
            port,
            identity: 256,
            endpoint: Some(format!("shop/{name}")),
            labels: vec![format!("k8s:app={name}")],
            names: Vec::new(),
        };
        FlowRecord {
            time_ns: 0,
            event: FlowEvent::FlowNew,
            verdict: FlowVerdict::Forwarded,
            drop_reason: None,
            drop_reason_text: None,
            direction: None,
            protocol: "tcp".into(),
            source: party([10, 0, 0, 1], 40_000, "frontend"),
            destination: party([10, 0, 0, 2], port, "backend"),
            rules: vec!["shop/backend ingress[0]".into()],
            shadow: None,
            tcp_flags: None,
            hint: None,
            traffic: None,
            service: None,
            l7: None,
            plugin: None,
            generation: 1,
        }
    }

    fn check(filter: serde_json::Value, passes: bool) {
        let parsed: FlowFilter = serde_json::from_value(filter.clone()).expect("valid filter");
        parsed.check().expect("known values");
        assert_eq!(parsed.matches(&record(80)), passes, "{filter}");
    }

    #[test]
    fn fields_and_values_or() {
        use serde_json::json;
        check(json!({}), true);
        check(json!({"workload": ["backend"]}), true);
        check(json!({"workload": ["shop/backend"]}), true);
        check(json!({"workload": ["shop/"]}), true);
        check(json!({"workload": ["other/"]}), false);
        check(json!({"from": ["backend"]}), false);
        check(json!({"to": ["backend", "nobody"]}), true);
        check(json!({"to": ["10.0.0.2"]}), true);
        check(json!({"verdict": ["Forwarded"]}), true);
        check(json!({"verdict": ["dropped"]}), false);
        check(json!({"protocol": ["TCP"], "port": [80]}), true);
        check(json!({"protocol": ["udp"], "port": [80]}), false);
        check(json!({"protocol": ["http"]}), false);
        check(json!({"label": ["app=frontend"]}), true);
        check(json!({"label": ["k8s:app=frontend"]}), true);
        check(json!({"label": ["app=front"]}), false);
        check(json!({"rule": ["ingress[0]"]}), true);
        check(json!({"rule": ["egress"]}), false);
    }

    #[test]
    fn a_value_that_can_never_match_is_refused_with_the_choice() {
        let filter = FlowFilter {
            verdict: vec!["droped".into()],
            ..FlowFilter::default()
        };
        let error = filter.check().expect_err("refused").to_string();
        assert_eq!(
            error,
            "verdict: \"droped\" is not known; use one of: forwarded, dropped, redirected, \
             translated, audit, error"
        );
    }
}
