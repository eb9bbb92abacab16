//! The tables, read-only, for those who tell and count: cheap to clone, usable from
//! any thread while the agent publishes.

use std::sync::Arc;

use tidegate_ebpf_shared::flow::{FlowEntry, FlowKey};

use super::{DatapathError, TableGauge, tables::Tables};

/// Reads the kernel's tables.
#[derive(Clone)]
pub struct Reader {
    tables: Arc<Tables>,
    cpus: usize,
}

impl Reader {
    pub(super) fn new(tables: Arc<Tables>, cpus: usize) -> Self {
        Self { tables, cpus }
    }

    pub(super) fn raw(&self) -> &Tables {
        &self.tables
    }

    /// Possible CPUs: values of a per-CPU entry.
    pub(super) fn cpus(&self) -> usize {
        self.cpus
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
