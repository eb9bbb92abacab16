//! How a connection begins: the first hello, and what may follow it before both sides
//! encrypt.

use super::{Asked, ClientHello, HEADER, MAX_HELLO, MAX_RECORD, NoHello, kind};

/// Handshake messages (RFC 8446 §4).
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Longest record with what encryption adds (RFC 8446 §5.2), before TLS 1.3 (RFC 5246 §6.2.3).
const MAX_ENCRYPTED: usize = MAX_RECORD + 2_048;
/// The random of a server's hello that asks for another hello (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// A hello that comes in any number of pieces and records. Everything is held until it is
/// complete.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// What has come.
    held: Vec<u8>,
    /// Where the first record begins that was not gathered.
    at: usize,
    /// The handshake bytes of those before.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes in what has come; the hello, once it is complete.
    ///
    /// # Errors
    ///
    /// If it will never be one.
    pub fn add(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, NoHello> {
        self.held.extend_from_slice(bytes);
        loop {
            let rest = &self.held[self.at..];
            if self.at == 0 {
                begins_like_tls(rest)?;
            }
            let Some(length) = handshake_record(rest)? else {
                break;
            };
            let Some(content) = rest.get(HEADER..HEADER + length) else {
                break;
            };
            self.message.extend_from_slice(content);
            self.at += HEADER + length;
            if let Some(hello) = complete(&self.message)? {
                return Ok(Some(hello));
            }
        }
        if self.held.len() >= MAX_HELLO {
            return Err(NoHello::TooLong);
        }
        Ok(None)
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.held.capacity() + self.message.capacity()
    }

    /// Has anything come?
    pub fn has_begun(&self) -> bool {
        !self.held.is_empty()
    }

    /// Goes on after the hello: all that has come, and what looks at the rest.
    pub fn finish(self, hello: &ClientHello) -> (Vec<u8>, Watch) {
        let Self { mut held, at, .. } = self;
        let watch = Watch {
            asked: hello.asked.clone(),
            pending: held.split_off(at),
            message: Vec::new(),
            gathered: 0,
            passing: 0,
            server: Server::default(),
            open: false,
        };
        (held, watch)
    }

    /// All that has come, for whoever reads it differently.
    pub fn into_held(self) -> Vec<u8> {
        self.held
    }
}

/// A connection of which something else than TLS can be told at once is not waited for.
fn begins_like_tls(bytes: &[u8]) -> Result<(), NoHello> {
    match *bytes {
        // A length of two bytes with the highest bit set, and a hello.
        [first, _, CLIENT_HELLO, ..] if first & 0x80 != 0 => Err(NoHello::Ssl2),
        [first, ..] if first & 0x80 != 0 && bytes.len() < 3 => Ok(()),
        [
            kind::CHANGE_CIPHER_SPEC | kind::ALERT | kind::APPLICATION_DATA,
            3,
            ..,
        ] => Err(NoHello::Malformed("it begins with something else")),
        [kind::CHANGE_CIPHER_SPEC..=kind::APPLICATION_DATA] | [] => Ok(()),
        [kind::HANDSHAKE, 3, ..] => Ok(()),
        [..] => Err(NoHello::NotTls),
    }
}

/// The length of the handshake record that begins here; `None` if that cannot be said yet.
fn handshake_record(bytes: &[u8]) -> Result<Option<usize>, NoHello> {
    let [kind, major, minor, high, low, ..] = *bytes else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (kind, major, minor) {
        (kind::HANDSHAKE, 3, 0..=4) if (1..=MAX_RECORD).contains(&length) => Ok(Some(length)),
        (kind::HANDSHAKE, 3, 0..=4) => Err(NoHello::Malformed("a record of an impossible length")),
        (kind::HANDSHAKE, ..) => Err(NoHello::Malformed("a record of an unknown version")),
        _ => Err(NoHello::Malformed("a record of another kind in its midst")),
    }
}

/// The hello, if the message is complete.
fn complete(message: &[u8]) -> Result<Option<ClientHello>, NoHello> {
    match message {
        [] => return Ok(None),
        [CLIENT_HELLO, ..] => {}
        [..] => {
            return Err(NoHello::Malformed(
                "a handshake that begins with another message",
            ));
        }
    }
    let [_, high, middle, low, body @ ..] = message else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
    if length > MAX_HELLO {
        return Err(NoHello::TooLong);
    }
    match body.len() {
        len if len < length => Ok(None),
        len if len == length => ClientHello::read(body).map(Some),
        _ => Err(NoHello::Malformed("something follows it in its record")),
    }
}

/// Looks after a connection from the first hello to the server's answer: a server may ask
/// for another hello (RFC 8446 §4.1.4), and what it asks for then has to be the same. Whatever
/// is a handshake in the clear until then is held until it is known to be that; the rest
/// passes.
#[derive(Debug)]
pub struct Watch {
    asked: Asked,
    /// Come from the client and not passed on; begins with a record.
    pending: Vec<u8>,
    /// Handshake bytes of the first `gathered` bytes of it.
    message: Vec<u8>,
    gathered: usize,
    /// Bytes of a record that passes, still to come.
    passing: usize,
    server: Server,
    /// There will be no other hello.
    open: bool,
}

