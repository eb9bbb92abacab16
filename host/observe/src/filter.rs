//! Selecting flow records: fields AND, values of one field OR, as in Hubble.

use serde::{Deserialize, Serialize};
use tidegate_contract::{FailureKind, L7Summary};
use tidegate_policy::{compiled::FqdnSelector, fqdn::Matcher};

use super::{
    record::{FlowRecord, FlowVerdict, Party},
    similar::similar,
    store::verdict_label,
};

/// What `observe` asks for. Empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct FlowFilter {
    /// Workload at either end: `name`, `namespace/name`, `namespace/` or an address.
    pub workload: Vec<String>,
    /// Workload at the source.
    pub from: Vec<String>,
    /// Workload at the destination.
    pub to: Vec<String>,
    /// Verdict, Hubble's names, any case. `dropped` includes `error`: whoever looks for
    /// what did not get through does not care whether a rule or a failure stopped it.
    pub verdict: Vec<String>,
    /// Verdict if what is in shadow were enforced, where that is something else.
    pub shadow_verdict: Vec<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `http`, `grpc`, `dns`.
    pub protocol: Vec<String>,
    /// Port at either end.
    pub port: Vec<u16>,
    /// Label at either end, `key=value` or `source:key=value`.
    pub label: Vec<String>,
    /// Rules whose text contains this, those in shadow too.
    pub rule: Vec<String>,
    /// Kinds of failures, as records name them.
    pub error: Vec<FailureKind>,
    /// Server that was asked for in TLS: a name, or a pattern as in `serverNames`.
    pub server_name: Vec<String>,
    /// Not before this time, nanoseconds since 1970-01-01T00:00:00Z.
    pub since_ns: Option<u64>,
    /// Before this time, likewise.
    pub until_ns: Option<u64>,
}

/// A filter value that can never match, with what would.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not known; {expected}")]
pub struct UnknownValue {
    field: &'static str,
    value: String,
    expected: String,
}

/// What a selector may name, besides what the records themselves carry.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Endpoints, `namespace/name`.
    pub endpoints: Vec<String>,
    /// DNS names that were learned.
    pub names: Vec<String>,
    /// Labels, `source:key=value`.
    pub labels: Vec<String>,
    /// Rules, short form.
    pub rules: Vec<String>,
    /// Plugins that read protocols of their own.
    pub readers: Vec<String>,
}

/// Entities that can be an end of a flow on a node that runs alone.
const ENTITIES: [&str; 4] = ["host", "world", "world-ipv4", "world-ipv6"];
/// Known values an error lists; more help nobody.
const LISTED: usize = 12;

const VERDICTS: &str = "forwarded, dropped, redirected, translated, audit, error";
const SHADOW_VERDICTS: &str = "forwarded, dropped, redirected, error";
/// Those that every node knows; plugins bring others.
const PROTOCOLS: [&str; 11] = [
    "tcp", "udp", "icmp", "icmpv6", "sctp", "http", "grpc", "dns", "tls", "stream", "kafka",
];

