//! One connection: requests are judged as they come, responses are told apart by the
//! order and number of the requests they answer.

use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::{
    ApiKey, MetadataRequest, RequestHeader, metadata_request::MetadataRequestTopic,
};
use tidegate_sdk::{Answer, Asked, Data, Direction, Operations, Reply, StreamSession};

use crate::{
    front::{Front, LONGEST, Produce, USUAL},
    kinds::{self, Body},
    refusal::{Api as _, Topics},
    replies::{Awaited, Change, Replies},
    rules::{Head, Rules, Verdict},
};

/// Frames that are looked at in one call. Each takes a few operations, and time; what is
/// behind them is looked at in the next.
const AT_ONCE: usize = 128;

/// Names that are told of a request; more are not kept.
const TARGETS: usize = 32;

/// Bytes of a frame's length.
pub(crate) const LENGTH: usize = 4;

/// What is known of one connection.
pub struct Session {
    rules: Rc<Rules>,
    enforced: bool,
    replies: Replies,
    /// Names the next request.
    next: u32,
}

/// What came of the front of what was shown.
pub(crate) enum Step {
    /// A frame of so many bytes is done with; some of it may not have come yet.
    Done(usize),
    /// Nothing can be said before so many bytes are there.
    Needs(usize),
}

/// A request's frame, as far as it is there.
struct Frame<'a> {
    /// With the length, as far as it is there.
    bytes: &'a [u8],
    /// Bytes it has once all is there, with the length.
    total: usize,
    head: Head,
    /// What is behind the head, as far as it is there.
    body: &'a [u8],
}

impl Frame<'_> {
    fn is_whole(&self) -> bool {
        self.bytes.len() == self.total
    }

    fn name(&self) -> String {
        kinds::name(self.head.key, self.head.version)
    }
}

impl StreamSession for Session {
    fn on_data(&mut self, data: Data<'_>) -> Operations {
        let mut said = Operations::none();
        let mut rest = data.bytes;
        let mut frames = 0;
        while !rest.is_empty() {
            // More than that may wait for an answer is not read before there is one.
            let full = data.direction == Direction::ToServer && self.replies.is_full();
            if frames == AT_ONCE || full {
                said.again();
                break;
            }
            frames += 1;
            let step = match data.direction {
                Direction::ToServer => self.request(rest, &mut said),
                Direction::ToClient => self.replies.response(rest, &mut said),
            };
            match step {
                Ok(Step::Done(count)) => rest = rest.get(count..).unwrap_or_default(),
                Ok(Step::Needs(count)) => {
                    said.hold(u32::try_from(count).unwrap_or(u32::MAX));
                    break;
                }
                Err(error) => {
                    said.close(format!("{error:#}"));
                    break;
                }
            }
        }
        said
    }
}

/// The length a frame says it has, with that of the length.
pub(crate) fn frame_length(bytes: &[u8], least: usize) -> Result<Option<usize>> {
    let Some(length) = bytes.first_chunk().copied().map(i32::from_be_bytes) else {
        return Ok(None);
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length >= least);
    let length = length.context("what comes is no message of Kafka's")?;
    Ok(Some(LENGTH + length))
}

impl Session {
    pub(crate) fn new(rules: Rc<Rules>, enforced: bool) -> Self {
        Self {
            replies: Replies::new(enforced, rules.ask_for_topics()),
            rules,
            enforced,
            next: 0,
        }
    }

    /// Judges the request at the front.
    fn request(&mut self, bytes: &[u8], said: &mut Operations) -> Result<Step> {
        /// Bytes of the parts that all heads have.
        const LEAST: usize = 8;
        /// What brokers take, unless somebody has told them otherwise
        /// (`socket.request.max.bytes`).
        const MOST: usize = LENGTH + (100 << 20);
        let Some(total) = frame_length(bytes, LEAST)? else {
            return Ok(Step::Needs(LENGTH));
        };
        if total > MOST {
            bail!(
                "a request of {total} bytes, as its length says, is none of Kafka's: TLS and HTTP \
                 look like that"
            );
        }
        let bytes = &bytes[..bytes.len().min(total)];
        if bytes.len() < total.min(USUAL) {
            return Ok(Step::Needs(total.min(USUAL)));
        }
        let mut front = Front::new(&bytes[LENGTH..]);
        let head = match front.head() {
            Ok(head) => head,
            Err(error) => return more(bytes, total, error.context("the head of a request")),
        };
        let frame = Frame {
            bytes,
            total,
            head,
            body: front.rest(),
        };
        let known = kinds::known(frame.head.key, frame.head.version);
        let produce = match known {
            Some(ApiKey::Produce) => match front.produce(frame.head.version) {
                Ok(produce) => Some(produce),
                Err(error) => return more(bytes, total, error.context(frame.name())),
            },
            _ => None,
        };
        self.judge(&frame, known, produce.as_ref(), said)
    }

