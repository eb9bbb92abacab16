//! The tables, read-only, for those who tell and count: cheap to clone, usable from
//! any thread while the agent publishes.

use std::sync::Arc;
use tidegate_policy::compiled::Generation;

use tidegate_ebpf_shared::{
    config::flags,
    flow::{FlowEntry, FlowKey},
};

use super::{DatapathError, TableGauge, tables::Tables};

/// Reads the kernel's tables.
#[derive(Clone)]
pub struct Reader {
    tables: Arc<Tables>,
}

impl Reader {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self { tables }
    }

    pub(super) fn raw(&self) -> &Tables {
        &self.tables
    }

    /// The generation in force: what the kernel has, whoever wrote it. 0 before the
    /// first.
    pub fn generation(&self) -> Generation {
        // The array always has its one entry.
        Generation(self.tables.generation.get(&0).ok().flatten().unwrap_or(0))
    }

    /// Was what is in force made of documents of other sources than the operator's folders
    /// too? Whoever lost all else knows so that something is missing.
    pub fn has_other_sources(&self) -> bool {
        let config = self.tables.config.get(&0).ok().flatten();
        config.is_some_and(|config| config.flags & flags::OTHER_SOURCES != 0)
    }

    /// Every flow in the table at this moment.
    pub fn flows(
        &self,
    ) -> Result<impl Iterator<Item = (FlowKey, FlowEntry)> + use<>, DatapathError> {
        Ok(self.tables.flows.entries()?.into_iter())
    }

    /// How full each table is: a walk over all of them, milliseconds when they are full.
    pub fn tables(&self) -> Result<Vec<TableGauge>, DatapathError> {
        self.tables.gauges()
    }
}
