//! Filters that take part in exchanges of HTTP beyond their heads: who they are, what they
//! are asked, and what becomes of their failures.

use std::{cell::Cell, fmt, rc::Rc};

pub use tidegate_plugin_host::{
    BodyVerdict, BodyWish, HeadVerdict, LocalReply, TrailersVerdict, Way,
};
use tidegate_policy::compiled::FailMode;
use tidegate_wire::http::{Header, HeaderEdit, HttpHead, ResponseHead};

use super::{
    Attribution, Failure, Who,
    http::{Denial, add_edit, failed_denial},
};

/// One exchange's part of a plugin; see `http-exchange.exchange` of the contract.
pub trait HttpSession {
    /// Does it want to see the response?
    fn sees_response(&self) -> bool;

    /// Shows the head of the request.
    ///
    /// # Errors
    ///
    /// If the plugin could not say what becomes of it; it must not be asked again then. So
    /// for all that follow.
    fn request(&self, head: &HttpHead<'_>) -> Result<HeadVerdict, Failure>;

    /// Shows the head of the final response.
    ///
    /// # Errors
    ///
    /// As above.
    fn response(&self, head: &ResponseHead<'_>) -> Result<HeadVerdict, Failure>;

    /// May a body be shown now? If not, its sender waits a little.
    fn is_ready(&self) -> bool {
        true
    }

    /// Shows bytes of a body; `end` with the last ones.
    ///
    /// # Errors
    ///
    /// As above.
    fn body(&self, way: Way, data: &[u8], end: bool) -> Result<BodyVerdict, Failure>;

    /// Shows trailers.
    ///
    /// # Errors
    ///
    /// As above.
    fn trailers(&self, way: Way, trailers: &[Header<'_>]) -> Result<TrailersVerdict, Failure>;
}

/// One filter of an exchange, from the head of its request to the end of its response: the
/// exchange goes on with it whatever becomes of the rules and the plugin meanwhile.
pub struct Part {
    by: Who,
    session: Box<dyn HttpSession>,
    /// What it wants to see of the request's body.
    request_body: BodyWish,
    /// It has failed, and the exchange goes on without it.
    gone: Cell<bool>,
}

/// Why a message does not go on.
#[derive(Clone, Debug)]
pub struct Stop {
    /// What the client is told, if it can be told anything yet.
    pub denial: Denial,
    /// Who stopped it, and, if that was a failure and no decision, why.
    pub attribution: Box<Attribution>,
}

/// What became of a message in spite of a filter.
#[derive(Clone, Debug)]
pub enum Note {
    /// A filter failed, and lets pass what it cannot judge.
    Failed(tidegate_contract::Failure),
    /// Its refusals are only reported.
    Audited(Attribution),
}

impl Note {
    /// Adds it to what the record says.
    pub fn add_to(self, attribution: &mut Attribution) {
        match self {
            Self::Failed(error) => attribution.error = Some(error),
            // The first who would have refused stands in the record.
            Self::Audited(_) if attribution.audited => {}
            Self::Audited(audited) => {
                *attribution = Attribution {
                    error: attribution.error.take(),
                    ..audited
                }
            }
        }
    }
}

impl Part {
    pub(crate) fn new(by: Who, session: Box<dyn HttpSession>, request_body: BodyWish) -> Self {
        Self {
            by,
            session,
            request_body,
            gone: Cell::new(false),
        }
    }

    /// What the exchange goes on with; `None` if the filter has failed before.
    pub fn session(&self) -> Option<&dyn HttpSession> {
        (!self.gone.get()).then_some(&*self.session)
    }

    /// Applies the fail mode.
    ///
    /// # Errors
    ///
    /// Closed: the message does not go on. So it is for what load brought about, or a
    /// peer could switch a filter off for itself by sending enough.
    pub fn failed(&self, failure: &Failure) -> Result<Note, Stop> {
        self.gone.set(true);
        if self.by.fail_mode == FailMode::Open && !failure.is_of_load() {
            return Ok(Note::Failed(failure.told()));
        }
        Err(Stop {
            denial: failed_denial(),
            attribution: self.by.failed(failure.told()).into(),
        })
    }

    /// Applies its refusal, with the index of a rule.
    ///
    /// # Errors
    ///
    /// Where refusals are not only reported, the message does not go on.
    pub fn refused(&self, denial: Denial, rule: Option<u32>) -> Result<Note, Stop> {
        let attribution = self.by.decided(false, rule);
        match self.by.audit {
            true => Ok(Note::Audited(attribution)),
            false => Err(Stop {
                denial,
                attribution: attribution.into(),
            }),
        }
    }
}

/// The filters of one exchange, in order.
#[derive(Clone, Default)]
pub struct Filters(Vec<Rc<Part>>);

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.0.iter().map(|part| &part.by.label);
        f.debug_list().entries(labels).finish()
    }
}

impl Filters {
    pub(crate) fn add(&mut self, part: Part) {
        self.0.push(Rc::new(part));
    }

    /// Does any of them want to see the response?
    pub fn see_response(&self) -> bool {
        let mut live = self.0.iter().filter_map(|part| part.session());
        live.any(|session| session.sees_response())
    }

    /// Those who want to see the request's body.
    pub fn of_request(&self) -> Vec<(Rc<Part>, BodyWish)> {
        let wishes = self.0.iter().map(|part| (part.clone(), part.request_body));
        wishes
            .filter(|(_, wish)| *wish != BodyWish::Unseen)
            .collect()
    }

    /// Asks about the head of a response, each as those before have left it, beginning
    /// with `edit`; returns who wants to see its body.
    ///
    /// # Errors
    ///
    /// If it does not go on.
    pub fn response(
        &self,
        head: &ResponseHead<'_>,
        edit: &mut HeaderEdit,
        attribution: &mut Attribution,
    ) -> Result<Vec<(Rc<Part>, BodyWish)>, Stop> {
        let mut wishes = Vec::new();
        for part in &self.0 {
            let Some(session) = part.session().filter(|session| session.sees_response()) else {
                continue;
            };
            let before = edit.clone();
            let headers = edited(head.headers, &before);
            let head = ResponseHead {
                headers: &headers,
                ..*head
            };
            let note = match session.response(&head) {
                Ok(HeadVerdict::Pass {
                    edit: more, body, ..
                }) => {
                    add_edit(edit, more);
                    if body != BodyWish::Unseen {
                        wishes.push((part.clone(), body));
                    }
                    continue;
                }
                Ok(HeadVerdict::Reply(reply)) => {
                    let rule = reply.rule;
                    part.refused(reply.into(), rule)?
                }
                Err(failure) => part.failed(&failure)?,
            };
            note.add_to(attribution);
        }
        Ok(wishes)
    }
}

/// Fields as an edit leaves them.
pub fn edited<'a>(headers: &[Header<'a>], edit: &'a HeaderEdit) -> Vec<Header<'a>> {
    let kept = headers.iter().filter(|header| !edit.replaces(header.name));
    let set = edit.set.iter().map(|(name, value)| Header {
        name,
        value: value.as_bytes(),
    });
    kept.copied().chain(set).collect()
}

impl From<LocalReply> for Denial {
    fn from(reply: LocalReply) -> Self {
        let usual = Self::default();
        Self {
            status: reply.status,
            headers: reply.headers,
            body: match reply.body.is_empty() && reply.status >= 400 && !reply.as_it_is {
                true => usual.body,
                false => reply.body.into(),
            },
        }
    }
}
