//! A message of HTTP/1 whose body filters see: taken out of its framing, and framed anew.

use std::io::Write as _;

use tidegate_contract::{
    Failure,
    FailureKind::{ClientProtocol, Overload, PluginFailed},
};
use tidegate_wire::{
    http::{HeaderEdit, Reframed, Version},
    http1::{Asked, Content, Framing, HeadError, Rewrite, with_request, with_response},
};

use crate::{
    budget::{Budget, NO_MEMORY, Taken},
    decide::{
        Attribution,
        exchange::Stop,
        http::{Denial, add_edit},
    },
    http::{
        line::{Line, Trailers},
        pump::PumpError,
    },
};

/// Memory is taken in steps of so many bytes.
const STEP: usize = 16 * 1024;

/// A message on its way.
pub(in crate::http) struct Filtered {
    line: Line,
    content: Content,
    /// Until it goes on.
    head: Option<Head>,
    sends: Sends,
    is_done: bool,
    budget: Budget,
    taken: Vec<Taken>,
}

/// How what goes on is framed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sends {
    Chunks,
    /// A length has been told, or the end of the connection tells it.
    Bytes,
}

/// A head that goes on with the first bytes of its body.
pub(in crate::http) struct Head {
    /// As received.
    pub(in crate::http) bytes: Vec<u8>,
    pub(in crate::http) edit: HeaderEdit,
    /// One of the two ends speaks HTTP/1.0, which has no chunks.
    pub(in crate::http) old: bool,
    pub(in crate::http) of: Of,
}

/// Whose head it is.
pub(in crate::http) enum Of {
    /// With the path to send instead.
    Request(Option<String>),
    /// To a request of this kind; `close` says that the connection ends.
    Response { asked: Asked, close: bool },
}

impl Filtered {
    pub(in crate::http) fn new(line: Line, framing: Framing, head: Head, budget: &Budget) -> Self {
        Self {
            line,
            content: Content::new(framing),
            head: Some(head),
            sends: Sends::Bytes,
            is_done: false,
            budget: budget.clone(),
            taken: Vec::new(),
        }
    }

    /// Must the head wait for what is still to come?
    pub(in crate::http) fn head_waits(&self) -> bool {
        self.head.is_some() && !self.is_done
    }

    /// May it be fed now?
    pub(in crate::http) fn is_ready(&self) -> bool {
        self.is_done || self.line.is_ready()
    }

    /// Is nothing more to come?
    pub(in crate::http) fn is_done(&self) -> bool {
        self.is_done
    }

    /// What became of it in spite of filters.
    pub(in crate::http) fn tell(&mut self, attribution: &mut Attribution) {
        for note in self.line.notes.drain(..) {
            note.add_to(attribution);
        }
    }

