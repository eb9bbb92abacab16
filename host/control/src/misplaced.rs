//! Endpoints that cannot be where their file says. Pure.

use std::net::IpAddr;

use tidegate_policy::{
    Document, Problem, Severity,
    compiled::Location,
    objects::{Body, Endpoint},
    origin::At,
};

use super::event::NodeDevices;

/// A workload behind a device, or with an address, that is the node's own: policing it as
/// a workload's would cut off the node, or everybody behind a bridge. Whether the device is
/// there makes no difference.
pub(super) fn misplaced(
    document: &Document,
    devices: &NodeDevices,
    node: &[IpAddr],
) -> Option<Problem> {
    let (endpoint, device) = workload(document)?;
    if let Some(why) = devices.own.get(device) {
        let message = format!("{why}: no workload is behind it");
        let hint = "name the node's end of the workload's own veth";
        return Some(problem(
            endpoint,
            &endpoint.location_at,
            device,
            message,
            hint,
        ));
    }
    endpoint.addresses().find_map(|(address, at)| {
        let what = match address {
            address if node.contains(&address) => "it is the node's own address",
            address if address.is_loopback() => "it is a loopback address",
            address if address.is_multicast() => "it is an address of many",
            address if address.is_unspecified() => "it is no address of anybody",
            _ => return None,
        };
        let hint = "a workload has addresses of its own; for a process of the node use `cgroup`";
        Some(problem(
            endpoint,
            at,
            &address.to_string(),
            what.to_owned(),
            hint,
        ))
    })
}

/// Addresses of a workload that the node looks for outside, where the workload is not.
/// A warning: the node may have a route to it, or answer for it (proxy ARP).
pub(super) fn outside(document: &Document, devices: &NodeDevices) -> Vec<Problem> {
    let Some((endpoint, _)) = workload(document) else {
        return Vec::new();
    };
    let warn = |(address, at): (IpAddr, &At)| {
        let mut networks = devices.networks.iter();
        let (network, device) = networks.find(|(network, _)| network.contains(&address))?;
        let message = format!("it is in {network}, which is behind {device}");
        let hint = "the workload is reached there only by a route of its own on the node";
        Some(Problem {
            severity: Severity::Warning,
            ..problem(endpoint, at, &address.to_string(), message, hint)
        })
    };
    endpoint.addresses().filter_map(warn).collect()
}

/// The endpoint and its device, if it is behind one.
fn workload(document: &Document) -> Option<(&Endpoint, &str)> {
    match &document.body {
        Body::Endpoint(endpoint) => match &endpoint.location {
            Location::Interface(device) => Some((endpoint, device)),
            Location::Cgroup(_) => None,
        },
        _ => None,
    }
}

fn problem(endpoint: &Endpoint, at: &At, value: &str, message: String, hint: &str) -> Problem {
    Problem {
        value: Some(value.to_owned()),
        ..endpoint.meta.problem(at, message, hint)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::parse_file;

    use super::*;

    #[test]
    fn what_is_the_nodes_is_no_workloads() {
        let devices = NodeDevices {
            own: [(
                "lo".to_owned(),
                "it is the node's loopback device".to_owned(),
            )]
            .into(),
            networks: [("192.0.2.0/24".parse().expect("a network"), "up0".to_owned())].into(),
        };
        let node = ["10.0.0.1".parse().expect("an address")];
        for (spec, expected) in [
            ("interface: tg-a, addresses: [10.0.1.1]", ""),
            (
                "interface: lo, addresses: [10.0.1.1]",
                "e.yaml:4:19: spec.interface: it is the node's loopback device: no workload is behind it (lo); name the node's end of the workload's own veth",
            ),
            (
                "interface: tg-a, addresses: [10.0.1.1, 10.0.0.1]",
                "e.yaml:4:47: spec.addresses[1]: it is the node's own address (10.0.0.1); a workload has addresses of its own; for a process of the node use `cgroup`",
            ),
            (
                "interface: tg-a, addresses: [127.0.0.9]",
                "e.yaml:4:37: spec.addresses[0]: it is a loopback address (127.0.0.9); a workload has addresses of its own; for a process of the node use `cgroup`",
            ),
            (
                "interface: tg-a, addresses: [192.0.2.9]",
                "e.yaml:4:37: warning: spec.addresses[0]: it is in 192.0.2.0/24, which is behind up0 (192.0.2.9); the workload is reached there only by a route of its own on the node",
            ),
            ("cgroup: /a, addresses: [10.0.0.1]", ""),
        ] {
            let head = "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {name: a}\n";
            let read = parse_file("e.yaml", &format!("{head}spec: {{{spec}}}\n"));
            let document = read.expect("read").remove(0);
            let mut found = outside(&document, &devices);
            found.extend(misplaced(&document, &devices, &node));
            let found: Vec<String> = found.iter().map(Problem::to_string).collect();
            assert_eq!(found.join("\n"), expected, "{spec}");
        }
    }
}
