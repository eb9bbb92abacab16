//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`, in the dialect of
//! Cilium 1.19. What that refuses is refused here; what is not supported is refused
//! too, never skipped.

mod headers;
mod held;
mod kafka;
mod l7;
mod peers;
mod ports;
mod selector;
mod tls;

use super::{
    Heading,
    meta::HOLD_NAMES,
    reader::{Cursor, Fields, all},
};
use crate::{
    labels::Requirement,
    objects::Policy,
    rule::{Peers, Rule, Spec, Traffic, index},
    terms::Direction,
};

pub(crate) use kafka::{APIS, ROLES};
pub(super) use ports::check_port_name;
pub(super) use selector::{Selecting, read as read_selector};

/// Reads a policy document.
pub(super) fn read(root: &Cursor<'_>, heading: &Heading<'_>) -> Option<Policy> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec", "specs", "status"])?;
    let meta = super::read_meta(root, &top, heading);
    let namespace = meta.as_ref().and_then(|meta| meta.namespace.as_deref());
    let mut cursors = Vec::new();
    cursors.extend(top.get("spec").cloned());
    cursors.extend(top.items("specs").unwrap_or_default());
    if cursors.is_empty() {
        root.error(
            "neither `spec` nor `specs`",
            "a policy needs at least one rule",
        );
    }
    let holds = meta.as_ref().is_some_and(|meta| meta.holds_names);
    let read = cursors
        .iter()
        .map(|cursor| read_spec(cursor, namespace, holds));
    let specs = all(read);
    Some(Policy {
        specs: specs?,
        meta: meta?,
    })
}

/// The four lists of a spec.
const SECTIONS: [(&str, Direction, bool); 4] = [
    ("ingress", Direction::Ingress, false),
    ("ingressDeny", Direction::Ingress, true),
    ("egress", Direction::Egress, false),
    ("egressDeny", Direction::Egress, true),
];

fn read_spec(cursor: &Cursor<'_>, namespace: Option<&str>, holds: bool) -> Option<Spec> {
    let fields = cursor.fields(&[
        "endpointSelector",
        "nodeSelector",
        "ingress",
        "ingressDeny",
        "egress",
        "egressDeny",
        "labels",
        "description",
        "enableDefaultDeny",
        "log",
    ])?;
    let subject_at = match fields.get("nodeSelector") {
        Some(node) => {
            node.error(
                "policies for nodes are not supported yet",
                "use endpointSelector",
            );
            None
        }
        None => fields.required("endpointSelector"),
    };
    let subject = subject_at.and_then(|at| selector::read(at, Selecting::Subject(namespace)));
    let is_init = |r: &Requirement| r.key().is_reserved() && r.key().key == "init";
    let scope = peers::Scope {
        namespace,
        subject_is_init: subject
            .iter()
            .any(|subject| subject.requirements.iter().any(is_init)),
    };

    let mut rules = Vec::new();
    let mut items_in = [0; 2];
    for (name, direction, deny) in SECTIONS {
        for item in fields.items(name).unwrap_or_default() {
            items_in[index(direction)] += 1;
            let rule = read_rule(&item, direction, deny, &scope);
            rules.extend(rule.map(|rule| match holds && !deny {
                true => held(&item, rule),
                false => rule,
            }));
        }
    }
    let default_deny = read_default_deny(cursor, &fields, items_in);
    Some(Spec {
        at: cursor.at(),
        subject: subject?,
        subject_at: subject_at?.at(),
        default_deny: default_deny?,
        rules,
    })
}

/// Which directions the spec switches to default deny: those with an item, unless
/// `enableDefaultDeny` switches them off. It switches nothing on: in Cilium a rule has
/// its direction's switch with it, and where there is no rule there is no switch.
fn read_default_deny(
    spec: &Cursor<'_>,
    fields: &Fields<'_>,
    items_in: [usize; 2],
) -> Option<[bool; 2]> {
    let mut deny = items_in.map(|items| items > 0);
    if deny == [false, false] {
        // Nothing but empty lists. Cilium ignored such a policy and later refused it;
        // whoever writes `ingress: []` means "deny all", so that is what it does here.
        for (section, direction) in [("ingress", 0), ("egress", 1)] {
            if let Some(list) = fields.get(section) {
                deny[direction] = true;
                list.warn(
                    "an empty list is taken as \"deny all\"; Cilium refuses or ignores it",
                    &format!("write `{section}: [{{}}]` to say so everywhere"),
                );
            }
        }
        if deny == [false, false] {
            spec.error(
                "has no rule",
                "one of ingress, ingressDeny, egress, egressDeny needs an item",
            );
            return None;
        }
    }
    if let Some(switch) = fields.get("enableDefaultDeny") {
        let switches = switch.fields(&["ingress", "egress"])?;
        for (direction, name) in ["ingress", "egress"].into_iter().enumerate() {
            if let Some(cursor) = switches.get(name) {
                let Some(wanted) = cursor.boolean() else {
                    continue;
                };
                if wanted && !deny[direction] {
                    cursor.warn(
                        format!("has no effect: the policy has no {name} rule"),
                        &format!("write `{name}: [{{}}]` to deny what nothing allows"),
                    );
                }
                deny[direction] &= wanted;
            }
        }
    }
    Some(deny)
}

