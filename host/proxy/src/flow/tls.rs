//! A real flow, as a connection of TLS asks it.

use std::collections::BTreeMap;

use tidegate_contract::{Failure, L7Summary};
use tidegate_wire::tls::Asked;

use super::FlowContext;
use crate::{
    decide::{
        Attribution, Side,
        tls::{self, Listed, ServerNames},
    },
    state::Local,
};
use tidegate_policy::{compiled::L7Id, tls::TlsContexts};
use tidegate_tls::{Originator, Terminator};

impl Listed for Local {
    fn names_of(&self, set: L7Id) -> Option<&ServerNames> {
        self.state.server_names(set)
    }
}

/// Does some rule set that has a say let a name be asked for in the clear?
fn in_clear(local: &Local, sides: &[Side<'_>]) -> bool {
    let mut ids = sides
        .iter()
        .filter(|side| !side.open)
        .flat_map(Side::set_ids);
    ids.any(|id| local.names_of(id).is_some_and(|names| names.in_clear))
}

/// The names that may be asked for in the clear; of rule sets that want TLS, none.
pub(crate) struct InClear<'l> {
    local: &'l Local,
    strict: BTreeMap<L7Id, ServerNames>,
}

impl<'l> InClear<'l> {
    pub(crate) fn of(local: &'l Local) -> Self {
        let strict = local.state.all_server_names();
        let strict = strict.filter(|(_, names)| !names.in_clear);
        Self {
            strict: strict.map(|(id, names)| (id, names.nobodys())).collect(),
            local,
        }
    }
}

impl Listed for InClear<'_> {
    fn names_of(&self, set: L7Id) -> Option<&ServerNames> {
        let strict = self.strict.get(&set);
        strict.or_else(|| self.local.names_of(set))
    }
}

/// What TLS of a connection ends and begins with here, or why it cannot.
pub(crate) struct Ends {
    pub(crate) terminator: Option<Result<Terminator, String>>,
    pub(crate) originator: Option<Result<Originator, String>>,
    /// What its rules refuse for the name it asks for is only reported.
    pub(crate) audit: bool,
}

impl FlowContext {
    /// What its rules want its TLS to end and begin with, none of them twice.
    fn wanted_tls(&self, local: &Local) -> Vec<TlsContexts> {
        let facts = self.facts.get();
        let sets = [facts.egress.l7, facts.ingress.l7];
        let said = sets.into_iter().filter_map(|set| local.state.ended(set));
        let mut wanted: Vec<_> = said.cloned().collect();
        wanted.dedup();
        wanted
    }

    /// Do its rules want other secrets or ends by now than the connection was made with?
    /// Other files of the same secret are for new connections.
    pub(super) fn wants_other_tls(&self, local: &Local) -> bool {
        let made_with = self.made_with.get();
        made_with.is_some_and(|made_with| *made_with != self.wanted_tls(local))
    }

    /// Shall no further request pass, because its TLS is not what its rules want any more, or
    /// a host service may not go there any more?
    pub(crate) fn is_over(&self) -> bool {
        let local = self.view.current();
        match self.refresh(&local) {
            Ok(()) => self.wants_other_tls(&local),
            // A workload's flow may only be forgotten, and begins again with its next packet.
            Err(_) => self.is_host_service(),
        }
    }

    /// Does its TLS end or begin here? `None`: it does not. From now on the connection is
    /// held to this: once its rules want another secret, or another end, nothing is decided.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.with_sides(
            |local, sides, _| {
                self.made_with.get_or_init(|| self.wanted_tls(local));
                let chains = sides.iter().filter_map(|side| side.chain);
                let mut said = chains.filter_map(|chain| local.state.ended(chain.id));
                let (first, second) = (said.next()?, said.next());
                let contexts = &local.state.contexts;
                let terminator = first.terminating.as_ref();
                let originator = first.originating.as_ref();
                let mut ends = Ends {
                    terminator: terminator.map(|context| contexts.terminator(context)),
                    originator: originator.map(|context| contexts.originator(context)),
                    audit: sides.iter().all(|side| side.audit),
                };
                if second.is_some_and(|second| second != first) {
                    let why = "egress and ingress policy end TLS with different secrets";
                    ends.originator = Some(Err(why.to_owned()));
                }
                Some(ends)
            },
            |why, _| {
                Some(Ends {
                    terminator: None,
                    originator: Some(Err(why.to_string())),
                    audit: false,
                })
            },
        )
    }

    /// Do its rules ask which server the client wants, and is that only reported? `None`:
    /// they do not ask.
    pub(crate) fn asks_for_server_name(&self) -> Option<bool> {
        self.with_sides(
            |local, sides, _| {
                let audit = sides.iter().all(|side| side.audit);
                tls::is_asked(sides, local).then_some(audit)
            },
            // Whoever decides about it will say why it cannot.
            |_, _| None,
        )
    }

    /// Do its rules let a client ask for a name in the clear, too?
    pub(crate) fn asks_in_clear(&self) -> bool {
        self.with_sides(|local, sides, _| in_clear(local, sides), |_, _| false)
    }

    /// Decides about whom a request in the clear is for; `None` if the rules do not ask that.
    pub(crate) fn decide_in_clear(&self, asked: &Asked) -> Option<(bool, Attribution)> {
        self.with_sides(
            |local, sides, _| {
                in_clear(local, sides).then(|| {
                    let shadows = self.shadows(local, sides);
                    let sides = (&sides[..], &shadows[..]);
                    let generation = local.state.generation;
                    tls::hello(sides, &InClear::of(local), generation, Some(asked))
                })
            },
            |error, generation| {
                let attribution = Attribution {
                    error: Some(error),
                    generation,
                    ..Attribution::default()
                };
                Some((false, attribution))
            },
        )
    }

    /// Decides about what the client asks for; `None` if it could not say it.
    pub(crate) fn decide_hello(&self, asked: Option<&Asked>) -> (bool, Attribution) {
        self.with_sides(
            |local, sides, _| {
                let shadows = self.shadows(local, sides);
                let sides = (&sides[..], &shadows[..]);
                tls::hello(sides, local, local.state.generation, asked)
            },
            |error, generation| {
                let attribution = Attribution {
                    error: Some(error),
                    generation,
                    ..Attribution::default()
                };
                (false, attribution)
            },
        )
    }

    /// Leaves a record of a hello that passed, and of a connection that came to nothing.
    pub(crate) fn hello_failed(&self, error: Failure, summary: L7Summary) {
        let attribution = Attribution {
            rules: self.asking_rules(),
            error: Some(error),
            ..Attribution::default()
        };
        self.record(attribution, false, summary);
    }
}
