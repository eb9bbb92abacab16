//! Bytes from outside against every pure parser: whatever comes, none of them may
//! panic or hang. A few seconds each by mutation of a corpus; `TIDEGATE_FUZZ_SECONDS`
//! for longer, `TIDEGATE_SEED` to repeat a run. The packet programs have theirs in
//! `kernel.rs`, the plugin boundary in the host's plugin tests.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use tidegate_tests::{harness::tag::repository, kernel::random::Random};

/// Longest input made, bytes.
const MAX_INPUT: usize = 64 << 10;
/// An input that takes longer than this is a finding: parsers are linear.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Runs a target over mutations of its corpus.
fn check(target: impl Fn(&[u8]), corpus: &[Vec<u8>], words: &[&str]) {
    let seconds = std::env::var("TIDEGATE_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let seed = Random::seed();
    let mut random = Random::new(seed);
    for input in corpus {
        try_one(&target, input, seed);
    }
    while Instant::now() < end {
        let input = mutate(&mut random, corpus, words);
        try_one(&target, &input, seed);
    }
}

/// One input; a finding is printed in full, so that it can become a test of its room.
fn try_one(target: &impl Fn(&[u8]), input: &[u8], seed: u64) {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let text = input.escape_ascii();
    assert!(result.is_ok(), "panicked (seed {seed}) on b\"{text}\"");
    assert!(
        start.elapsed() < MAX_TIME,
        "took {:?} (seed {seed}) on b\"{text}\"",
        start.elapsed()
    );
}

/// An input of the corpus, changed in a few places.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => {
                // A piece of another one.
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            4 => {
                // A piece twice, or many times.
                let to = at + random.below((input.len() - at).min(32) + 1);
                let piece = input[at..to].repeat(1 + random.below(40));
                input.splice(at..at, piece);
            }
            5 => {
                let to = at + random.below(input.len() - at + 1);
                input.drain(at..to);
            }
            _ => {
                let word = words[random.below(words.len())];
                input.splice(at..at, word.bytes());
            }
        }
    }
    input.truncate(MAX_INPUT);
    input
}

/// Files of a folder of the repository.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let dir = repository().join(folder);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.map(|path| fs::read(path).expect("a file")).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What means something to YAML or to our files.
const YAML: [&str; 22] = [
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "|\n",
    "\"",
    "#",
    "---\n",
    "null",
    "-1",
    "65536",
    "0.0.0.0/0",
    "::/0",
    "!!binary ",
    "<<: ",
    "\u{feff}",
];

#[test]
fn config() {
    let mut corpus = files("examples/quickstart");
    corpus.extend(texts(&[
        "node: {cgroup: none, addresses: [10.0.0.1, \"fd00::1\"]}\nlimits: {flows: 1}\n",
        "metrics: {listen: off}\nlog: {format: json, level: \"info,tidegate::proxy=debug\"}\n",
    ]));
    let target = |bytes: &[u8]| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            // Refusing is fine.
            drop(tidegate_config::parse(
                "tidegate.yaml",
                text,
                Path::new("/nowhere"),
            ));
        }
    };
    check(target, &corpus, &YAML);
}

#[test]
fn policy() {
    let folders = [
        "host/policy/testdata/reference",
        "examples/quickstart/policies",
        "examples/quickstart/services",
        "examples/quickstart/endpoints",
    ];
    let corpus: Vec<_> = folders.iter().flat_map(|folder| files(folder)).collect();
    check(tidegate_policy::input::fuzz_parse, &corpus, &YAML);
}

#[test]
fn http1() {
    let corpus = texts(&[
        "GET /api/%2e%2e/x?a=b HTTP/1.1\r\nHost: shop\r\nAccept: */*\r\n\r\n",
        "POST http://shop/x HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nhello\r\n0\r\nx: 1\r\n\r\n",
        "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\nContent-Length: 3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
    ]);
    let words = [
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        ":",
        "\r\n\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked\r\n",
        "chunked, ",
        "HTTP/1.0",
        "ffffffffffffffff",
        "%2F",
        "%",
        "/../",
        "//",
        "@",
        "[::1]",
        "\u{80}",
    ];
    check(tidegate_wire::http1::fuzz_http1, &corpus, &words);
}
