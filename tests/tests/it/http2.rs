//! HTTP/2 frame by frame: what a server takes when it is asked directly passes through
//! the proxy, and what is wrong does not get that far.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{Curl, Place, server};

use crate::shop::{H2, HTTP, Shop};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET http /api/x` with more fields, without tables.
fn block(more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = b"\x82\x86\x04\x06/api/x\x01\x01a".to_vec();
    for (name, value) in more {
        bytes.push(0x10);
        for text in [name, value] {
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

fn get(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, 5, stream, &block(more))
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Stream 1 was answered with 200, and the connection goes on.
    Answered,
    /// Stream and code of an RST_STREAM.
    Reset(u32, u32),
    /// Code of a GOAWAY.
    Ended(u32),
    Closed,
}
use Outcome::*;

/// Greets, sends, and reads until something has come of it.
fn outcome(mut stream: TcpStream, bytes: &[u8]) -> Result<Outcome> {
    let all = [PREFACE, &frame(SETTINGS, 0, 0, b""), bytes].concat();
    stream.write_all(&all)?;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Ok(Closed);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        let number = |at: usize| -> Result<u32> {
            let bytes = payload.get(at..at + 4).context("a short frame")?;
            Ok(u32::from_be_bytes(bytes.try_into()?))
        };
        match head[3] {
            // `:status: 200`, perhaps after a table's size.
            HEADERS if payload.iter().take(2).any(|byte| *byte == 0x88) => return Ok(Answered),
            HEADERS => anyhow::bail!("another status: {payload:x?}"),
            RST_STREAM => return Ok(Reset(id, number(0)?)),
            GOAWAY => return Ok(Ended(number(4)?)),
            _ => {}
        }
    }
}

#[test]
fn what_the_server_takes_directly_passes_and_what_is_wrong_is_an_error_of_its_kind() -> Result<()> {
    let shop = Shop::running()?;
    let through = |place: &Place, bytes: &[u8]| {
        outcome(server::connect(place, (shop.backend.v4, H2))?, bytes)
    };
    let directly = |bytes: &[u8]| {
        let stream = server::connect(&shop.backend, (Ipv4Addr::LOCALHOST, H2))?;
        outcome(stream, bytes)
    };
    let plain = get(1, &[]);
    let whole = block(&[]);
    let (first, rest) = whole.split_at(5);
    let then = |before: Vec<u8>| [before, plain.clone()].concat();
    for (what, bytes) in [
        ("a request", plain.clone()),
        (
            "more fields",
            get(1, &[("te", "trailers"), ("x-a", "b"), ("cookie", "a=b")]),
        ),
        (
            "Huffman coding",
            frame(
                HEADERS,
                5,
                1,
                b"\x82\x86\x04\x06/api/x\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            ),
        ),
        (
            "padding",
            frame(HEADERS, 0x0d, 1, &[&[3][..], &whole, &[0; 3]].concat()),
        ),
        (
            "a priority",
            frame(HEADERS, 0x25, 1, &[&[0, 0, 0, 0, 9][..], &whole].concat()),
        ),
        (
            "a block in pieces",
            [frame(HEADERS, 1, 1, first), frame(CONTINUATION, 4, 1, rest)].concat(),
        ),
        (
            "a table's size",
            frame(HEADERS, 5, 1, &[&[0x20][..], &whole].concat()),
        ),
        (
            "a body",
            [
                frame(
                    HEADERS,
                    4,
                    1,
                    b"\x83\x86\x04\x06/api/x\x01\x01a\x0f\x0d\x011",
                ),
                frame(DATA, 1, 1, b"x"),
            ]
            .concat(),
        ),
        (
            "an unknown frame",
            then(frame(0x63, 0, 0, b"GET /admin HTTP/1.1\r\n\r\n")),
        ),
        (
            "an unknown setting",
            then(frame(SETTINGS, 0, 0, &[0x47, 0x45, 0, 0, 0, 1])),
        ),
        ("a PING", then(frame(PING, 0, 0, &[1; 8]))),
        (
            "a PRIORITY of an idle stream",
            then(frame(PRIORITY, 0, 9, &[0; 5])),
        ),
        (
            "a wider window",
            then(frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])),
        ),
    ] {
        ensure!(
            directly(&bytes)? == Answered,
            "nginx itself does not take {what}"
        );
        let got = through(&shop.frontend, &bytes)?;
        ensure!(got == Answered, "{what}: {got:?} through the proxy");
    }
    let idle = frame(DATA, 0, 9, b"x");
    for (what, bytes, expected) in [
        ("an uppercase name", get(1, &[("X-A", "b")]), Reset(1, 1)),
        (
            "connection",
            get(1, &[("connection", "close")]),
            Reset(1, 1),
        ),
        ("te", get(1, &[("te", "gzip")]), Reset(1, 1)),
        (
            "a late pseudo-header",
            get(1, &[("a", "b"), (":authority", "c")]),
            Reset(1, 1),
        ),
        ("a control byte", get(1, &[("a", "\u{1}")]), Reset(1, 1)),
        (
            "two lengths",
            get(1, &[("content-length", "0"), ("content-length", "0")]),
            Reset(1, 1),
        ),
        (
            "a length without a body",
            get(1, &[("content-length", "1")]),
            Reset(1, 1),
        ),
        (
            "a smaller id",
            [get(5, &[("A", "b")]), plain.clone()].concat(),
            Reset(5, 1),
        ),
        ("an even id", get(2, &[]), Ended(1)),
        ("DATA on an idle stream", idle, Ended(1)),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, b""), Ended(1)),
        ("a PING of 6 bytes", frame(PING, 0, 0, &[0; 6]), Ended(6)),
        (
            "an undecodable block",
            frame(HEADERS, 5, 1, &[0x80]),
            Ended(9),
        ),
    ] {
        let got = through(&shop.frontend, &bytes)?;
        ensure!(got == expected, "{what}: {got:?} and not {expected:?}");
    }

    // nginx speaks HTTP/1 on this port, and so may be asked for nothing in HTTP/2.
    let curl = |path| Curl::get(shop.url(HTTP, path)).with(&["--http2-prior-knowledge"]);
    curl("/api/users").expect(&shop.frontend, 502)?;
    curl("/admin").expect(&shop.frontend, 403)?;
    Curl::get(shop.url(HTTP, "/api/users")).expect(&shop.frontend, 200)?;
    Ok(())
}
