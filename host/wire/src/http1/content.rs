//! Content without its framing.

use std::borrow::Cow;

use super::{
    body::{Body, Framing},
    chunked::ChunkError,
};

/// Follows a body and takes its content out of the framing.
#[derive(Clone, Debug)]
pub struct Content {
    body: Body,
    /// Lines of trailers so far.
    trailers: Vec<u8>,
}

impl Content {
    /// At the first byte of a body.
    pub fn new(framing: Framing) -> Self {
        Self {
            body: Body::new(framing),
            trailers: Vec::new(),
        }
    }

    /// How many of the next bytes belong to the body, and what of it they are.
    pub fn read<'i>(&mut self, input: &'i [u8]) -> Result<(usize, Cow<'i, [u8]>), ChunkError> {
        if let Body::Chunked(chunked) = &mut self.body {
            let mut content = Vec::new();
            let count = chunked.read(input, &mut content, &mut self.trailers)?;
            return Ok((count, Cow::Owned(content)));
        }
        let count = self.body.advance(input)?;
        Ok((count, Cow::Borrowed(&input[..count])))
    }

    /// Has its last byte been read?
    pub fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Does the end of the connection end it?
    pub fn ends_by_close(&self) -> bool {
        matches!(self.body, Body::UntilClose)
    }

    /// The trailers, once it is done: lower-case names, and values.
    pub fn trailers(&self) -> Vec<(String, Vec<u8>)> {
        let lines = self.trailers.split(|byte| *byte == b'\n');
        let fields = lines.filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            // What is none never got through the grammar of the body.
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            let value = line[colon + 1..].trim_ascii();
            Some((name.to_ascii_lowercase(), value.to_vec()))
        });
        fields.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_comes_content_and_trailers_are_the_same() {
        let body = b"5;x=1\r\nhello\r\n1\r\n \r\n00\r\nX-Sum: 1 \r\na:\r\n\r\nGET /";
        for size in 1..body.len() {
            let mut content = Content::new(Framing::Chunked);
            let (mut got, mut used) = (Vec::new(), 0);
            for piece in body.chunks(size) {
                let (count, part) = content.read(piece).expect("well-formed");
                got.extend_from_slice(&part);
                used += count;
            }
            assert_eq!((&*got, used), (&b"hello "[..], body.len() - 5), "{size}");
            assert!(content.is_done());
            let trailers = [
                ("x-sum".to_owned(), b"1".to_vec()),
                ("a".to_owned(), vec![]),
            ];
            assert_eq!(content.trailers(), trailers);
        }
    }

    #[test]
    fn a_length_ends_it() {
        let mut content = Content::new(Framing::Length(3));
        assert_eq!(content.read(b"abcdef").unwrap(), (3, b"abc"[..].into()));
        assert!(content.is_done() && content.trailers().is_empty());
        let mut endless = Content::new(Framing::UntilClose);
        assert_eq!(endless.read(b"ab").unwrap(), (2, b"ab"[..].into()));
        assert!(endless.ends_by_close() && !endless.is_done());
    }
}
