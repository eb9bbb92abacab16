//! From code to versions: loaded once, linked once, kept while anything refers to them.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_contract::PluginInfo;

use super::Catalog;
use crate::{
    configured::{REHEARSED_PART, Version},
    counters::Counters,
    memory::Pot,
    worlds::{Code, Linked},
};

impl Catalog {
    /// The code of a digest, taken over or loaded.
    pub(super) fn code(
        &self,
        digest: &str,
        artifacts: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Code, String> {
        if let Some(Ok(component)) = self.code.get(digest) {
            return Ok(component.clone());
        }
        let artifact = artifacts
            .get(digest)
            .ok_or("its compiled code was not sent")?;
        // SAFETY: the bytes are an artifact of our own compile worker: the agent alone
        // writes to the control socket, and it sends what the worker made, checked
        // against the digest it recorded. Code of another engine version or other
        // settings is refused by the call itself.
        unsafe { Code::load(self.runtime.engine(), artifact) }
            .map_err(|error| format!("cannot load its compiled code: {error:#}"))
    }

    /// The version a plugin has by now: one that is known, or made of this code.
    pub(super) fn version(
        &self,
        name: &str,
        info: &PluginInfo,
        code: &BTreeMap<String, Result<Code, String>>,
    ) -> Result<Arc<Version>, String> {
        let same = |version: &&Arc<Version>| version.name == name && version.info == *info;
        if let Some(version) = self.held().find(same) {
            return Ok(version.clone());
        }
        let component = match code.get(&info.artifact) {
            Some(Ok(component)) => component,
            Some(Err(reason)) => return Err(reason.clone()),
            None => return Err("the snapshot does not name its code".to_owned()),
        };
        let linked = Linked::new(component, info.world, &info.capabilities)
            .map_err(|error| format!("cannot link it: {error:#}"))?;
        Ok(Arc::new(Version {
            name: name.to_owned(),
            info: info.clone(),
            linked,
            runtime: self.runtime.clone(),
            totals: Arc::new(Counters::default()),
            pot: Pot::new(info.limits.total_memory_bytes),
            rehearsed: Pot::new(info.limits.total_memory_bytes / REHEARSED_PART),
        }))
    }
}
