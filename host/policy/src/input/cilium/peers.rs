//! Who is at the other end: the L3 part of a rule.

use super::{
    super::{
        parse_net,
        reader::{Cursor, Fields},
    },
    selector::{self, Selecting},
};
use crate::{
    compiled::{Direction, FqdnSelector},
    fqdn,
    rule::{Entity, PeerSelector, Peers},
};
use ipnet::IpNet;

/// What the document says about namespaces, for peers.
pub(super) struct Scope<'a> {
    pub(super) namespace: Option<&'a str>,
    pub(super) subject_is_init: bool,
}

/// Keys a rule of this direction may name its peers with.
pub(super) fn keys(direction: Direction) -> &'static [&'static str] {
    match direction {
        Direction::Ingress => &[
            "fromEndpoints",
            "fromEntities",
            "fromCIDR",
            "fromCIDRSet",
            "fromNodes",
            "fromGroups",
            "fromRequires",
        ],
        Direction::Egress => &[
            "toEndpoints",
            "toEntities",
            "toCIDR",
            "toCIDRSet",
            "toFQDNs",
            "toServices",
            "toNodes",
            "toGroups",
            "toRequires",
        ],
    }
}

/// Reads the L3 part. Absent means anybody, an empty list means nobody.
pub(super) fn read(
    fields: &Fields<'_>,
    direction: Direction,
    deny: bool,
    scope: &Scope<'_>,
) -> Option<Peers> {
    let mut used: Vec<(&str, &Cursor<'_>)> = Vec::new();
    let mut filled: Vec<&str> = Vec::new();
    for key in keys(direction) {
        if let Some(cursor) = fields.get(key) {
            used.push((key, cursor));
            if !cursor.items()?.is_empty() {
                filled.push(key);
            }
        }
    }
    // CIDR and CIDRSet count as one kind of peer each, too: Cilium combines none of them.
    if let [first, second, ..] = filled[..] {
        let (_, cursor) = used.iter().find(|(key, _)| *key == second)?;
        cursor.error(
            format!("combining {first} and {second} is not supported"),
            "write two rules",
        );
        return None;
    }
    if used.is_empty() {
        return Some(Peers::Any);
    }
    let mut selectors = Vec::new();
    for (key, cursor) in used {
        for item in cursor.items()? {
            match read_item(key, &item, deny, scope)? {
                Item::Anybody => return Some(Peers::Any),
                Item::Nobody => {}
                Item::One(selector) => selectors.push(selector),
            }
        }
    }
    Some(Peers::Of(selectors))
}

/// Are the only peers empty lists of the kinds that Cilium makes peers of later on, and
/// forgets when empty? Beside `toPorts` they mean anybody; empty lists of other kinds, and
/// these without ports, mean nobody.
pub(super) fn are_forgotten(fields: &Fields<'_>) -> bool {
    const FORGOTTEN: [&str; 3] = ["toFQDNs", "toServices", "toGroups"];
    let mut named = keys(Direction::Egress)
        .iter()
        .filter_map(|key| Some((key, fields.get(key)?)));
    let is_empty = |cursor: &Cursor<'_>| cursor.items().is_some_and(|items| items.is_empty());
    let mut any = false;
    let all = named.all(|(key, cursor)| {
        any = true;
        FORGOTTEN.contains(key) && is_empty(cursor)
    });
    any && all
}

/// What one entry of a peer list selects.
enum Item {
    Anybody,
    Nobody,
    One(PeerSelector),
}

fn read_item(key: &str, item: &Cursor<'_>, deny: bool, scope: &Scope<'_>) -> Option<Item> {
    let selector = match key {
        "fromEndpoints" | "toEndpoints" => {
            let selecting = Selecting::Peers {
                namespace: scope.namespace,
                subject_is_init: scope.subject_is_init,
            };
            PeerSelector::Labels(selector::read(item, selecting)?)
        }
        "fromEntities" | "toEntities" => return read_entity(item),
        "fromCIDR" | "toCIDR" => PeerSelector::Cidr {
            net: read_net(item)?,
            except: Vec::new(),
        },
        "fromCIDRSet" | "toCIDRSet" => read_cidr_set(item)?,
        "toFQDNs" if deny => {
            item.error("deny rules cannot name peers by toFQDNs", "use toCIDR");
            return None;
        }
        "toFQDNs" => PeerSelector::Fqdn(read_fqdn(item)?),
        _ => {
            item.error(
                "not supported yet",
                "name the peers by labels, entities, CIDRs or FQDNs",
            );
            return None;
        }
    };
    Some(Item::One(selector))
}

fn read_entity(item: &Cursor<'_>) -> Option<Item> {
    match item.text()? {
        "all" => return Some(Item::Anybody),
        "none" => return Some(Item::Nobody),
        _ => {}
    }
    item.one_of(&[
        ("host", Entity::Host),
        ("remote-node", Entity::RemoteNode),
        ("world", Entity::World),
        ("world-ipv4", Entity::WorldIpv4),
        ("world-ipv6", Entity::WorldIpv6),
        ("cluster", Entity::Cluster),
        ("init", Entity::Init),
        ("ingress", Entity::Ingress),
        ("health", Entity::Health),
        ("unmanaged", Entity::Unmanaged),
        ("kube-apiserver", Entity::KubeApiserver),
    ])
    .map(|entity| Item::One(PeerSelector::Entity(entity)))
}

fn read_net(cursor: &Cursor<'_>) -> Option<IpNet> {
    cursor.parsed("a prefix like 10.0.0.0/8", parse_net)
}

fn read_cidr_set(item: &Cursor<'_>) -> Option<PeerSelector> {
    let fields = item.fields(&["cidr", "except", "cidrGroupRef", "cidrGroupSelector"])?;
    fields.unsupported(&[
        ("cidrGroupRef", "list the prefixes"),
        ("cidrGroupSelector", "list the prefixes"),
    ]);
    let net = read_net(fields.required("cidr")?)?;
    let mut except = Vec::new();
    for cursor in fields.items("except").unwrap_or_default() {
        let hole = read_net(&cursor)?;
        if !net.contains(&hole) {
            cursor.error(format!("does not lie inside {net}"), "");
            return None;
        }
        except.push(hole);
    }
    Some(PeerSelector::Cidr { net, except })
}

/// `{matchName: …}` or `{matchPattern: …}`, as in `toFQDNs` and `rules.dns`.
pub(super) fn read_fqdn(item: &Cursor<'_>) -> Option<FqdnSelector> {
    let fields = item.fields(&["matchName", "matchPattern"])?;
    let (cursor, checked, wrap): (_, _, fn(String) -> FqdnSelector) =
        match (fields.get("matchName"), fields.get("matchPattern")) {
            (Some(name), None) => (
                name,
                fqdn::check_name(name.text()?),
                FqdnSelector::MatchName,
            ),
            (None, Some(pattern)) => (
                pattern,
                fqdn::check_pattern(pattern.text()?),
                FqdnSelector::MatchPattern,
            ),
            _ => {
                item.error("needs exactly one of matchName and matchPattern", "");
                return None;
            }
        };
    let text = cursor.text()?;
    if let Err(reason) = checked {
        let star_in_name = fields.get("matchName").is_some() && text.contains('*');
        cursor.error(
            reason,
            if star_in_name {
                "for `*` use matchPattern"
            } else {
                ""
            },
        );
        return None;
    }
    Some(wrap(fqdn::normalise(text)))
}
