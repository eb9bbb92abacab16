//! One body on its way through the filters that want to see it, in order: each is shown what
//! the one before has made of it. Pure but for the filters.

use std::{borrow::Cow, rc::Rc};

use tidegate_contract::FailureKind::PluginFailed;
use tidegate_wire::http::{CheckedEdit, Header, HeaderEdit};

use crate::decide::{
    Attribution, Failure,
    exchange::{BodyVerdict, BodyWish, Note, Part, Stop, TrailersVerdict, Way},
    http::{Denial, add_edit},
};

/// How long a sender waits before it is looked whether its body may be shown again.
pub(super) const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Trailers: names and values.
pub(super) type Trailers = Vec<(String, Vec<u8>)>;

/// A body's way.
pub(super) struct Line {
    way: Way,
    stages: Vec<Stage>,
    /// What filters that saw it want changed in its head, which waits.
    pub(super) edit: HeaderEdit,
    /// What became of it in spite of filters, for the record.
    pub(super) notes: Vec<Note>,
}

/// A filter's place.
struct Stage {
    part: Rc<Part>,
    wish: BodyWish,
    /// What was shown, or waits to be, and did not go on yet.
    held: Vec<u8>,
    /// It has nothing to do with the rest.
    out: bool,
    /// Something of the body has gone on.
    let_go: bool,
    /// The head has had to wait for it.
    waited: bool,
}

/// Why a filter fails.
const HOLDS_ON: Failure = Failure::Invalid("a window that is full was held on to");
const HOLDS_THE_END: Failure = Failure::Invalid("the end of a body was held on to");
const NOT_SHOWN: Failure = Failure::Invalid("it wants to see a body over HTTP/2");
const LATE_EDIT: Failure = Failure::Invalid("a change to a head that has gone on");

impl Line {
    /// Through these; `None` if there are none.
    pub(super) fn new(way: Way, filters: Vec<(Rc<Part>, BodyWish)>) -> Option<Self> {
        let stages = filters.into_iter().map(|(part, wish)| Stage {
            part,
            wish,
            held: Vec::new(),
            out: false,
            let_go: false,
            waited: match wish {
                BodyWish::Unseen => false,
                BodyWish::Whole { .. } => true,
                BodyWish::Window { holds_head, .. } => holds_head,
            },
        });
        let stages: Vec<_> = stages.collect();
        (!stages.is_empty()).then_some(Self {
            way,
            stages,
            edit: HeaderEdit::default(),
            notes: Vec::new(),
        })
    }

    /// Must the head wait?
    pub(super) fn head_waits(&self) -> bool {
        self.stages.iter().any(Stage::head_waits)
    }

    /// Has the head had to wait?
    pub(super) fn waited(&self) -> bool {
        self.stages.iter().any(|stage| stage.waited)
    }

    /// May it be fed now? A filter that has had its share of the thread's time for the moment
    /// holds up its bodies, and nobody else.
    pub(super) fn is_ready(&self) -> bool {
        let live = self.stages.iter().filter(|stage| !stage.out);
        let mut sessions = live.filter_map(|stage| stage.part.session());
        sessions.all(|session| session.is_ready())
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.stages.iter().map(|stage| stage.held.capacity()).sum()
    }

