//! Routing of steered packets: one `ip rule` per family sends packets with our
//! mark to a table that delivers everything locally, where sk_lookup picks the
//! proxy's listener.
//!
//! ```text
//! ip rule  add pref 8 iif lo fwmark 0x200/0xf00 goto 10
//! ip rule  add pref 9 fwmark 0x200/0xf00 lookup 2005
//! ip rule  add pref 10 nop
//! ip route add table 2005 local default dev lo
//! ```
//!
//! The first and the last are for the kernel's reverse-path check, which with
//! `src_valid_mark` asks for the way to a packet's source by the packet's mark, as if
//! from `lo`: it must find what it would find without a mark, or every steered packet
//! has a local source, and is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use tidegate_contract::{Concern, Family, Note};
use tidegate_ebpf_shared::mark;

use super::{DatapathError, netlink::Netlink, place, turn};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Is IPv6 there, and not switched off where steered packets are delivered?
fn has_ipv6() -> bool {
    setting("ipv6/conf/lo/disable_ipv6") == Some(0)
}

/// The families that this namespace speaks.
fn spoken() -> impl Iterator<Item = AddressFamily> {
    let ipv6 = has_ipv6();
    FAMILIES
        .into_iter()
        .filter(move |family| *family == AddressFamily::Inet || ipv6)
}

/// Makes sure that rule and route are in place, for both families, in the calling
/// thread's network namespace. Returns what may interfere: other people's rules for
/// the same mark.
pub(super) fn ensure() -> Result<Vec<Note>, DatapathError> {
    let mut netlink = Netlink::open().map_err(failed("open a netlink socket"))?;
    let mut notes = Vec::new();
    if !has_ipv6() {
        notes.push(Note::new(
            Concern::steered(Family::Ipv6),
            "IPv6 is off (net.ipv6.conf.lo.disable_ipv6): only IPv4 is steered to the proxy",
        ));
    }
    for family in spoken() {
        let rules = netlink
            .rules(family)
            .map_err(failed(format!("list the {} rules", name(family))))?;
        let ours = our_rules(family);
        notes.extend(rules.iter().filter_map(|rule| interference(family, rule)));
        // The route first: a rule that leads to an empty table would fall through.
        netlink
            .request(
                RouteNetlinkMessage::NewRoute(local_route(family)),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .or_else(unless(libc::EEXIST))
            .map_err(failed(format!("add the local {} route", name(family))))?;
        for wanted in ours {
            if rules.iter().any(|rule| facts(rule) == facts(&wanted)) {
                continue;
            }
            netlink
                .request(
                    RouteNetlinkMessage::NewRule(wanted),
                    NLM_F_CREATE | NLM_F_EXCL,
                )
                .or_else(unless(libc::EEXIST))
                .map_err(failed(format!("add the {} rule", name(family))))?;
        }
    }
    Ok(notes)
}

/// Takes rule and route away again. Not being there is fine.
pub(super) fn remove() -> Result<(), DatapathError> {
    let mut netlink = Netlink::open().map_err(failed("open a netlink socket"))?;
    for family in FAMILIES {
        // Rules stay while IPv6 is switched off; a kernel without it has none.
        if family == AddressFamily::Inet6 && setting("ipv6/conf/lo/disable_ipv6").is_none() {
            continue;
        }
        for rule in our_rules(family) {
            netlink
                .request(RouteNetlinkMessage::DelRule(rule), 0)
                .or_else(unless(libc::ENOENT))
                .map_err(failed(format!("remove the {} rule", name(family))))?;
        }
        netlink
            .request(RouteNetlinkMessage::DelRoute(local_route(family)), 0)
            .or_else(unless(libc::ESRCH))
            .map_err(failed(format!("remove the local {} route", name(family))))?;
    }
    Ok(())
}

/// Our rules, each before those that need it.
fn our_rules(family: AddressFamily) -> [RuleMessage; 3] {
    const BEYOND: u32 = mark::RULE_PRIORITY + 1;
    let rule = |action, priority, attributes: &[RuleAttribute]| {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.action = action;
        rule.attributes = vec![RuleAttribute::Priority(priority)];
        rule.attributes.extend_from_slice(attributes);
        rule
    };
    let marked = [
        RuleAttribute::FwMark(mark::TO_PROXY),
        RuleAttribute::FwMask(mark::MASK),
    ];
    let around = [
        RuleAttribute::Iifname("lo".to_owned()),
        RuleAttribute::Goto(BEYOND),
    ];
    let steering = [RuleAttribute::Table(mark::ROUTE_TABLE)];
    [
        rule(RuleAction::Nop, BEYOND, &[]),
        rule(
            RuleAction::Goto,
            mark::RULE_PRIORITY - 1,
            &[&marked[..], &around].concat(),
        ),
        rule(
            RuleAction::ToTable,
            mark::RULE_PRIORITY,
            &[&marked[..], &steering].concat(),
        ),
    ]
}

fn local_route(family: AddressFamily) -> RouteMessage {
    let everywhere = match family {
        AddressFamily::Inet6 => RouteAddress::Inet6(Ipv6Addr::UNSPECIFIED),
        _ => RouteAddress::Inet(Ipv4Addr::UNSPECIFIED),
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = RouteType::Local;
    route.header.protocol = RouteProtocol::Static;
    // IPv6 has no route scopes.
    route.header.scope = match family {
        AddressFamily::Inet6 => RouteScope::Universe,
        _ => RouteScope::Host,
    };
    route.attributes = vec![
        RouteAttribute::Destination(everywhere),
        RouteAttribute::Oif(place::LOOPBACK),
        RouteAttribute::Table(mark::ROUTE_TABLE),
    ];
    route
}

/// What a rule says, as far as ours do.
#[derive(Default, PartialEq, Eq)]
struct Facts {
    priority: u32,
    action: u8,
    mark: Option<u32>,
    mask: u32,
    from: Option<String>,
    target: Option<u32>,
    table: u32,
}

fn facts(rule: &RuleMessage) -> Facts {
    let mut facts = Facts {
        action: rule.header.action.into(),
        mask: u32::MAX,
        table: rule.header.table.into(),
        ..Facts::default()
    };
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => facts.priority = *priority,
            RuleAttribute::FwMark(mark) => facts.mark = Some(*mark),
            RuleAttribute::FwMask(mask) => facts.mask = *mask,
            RuleAttribute::Table(table) => facts.table = *table,
            RuleAttribute::Iifname(device) => facts.from = Some(device.clone()),
            RuleAttribute::Goto(target) => facts.target = Some(*target),
            _ => {}
        }
    }
    facts
}

