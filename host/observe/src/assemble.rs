//! Kernel events and proxy records become flow records.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tidegate_contract::L7Record;
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    event::{Event, kind},
    flow::hint,
    policy::{direction, verdict},
    reason,
};
use tidegate_policy::compiled::{EndpointId, Generation, IdentityId, RuleId};

use super::{
    directory::{Directory, LearnedNames},
    record::{FlowDirection, FlowEvent, FlowRecord, FlowVerdict, Party, Shadow, Traffic},
};

/// Turns numbers into names while it builds records.
pub struct Assembler<'a> {
    /// Names of the generation.
    pub directory: &'a Directory,
    /// DNS names for addresses.
    pub learned: &'a LearnedNames,
    /// What to add to `CLOCK_MONOTONIC` for wall-clock time, nanoseconds.
    pub monotonic_to_wall_ns: u64,
    /// Are denied packets let through and only reported.
    pub audit: bool,
}

impl Assembler<'_> {
    /// A record for a kernel event; `None` for a kind this version does not know.
    pub fn kernel(&self, e: &Event) -> Option<FlowRecord> {
        let (event, final_verdict) = match e.kind {
            kind::FLOW_NEW if e.verdict == verdict::REDIRECT => {
                (FlowEvent::FlowNew, FlowVerdict::Redirected)
            }
            kind::FLOW_NEW => (FlowEvent::FlowNew, FlowVerdict::Forwarded),
            kind::FLOW_CLOSED => (FlowEvent::FlowClosed, FlowVerdict::Forwarded),
            kind::DROP if self.audit => (FlowEvent::Drop, FlowVerdict::Audit),
            kind::DROP => (FlowEvent::Drop, FlowVerdict::Dropped),
            kind::DENY_LIST => (FlowEvent::DenyList, FlowVerdict::Dropped),
            kind::TRANSLATED => (FlowEvent::Translated, FlowVerdict::Translated),
            kind::SOCKET_DENIED => (FlowEvent::SocketDenied, FlowVerdict::Dropped),
            kind::SOCKET_OPENED if e.verdict == verdict::REDIRECT => {
                (FlowEvent::SocketOpened, FlowVerdict::Redirected)
            }
            kind::SOCKET_OPENED => (FlowEvent::SocketOpened, FlowVerdict::Forwarded),
            kind::REHEARSED => (FlowEvent::Rehearsed, outcome(e.verdict)),
            _ => return None,
        };
        let refused = matches!(
            event,
            FlowEvent::Drop | FlowEvent::DenyList | FlowEvent::SocketDenied
        );
        let icmp = matches!(e.protocol, proto::ICMP | proto::ICMPV6);
        let port = |bytes: [u8; 2]| if icmp { 0 } else { u16::from_be_bytes(bytes) };
        let translated = event == FlowEvent::Translated;
        Some(FlowRecord {
            time_ns: self.monotonic_to_wall_ns.saturating_add(e.time),
            event,
            verdict: final_verdict,
            drop_reason: refused.then_some(e.reason),
            drop_reason_text: refused.then(|| reason::phrase(e.reason).to_owned()),
            error: None,
            error_kind: None,
            direction: refused.then_some(match e.direction {
                direction::EGRESS => FlowDirection::Egress,
                _ => FlowDirection::Ingress,
            }),
            protocol: protocol_name(e.protocol),
            source: self.party(
                ip(e.src),
                port(e.src_port),
                IdentityId(e.src_identity),
                EndpointId(e.src_endpoint),
            ),
            destination: self.party(
                ip(e.dst),
                port(e.dst_port),
                IdentityId(e.dst_identity),
                EndpointId(e.dst_endpoint),
            ),
            rules: match event {
                // The kernel knows no rule where it meets the list.
                FlowEvent::DenyList => [RuleId(0), self.directory.denying(ip(e.src))],
                _ => [e.egress_rule, e.ingress_rule].map(RuleId),
            }
            .into_iter()
            .filter_map(|id| self.directory.rule(id))
            .collect(),
            none_matched: false,
            shadow: self.shadow(e),
            tcp_flags: (e.protocol == proto::TCP && e.tcp_flags != 0)
                .then(|| tcp_flags(e.tcp_flags)),
            hint: hint_name(e.hint).map(str::to_owned),
            traffic: (event == FlowEvent::FlowClosed).then_some(Traffic {
                tx_packets: e.tx_packets,
                tx_bytes: e.tx_bytes,
                rx_packets: e.rx_packets,
                rx_bytes: e.rx_bytes,
            }),
            service: translated.then(|| {
                let (addr, port) = (ip(e.frontend), u16::from_be_bytes(e.frontend_port));
                match self.directory.service(addr, port, e.protocol) {
                    Some(name) => format!("{name} ({})", SocketAddr::new(addr, port)),
                    None => SocketAddr::new(addr, port).to_string(),
                }
            }),
            l7: None,
            plugin: None,
            generation: Generation(e.generation),
        })
    }

    /// What would have become of it in shadow, if something else. A rule is missing where
    /// it would decide that is enforced anyway; then the difference must be a refusal, for
    /// how a flow passes may have changed since it began.
    fn shadow(&self, e: &Event) -> Option<Shadow> {
        let verdict = outcome(e.shadow_verdict);
        let before = outcome(e.verdict);
        let refuses = verdict == FlowVerdict::Dropped || before == FlowVerdict::Dropped;
        (verdict != before && (refuses || e.shadow_rule != 0)).then(|| Shadow {
            verdict,
            rules: self
                .directory
                .rule(RuleId(e.shadow_rule))
                .into_iter()
                .collect(),
            none_matched: false,
        })
    }

    /// A record for a request or query the proxy decided.
    pub fn l7(&self, r: &L7Record) -> FlowRecord {
        let verdict = match (&r.error, r.allowed) {
            (None, _) if r.audited => FlowVerdict::Audit,
            (_, true) => FlowVerdict::Forwarded,
            (Some(_), false) => FlowVerdict::Error,
            (None, false) => FlowVerdict::Dropped,
        };
        let refused = verdict != FlowVerdict::Forwarded;
        FlowRecord {
            time_ns: r.time_ns,
            event: FlowEvent::L7,
            verdict,
            drop_reason: matches!(verdict, FlowVerdict::Dropped | FlowVerdict::Audit)
                .then_some(reason::POLICY_DENIED),
            drop_reason_text: refused.then(|| {
                let error = r.error.as_ref().map(ToString::to_string);
                error.unwrap_or_else(|| reason::phrase(reason::POLICY_DENIED).to_owned())
            }),
            error: r.error.as_ref().map(ToString::to_string),
            error_kind: r.error.as_ref().map(|error| error.kind),
            direction: refused.then_some(if r.ingress {
                FlowDirection::Ingress
            } else {
                FlowDirection::Egress
            }),
            protocol: protocol_name(r.transport),
            source: self.party(
                r.source.ip(),
                r.source.port(),
                r.identities.0,
                r.endpoints.0,
            ),
            destination: self.party(
                r.destination.ip(),
                r.destination.port(),
                r.identities.1,
                r.endpoints.1,
            ),
            rules: r
                .rules
                .iter()
                .filter_map(|id| self.directory.rule(*id))
                .collect(),
            none_matched: r.unmatched,
            shadow: r.rehearsed.as_ref().map(|rehearsed| Shadow {
                none_matched: rehearsed.unmatched,
                verdict: match (rehearsed.allowed, &rehearsed.error) {
                    (true, _) => FlowVerdict::Forwarded,
                    (false, Some(_)) => FlowVerdict::Error,
                    (false, None) => FlowVerdict::Dropped,
                },
                rules: rehearsed
                    .rules
                    .iter()
                    .filter_map(|id| self.directory.rule(*id))
                    .collect(),
            }),
            tcp_flags: None,
            hint: None,
            traffic: None,
            service: None,
            l7: Some(r.l7.clone()),
            plugin: r.plugin.clone(),
            generation: r.generation,
        }
    }

    fn party(
        &self,
        address: IpAddr,
        port: u16,
        identity: IdentityId,
        endpoint: EndpointId,
    ) -> Party {
        let address = address.to_canonical();
        Party {
            address,
            port,
            identity,
            endpoint: self.directory.endpoint(endpoint).map(str::to_owned),
            labels: self.directory.labels(identity).to_vec(),
            names: self.learned.names(address),
        }
    }
}

