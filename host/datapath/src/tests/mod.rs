//! The datapath against the real kernel: every test has a network namespace, a mount
//! namespace with a bpffs, and a workload of its own. They need root, and leave
//! nothing behind, also when they fail: it all ends with the test's thread.

mod adoption;
mod bridges;
mod generations;
mod places;
mod services;
mod verdicts;
mod world;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tidegate_policy::{
    compiled::{
        AddrIdentity, Compiled, CompiledEndpoint, Decision, DefaultDeny, Direction, EndpointId,
        IdentityId, L7Id, Location, PolicyRow, PortMatch, RuleId, Verdict,
    },
    shared::Map,
};

use self::world::{NODE, WORKLOAD, WORKLOAD_DEVICE};

/// Endpoint id of the workload.
const ENDPOINT: EndpointId = EndpointId(7);
/// Its identity.
const IDENTITY: IdentityId = IdentityId(300);
/// Rule of every row of [`policy`].
const RULE: RuleId = RuleId(42);

/// One workload whose policy is these rows.
fn compiled(rows: Vec<PolicyRow>) -> Compiled {
    let address =
        |ip: IpAddr, identity, endpoint| (IpNet::from(ip), AddrIdentity { identity, endpoint });
    Compiled {
        ipcache: [
            address(WORKLOAD.into(), IDENTITY, Some(ENDPOINT)),
            address(NODE.into(), IdentityId(1), None),
        ]
        .into_iter()
        .collect(),
        endpoints: Map::unit(
            ENDPOINT,
            Arc::new(CompiledEndpoint {
                name: "default/workload".into(),
                identity: IDENTITY,
                location: Location::Interface(WORKLOAD_DEVICE.into()),
                addresses: vec![WORKLOAD.into()],
                fast_lane: false,
                default_deny: DefaultDeny::default(),
                table: rows.into(),
            }),
        ),
        ..Compiled::default()
    }
}

/// Complete rows with one verdict for everything, both ways.
fn policy(verdict: Verdict) -> Vec<PolicyRow> {
    [Direction::Ingress, Direction::Egress]
        .map(|direction| row(0, direction, PortMatch::Any, verdict))
        .to_vec()
}

fn row(identity: u32, direction: Direction, ports: PortMatch, verdict: Verdict) -> PolicyRow {
    PolicyRow {
        identity: IdentityId(identity),
        direction,
        ports,
        decision: Decision {
            verdict,
            rule: RULE,
            l7: L7Id(0),
            shadow: None,
        },
    }
}

fn tcp_port(port: u16) -> PortMatch {
    PortMatch::Ports {
        protocol: 6,
        port,
        bits: 16,
    }
}