fn is_ours(rule: &RuleMessage) -> bool {
    our_rules(rule.header.family)
        .iter()
        .any(|ours| facts(ours) == facts(rule))
}

/// A rule of somebody else that our steered packets would match as well.
fn interference(family: AddressFamily, rule: &RuleMessage) -> Option<Note> {
    let facts = facts(rule);
    let matches = facts
        .mark
        .is_some_and(|value| value & facts.mask == mark::TO_PROXY & facts.mask);
    (matches && facts.mask & mark::MASK != 0 && !is_ours(rule)).then(|| {
        let concerns = Concern::steered(match family {
            AddressFamily::Inet6 => Family::Ipv6,
            _ => Family::Ipv4,
        });
        let message = format!(
            "another {} rule (preference {}, mark {:#x}/{:#x}, table {}) matches packets steered to the proxy",
            name(family),
            facts.priority,
            facts.mark.unwrap_or(0),
            facts.mask,
            facts.table
        );
        Note::new(concerns, message)
    })
}

/// Kernel parameters of this namespace that may get in the way.
#[derive(Default)]
pub(super) struct Sysctls {
    /// `forwarding` by family; `None` where there is none.
    forwarding: [Option<u32>; 2],
    /// `rp_filter` for all devices.
    all: u32,
    /// The same of each declared device.
    own: BTreeMap<String, u32>,
    /// Device that the last look ended with.
    last: String,
}

impl Sysctls {
    /// Reads them. Of the devices, which are those there are, a round reads [`AT_ONCE`];
    /// the next one goes on where it ended. Says whether any is not as it was.
    pub(super) fn look(&mut self, devices: &BTreeSet<String>) -> bool {
        let of_node = (
            FORWARDING.map(setting),
            setting("ipv4/conf/all/rp_filter").unwrap_or(0),
        );
        let mut differ = of_node != (self.forwarding, self.all);
        (self.forwarding, self.all) = of_node;
        self.own.retain(|device, _| devices.contains(device));
        for device in turn::next(devices.iter(), &self.last.clone(), AT_ONCE) {
            // Devices may have dots in their names, so the path form, not the dotted one.
            let own = setting(&format!("ipv4/conf/{device}/rp_filter")).unwrap_or(0);
            self.last.clone_from(&device);
            differ |= self.own.insert(device, own) != Some(own);
        }
        differ
    }

    /// What an operator should know of them.
    pub(super) fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let off = |value: Option<u32>| value == Some(0);
        if off(self.forwarding[0]) {
            notes.push(Note::new(
                Concern::Routed {
                    family: Family::Ipv4,
                },
                "net.ipv4.ip_forward is 0: workloads reach nothing beyond the node",
            ));
        }
        if off(self.forwarding[1]) {
            notes.push(Note::new(
                Concern::Routed {
                    family: Family::Ipv6,
                },
                "net.ipv6.conf.all.forwarding is 0: workloads reach nothing beyond the node over IPv6",
            ));
        }
        let strict = self.own.iter().filter(|(_, own)| self.all.max(**own) == 1);
        notes.extend(strict.map(|(device, _)| {
            let message = format!(
                "rp_filter is strict on {device}: the kernel drops packets there whose answers would leave by another device"
            );
            let device = device.clone();
            Note::new(Concern::Device { device }, message)
        }));
        notes
    }
}

/// Whether the node forwards, IPv4 and IPv6.
const FORWARDING: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
/// Devices whose parameters one look reads.
const AT_ONCE: usize = 64;

/// A number in `/proc/sys/net` of this namespace.
fn setting(path: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}

/// Indices of the devices that default routes of the main table lead to: those by which
/// the node reaches whatever it knows nothing of.
pub(super) fn uplinks() -> io::Result<BTreeSet<u32>> {
    let mut netlink = Netlink::open()?;
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        for route in netlink.routes(family)? {
            found.extend(ways(&route));
        }
    }
    found.remove(&place::LOOPBACK);
    Ok(found)
}

/// Devices of a default route of the main table; of any other route none.
fn ways(route: &RouteMessage) -> Vec<u32> {
    let header = &route.header;
    let mut table = u32::from(header.table);
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(device) => devices.push(*device),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    if header.destination_prefix_length != 0
        || header.kind != RouteType::Unicast
        || table != u32::from(libc::RT_TABLE_MAIN)
    {
        devices.clear();
    }
    devices
}

fn name(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Inet6 => "IPv6",
        _ => "IPv4",
    }
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::Routes {
        action: action.into(),
        source,
    }
}

/// Turns one expected refusal into success.
fn unless(errno: i32) -> impl FnOnce(io::Error) -> io::Result<()> {
    move |error| match error.raw_os_error() {
        Some(code) if code == errno => Ok(()),
        _ => Err(error),
    }
}
