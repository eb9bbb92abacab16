mod conversation;
mod dream;
mod refusals;
mod rules;

use tidegate_sdk::{Answer, Asked, Reply, StreamFilter as _, Trial};

use crate::{KafkaMatcher, Session};

/// A connection through the filter with this configuration.
fn connection(config: &str) -> Trial<Session> {
    let filter = KafkaMatcher::configure(config).expect(config);
    Trial::of(filter.open(true))
}

/// The answer that came with a refusal.
fn given(asked: &Asked) -> Option<&Answer> {
    match &asked.reply {
        Reply::Given(answer) => Some(answer),
        Reply::Awaited | Reply::None => None,
    }
}