fn ip(addr: Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr.0)).to_canonical()
}

/// IANA protocol name in lower case, or the number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        proto::TCP => "tcp".into(),
        proto::UDP => "udp".into(),
        proto::ICMP => "icmp".into(),
        proto::ICMPV6 => "icmpv6".into(),
        proto::SCTP => "sctp".into(),
        other => other.to_string(),
    }
}

/// What becomes of what a policy verdict is about.
fn outcome(v: u8) -> FlowVerdict {
    match v {
        verdict::ALLOW => FlowVerdict::Forwarded,
        verdict::REDIRECT => FlowVerdict::Redirected,
        _ => FlowVerdict::Dropped,
    }
}

fn hint_name(h: u8) -> Option<&'static str> {
    match h {
        hint::HTTP1 => Some("http/1"),
        hint::HTTP2 => Some("http/2"),
        hint::TLS => Some("tls"),
        hint::KAFKA => Some("kafka"),
        hint::OTHER => Some("other"),
        _ => None,
    }
}

/// Names in the order Hubble prints them: `SYN, ACK`.
fn tcp_flags(bits: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x10, "ACK"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    let set: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::{Compiled, RuleInfo};

    use super::*;

    fn directory() -> Directory {
        let mut compiled = Compiled::default();
        compiled
            .identities
            .insert(IdentityId(256), ["k8s:app=frontend".to_owned()].into());
        compiled.rules.insert(
            RuleId(7),
            std::sync::Arc::new(RuleInfo {
                kind: "CiliumNetworkPolicy".into(),
                namespace: Some("shop".into()),
                policy: "backend".into(),
                path: "ingress[0]".into(),
                origin: "policies/backend.yaml".into(),
                line: 9,
                column: 1,
            }),
        );
        Directory::new(&compiled, None)
    }

    fn assemble(event: &Event, audit: bool) -> FlowRecord {
        let learned = LearnedNames::new(1);
        let directory = directory();
        Assembler {
            directory: &directory,
            learned: &learned,
            monotonic_to_wall_ns: 1_000,
            audit,
        }
        .kernel(event)
        .expect("known kind")
    }

    fn dropped() -> Event {
        Event {
            time: 5,
            src: Addr::v4([10, 0, 0, 1]),
            dst: Addr::v4([10, 0, 0, 2]),
            src_port: 40_000_u16.to_be_bytes(),
            dst_port: 80_u16.to_be_bytes(),
            protocol: proto::TCP,
            kind: kind::DROP,
            reason: reason::POLICY_DENIED,
            src_identity: 256,
            ingress_rule: 7,
            tcp_flags: 0x02,
            ..Event::default()
        }
    }

    #[test]
    fn a_drop_names_reason_and_rule() {
        let record = assemble(&dropped(), false);
        assert_eq!(record.verdict, FlowVerdict::Dropped);
        assert_eq!(record.drop_reason_text.as_deref(), Some("Policy denied"));
        assert_eq!(record.rules, ["shop/backend ingress[0]"]);
        assert_eq!(record.source.labels, ["k8s:app=frontend"]);
        assert_eq!(record.source.address, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(record.tcp_flags.as_deref(), Some("SYN"));
        assert_eq!(record.time_ns, 1_005);
    }

    #[test]
    fn the_verdict_in_shadow_is_told_where_it_is_another() {
        use verdict::{ALLOW, DEFAULT_DENY, DENY, REDIRECT};
        let told = |kind, verdict, shadow_verdict, shadow_rule| {
            let record = assemble(
                &Event {
                    kind,
                    verdict,
                    shadow_verdict,
                    shadow_rule,
                    ..dropped()
                },
                false,
            );
            record.shadow.map(|shadow| (shadow.verdict, shadow.rules))
        };
        let by_rule = |verdict| Some((verdict, vec!["shop/backend ingress[0]".to_owned()]));
        let refused = by_rule(FlowVerdict::Dropped);
        assert_eq!(told(kind::FLOW_NEW, ALLOW, DENY, 7), refused);
        assert_eq!(told(kind::FLOW_NEW, REDIRECT, DEFAULT_DENY, 7), refused);
        assert_eq!(told(kind::REHEARSED, ALLOW, DENY, 7), refused);
        assert_eq!(told(kind::FLOW_CLOSED, ALLOW, DENY, 7), refused);
        let steered = by_rule(FlowVerdict::Redirected);
        assert_eq!(told(kind::FLOW_NEW, ALLOW, REDIRECT, 7), steered);
        let allowed = by_rule(FlowVerdict::Forwarded);
        assert_eq!(told(kind::DROP, DEFAULT_DENY, ALLOW, 7), allowed);
        for (verdict, shadow_verdict, rule) in [
            (ALLOW, ALLOW, 0),
            (DEFAULT_DENY, DENY, 7),
            (REDIRECT, REDIRECT, 7),
            // A flow that stays steered after nothing has it read any more.
            (REDIRECT, ALLOW, 0),
        ] {
            assert_eq!(told(kind::FLOW_CLOSED, verdict, shadow_verdict, rule), None);
        }
    }

    #[test]
    fn in_audit_mode_a_drop_is_reported_as_audit() {
        assert_eq!(assemble(&dropped(), true).verdict, FlowVerdict::Audit);
    }

    #[test]
    fn an_unknown_rule_keeps_its_number_and_no_rule_stays_empty() {
        let unknown = assemble(
            &Event {
                ingress_rule: 99,
                ..dropped()
            },
            false,
        );
        assert_eq!(unknown.rules, ["rule 99"]);
        let none = assemble(
            &Event {
                ingress_rule: 0,
                ..dropped()
            },
            false,
        );
        assert!(none.rules.is_empty());
    }
}
