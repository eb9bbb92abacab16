//! Prefixes of all deny lists.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::clause::{Register, Texts};
use crate::{
    follow::Delta,
    ids::{Interner, NoNumber},
    objects::DenyList,
    origin::ObjectKey,
    shared::{Map, set},
    terms::RuleId,
};

/// Deny lists, and what each prefix is refused by: of several lists that have it, the first
/// by name.
#[derive(Debug, Default)]
pub(super) struct Denied {
    texts: BTreeMap<ObjectKey, Texts>,
    by: HashMap<IpNet, BTreeMap<Arc<ObjectKey>, RuleId>>,
    /// Prefixes with the rule that says so.
    pub(super) all: Map<IpNet, RuleId>,
}

impl Denied {
    /// Takes in lists that came and went. The rules that went, and those that came.
    pub(super) fn follow(
        &mut self,
        news: &Delta<DenyList>,
        numbers: &mut Interner,
    ) -> Result<(Texts, Texts), NoNumber> {
        let (mut gone, mut come) = (Texts::new(), Texts::new());
        for list in &news.gone {
            let key = list.meta.key();
            gone.extend(self.texts.remove(&key).unwrap_or_default());
            for (_, net) in &list.cidrs {
                if let Some(by) = self.by.get_mut(net) {
                    by.remove(&key);
                }
            }
        }
        for list in super::by_name(&news.come, |list| list.meta.key()) {
            let mut register = Register::new(numbers, &list.meta);
            let key = Arc::new(list.meta.key());
            for (at, net) in &list.cidrs {
                let rule = register.id(at)?;
                let by = self.by.entry(*net).or_default();
                by.entry(key.clone()).or_insert(rule);
            }
            come.extend(register.texts.iter().cloned());
            self.texts.insert(list.meta.key(), register.texts);
        }
        for (_, net) in news.all().flat_map(|list| &list.cidrs) {
            let first = self.by.get(net).and_then(|by| by.values().next());
            let first = first.copied();
            if first.is_none() {
                self.by.remove(net);
            }
            set(&mut self.all, *net, first);
        }
        Ok((gone, come))
    }
}