    /// Takes bytes, `end` with the last ones; returns what goes on.
    ///
    /// # Errors
    ///
    /// If nothing of the message goes on any more.
    pub(super) fn feed<'d>(
        &mut self,
        data: Cow<'d, [u8]>,
        end: bool,
    ) -> Result<Cow<'d, [u8]>, Stop> {
        let waits = self.head_waits();
        let mut data = data;
        for stage in &mut self.stages {
            if stage.out || (data.is_empty() && !end) {
                continue;
            }
            let mut seen = Seen {
                way: self.way,
                head_waits: waits,
                edit: &mut self.edit,
                notes: &mut self.notes,
            };
            data = match stage.wish {
                BodyWish::Unseen => data,
                BodyWish::Whole {
                    most,
                    skip_overlong,
                } => Cow::Owned(stage.whole(&data, end, (most, skip_overlong), &mut seen)?),
                BodyWish::Window { most, .. } => stage.window(data, end, most, &mut seen)?,
            };
            stage.let_go |= !data.is_empty();
            stage.out |= end;
        }
        Ok(data)
    }

    /// Goes by a message that cannot have a body, and is shown as none: but for those whose head
    /// waits for one, who hear that none comes.
    ///
    /// # Errors
    ///
    /// If the message does not go on.
    pub(super) fn bodyless(
        mut self,
        edit: Option<CheckedEdit>,
        attribution: &mut Attribution,
    ) -> Result<Option<CheckedEdit>, Box<Stop>> {
        let holds = |wish| {
            matches!(
                wish,
                BodyWish::Window {
                    holds_head: true,
                    ..
                }
            )
        };
        self.stages.retain(|stage| holds(stage.wish));
        match self.stages.is_empty() {
            true => Ok(edit),
            false => self.unseen(true, edit, attribution),
        }
    }

    /// Goes by a message of which no body can be shown: HTTP/2 passes frames as they come. One
    /// that has none is shown as one of no bytes; who wants to see another has failed.
    ///
    /// # Errors
    ///
    /// If the message does not go on.
    pub(super) fn unseen(
        mut self,
        bodyless: bool,
        edit: Option<CheckedEdit>,
        attribution: &mut Attribution,
    ) -> Result<Option<CheckedEdit>, Box<Stop>> {
        let made = match bodyless {
            true => self.feed(Cow::Borrowed(&[]), true)?.into_owned(),
            false => Vec::new(),
        };
        if !bodyless || !made.is_empty() {
            for stage in &self.stages {
                self.notes.push(stage.part.failed(&NOT_SHOWN)?);
            }
            self.edit = HeaderEdit::default();
        }
        for note in self.notes {
            note.add_to(attribution);
        }
        if self.edit == HeaderEdit::default() {
            return Ok(edit);
        }
        let mut all = edit.as_deref().cloned().unwrap_or_default();
        add_edit(&mut all, self.edit);
        all.checked().map(Some).map_err(|error| {
            let denial = Denial::text(500, "invalid header edit\r\n");
            let attribution = Attribution {
                error: Some(PluginFailed.because(error.to_string())),
                ..Attribution::default()
            };
            Box::new(Stop {
                denial,
                attribution: attribution.into(),
            })
        })
    }

    /// Takes trailers, after the last bytes; returns what goes on.
    ///
    /// # Errors
    ///
    /// As [`Self::feed`].
    pub(super) fn trailers(&mut self, mut trailers: Trailers) -> Result<Trailers, Stop> {
        for stage in &self.stages {
            let Some(session) = stage.part.session().filter(|_| !stage.skips()) else {
                continue;
            };
            let fields = trailers.iter().map(|(name, value)| Header { name, value });
            let fields: Vec<_> = fields.collect();
            let note = match session.trailers(self.way, &fields) {
                Ok(TrailersVerdict::Pass(edit)) => {
                    trailers.retain(|(name, _)| !edit.replaces(name));
                    let set = edit.set.into_iter();
                    trailers.extend(set.map(|(name, value)| (name, value.into_bytes())));
                    continue;
                }
                Ok(TrailersVerdict::Reply(reply)) => {
                    let rule = reply.rule;
                    stage.part.refused(reply.into(), rule)?
                }
                Err(failure) => stage.part.failed(&failure)?,
            };
            self.notes.push(note);
        }
        Ok(trailers)
    }
}

/// What a filter's answer may change besides the bytes.
struct Seen<'l> {
    way: Way,
    head_waits: bool,
    edit: &'l mut HeaderEdit,
    notes: &'l mut Vec<Note>,
}

impl Stage {
    fn head_waits(&self) -> bool {
        !self.out
            && match self.wish {
                BodyWish::Unseen => false,
                BodyWish::Whole { .. } => true,
                BodyWish::Window { holds_head, .. } => holds_head && !self.let_go,
            }
    }

    /// Has it been passed by before the end?
    fn skips(&self) -> bool {
        self.wish == BodyWish::Unseen
    }

    /// It has nothing to do with the rest: what it holds goes on, and what comes.
    fn leave(&mut self, data: &[u8]) -> Vec<u8> {
        (self.out, self.wish) = (true, BodyWish::Unseen);
        let mut rest = std::mem::take(&mut self.held);
        rest.extend_from_slice(data);
        rest
    }

