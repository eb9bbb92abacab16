//! `/v1/flows`: what is kept, then what follows.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tidegate_contract::World;
use tidegate_observe::{
    filter::{FlowFilter, Known},
    record::{FlowRecord, Line},
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Readers, error};

/// Query of `/v1/flows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowQuery {
    /// Records from the past, matching ones only; all that are kept if absent.
    last: Option<usize>,
    /// Stay and send what follows.
    #[serde(default)]
    follow: bool,
    /// A [`FlowFilter`] as JSON.
    filter: Option<String>,
}

/// Streams flow records as JSON lines.
pub(super) async fn stream(
    State(readers): State<Readers>,
    Query(query): Query<FlowQuery>,
) -> Response {
    let filter = match parse_filter(query.filter.as_deref()) {
        Ok(filter) => filter,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let (kept, feed) = readers.flows.subscribe();
    let records = kept.iter().map(|record| &**record);
    if let Err(unknown) = filter.check_names(&known(&readers), records) {
        return error(StatusCode::BAD_REQUEST, &unknown.to_string());
    }
    let mut past: VecDeque<_> = kept.into_iter().filter(|r| filter.matches(r)).collect();
    let excess = past.len().saturating_sub(query.last.unwrap_or(usize::MAX));
    past.drain(..excess);
    let follower = Follower {
        past,
        feed: query.follow.then_some(feed),
        filter,
    };
    let lines = stream::unfold(follower, |mut follower| async move {
        let line = follower.next_line().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line)), follower))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// Who and what there is now.
fn known(readers: &Readers) -> Known {
    let view = Arc::clone(&readers.view.borrow());
    let learned = readers.learned.lock();
    let learned = learned.unwrap_or_else(PoisonError::into_inner);
    let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    let labels = view
        .identities
        .values()
        .flat_map(|labels| &**labels)
        .map(String::as_str);
    Known {
        endpoints: view.endpoints.iter().map(|e| e.name.clone()).collect(),
        names: owned(learned.all_names()),
        labels: owned(labels.collect()),
        rules: view.directory.rules().into_iter().collect(),
        readers: view
            .plugins
            .iter()
            .filter(|plugin| plugin.world == World::StreamFilter.name())
            .map(|plugin| plugin.name.clone())
            .collect(),
    }
}

fn parse_filter(text: Option<&str>) -> Result<FlowFilter, String> {
    let Some(text) = text else {
        return Ok(FlowFilter::default());
    };
    let filter: FlowFilter = serde_json::from_str(text).map_err(|e| format!("filter: {e}"))?;
    filter.check().map_err(|e| e.to_string())?;
    Ok(filter)
}

struct Follower {
    past: VecDeque<Arc<FlowRecord>>,
    feed: Option<Receiver<Arc<FlowRecord>>>,
    filter: FlowFilter,
}

impl Follower {
    async fn next_line(&mut self) -> Option<String> {
        if let Some(record) = self.past.pop_front() {
            return line(&*record);
        }
        loop {
            match self.feed.as_mut()?.recv().await {
                Ok(record) if self.filter.matches(&record) => return line(&*record),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    return line(&Line::Lost { lost_events: lost });
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn line(value: &impl serde::Serialize) -> Option<String> {
    let mut text = serde_json::to_string(value).ok()?;
    text.push('\n');
    Some(text)
}