fn read_rule(
    cursor: &Cursor<'_>,
    direction: Direction,
    deny: bool,
    scope: &peers::Scope<'_>,
) -> Option<Rule> {
    let mut known = peers::keys(direction).to_vec();
    known.extend(["toPorts", "icmps", "authentication"]);
    let fields = cursor.fields(&known)?;
    fields.unsupported(&[(
        "authentication",
        "remove it, or the rule would allow more than it says",
    )]);
    let peers = peers::read(&fields, direction, deny, scope);
    let traffic = read_traffic(&fields, (direction, deny), scope.namespace);
    let (peers, traffic) = (peers?, traffic?);
    // A rule that names neither peers nor ports matches nothing, not everything:
    // `ingress: [{}]` is how people write "deny all".
    let names_peers = peers::keys(direction)
        .iter()
        .any(|key| fields.get(key).is_some());
    let says_nothing = !names_peers && matches!(traffic, Traffic::All);
    let to_ports_is_empty = fields.items("toPorts").unwrap_or_default().is_empty();
    Some(Rule {
        at: cursor.at(),
        direction,
        deny,
        peers: if says_nothing {
            Peers::Of(Vec::new())
        } else if !to_ports_is_empty && peers::are_forgotten(&fields) {
            Peers::Any
        } else {
            peers
        },
        traffic,
    })
}

/// The rule, for who asks for its names alone.
fn held(cursor: &Cursor<'_>, rule: Rule) -> Rule {
    let (traffic, unheld) = held::hold(&rule.peers, rule.traffic, &rule.at);
    for unheld in unheld {
        match unheld {
            held::Unheld::Open(at) => cursor.warn(
                format!(
                    "{} is not held to the names of `toFQDNs`: only what is sent over TCP can be",
                    at.rule()
                ),
                "list TCP ports",
            ),
            held::Unheld::Unreadable(index, protocol) => {
                let items = entry(cursor, "toPorts").and_then(|items| items.items());
                let item = items.and_then(|items| items.into_iter().nth(index));
                let rules = item.and_then(|item| entry(&item, "rules"));
                rules.as_ref().unwrap_or(cursor).error(
                    format!(
                        "names cannot be held to in this protocol ({protocol}), as `{HOLD_NAMES}` asks: \
                         only in TLS and HTTP"
                    ),
                    "write it into a policy without that annotation, or take `rules` out, or write \
                     http rules",
                );
            }
        }
    }
    Rule { traffic, ..rule }
}

/// What stands at a key of it.
fn entry<'a>(cursor: &Cursor<'a>, key: &str) -> Option<Cursor<'a>> {
    let mut entries = cursor.entries()?.into_iter();
    entries.find_map(|(name, cursor)| (name == key).then_some(cursor))
}

fn read_traffic(
    fields: &Fields<'_>,
    (direction, deny): (Direction, bool),
    namespace: Option<&str>,
) -> Option<Traffic> {
    let to_ports = fields.items("toPorts").unwrap_or_default();
    let icmps = fields.items("icmps").unwrap_or_default();
    let both = !to_ports.is_empty() && !icmps.is_empty();
    if let (Some(cursor), true) = (fields.get("icmps"), both) {
        cursor.error("cannot stand beside toPorts", "make it an item of its own");
    }
    if to_ports.is_empty() && icmps.is_empty() {
        return Some(Traffic::All);
    }
    let ports = to_ports
        .iter()
        .map(|c| ports::read(c, (direction, deny), namespace));
    let icmps = icmps.iter().map(ports::read_icmp);
    let rules = all(ports.chain(icmps));
    rules.map(Traffic::Of)
}
