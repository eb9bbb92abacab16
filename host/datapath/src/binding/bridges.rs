//! Workloads on bridges, which reach their neighbours without the node.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use tidegate_bpf::link;
use tidegate_bpf::link::AttachType;
use tidegate_bpf::program::ProgramInfo;
use tidegate_contract::Concern;
use tidegate_contract::Family;
use tidegate_contract::Note;
use tidegate_policy::compiled::Location;

use super::Bindings;
use crate::DatapathError;
use crate::attach;
use crate::bridge::Bridge;
use crate::netlink::Netlink;
use crate::netlink::Way;
use crate::place;
use crate::tables::Tables;

impl Bindings {
    /// Tells the programs which of their devices are ports of which bridge.
    pub(super) fn bind_bridges(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let names = self.device_names().into_iter();
        let devices = names.filter_map(|name| place::interface_index(&name));
        let ports: BTreeMap<u32, &Bridge> = devices
            .filter_map(|index| Some((index, self.bridges.of_port(index)?)))
            .collect();
        for (index, bridge) in &ports {
            if tables.bridge_ports.get(index)? != Some(bridge.port) {
                tables.bridge_ports.put(index, &bridge.port)?;
            }
        }
        let stale = match self.homes {
            Some(_) => tables.bridge_ports.entries()?,
            None => Vec::new(),
        };
        for (index, _) in stale {
            if !ports.contains_key(&index) {
                tables.bridge_ports.delete(&index)?;
            }
        }
        self.on_bridges = match ports.is_empty() {
            true => Vec::new(),
            false => self.look_at_bridges(),
        };
        Ok(())
    }

    /// On a bridge workloads reach their neighbours without the node. What needs the proxy
    /// does not: its answers are the node's, which must know where its workloads are. And what
    /// the bridge hands up to the node came in by the bridge for whom it meets there: that it
    /// came past a program is read from its tag alone, over which nobody may write.
    pub(super) fn look_at_bridges(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let Ok(mut netlink) = Netlink::open() else {
            return notes;
        };
        let mut bridges = BTreeMap::new();
        for home in self.homes.iter().flatten().map(|(_, home)| home) {
            let Location::Interface(device) = &home.location else {
                continue;
            };
            let index = place::interface_index(device);
            let port = index.and_then(|index| Some((index, self.bridges.of_port(index)?)));
            let Some((index, bridge)) = port else {
                continue;
            };
            bridges.insert(bridge.index, bridge);
            let what = format!("{device}, which {} is behind", home.name);
            notes.extend(written_over(&mut netlink, index, &what, bridge));
            for address in &home.addresses {
                let neighbour = Some(Way {
                    device: bridge.index,
                    direct: true,
                });
                // What cannot be asked is not claimed.
                let way = netlink.way_to(*address).unwrap_or(neighbour);
                if way != neighbour {
                    notes.push(lost_behind(&home.name, device, bridge, *address, way));
                }
            }
        }
        for (index, bridge) in bridges {
            notes.extend(written_over(&mut netlink, index, &bridge.name, bridge));
        }
        notes
    }
}

/// Filters, and tcx programs of others, that may write over the tags of what a device on, or of,
/// a bridge takes in.
fn written_over(netlink: &mut Netlink, index: u32, what: &str, bridge: &Bridge) -> Option<Note> {
    let name = &bridge.name;
    let cannot = |error| vec![format!("which cannot be listed: {error}")];
    let mut found: Vec<String> = match netlink.ingress_filters(index) {
        Ok(kinds) => kinds.into_iter().collect(),
        Err(error) => cannot(error),
    };
    found.extend(others_tcx(index).unwrap_or_else(cannot));
    if found.is_empty() {
        return None;
    }
    let found = found.join(", ");
    let message = format!(
        "tc filters on the ingress of {what} ({found}) may write over `tc_index` of what they let \
         pass: what {name} hands up to the node without it is refused where it leaves the node, as \
         `Endpoint not ready`; filter on the workload's own side or where packets leave instead"
    );
    Some(Note::new(Concern::Outside, message))
}

/// Somebody else's tcx programs on a device's ingress, in words. Ours are known by their names: a
/// check without an agent has not loaded them.
fn others_tcx(index: u32) -> io::Result<Vec<String>> {
    let ids = link::programs_at(index, AttachType::TcxIngress)?;
    let named = |id: &u32| {
        let name = ProgramInfo::by_id(*id).map(|info| info.name());
        (*id, name.unwrap_or_default())
    };
    let all: Vec<(u32, String)> = ids.iter().map(named).collect();
    let first = all.iter().position(|(_, name)| attach::is_ours(name));
    let others = all.iter().enumerate();
    let others = others.filter(|(_, (_, name))| !attach::is_ours(name));
    let in_words = others.map(|(at, (id, name))| {
        let place = match first {
            Some(first) if at < first => ", which runs before ours",
            _ => "",
        };
        format!("tcx program {id} {name}{place}")
    });
    Ok(in_words.collect())
}

/// What a workload on a bridge that the node has no way to should know.
fn lost_behind(
    endpoint: &str,
    device: &str,
    bridge: &Bridge,
    address: IpAddr,
    way: Option<Way>,
) -> Note {
    let by = way.and_then(|way| Some((way.direct, place::interface_name(way.device)?)));
    let way = match by {
        Some((true, other)) => format!("leads to {other}"),
        Some((false, other)) => format!("leads to a router by {other}"),
        None => "does not exist".to_owned(),
    };
    let name = &bridge.name;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let message = format!(
        "{device} of {endpoint} is a port of {name}, and the node's route to {address} {way}: what \
         needs L7 there goes through the node and gets no answer; give {name} an address of that \
         subnet, or `ip route add {address}/{bits} dev {name}`"
    );
    let concerns = Concern::Steered {
        family: Some(Family::from(address)),
        endpoint: Some(endpoint.to_owned()),
    };
    Note::new(concerns, message)
}