    /// Takes the next bytes of the sender, and writes what goes on; how many belonged to the
    /// message, and whether it goes on.
    pub(in crate::http) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), PumpError>) {
        if self.is_done {
            return (0, Ok(()));
        }
        let (used, data) = match self.content.read(input) {
            Ok(read) => read,
            Err(error) => return (0, Err(PumpError::Malformed(error))),
        };
        let end = self.content.is_done();
        if used == 0 && !end {
            return (0, Ok(()));
        }
        let fed = self.line.feed(data, end).map_err(PumpError::from);
        (used, fed.and_then(|data| self.give(&data, end, out)))
    }

    /// Has all of it come, whatever became of it?
    pub(in crate::http) fn has_come(&self) -> bool {
        self.is_done || self.content.is_done()
    }

    /// The sender has closed.
    ///
    /// # Errors
    ///
    /// If that is not how its message ends.
    pub(in crate::http) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), PumpError> {
        if !self.content.ends_by_close() {
            return Err(PumpError::Sender(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let data = self.line.feed(Default::default(), true)?;
        self.give(&data, true, out)
    }

    fn give(&mut self, data: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), PumpError> {
        self.count()?;
        let mut trailers = Trailers::new();
        if end {
            trailers = self.content.trailers();
            if !trailers.is_empty() {
                trailers = self.line.trailers(trailers)?;
            }
        }
        if self.head.is_some() && (end || !self.line.head_waits()) {
            let whole = end.then_some(data.len() as u64);
            self.let_head_go(whole, !trailers.is_empty(), out)?;
        }
        if self.sends == Sends::Bytes {
            out.extend_from_slice(data);
        } else if !data.is_empty() {
            // Into memory it cannot fail.
            let _ = write!(out, "{:x}\r\n", data.len());
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        if end {
            self.is_done = true;
            self.taken.clear();
            if self.sends == Sends::Chunks {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in &trailers {
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Writes the head, with a body of `whole` bytes if all of it is known.
    fn let_head_go(
        &mut self,
        whole: Option<u64>,
        trailers: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), PumpError> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        let waited = self.line.waited();
        let mut edit = head.edit;
        add_edit(&mut edit, std::mem::take(&mut self.line.edit));
        let edit = edit.checked().map_err(|error| {
            let error = PluginFailed.because(error.to_string());
            failed(500, "invalid header edit", error)
        })?;
        let (framing, sends) = match whole {
            Some(length) if !trailers || head.old => (Reframed::Length(length), Sends::Bytes),
            _ if !head.old => (Reframed::Chunked, Sends::Chunks),
            _ if matches!(head.of, Of::Response { .. }) => (Reframed::Untold, Sends::Bytes),
            // RFC 1945 has no request whose length is not told before.
            _ => {
                let reason = "a filter reads the body as it comes, which takes HTTP/1.1";
                return Err(failed(505, reason, ClientProtocol.because(reason)));
            }
        };
        self.sends = sends;
        let unreadable = |error: HeadError| {
            let error = ClientProtocol.because(error.to_string());
            failed(500, "unreadable head", error)
        };
        let bytes = match &head.of {
            Of::Request(path) => with_request(&head.bytes, |request| {
                // A request without a body stays one.
                let bodyless = request.framing == Framing::Length(0)
                    && !request.headers.iter().any(is_length)
                    && whole == Some(0);
                let edit = match bodyless {
                    true => edit,
                    false => edit.reframed(framing, waited),
                };
                let rewrite = Rewrite {
                    path: path.as_deref(),
                    edit: Some(&edit),
                    close: false,
                };
                rewrite.encode_request(request)
            })
            .map_err(unreadable)?,
            Of::Response { asked, close } => with_response(&head.bytes, *asked, |response| {
                let rewrite = Rewrite {
                    path: None,
                    edit: Some(&edit.reframed(framing, false)),
                    close: *close || head.old,
                };
                rewrite.encode_response(response)
            })
            .map_err(unreadable)?,
        };
        out.extend_from_slice(&bytes);
        Ok(())
    }

    /// Counts what is held to the client's part of the memory.
    fn count(&mut self) -> Result<(), PumpError> {
        let held = self.line.held();
        let steps = held.div_ceil(STEP);
        self.taken.truncate(steps);
        while self.taken.len() < steps {
            let more = self.budget.take(STEP);
            self.taken
                .push(more.ok_or_else(|| failed(503, NO_MEMORY, Overload.because(NO_MEMORY)))?);
        }
        Ok(())
    }
}

fn is_length(header: &tidegate_wire::http::Header<'_>) -> bool {
    header.name.eq_ignore_ascii_case("content-length")
}

/// It goes on no more, for a reason that is nobody's decision.
fn failed(status: u16, reason: &str, error: Failure) -> PumpError {
    PumpError::Stopped(Box::new(Stop {
        denial: Denial::text(status, format!("{reason}\r\n")),
        attribution: Box::new(Attribution {
            error: Some(error),
            ..Attribution::default()
        }),
    }))
}

/// Does it speak a version without chunks?
pub(in crate::http) fn is_old(version: Version) -> bool {
    version == Version::Http10
}