impl FlowFilter {
    /// Refuses values that no record can ever have.
    pub fn check(&self) -> Result<(), UnknownValue> {
        known("verdict", &self.verdict, VERDICTS)?;
        known("shadowVerdict", &self.shadow_verdict, SHADOW_VERDICTS)?;
        match (self.since_ns, self.until_ns) {
            (Some(since), Some(until)) if since >= until => Err(UnknownValue {
                field: "until",
                value: until.to_string(),
                expected: "it is not after `since`, so nothing can lie between".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses selectors that name nobody: neither what is there now nor anything in the
    /// records that are kept.
    pub fn check_names<'r>(
        &self,
        known: &Known,
        kept: impl Iterator<Item = &'r FlowRecord> + Clone,
    ) -> Result<(), UnknownValue> {
        let parties = || kept.clone().flat_map(|r| [&r.source, &r.destination]);
        for (field, wanted) in [
            ("workload", &self.workload),
            ("from", &self.from),
            ("to", &self.to),
        ] {
            let exists = |wanted: &str| {
                known.is_workload(wanted) || parties().any(|party| is_workload(party, wanted))
            };
            let all = known.endpoints.iter().map(String::as_str).chain(ENTITIES);
            first_unknown(
                field,
                wanted,
                exists,
                all.chain(known.names.iter().map(String::as_str)),
            )?;
        }
        let reader = |record: &'r FlowRecord| match &record.l7 {
            Some(L7Summary::Stream { reader, .. }) => Some(reader),
            _ => None,
        };
        let spoken = || {
            let readers = known.readers.iter().map(String::as_str);
            PROTOCOLS.into_iter().chain(readers)
        };
        let exists = |wanted: &str| {
            let mut recorded = kept.clone().filter_map(reader);
            spoken().any(|name| name.eq_ignore_ascii_case(wanted))
                || recorded.any(|name| name.eq_ignore_ascii_case(wanted))
        };
        first_unknown("protocol", &self.protocol, exists, spoken())?;
        let exists = |wanted: &str| {
            known.labels.iter().any(|label| is_label(label, wanted))
                || parties().any(|party| has_label(party, wanted))
        };
        first_unknown(
            "label",
            &self.label,
            exists,
            known.labels.iter().map(String::as_str),
        )?;
        let in_record = |wanted: &str| {
            let mut rules = kept.clone().flat_map(FlowRecord::all_rules);
            rules.any(|rule| rule.contains(wanted))
        };
        let exists = |wanted: &str| {
            known.rules.iter().any(|rule| rule.contains(wanted)) || in_record(wanted)
        };
        first_unknown(
            "rule",
            &self.rule,
            exists,
            known.rules.iter().map(String::as_str),
        )
    }

    /// Does the record pass.
    pub fn matches(&self, r: &FlowRecord) -> bool {
        let ends = [&r.source, &r.destination];
        any(&self.workload, |w| ends.iter().any(|p| is_workload(p, w)))
            && any(&self.from, |w| is_workload(&r.source, w))
            && any(&self.to, |w| is_workload(&r.destination, w))
            && self.since_ns.is_none_or(|since| r.time_ns >= since)
            && self.until_ns.is_none_or(|until| r.time_ns < until)
            && any(&self.verdict, |v| is_verdict(r.verdict, v))
            && any(&self.shadow_verdict, |v| {
                let shadow = r.shadow.as_ref();
                shadow.is_some_and(|shadow| is_verdict(shadow.verdict, v))
            })
            && any(&self.protocol, |p| is_protocol(r, p))
            && (self.error.is_empty()
                || r.error_kind.is_some_and(|kind| self.error.contains(&kind)))
            && any(&self.port, |p| ends.iter().any(|e| e.port == *p))
            && any(&self.label, |l| ends.iter().any(|p| has_label(p, l)))
            && any(&self.rule, |t| {
                r.all_rules().any(|rule| rule.contains(t.as_str()))
            })
            && any(&self.server_name, |name| asks_for(r, name))
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
            expected: format!("use one of: {expected}"),
        }),
        None => Ok(()),
    }
}

/// The first value nothing is called by, with the most similar name, or the names there are.
fn first_unknown<'k>(
    field: &'static str,
    wanted: &[String],
    exists: impl Fn(&str) -> bool,
    known: impl Iterator<Item = &'k str>,
) -> Result<(), UnknownValue> {
    let Some(value) = wanted.iter().find(|value| !exists(value)) else {
        return Ok(());
    };
    let known: Vec<&str> = known.collect();
    let expected = match similar(value, known.iter().copied()) {
        Some(name) => format!("did you mean {name:?}?"),
        None if known.is_empty() => "there is none yet".to_owned(),
        None => {
            let more = known.len().saturating_sub(LISTED);
            let some = known[..known.len() - more].join(", ");
            match more {
                0 => format!("use one of: {some}"),
                more => format!("use e.g. one of: {some} ({more} more)"),
            }
        }
    };
    Err(UnknownValue {
        field,
        value: value.clone(),
        expected,
    })
}

