//! The kernel's flow table from outside: tests take entries out of it, as it does itself
//! when it is full, and count what is left.

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use tidegate_ebpf_shared::flow::{FlowEntry, FlowKey, flags};

use super::Node;

/// The flow table of a node.
pub struct Flows(HashMap<MapData, FlowKey, FlowEntry>);

impl Flows {
    /// As its agent has pinned it.
    pub fn of(node: &Node) -> Result<Self> {
        let folder = std::fs::read_dir(node.bpffs())?;
        let pin = folder
            .flatten()
            .flat_map(|entry| walk(&entry.path()))
            .find(|path| path.ends_with("FLOWS"))
            .context("no pinned flow table")?;
        let map = MapData::from_pin(pin)?;
        Ok(Self(HashMap::try_from(Map::LruHashMap(map))?))
    }

    /// Makes the table forget its steered flows; how many there were.
    pub fn forget(&mut self) -> Result<usize> {
        let steered: Vec<FlowKey> = self
            .0
            .iter()
            .flatten()
            .filter(|(_, entry)| entry.flags & flags::REDIRECT != 0)
            .map(|(key, _)| key)
            .collect();
        for key in &steered {
            self.0.remove(key)?;
        }
        Ok(steered.len())
    }

    /// Steered flows that are not over.
    pub fn open(&self) -> usize {
        self.live().count()
    }

    /// Is a steered flow with this port at either end not over?
    pub fn is_open(&self, port: u16) -> bool {
        let port = port.to_be_bytes();
        self.live()
            .any(|key| key.low_port == port || key.high_port == port)
    }

    fn live(&self) -> impl Iterator<Item = FlowKey> + '_ {
        let both = flags::TX_FIN | flags::RX_FIN;
        let live = move |entry: &FlowEntry| {
            entry.flags & flags::REDIRECT != 0
                && entry.flags & flags::RST == 0
                && entry.flags & both != both
        };
        let entries = self.0.iter().flatten();
        entries.filter_map(move |(key, entry)| live(&entry).then_some(key))
    }
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .flat_map(|entry| walk(&entry.path()))
            .collect(),
        Err(_) => vec![path.to_owned()],
    }
}
