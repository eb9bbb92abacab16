//! A real flow, as a connection of a byte stream asks it.

use std::sync::{Arc, Weak};
use tidegate_policy::compiled::Generation;

use tidegate_contract::L7Summary;

use super::FlowContext;
use crate::{
    decide::{
        Attribution, Failure,
        stream::{Unknown, contents, parts, shadow},
    },
    state::State,
    stream::{Pipe, ShadowContent},
};

impl FlowContext {
    /// The filters its rules ask for, begun; and the state that says so.
    ///
    /// # Errors
    ///
    /// If it cannot be said which, or not yet.
    pub(crate) fn begin_stream(&self) -> Result<(Pipe, Weak<State>), Unknown> {
        self.with_sides(
            |local, sides, facts| {
                let generation = local.state.generation;
                let parts = parts(sides, generation, |filter, enforced| {
                    filter.open(facts, enforced)
                })?;
                let shadows = self.shadows(local, sides);
                let shadow = shadow(sides, &shadows, generation, |filter| {
                    filter.open(facts, false)
                });
                Ok((Pipe::of(parts, shadow), Arc::downgrade(&local.state)))
            },
            |error, _| Err(Unknown::Never(error)),
        )
    }

    /// What its filters would be now, and those in shadow; see `Filter::content`.
    ///
    /// # Errors
    ///
    /// If it cannot be said, or the flow is not admitted any more.
    pub(crate) fn stream_contents(&self) -> Result<(Vec<String>, ShadowContent), Unknown> {
        self.with_sides(
            |local, sides, _| {
                let shadows = self.shadows(local, sides);
                let content = ShadowContent::of(&shadow(sides, &shadows, Generation(0), |_| {
                    Err(Failure::Preparing)
                }));
                Ok((contents(sides)?, content))
            },
            |error, _| Err(Unknown::Never(error)),
        )
    }

    /// The state in use, to be told from others. Plugins may change within a generation.
    pub(crate) fn state(&self) -> Weak<State> {
        Arc::downgrade(&self.view().current().state)
    }

    /// Leaves a record of a connection that came to nothing.
    pub(crate) fn stream_failed(&self, error: tidegate_contract::Failure) {
        let attribution = Attribution {
            rules: self.asking_rules(),
            error: Some(error),
            ..Attribution::default()
        };
        let summary = L7Summary::Stream {
            reader: String::new(),
            command: String::new(),
            targets: Vec::new(),
            code: None,
            status: String::new(),
            latency_us: 0,
        };
        self.record(attribution, false, summary);
    }
}