impl Known {
    fn is_workload(&self, wanted: &str) -> bool {
        wanted.parse::<std::net::IpAddr>().is_ok()
            || ENTITIES.contains(&wanted)
            || self.names.iter().any(|name| name == wanted)
            || self.endpoints.iter().any(|name| is_endpoint(name, wanted))
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
    is_endpoint(endpoint, wanted)
}

/// Is `namespace/name` meant by `name`, `namespace/name` or `namespace/`?
fn is_endpoint(endpoint: &str, wanted: &str) -> bool {
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
        || (verdict == FlowVerdict::Error && wanted.eq_ignore_ascii_case("dropped"))
}

fn is_protocol(r: &FlowRecord, wanted: &str) -> bool {
    match &r.l7 {
        Some(L7Summary::Http { .. }) if wanted.eq_ignore_ascii_case("http") => true,
        Some(L7Summary::Http { grpc: Some(_), .. }) if wanted.eq_ignore_ascii_case("grpc") => true,
        Some(L7Summary::Stream { reader, .. })
            if wanted.eq_ignore_ascii_case("stream") || wanted.eq_ignore_ascii_case(reader) =>
        {
            true
        }
        Some(L7Summary::Dns { .. }) if wanted.eq_ignore_ascii_case("dns") => true,
        Some(L7Summary::Tls { .. }) if wanted.eq_ignore_ascii_case("tls") => true,
        _ => r.protocol.eq_ignore_ascii_case(wanted),
    }
}

/// Was this server asked for in TLS? `wanted` is a name or a pattern.
fn asks_for(r: &FlowRecord, wanted: &str) -> bool {
    let Some(L7Summary::Tls { server_name, .. }) = &r.l7 else {
        return false;
    };
    let selector = match wanted.contains('*') {
        true => FqdnSelector::MatchPattern(wanted.to_owned()),
        false => FqdnSelector::MatchName(wanted.to_owned()),
    };
    Matcher::new(&selector).matches(server_name)
}

fn has_label(party: &Party, wanted: &str) -> bool {
    party.labels.iter().any(|label| is_label(label, wanted))
}

/// Is `source:key=value` meant by itself or by `key=value`?
fn is_label(label: &str, wanted: &str) -> bool {
    label == wanted
        || label
            .split_once(':')
            .is_some_and(|(_, bare)| bare == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Shadow, testing::record};

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
    fn servers_are_found_by_name_and_pattern() {
        let mut asks = record(443);
        asks.l7 = Some(L7Summary::Tls {
            server_name: "api.shop.example".into(),
            version: "TLS 1.3".into(),
            alpn: Vec::new(),
            ech: false,
            status: "".into(),
            alert: None,
        });
        let passes = |name: &str| {
            let filter = FlowFilter {
                server_name: vec![name.to_owned()],
                ..FlowFilter::default()
            };
            (filter.matches(&asks), filter.matches(&record(443)))
        };
        for name in [
            "api.shop.example",
            "API.shop.example.",
            "*.shop.example",
            "**.example",
        ] {
            assert_eq!(passes(name), (true, false), "{name}");
        }
        for name in ["shop.example", "*.example"] {
            assert_eq!(passes(name), (false, false), "{name}");
        }
    }

    #[test]
    fn what_failed_counts_as_dropped_and_time_bounds_hold() {
        let mut failed = record(80);
        failed.verdict = FlowVerdict::Error;
        failed.time_ns = 100;
        let passes = |filter: serde_json::Value| {
            let filter: FlowFilter = serde_json::from_value(filter).expect("valid filter");
            filter.matches(&failed)
        };
        use serde_json::json;
        assert!(passes(json!({"verdict": ["dropped"]})));
        assert!(passes(json!({"verdict": ["error"]})));
        assert!(!passes(json!({"verdict": ["forwarded"]})));
        assert!(passes(json!({"sinceNs": 100, "untilNs": 101})));
        assert!(!passes(json!({"sinceNs": 101})));
        assert!(!passes(json!({"untilNs": 100})));
    }

    #[test]
    fn what_would_be_decided_in_shadow_is_found() {
        let mut told = record(80);
        told.shadow = Some(Shadow {
            verdict: FlowVerdict::Dropped,
            rules: vec!["shop/strict ingressDeny[0]".into()],
            none_matched: false,
        });
        use serde_json::json;
        for (filter, of_told, of_plain) in [
            (json!({"shadowVerdict": ["dropped"]}), true, false),
            (json!({"shadowVerdict": ["redirected"]}), false, false),
            (json!({"verdict": ["dropped"]}), false, false),
            (json!({"rule": ["shop/strict"]}), true, false),
        ] {
            let parsed: FlowFilter = serde_json::from_value(filter.clone()).expect("valid");
            parsed.check().expect("known values");
            let found = (parsed.matches(&told), parsed.matches(&record(80)));
            assert_eq!(found, (of_told, of_plain), "{filter}");
        }
        let filter = FlowFilter {
            shadow_verdict: vec!["audit".into()],
            ..FlowFilter::default()
        };
        assert!(filter.check().is_err());
    }

    #[test]
    fn a_selector_that_names_nobody_is_refused_with_who_there_is() {
        let known = Known {
            endpoints: vec!["shop/frontend".into(), "shop/web".into()],
            names: vec!["db.example".into()],
            labels: vec!["k8s:app=web".into()],
            rules: vec!["shop/web ingress[0]".into()],
            readers: vec!["redis".into()],
        };
        let kept = [record(80)];
        let check = |filter: serde_json::Value| {
            let filter: FlowFilter = serde_json::from_value(filter).expect("valid filter");
            filter
                .check_names(&known, kept.iter())
                .map_err(|e| e.to_string())
        };
        use serde_json::json;
        for good in [
            json!({"from": ["frontend", "shop/", "world", "10.9.9.9", "db.example"]}),
            // Gone from the node, but still in the records.
            json!({"to": ["shop/backend"], "label": ["app=backend"], "rule": ["backend"]}),
            json!({"label": ["k8s:app=web"], "rule": ["ingress[0]"]}),
            json!({"protocol": ["TCP", "redis"]}),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for (bad, said) in [
            (
                json!({"from": ["frontned"]}),
                "from: \"frontned\" is not known; did you mean \"shop/frontend\"?",
            ),
            (
                json!({"workload": ["zzz/"]}),
                "use one of: shop/frontend, shop/web, host, world",
            ),
            (
                json!({"label": ["app=wep"]}),
                "did you mean \"k8s:app=web\"?",
            ),
            (json!({"rule": ["egres"]}), "rule: \"egres\" is not known"),
            (json!({"protocol": ["rediss"]}), "did you mean \"redis\"?"),
        ] {
            let error = check(bad.clone()).expect_err("refused");
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    #[test]
    fn failures_are_found_by_their_kind() {
        let mut failed = record(80);
        failed.error = Some("plugin exceeded its deadline".into());
        failed.error_kind = Some(FailureKind::PluginFailed);
        for (kinds, of_failed) in [
            (vec![], true),
            (vec![FailureKind::PluginFailed], true),
            (vec![FailureKind::Overload, FailureKind::PluginFailed], true),
            (vec![FailureKind::Overload], false),
        ] {
            let filter = FlowFilter {
                error: kinds.clone(),
                ..FlowFilter::default()
            };
            assert_eq!(filter.matches(&failed), of_failed, "{kinds:?}");
            assert_eq!(filter.matches(&record(80)), kinds.is_empty(), "{kinds:?}");
        }
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
