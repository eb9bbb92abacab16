//! Entries for fuzzing.

use super::{
    Asked, Body, ChunkError, Chunked, HeadError, HeadScan, Response, Rewrite, with_request,
    with_response,
};

/// Any bytes as a request, a response and a chunked body.
pub fn fuzz_http1(data: &[u8]) {
    let mut scan = HeadScan::default();
    if let Ok(Some(end)) = scan.advance(data) {
        let head = &data[..end];
        let _ = with_request(head, |request| Rewrite::default().encode_request(request));
        let _ = with_response(head, Asked::Other, |response| response.framing);
    }
    for mut chunked in [Chunked::default(), Chunked::padded()] {
        let _ = chunked.advance(data);
    }
}

/// Any bytes as what a server sends for up to four requests: however they arrive, every
/// response is the same, and what is left answers nobody. The first byte says what was
/// asked, the second how long the pieces are.
pub fn fuzz_responses(data: &[u8]) {
    let [kinds, piece, stream @ ..] = data else {
        return;
    };
    let asked: Vec<Asked> = (0..4)
        .map(|n| match kinds >> (2 * n) & 3 {
            0 => Asked::Head,
            1 => Asked::Connect,
            _ => Asked::Other,
        })
        .collect();
    let whole = Answers::read(&asked, [stream]);
    let pieces = Answers::read(&asked, stream.chunks(usize::from(*piece).max(1)));
    assert_eq!(whole, pieces, "the pieces mean something else");
    let attributed: usize = whole.taken.iter().map(|(_, length)| length).sum();
    assert_eq!(
        attributed + whole.left,
        stream.len(),
        "a byte got lost or was used twice"
    );
    assert!(
        whole
            .taken
            .iter()
            .filter(|(status, _)| *status >= 200)
            .count()
            <= asked.len(),
        "more final answers than requests"
    );
}

/// What a stream of bytes says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    /// Status and length, head and body, of every message that was read to its end.
    taken: Vec<(u16, usize)>,
    /// Bytes after the last one.
    left: usize,
    fault: Option<Fault>,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Head(HeadError),
    Body(ChunkError),
}

/// Where a reader stands.
enum Reading {
    Head(HeadScan),
    Body {
        status: u16,
        length: usize,
        body: Body,
    },
}

impl Answers {
    fn read<'d>(asked: &[Asked], pieces: impl IntoIterator<Item = &'d [u8]>) -> Self {
        let mut answers = Self::default();
        let mut requests = asked.iter().copied();
        let mut current = requests.next();
        let (mut buffer, mut reading) = (Vec::new(), Reading::Head(HeadScan::default()));
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while answers.fault.is_none()
                && let Some(asked) = current
            {
                match answers.step(asked, &mut buffer, &mut reading) {
                    Step::More => break,
                    Step::Interim => {}
                    Step::Final => current = requests.next(),
                }
            }
        }
        let unfinished = match reading {
            Reading::Head(_) => 0,
            Reading::Body { length, .. } => length,
        };
        answers.left = buffer.len() + unfinished;
        answers
    }

    fn step(&mut self, asked: Asked, buffer: &mut Vec<u8>, reading: &mut Reading) -> Step {
        match reading {
            Reading::Head(_) if buffer.is_empty() => Step::More,
            Reading::Head(scan) => {
                let read = scan.advance(buffer).and_then(|end| {
                    end.map(|end| with_response(&buffer[..end], asked, |r| begin(r, end)))
                        .transpose()
                });
                match read {
                    Ok(None) => return Step::More,
                    Ok(Some(body)) => {
                        if let Reading::Body { length, .. } = &body {
                            buffer.drain(..*length);
                        }
                        *reading = body;
                    }
                    Err(error) => self.fault = Some(Fault::Head(error)),
                }
                Step::Interim
            }
            Reading::Body {
                status,
                length,
                body,
            } => {
                match body.advance(buffer) {
                    Ok(count) => {
                        buffer.drain(..count);
                        *length += count;
                    }
                    Err(error) => self.fault = Some(Fault::Body(error)),
                }
                if !body.is_done() {
                    return Step::More;
                }
                let status = *status;
                self.taken.push((status, *length));
                *reading = Reading::Head(HeadScan::default());
                match status {
                    100 | 102..200 => Step::Interim,
                    _ => Step::Final,
                }
            }
        }
    }
}

fn begin(response: &Response<'_, '_>, length: usize) -> Reading {
    Reading::Body {
        status: response.status,
        length,
        body: Body::new(response.framing),
    }
}

enum Step {
    /// More bytes are needed.
    More,
    /// Something was read, and the request is not answered yet.
    Interim,
    /// The request is answered.
    Final,
}
