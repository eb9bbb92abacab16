//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`, in the dialect of
//! Cilium 1.19. What that refuses is refused here; what is not supported is refused
//! too, never skipped.

mod l7;
mod peers;
mod ports;
mod selector;

use super::{
    Meta, Origin,
    reader::{Cursor, Fields},
};
use crate::{
    compiled::Direction,
    rule::{At, Peers, Policy, Rule, Spec, Traffic, index},
};

pub(super) use ports::check_port_name;
pub(super) use selector::{Selecting, read as read_selector};

/// Reads a policy document.
pub(super) fn read(root: &Cursor<'_>, origin: &Origin<'_>) -> Option<Policy> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec", "specs", "status"])?;
    let meta = super::read_meta(root, &top, origin)?;
    let mut cursors = Vec::new();
    cursors.extend(top.get("spec").cloned());
    cursors.extend(top.items("specs").unwrap_or_default());
    if cursors.is_empty() {
        root.error(
            "neither `spec` nor `specs`",
            "a policy needs at least one rule",
        );
    }
    let read = cursors.iter().map(|cursor| read_spec(cursor, &meta));
    let specs: Option<Vec<Spec>> = read.collect();
    Some(Policy {
        specs: specs?,
        meta,
    })
}

/// The four lists of a spec.
const SECTIONS: [(&str, Direction, bool); 4] = [
    ("ingress", Direction::Ingress, false),
    ("ingressDeny", Direction::Ingress, true),
    ("egress", Direction::Egress, false),
    ("egressDeny", Direction::Egress, true),
];

fn read_spec(cursor: &Cursor<'_>, meta: &Meta) -> Option<Spec> {
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
    if let Some(node) = fields.get("nodeSelector") {
        node.error(
            "policies for nodes are not supported yet",
            "use endpointSelector",
        );
        return None;
    }
    let subject = selector::read(
        fields.required("endpointSelector")?,
        Selecting::Subject(meta.namespace.as_deref()),
    )?;
    let scope = peers::Scope {
        namespace: meta.namespace.as_deref(),
        subject_is_init: subject
            .requirements
            .iter()
            .any(|r| r.key().source.as_deref() == Some("reserved") && r.key().key == "init"),
    };

    let mut rules = Vec::new();
    let mut items_in = [0; 2];
    for (name, direction, deny) in SECTIONS {
        for item in fields.items(name).unwrap_or_default() {
            items_in[index(direction)] += 1;
            rules.extend(read_rule(&item, direction, deny, &scope));
        }
    }
    let default_deny = read_default_deny(cursor, &fields, items_in)?;
    Some(Spec {
        line: cursor.line(),
        subject,
        default_deny,
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
                let wanted = cursor.boolean()?;
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
    let peers = peers::read(&fields, direction, deny, scope)?;
    let traffic = read_traffic(&fields, direction, deny)?;
    // A rule that names neither peers nor ports matches nothing, not everything:
    // `ingress: [{}]` is how people write "deny all".
    let names_peers = peers::keys(direction)
        .iter()
        .any(|key| fields.get(key).is_some());
    let says_nothing = !names_peers && matches!(traffic, Traffic::All);
    let to_ports_is_empty = fields.items("toPorts").unwrap_or_default().is_empty();
    Some(Rule {
        at: at(cursor),
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

fn read_traffic(fields: &Fields<'_>, direction: Direction, deny: bool) -> Option<Traffic> {
    let to_ports = fields.items("toPorts").unwrap_or_default();
    let icmps = fields.items("icmps").unwrap_or_default();
    if let (Some(cursor), false, false) =
        (fields.get("icmps"), to_ports.is_empty(), icmps.is_empty())
    {
        cursor.error("cannot stand beside toPorts", "make it an item of its own");
        return None;
    }
    if to_ports.is_empty() && icmps.is_empty() {
        return Some(Traffic::All);
    }
    let ports = to_ports.iter().map(|c| ports::read(c, direction, deny));
    let icmps = icmps.iter().map(ports::read_icmp);
    let rules: Option<Vec<_>> = ports.chain(icmps).collect();
    rules.map(Traffic::Of)
}

/// Place of a rule: its path below `spec`. A path below `specs[i]` stays whole, so
/// that the rules of several specs keep apart.
pub(super) fn at(cursor: &Cursor<'_>) -> At {
    let path = cursor.path();
    At {
        path: path.strip_prefix("spec.").unwrap_or(path).to_owned(),
        line: cursor.line(),
    }
}
