//! What decided that bytes may pass unread, to be compared with what would decide now.

use std::cell::RefCell;

use tidegate_policy::compiled::L7Id;

use super::{FlowContext, Settled};
use crate::decide::{Chain, Side};

/// Who decided when a tunnel was opened, or asked about last.
#[derive(Default)]
pub(crate) struct Standing {
    settled: Settled,
    by: RefCell<Option<Vec<Deciding>>>,
}

/// What decides in one direction: an id of a rule set means its content for ever, but which
/// plugins, and with which configuration, answer for it may change.
#[derive(PartialEq, Eq)]
struct Deciding {
    sets: Vec<L7Id>,
    open: bool,
    audit: bool,
    plugins: Vec<(String, String)>,
}

impl Deciding {
    fn of(side: &Side<'_>) -> Self {
        let chains = || side.chains();
        let plugins = chains().flat_map(|chain: &Chain| &chain.filters);
        Self {
            sets: chains().map(|chain| chain.id).collect(),
            open: side.open,
            audit: side.audit,
            plugins: plugins
                .map(|plugin| (plugin.label().to_owned(), plugin.content()))
                .collect(),
        }
    }
}

impl FlowContext {
    /// What decides at present.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            by: RefCell::new(self.deciding()),
            ..Standing::default()
        }
    }

    /// Does the same decide as did before? If not it is taken note of what does, and who asks
    /// has to decide again.
    pub(crate) fn stands(&self, standing: &Standing) -> bool {
        let seen = self.state();
        if standing.settled.is(&seen) {
            return true;
        }
        let by = self.deciding();
        let stands = by.is_some() && by == standing.by.replace(None);
        standing.by.replace(by);
        if stands {
            standing.settled.settle(self, seen);
        }
        stands
    }

    /// `None`: nothing can be decided.
    fn deciding(&self) -> Option<Vec<Deciding>> {
        self.with_sides(
            |_, sides, _| Some(sides.iter().map(Deciding::of).collect()),
            |_, _| None,
        )
    }
}
