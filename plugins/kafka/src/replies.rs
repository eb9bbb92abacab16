//! The answers a connection owes its client, in the order of the questions.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FetchResponse, MetadataResponse,
    api_versions_response::ApiVersion, metadata_request::MetadataRequestTopic,
};
use kafka_protocol::protocol::HeaderVersion as _;
use tidegate_sdk::{Answer, Direction, Operations};

use crate::{
    front::Front,
    kinds,
    refusal::refused_topic,
    rules::Head,
    session::{LENGTH, Step, frame_length, told},
};

/// Requests of a connection that may wait for an answer; further ones are read later.
const WAITING: usize = 4_096;
/// Bytes of refusals that may wait for their place before no more is read.
const QUEUED: usize = 1 << 20;
/// Longest response that is read to its end. A longer one passes unread: only the error
/// it tells is missing in the record.
const READ: usize = 64 << 10;
/// Bytes of a `Fetch` response up to its error, behind the length: its number, perhaps
/// tags, throttling.
const FETCH_ERROR: usize = 11;

/// `UNSUPPORTED_VERSION`.
const UNSUPPORTED: i16 = 35;
/// The last versions that name topics instead of giving their ids.
const NAMED: [(ApiKey, i16); 4] = [
    (ApiKey::Produce, 12),
    (ApiKey::Fetch, 12),
    (ApiKey::OffsetCommit, 9),
    (ApiKey::OffsetFetch, 9),
];

/// What the client is owed.
pub(crate) struct Replies {
    enforced: bool,
    /// Topics must have names.
    names: bool,
    waiting: VecDeque<Waiting>,
    /// Bytes of refusals among them.
    queued: usize,
}

enum Waiting {
    /// For the server.
    Server(Awaited),
    /// For those before it.
    Turn(Vec<u8>),
}

/// A response the server owes.
pub(crate) struct Awaited {
    id: u32,
    key: i16,
    version: i16,
    correlation: i32,
    /// There will be one: the request was understood.
    certain: bool,
    change: Option<Change>,
}

/// What is changed in a response.
pub(crate) enum Change {
    /// These topics were not asked for, and are refused.
    Refused(Vec<MetadataRequestTopic>),
}

impl Awaited {
    pub(crate) fn passed(head: &Head, id: u32) -> Self {
        Self {
            id,
            key: head.key,
            version: head.version,
            correlation: head.correlation,
            certain: kinds::known(head.key, head.version).is_some(),
            change: None,
        }
    }

    pub(crate) fn uncertain(head: &Head, id: u32) -> Self {
        Self {
            certain: false,
            ..Self::passed(head, id)
        }
    }

    pub(crate) fn with(self, change: Change) -> Self {
        Self {
            change: Some(change),
            ..self
        }
    }
}

impl Replies {
    pub(crate) fn new(enforced: bool, names: bool) -> Self {
        Self {
            enforced,
            names,
            waiting: VecDeque::new(),
            queued: 0,
        }
    }