    fn whole(
        &mut self,
        data: &[u8],
        end: bool,
        (most, skip_overlong): (usize, bool),
        seen: &mut Seen<'_>,
    ) -> Result<Vec<u8>, Stop> {
        if self.held.len() + data.len() > most {
            if !skip_overlong {
                let status = match seen.way {
                    Way::Request => 413,
                    Way::Response => 502,
                };
                let denial = Denial::text(
                    status,
                    format!("A filter wants to see all of the body, up to {most} bytes\r\n"),
                );
                seen.notes.push(self.part.refused(denial, None)?);
            }
            return Ok(self.leave(data));
        }
        self.held.extend_from_slice(data);
        if !end {
            return Ok(Vec::new());
        }
        let held = std::mem::take(&mut self.held);
        let (count, made) = self.show(&held, true, seen)?;
        match made {
            Some(made) if count == held.len() => Ok(made),
            // Passed by.
            None if count == held.len() => Ok(held),
            _ => {
                seen.notes.push(self.part.failed(&HOLDS_THE_END)?);
                Ok(self.leave(&held))
            }
        }
    }

    fn window<'d>(
        &mut self,
        data: Cow<'d, [u8]>,
        end: bool,
        most: usize,
        seen: &mut Seen<'_>,
    ) -> Result<Cow<'d, [u8]>, Stop> {
        let mut held = std::mem::take(&mut self.held);
        let joined = !held.is_empty();
        if joined {
            held.extend_from_slice(&data);
        }
        let all: &[u8] = if joined { &held } else { &data };
        let mut made: Option<Vec<u8>> = None;
        let mut done = 0;
        loop {
            let rest = &all[done..];
            let shown = &rest[..rest.len().min(most)];
            let last = end && shown.len() == rest.len();
            if shown.is_empty() && !last {
                break;
            }
            let (count, instead) = self.show(shown, last, seen)?;
            if self.out {
                // It failed, or only reports: the rest goes on as it is.
                if let Some(made) = &mut made {
                    made.extend_from_slice(rest);
                }
                done = all.len();
                break;
            }
            let wrong = match count < shown.len() {
                true if last => Some(HOLDS_THE_END),
                true if count == 0 && shown.len() == most => Some(HOLDS_ON),
                _ => None,
            };
            if let Some(failure) = wrong {
                seen.notes.push(self.part.failed(&failure)?);
                self.leave(&[]);
                if let Some(made) = &mut made {
                    made.extend_from_slice(rest);
                }
                done = all.len();
                break;
            }
            match (instead, &mut made) {
                (None, None) => {}
                (None, Some(made)) => made.extend_from_slice(&shown[..count]),
                (Some(instead), Some(made)) => made.extend_from_slice(&instead),
                (Some(instead), made) => {
                    let mut before = all[..done].to_vec();
                    before.extend_from_slice(&instead);
                    *made = Some(before);
                }
            }
            done += count;
            let more = rest.len() > shown.len();
            if last || (count < shown.len() && !more) {
                break;
            }
        }
        if self.out {
            // Nothing is held of what was let go.
            self.held.clear();
        } else {
            self.held.extend_from_slice(&all[done..]);
        }
        Ok(match made {
            Some(made) => Cow::Owned(made),
            None if joined => {
                held.truncate(done);
                Cow::Owned(held)
            }
            None if done == data.len() => data,
            None => match data {
                Cow::Borrowed(data) => Cow::Borrowed(&data[..done]),
                Cow::Owned(mut data) => {
                    data.truncate(done);
                    Cow::Owned(data)
                }
            },
        })
    }

    /// Shows bytes; how many of them are done with, and what goes on in their place. A filter
    /// that failed or only reports, and is out, lets all of them go on.
    fn show(
        &mut self,
        shown: &[u8],
        end: bool,
        seen: &mut Seen<'_>,
    ) -> Result<(usize, Option<Vec<u8>>), Stop> {
        let Some(session) = self.part.session() else {
            self.leave(&[]);
            return Ok((shown.len(), None));
        };
        let note = match session.body(seen.way, shown, end) {
            Ok(BodyVerdict::Take { edit, .. })
                if edit != HeaderEdit::default() && !seen.head_waits =>
            {
                self.part.failed(&LATE_EDIT)?
            }
            Ok(BodyVerdict::Take {
                count,
                instead,
                edit,
            }) => {
                add_edit(seen.edit, edit);
                return Ok((count, instead));
            }
            Ok(BodyVerdict::Reply(reply)) => {
                let rule = reply.rule;
                self.part.refused(reply.into(), rule)?
            }
            Err(failure) => self.part.failed(&failure)?,
        };
        seen.notes.push(note);
        self.leave(&[]);
        Ok((shown.len(), None))
    }
}
