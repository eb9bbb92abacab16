//! The pins of the tables: what keeps them while no agent runs, and how the next one finds
//! them. Somebody who removes one takes nothing away as long as a program that runs uses the
//! table: the pin can be made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use tidegate_bpf::{
    link::LinkInfo,
    map::{MapInfo, by_id},
    pin,
};
use tidegate_ebpf_shared::maps::map;

use super::{DatapathError, bpffs, bpffs::Pins};

/// Longest name the kernel keeps of a map (`BPF_OBJ_NAME_LEN` less the final zero byte).
const KERNEL_NAME: usize = 15;

/// Every table, held by descriptor beside its pin.
pub(super) struct MapPins {
    folder: PathBuf,
    held: BTreeMap<&'static str, Held>,
}

struct Held {
    map: OwnedFd,
    id: u32,
}

impl MapPins {
    /// Takes hold of the tables that are pinned in `folder`.
    pub(super) fn hold(folder: &Path) -> Result<Self, DatapathError> {
        let hold = |name: &'static str| {
            let opened = pin::open(&folder.join(name)).and_then(|map| {
                let id = MapInfo::of(map.as_fd())?.id;
                Ok(Held { map, id })
            });
            let held = opened.map_err(DatapathError::table(name, "open"))?;
            Ok((name, held))
        };
        Ok(Self {
            folder: folder.to_owned(),
            held: map::ALL.into_iter().map(hold).collect::<Result<_, _>>()?,
        })
    }

    /// Makes pins again that somebody removed or replaced; says which, in words.
    pub(super) fn audit(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, held) in &self.held {
            let path = self.folder.join(name);
            let pinned = pin::open(&path).and_then(|map| MapInfo::of(map.as_fd()));
            if pinned.is_ok_and(|pinned| pinned.id == held.id) {
                continue;
            }
            // What stands in its place, if anything, is not ours.
            let _ = fs::remove_file(&path);
            let _ = fs::create_dir_all(&self.folder);
            if pin::make(held.map.as_fd(), &path).is_ok() {
                found.push(removed(name));
            }
        }
        found
    }
}

fn removed(name: &str) -> String {
    format!("the pin of table {name} was removed")
}

/// What became of the tables of an earlier run whose pins are gone.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Pinned again, in words.
    pub(super) restored: Vec<String>,
    /// Tables that no program used any more: what they held is lost.
    pub(super) lost: BTreeSet<&'static str>,
}

/// To be called before tables are made: pins again what programs behind pinned links use.
/// Without any pin there was no earlier run, or nothing is left of it.
pub(super) fn restore(pins: &Pins) -> Result<Restored, DatapathError> {
    let list = |folder: &Path| {
        bpffs::names(folder).map_err(|source| DatapathError::Bpffs {
            action: "list the pins in",
            path: folder.to_owned(),
            source,
        })
    };
    let (maps, links) = (list(&pins.maps)?, list(&pins.links)?);
    let is_pinned = |name: &&str| maps.iter().any(|pinned| pinned == name);
    let mut lost: BTreeSet<&str> = map::ALL.into_iter().filter(|n| !is_pinned(n)).collect();
    if lost.is_empty() || (maps.is_empty() && links.is_empty()) {
        return Ok(Restored::default());
    }
    let program = |link: &String| {
        let link = pin::open(&pins.links.join(link)).ok()?;
        Some(LinkInfo::of(link.as_fd()).ok()?.program)
    };
    let programs: BTreeSet<u32> = links.iter().filter_map(program).collect();
    let loaded = aya::programs::loaded_programs().flatten();
    let used = loaded
        .filter(|loaded| programs.contains(&loaded.id()))
        .filter_map(|loaded| loaded.map_ids().ok()?);
    let mut restored = Vec::new();
    for id in used.flatten().collect::<BTreeSet<u32>>() {
        let Ok(info) = aya::maps::MapInfo::from_id(id) else {
            continue;
        };
        let called = info.name_as_str().unwrap_or_default();
        let is = |name: &&&str| name[..name.len().min(KERNEL_NAME)] == *called;
        let Some(name) = lost.iter().find(is).copied() else {
            continue;
        };
        let pinned = by_id(id).and_then(|map| pin::make(map.as_fd(), &pins.maps.join(name)));
        if pinned.is_ok() {
            lost.remove(name);
            restored.push(removed(name));
        }
    }
    Ok(Restored { restored, lost })
}