    /// Do so many wait that no more can?
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING || self.queued >= QUEUED
    }

    /// The server is to answer this.
    pub(crate) fn expect(&mut self, awaited: Awaited) {
        self.waiting.push_back(Waiting::Server(awaited));
    }

    /// Says this to the client when its turn has come.
    pub(crate) fn say(&mut self, answer: Vec<u8>, said: &mut Operations) {
        if self.waiting.is_empty() {
            said.inject(Direction::ToClient, answer);
            return;
        }
        self.queued += answer.len();
        self.waiting.push_back(Waiting::Turn(answer));
    }

    /// Looks at the response at the front.
    pub(crate) fn response(&mut self, bytes: &[u8], said: &mut Operations) -> Result<Step> {
        /// Bytes of the number of the request.
        const LEAST: usize = 4;
        let Some(total) = frame_length(bytes, LEAST)? else {
            return Ok(Step::Needs(LENGTH));
        };
        if bytes.len() < LENGTH + LEAST {
            return Ok(Step::Needs(LENGTH + LEAST));
        }
        let bytes = &bytes[..bytes.len().min(total)];
        let correlation = Front::new(&bytes[LENGTH..]).i32()?;
        self.skip_to(correlation, said);
        let Some(Waiting::Server(awaited)) = self.waiting.front() else {
            anyhow::bail!("the server answers what was not asked");
        };
        ensure!(
            awaited.correlation == correlation,
            "the server answers out of order"
        );
        let wanted = self.wanted(awaited, total);
        if bytes.len() < wanted {
            return Ok(Step::Needs(wanted));
        }
        let changed = self.changed(awaited, bytes)?;
        // As the client will see it.
        let told = match &changed {
            Some(changed) => read(awaited, changed, changed.len()),
            None => read(awaited, bytes, total),
        };
        said.answered(awaited.id, told);
        match changed {
            Some(changed) => said
                .discard(total as u64)
                .inject(Direction::ToClient, changed),
            None => said.pass(total as u64),
        };
        self.waiting.pop_front();
        self.take_turns(said);
        Ok(Step::Done(total))
    }

    /// Forgets requests that may have had no answer and had none.
    fn skip_to(&mut self, correlation: i32, said: &mut Operations) {
        while let Some(Waiting::Server(awaited)) = self.waiting.front()
            && !awaited.certain
            && awaited.correlation != correlation
        {
            self.waiting.pop_front();
            self.take_turns(said);
        }
    }

    /// Says what waits for nothing any more.
    fn take_turns(&mut self, said: &mut Operations) {
        while let Some(Waiting::Turn(_)) = self.waiting.front()
            && let Some(Waiting::Turn(answer)) = self.waiting.pop_front()
        {
            self.queued -= answer.len();
            said.inject(Direction::ToClient, answer);
        }
    }

    /// How much of a response of so many bytes has to be seen.
    fn wanted(&self, awaited: &Awaited, total: usize) -> usize {
        let Some(key) = kinds::known(awaited.key, awaited.version) else {
            return LENGTH;
        };
        match key {
            ApiKey::ApiVersions if self.enforced => total,
            _ if awaited.change.is_some() => total,
            ApiKey::Fetch => total.min(LENGTH + FETCH_ERROR),
            _ if total <= READ => total,
            _ => LENGTH,
        }
    }

    /// The response in place of this one, if another is to be.
    fn changed(&self, awaited: &Awaited, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let version = awaited.version;
        let bytes = || Bytes::copy_from_slice(&bytes[LENGTH..]);
        if let Some(Change::Refused(topics)) = &awaited.change {
            let mut response: MetadataResponse =
                kinds::read_response(bytes(), version).context("a Metadata response")?;
            response.topics.extend(topics.iter().map(refused_topic));
            return kinds::response(awaited.correlation, &response, version).map(Some);
        }
        if awaited.key != ApiKey::ApiVersions as i16 || !self.enforced {
            return Ok(None);
        }
        // One that cannot be read passes: what a client takes from it is judged when it is
        // asked for. So does one that only says that it does not know the version, in
        // whatever form.
        let response = kinds::read_response::<ApiVersionsResponse>(bytes(), version);
        let Some(mut response) = response.ok().filter(|said| said.error_code != UNSUPPORTED) else {
            return Ok(None);
        };
        let before = response.api_keys.clone();
        response.api_keys.retain_mut(|offered| self.offer(offered));
        if before == response.api_keys {
            return Ok(None);
        }
        kinds::response(awaited.correlation, &response, version).map(Some)
    }

    /// Narrows what is offered to what can be read here; false if that is nothing.
    fn offer(&self, offered: &mut ApiVersion) -> bool {
        let Ok(key) = ApiKey::try_from(offered.api_key) else {
            return false;
        };
        let mut range = kinds::versions(key);
        let named = NAMED.iter().find(|(of, _)| *of == key && self.names);
        if let Some((_, last)) = named {
            range.max = range.max.min(*last);
        }
        offered.min_version = offered.min_version.max(range.min);
        offered.max_version = offered.max_version.min(range.max);
        offered.min_version <= offered.max_version
    }

    /// The answer to a question about versions in a version that nobody knows: what a
    /// client needs to ask again, in the form that everybody reads.
    pub(crate) fn unsupported(correlation: i32) -> Result<(Vec<u8>, i16)> {
        let range = kinds::versions(ApiKey::ApiVersions);
        let known = ApiVersion::default()
            .with_api_key(ApiKey::ApiVersions as i16)
            .with_min_version(range.min)
            .with_max_version(range.max);
        let response = ApiVersionsResponse::default()
            .with_error_code(UNSUPPORTED)
            .with_api_keys(vec![known]);
        Ok((kinds::response(correlation, &response, 0)?, UNSUPPORTED))
    }
}

/// What a response says of how it went.
fn read(awaited: &Awaited, bytes: &[u8], total: usize) -> Answer {
    let unread = |text: &str| Answer {
        code: 0,
        text: text.to_owned(),
    };
    let Some(key) = kinds::known(awaited.key, awaited.version) else {
        return unread("not read: not known here");
    };
    let code = match key {
        ApiKey::Fetch => fetch_error(awaited.version, &bytes[LENGTH..]),
        _ if bytes.len() < total => return unread("not read: too long"),
        _ => kinds::error(
            key,
            awaited.version,
            Bytes::copy_from_slice(&bytes[LENGTH..]),
        ),
    };
    match code {
        Ok(code) => told(code),
        Err(_) => unread("not read: not understood"),
    }
}

/// The error of a `Fetch` as a whole; its records are not looked at.
fn fetch_error(version: i16, bytes: &[u8]) -> Result<i16> {
    let mut front = Front::new(bytes);
    front.i32()?;
    if FetchResponse::header_version(version) >= 1 {
        front.tags()?;
    }
    front.i32()?;
    // Before this version there is none.
    if version < 7 { Ok(0) } else { front.i16() }
}
