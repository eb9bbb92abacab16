//! Records for tests, of every crate that reads some.

use crate::record::{FlowEvent, FlowRecord, FlowVerdict, Party};
use tidegate_policy::compiled::{Generation, IdentityId};

/// A forwarded TCP flow from `shop/frontend` to `shop/backend:port`.
pub fn record(port: u16) -> FlowRecord {
    let party = |address: [u8; 4], port, name: &str| Party {
        address: address.into(),
        port,
        identity: IdentityId(256),
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
        error: None,
        error_kind: None,
        direction: None,
        protocol: "tcp".into(),
        source: party([10, 0, 0, 1], 40_000, "frontend"),
        destination: party([10, 0, 0, 2], port, "backend"),
        rules: vec!["shop/backend ingress[0]".into()],
        none_matched: false,
        shadow: None,
        tcp_flags: None,
        hint: None,
        traffic: None,
        service: None,
        l7: None,
        plugin: None,
        generation: Generation(1),
    }
}