    fn judge(
        &mut self,
        frame: &Frame<'_>,
        known: Option<ApiKey>,
        produce: Option<&Produce>,
        said: &mut Operations,
    ) -> Result<Step> {
        let head = &frame.head;
        let Some(key) = known else {
            return self.unknown(frame, said);
        };
        let mut verdict = self.rules.decide(head, None);
        let mut targets = Vec::new();
        if let Some(only) = produce.and_then(|produce| produce.only.as_ref()) {
            targets.push(only.clone());
            let topics = Topics::Named(targets.clone());
            let body = Body {
                topics,
                transactional: false,
            };
            verdict = self.rules.decide(head, Some(&body));
        }
        let decided = match verdict {
            Verdict::Allowed(_) => true,
            Verdict::Refused => !self.enforced,
            Verdict::Depends => false,
        };
        if !decided && !frame.is_whole() {
            return Ok(Step::Needs(frame.total));
        }
        if !decided && key == ApiKey::Metadata {
            return self.metadata(frame, said);
        }
        // What is decided is read for its record alone, if it costs nothing to wait for.
        if !decided || frame.is_whole() && targets.is_empty() {
            let bytes = Bytes::copy_from_slice(frame.body);
            match kinds::body(key, head.version, &bytes) {
                Ok(body) => {
                    if !decided {
                        verdict = self.rules.decide(head, Some(&body));
                    }
                    if let Topics::Named(names) = body.topics {
                        targets = names;
                    }
                }
                Err(error) if !decided => return Err(error.context(frame.name())),
                Err(_) => {}
            }
        }
        let answered = produce.is_none_or(|produce| produce.acknowledged);
        match verdict {
            Verdict::Allowed(rule) => {
                if (key, head.version) == (ApiKey::SaslHandshake, 0) {
                    // What follows in this version are bare tokens, and nobody but the
                    // two ends knows how many.
                    let reason = "SaslHandshake v0: what follows it cannot be read";
                    said.undecided(frame.total as u64, reason);
                    return Ok(Step::Done(frame.total));
                }
                if key == ApiKey::Fetch
                    && !decided
                    && let Some(without) = without_session(frame)
                {
                    let id = self.tell(frame, (true, Some(rule), targets, Reply::Awaited), said);
                    said.discard(frame.total as u64);
                    said.inject(Direction::ToServer, without);
                    self.replies.expect(Awaited::passed(head, id));
                    return Ok(Step::Done(frame.total));
                }
                self.passes(frame, (Some(rule), targets, answered), said)
            }
            _ if !self.enforced => self.passes(frame, (None, targets, answered), said),
            _ => self.refuse(frame, key, (targets, answered), said),
        }
    }

    /// An API, or a version of one, that is not known here.
    fn unknown(&mut self, frame: &Frame<'_>, said: &mut Operations) -> Result<Step> {
        let head = &frame.head;
        if head.key == ApiKey::ApiVersions as i16 && self.enforced {
            // What a server says that does not know it either: all its versions can be
            // told from this one answer, and the client asks again.
            let (answer, code) = Replies::unsupported(head.correlation)?;
            return self.answer(frame, (Vec::new(), Some(answer), code), said);
        }
        if let Verdict::Allowed(rule) = self.rules.decide(head, None) {
            return self.passes(frame, (Some(rule), Vec::new(), true), said);
        }
        if !self.enforced {
            return self.passes(frame, (None, Vec::new(), true), said);
        }
        said.undecided(
            frame.total as u64,
            format!("{} is not known here", frame.name()),
        );
        self.replies.expect(Awaited::uncertain(head, self.next));
        self.next = self.next.wrapping_add(1);
        Ok(Step::Done(frame.total))
    }

    fn passes(
        &mut self,
        frame: &Frame<'_>,
        (rule, targets, answered): (Option<u32>, Vec<String>, bool),
        said: &mut Operations,
    ) -> Result<Step> {
        let reply = if answered {
            Reply::Awaited
        } else {
            Reply::None
        };
        let id = self.tell(frame, (rule.is_some(), rule, targets, reply), said);
        said.pass(frame.total as u64);
        if answered {
            self.replies.expect(Awaited::passed(&frame.head, id));
        }
        Ok(Step::Done(frame.total))
    }

    fn refuse(
        &mut self,
        frame: &Frame<'_>,
        key: ApiKey,
        (targets, answered): (Vec<String>, bool),
        said: &mut Operations,
    ) -> Result<Step> {
        let head = &frame.head;
        let body = Bytes::copy_from_slice(frame.body);
        let refusal = kinds::refusal(key, head.version, head.correlation, &body);
        let (answer, code) = refusal.with_context(|| frame.name())?;
        self.answer(frame, (targets, answered.then_some(answer), code), said)
    }

