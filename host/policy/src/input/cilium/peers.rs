//! Who is at the other end: the L3 part of a rule.

use super::{
    super::{
        parse_net,
        reader::{Cursor, Fields, all},
    },
    selector::{self, Selecting},
};
use crate::{
    fqdn,
    l7::FqdnSelector,
    rule::{Entity, PeerSelector, Peers},
    terms::Direction,
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
    let named = keys(direction)
        .iter()
        .filter_map(|key| Some((*key, fields.get(key)?)));
    let lists = all(named.map(|(key, cursor)| Some((key, cursor, cursor.items()?))))?;
    let filled = lists.iter().filter(|(_, _, items)| !items.is_empty());
    let filled: Vec<_> = filled.collect();
    // CIDR and CIDRSet count as one kind of peer each, too: Cilium combines none of them.
    let combined = match filled[..] {
        [(first, ..), (second, cursor, _), ..] => {
            cursor.error(
                format!("combining {first} and {second} is not supported"),
                "write two rules",
            );
            true
        }
        _ => false,
    };
    let items = lists
        .iter()
        .flat_map(|(key, _, items)| items.iter().map(move |item| (*key, item)));
    let read = all(items.map(|(key, item)| Some((item.at(), read_item(key, item, deny, scope)?))))?;
    if combined {
        return None;
    }
    if lists.is_empty() || read.iter().any(|(_, item)| matches!(item, Item::Anybody)) {
        return Some(Peers::Any);
    }
    let selectors = read.into_iter().filter_map(|(at, item)| match item {
        Item::Anybody | Item::Nobody => None,
        Item::One(selector) => Some((at, selector)),
    });
    Some(Peers::Of(selectors.collect()))
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
    let net = fields.required("cidr").and_then(read_net);
    let holes = fields.items("except").unwrap_or_default();
    let except = all(holes.iter().map(|cursor| {
        let hole = read_net(cursor)?;
        match net {
            Some(net) if !net.contains(&hole) => {
                cursor.error(format!("does not lie inside {net}"), "");
                None
            }
            _ => Some(hole),
        }
    }));
    Some(PeerSelector::Cidr {
        net: net?,
        except: except?,
    })
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