impl Watch {
    /// Is everything passed on from now on, both ways?
    pub fn is_open(&self) -> bool {
        self.open && self.pending.is_empty()
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.pending.len() + self.message.len()
    }

    /// Takes in what came from the client; what passes is added to `out`.
    ///
    /// # Errors
    ///
    /// If it is a hello that asks for something else, or none that can be read. What passed
    /// before may be sent.
    pub fn from_client(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NoHello> {
        self.pending.extend_from_slice(bytes);
        // Taken out at the end, once: records may be many and short.
        let mut pending = std::mem::take(&mut self.pending);
        let (passed, read) = match self.open {
            true => (pending.len(), Ok(())),
            false => self.look(&pending),
        };
        out.extend(pending.drain(..passed));
        self.pending = pending;
        read
    }

    /// How much of what is pending passes.
    fn look(&mut self, pending: &[u8]) -> (usize, Result<(), NoHello>) {
        let mut at = 0;
        loop {
            let passes = self.passing.min(pending.len() - at);
            at += passes;
            self.passing -= passes;
            let rest = &pending[at + self.gathered..];
            let [kind, major, _, high, low, ..] = *rest else {
                break;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            match kind {
                kind::CHANGE_CIPHER_SPEC | kind::ALERT | kind::APPLICATION_DATA
                    if major == 3 && length <= MAX_ENCRYPTED && self.gathered == 0 =>
                {
                    self.passing = HEADER + length;
                }
                _ => match self.gather(rest) {
                    Ok(Gathered::Hello) => at += std::mem::take(&mut self.gathered),
                    Ok(Gathered::Part) => {}
                    Ok(Gathered::Nothing) => break,
                    Err(error) => return (at, Err(error)),
                },
            }
        }
        let held = pending.len() - at;
        let read = match held < MAX_HELLO {
            true => Ok(()),
            false => Err(NoHello::TooLong),
        };
        (at, read)
    }

    /// Takes in one record of a handshake, if all of it is there.
    fn gather(&mut self, rest: &[u8]) -> Result<Gathered, NoHello> {
        let content = match handshake_record(rest)? {
            Some(length) => rest.get(HEADER..HEADER + length),
            None => None,
        };
        let Some(content) = content else {
            return Ok(Gathered::Nothing);
        };
        self.message.extend_from_slice(content);
        self.gathered += HEADER + content.len();
        match complete(&self.message)? {
            Some(hello) if hello.asked != self.asked => Err(NoHello::AnotherName),
            Some(_) => {
                self.message.clear();
                Ok(Gathered::Hello)
            }
            None => Ok(Gathered::Part),
        }
    }

    /// Takes note of what came from the server, which passes whatever it is. True once what
    /// the client said meanwhile is to be asked for again: see [`Watch::from_client`].
    pub fn from_server(&mut self, bytes: &[u8]) -> bool {
        let was_open = self.open;
        self.open |= self.server.has_answered(bytes);
        !was_open && self.open && !self.pending.is_empty()
    }
}

/// What a look at one record came to.
enum Gathered {
    /// Not all of it is there.
    Nothing,
    /// More is to come.
    Part,
    /// With it a hello is complete, and asks for the same.
    Hello,
}

/// The server's side, as far as its hello.
#[derive(Debug, Default)]
struct Server {
    header: Vec<u8>,
    /// Of the record under way: its kind, and bytes still to come.
    kind: u8,
    left: usize,
    /// Handshake bytes to be passed over.
    skip: usize,
    /// The beginning of a message.
    message: Vec<u8>,
}

impl Server {
    /// Has it said something after which it takes no other hello?
    fn has_answered(&mut self, mut bytes: &[u8]) -> bool {
        while let [first, rest @ ..] = bytes {
            if self.left == 0 {
                self.header.push(*first);
                bytes = rest;
                let [kind, major, _, high, low] = self.header[..] else {
                    continue;
                };
                if major != 3 || ![kind::CHANGE_CIPHER_SPEC, kind::HANDSHAKE].contains(&kind) {
                    return true;
                }
                self.kind = kind;
                self.left = u16::from_be_bytes([high, low]).into();
                self.header.clear();
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= part.len();
            bytes = rest;
            if self.kind == kind::HANDSHAKE && self.has_said_hello(part) {
                return true;
            }
        }
        false
    }

    fn has_said_hello(&mut self, mut part: &[u8]) -> bool {
        /// Type, length, version and random.
        const BEGINNING: usize = 4 + 2 + RETRY.len();
        loop {
            let skipped = self.skip.min(part.len());
            self.skip -= skipped;
            part = &part[skipped..];
            let [first, rest @ ..] = part else {
                return false;
            };
            self.message.push(*first);
            part = rest;
            match self.message[..] {
                [HELLO_REQUEST, high, middle, low] => {
                    self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                    self.message.clear();
                }
                [HELLO_REQUEST | SERVER_HELLO, ..] if self.message.len() < BEGINNING => {}
                [SERVER_HELLO, high, middle, low, _, _, ref random @ ..] if *random == RETRY => {
                    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                    self.skip = length.saturating_sub(BEGINNING - 4);
                    self.message.clear();
                }
                _ => return true,
            }
        }
    }
}