    /// Metadata of several topics: those that may be asked for are, so that the client
    /// learns where the brokers are; the others are refused in the answer. It is read once,
    /// since there may be tens of thousands.
    fn metadata(&mut self, frame: &Frame<'_>, said: &mut Operations) -> Result<Step> {
        let head = &frame.head;
        let body = Bytes::copy_from_slice(frame.body);
        let request = crate::careful::decode::<MetadataRequest>(&body, head.version)
            .with_context(|| frame.name())?;
        let asked = request.topics.as_deref().unwrap_or_default();
        // Brokers go by ids where there are any, whatever the names beside them.
        let name = |topic: &MetadataRequestTopic| {
            let name = topic.name.clone().filter(|_| topic.topic_id.is_nil());
            name.filter(|name| !name.is_empty())
        };
        let names = asked.iter().filter_map(name).take(TARGETS);
        let targets: Vec<String> = names.map(|name| name.to_string()).collect();
        let rules = self.rules.clone();
        let topics = rules.topics(head);
        let rule = |topic: &MetadataRequestTopic| topics.get(name(topic)?.as_str()).copied();
        let by: Option<Vec<u32>> = asked.iter().map(rule).collect();
        let by = match by {
            // Nothing named is nothing that could not be covered.
            Some(by) => by.into_iter().min().or(topics.values().min().copied()),
            None => None,
        };
        if by.is_some() || !self.enforced {
            return self.passes(frame, (by, targets, true), said);
        }
        let (allowed, refused): (Vec<_>, Vec<_>) =
            (asked.iter().cloned()).partition(|topic| rule(topic).is_some());
        // In the first version no topics are all topics.
        if topics.is_empty() || allowed.is_empty() && head.version == 0 || asked.is_empty() {
            let response = request.refused(head.version);
            let code = MetadataRequest::error(&response);
            let answer = kinds::response(head.correlation, &response, head.version)?;
            return self.answer(frame, (targets, Some(answer), code), said);
        }
        let mut header = RequestHeader::default()
            .with_request_api_key(head.key)
            .with_request_api_version(head.version)
            .with_correlation_id(head.correlation);
        header.client_id = head.client_id.clone().map(Into::into);
        let asked = kinds::request(&header, &request.with_topics(Some(allowed)))?;
        let id = self.tell(frame, (false, None, targets, Reply::Awaited), said);
        said.discard(frame.total as u64);
        said.inject(Direction::ToServer, asked);
        let awaited = Awaited::passed(head, id).with(Change::Refused(refused));
        self.replies.expect(awaited);
        Ok(Step::Done(frame.total))
    }

    /// Refuses with this answer, if the request has any.
    fn answer(
        &mut self,
        frame: &Frame<'_>,
        (targets, answer, code): (Vec<String>, Option<Vec<u8>>, i16),
        said: &mut Operations,
    ) -> Result<Step> {
        let reply = match &answer {
            Some(_) => Reply::Given(told(code)),
            None => Reply::None,
        };
        self.tell(frame, (false, None, targets, reply), said);
        said.discard(frame.total as u64);
        if let Some(answer) = answer {
            self.replies.say(answer, said);
        }
        Ok(Step::Done(frame.total))
    }

    fn tell(
        &mut self,
        frame: &Frame<'_>,
        (allowed, rule, mut targets, reply): (bool, Option<u32>, Vec<String>, Reply),
        said: &mut Operations,
    ) -> u32 {
        targets.truncate(TARGETS);
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        said.request(Asked {
            id,
            command: frame.name(),
            targets,
            allowed,
            rule,
            reply,
        });
        id
    }
}

/// A `Fetch` that would open a session, as one that opens none: what a session fetches
/// later stands in no request, and so cannot be judged (KIP-227: all is fetched that is
/// named, and the answer names session 0). `None` if it opens none.
fn without_session(frame: &Frame<'_>) -> Option<Vec<u8>> {
    /// From this version on there are sessions.
    const SESSIONS: i16 = 7;
    /// From this version on a follower's id is elsewhere.
    const NO_REPLICA: i16 = 15;
    if frame.head.version < SESSIONS {
        return None;
    }
    // Waiting time, least and most bytes, isolation level, session.
    let before = 4 + 4 + 4 + 1 + 4;
    let replica = if frame.head.version < NO_REPLICA {
        4
    } else {
        0
    };
    let at = frame.bytes.len() - frame.body.len() + replica + before;
    let mut bytes = frame.bytes.to_vec();
    let epoch: &mut [u8; 4] = bytes.get_mut(at..at + 4)?.first_chunk_mut()?;
    (*epoch == [0; 4]).then(|| *epoch = (-1_i32).to_be_bytes())?;
    Some(bytes)
}

/// An error of Kafka's in a record.
pub(crate) fn told(code: i16) -> Answer {
    Answer {
        code: code.into(),
        text: kinds::error_name(code),
    }
}

/// Waits for more if more may mend it.
fn more(bytes: &[u8], total: usize, error: anyhow::Error) -> Result<Step> {
    ensure!(bytes.len() < total && bytes.len() < LONGEST, error);
    Ok(Step::Needs(total.min(bytes.len() * 2)))
}
