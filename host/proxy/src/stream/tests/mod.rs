mod relay;
mod shadow;

use std::cell::Cell;

use tidegate_contract::{FailureKind, L7Summary};
use tidegate_policy::compiled::{FailMode, RuleId};

use super::{Pipe, ShadowContent, StreamDirection, ToClient, ToServer, stage::Told};
use crate::decide::{
    Failure,
    stream::{Part, Session, Shadow, StreamAnswer, StreamOperation, StreamRequest, Who},
};

/// Reads lines; the first word says what becomes of one.
#[derive(Default)]
struct Lines {
    next: Cell<u32>,
    /// A line `wait` waits for something of the server's.
    waits: Cell<bool>,
    /// This is refused, too.
    refuses: &'static str,
}

impl Session for Lines {
    fn buffer_bytes(&self) -> usize {
        32
    }

    fn data(
        &self,
        direction: StreamDirection,
        bytes: &[u8],
        _end: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        let mut said = Vec::new();
        if direction == ToClient {
            self.waits.set(false);
            said.push(StreamOperation::Pass(bytes.len() as u64));
            let answer = StreamAnswer {
                code: 7,
                text: "well".to_owned(),
            };
            said.push(StreamOperation::Answered(0, answer));
            return Ok(said);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let length = line.len() as u64;
            let text = String::from_utf8_lossy(line);
            let mut words = text.trim().split(' ');
            let first = words.next().unwrap_or_default();
            let id = self.next.get();
            let request = |allowed, reply| {
                StreamOperation::Request(StreamRequest {
                    id,
                    command: first.to_owned(),
                    targets: Vec::new(),
                    allowed,
                    rule: allowed.then_some(1),
                    reply,
                })
            };
            if !line.ends_with(b"\n") {
                said.push(StreamOperation::Hold(match first {
                    "much" => 64,
                    _ => line.len() as u32 + 1,
                }));
                break;
            }
            match first {
                "wait" if self.waits.replace(true) => {
                    said.push(StreamOperation::Hold(0));
                    break;
                }
                "next" => {
                    // And the rest another time.
                    said.extend([StreamOperation::Pass(length), StreamOperation::Hold(0)]);
                    break;
                }
                refused if refused == "no" || refused == self.refuses => said.extend([
                    request(false, Some(None)),
                    StreamOperation::Drop(length),
                    StreamOperation::Inject(ToClient, b"refused\n".to_vec()),
                ]),
                "body" => {
                    let more: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                    said.extend([
                        StreamOperation::Pass(length + more),
                        StreamOperation::Inject(ToServer, b"+\n".to_vec()),
                    ]);
                    break;
                }
                "what" => said.push(StreamOperation::Undecided(length, "what?".to_owned())),
                "end" => said.push(StreamOperation::Close("it ends".to_owned())),
                "trap" => return Err(Failure::Trapped("here".to_owned())),
                "load" => return Err(Failure::OverShare),
                _ => said.extend([request(true, None), StreamOperation::Pass(length)]),
            }
            self.next.set(id + 1);
        }
        Ok(said)
    }
}

fn part(fail_mode: FailMode, audit: bool) -> Part {
    Part {
        by: Who::of("lines@1", fail_mode, audit),
        content: String::new(),
        session: Ok(Box::new(Lines::default())),
    }
}

fn say(pipe: &mut Pipe, direction: StreamDirection, bytes: &str) -> (String, String) {
    let mut out = Default::default();
    pipe.take(direction, bytes.as_bytes().to_vec(), false, &mut out);
    let mut turns = 0;
    while let Some(due) = pipe.due(None) {
        pipe.ask_again(due, &mut out);
        turns += 1;
        assert!(turns < 100, "it goes on for ever");
    }
    let [to_server, to_client] = out.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (to_server, to_client)
}

/// What came to the server and to the client, and whether it was closed.
fn check(parts: Vec<Part>, said: &[&str], to_server: &str, to_client: &str, closed: bool) -> Pipe {
    let mut pipe = Pipe::of(parts, Shadow::default());
    let (mut server, mut client) = (String::new(), String::new());
    for piece in said {
        let (to_server, to_client) = say(&mut pipe, ToServer, piece);
        server += &to_server;
        client += &to_client;
    }
    assert_eq!(
        (&*server, &*client, pipe.closed),
        (to_server, to_client, closed),
        "{said:?}"
    );
    pipe
}

fn enforced() -> Vec<Part> {
    vec![part(FailMode::Closed, false)]
}

#[test]
fn nothing_passes_before_it_is_judged() {
    check(enforced(), &["a"], "", "", false);
    check(enforced(), &["a", "b\nc"], "ab\n", "", false);
    check(enforced(), &["no\n"], "", "refused\n", false);
    check(
        enforced(),
        &["a\nno b\n", "c\n"],
        "a\nc\n",
        "refused\n",
        false,
    );
    // What is closed passes nothing that came behind.
    check(enforced(), &["a\nend\nb\n", "c\n"], "a\n", "", true);
}

#[test]
fn what_is_to_pass_passes_unseen_and_what_is_said_has_its_place() {
    // `no` is in the body of a message.
    check(
        enforced(),
        &["body 8\nno", "\nno x\n", "a\n"],
        "body 8\nno\nno x\n+\na\n",
        "",
        false,
    );
    check(enforced(), &["body 8\nno"], "body 8\nno", "", false);
}

#[test]
fn every_filter_must_agree_and_sees_what_the_one_before_let_pass() {
    let both = || vec![part(FailMode::Closed, false), part(FailMode::Closed, false)];
    check(both(), &["a\nno\nb\n"], "a\nb\n", "refused\n", false);
    // The second closes: what the first let pass does not get past it.
    let second = || vec![part(FailMode::Open, false), part(FailMode::Closed, false)];
    check(second(), &["a\n", "trap\nb\n"], "a\n", "", true);
    let mut pipe = Pipe::of(both(), Shadow::default());
    assert_eq!(
        say(&mut pipe, ToClient, "hello"),
        (String::new(), "hello".to_owned())
    );
}

#[test]
fn who_has_more_to_say_is_asked_again_and_nobody_spins() {
    check(
        enforced(),
        &["next\nnext\nno\na\n"],
        "next\nnext\na\n",
        "refused\n",
        false,
    );
    // Behind another filter, and where it is only reported.
    let both = || {
        vec![
            part(FailMode::Closed, false),
            part(FailMode::Closed, true),
            part(FailMode::Closed, false),
        ]
    };
    check(both(), &["next\nnext\na\n"], "next\nnext\na\n", "", false);
    // What becomes of nothing is asked about again once the server has said something.
    let waiting = Lines::default();
    waiting.waits.set(true);
    let waiting = Part {
        session: Ok(Box::new(waiting)),
        ..part(FailMode::Closed, false)
    };
    let mut pipe = Pipe::of(vec![waiting], Shadow::default());
    assert_eq!(say(&mut pipe, ToServer, "wait\nb\n").0, "");
    assert!(pipe.is_stalled(ToServer), "nothing more is read meanwhile");
    let (to_server, to_client) = say(&mut pipe, ToClient, "hello");
    assert_eq!((&*to_server, &*to_client), ("wait\nb\n", "hello"));
    assert!(!pipe.is_stalled(ToServer));
    // One that waits both ways waits.
    let stubborn = Part {
        session: Ok(Box::new(Stubborn)),
        ..part(FailMode::Closed, false)
    };
    let mut pipe = Pipe::of(vec![stubborn], Shadow::default());
    for direction in [ToServer, ToClient, ToServer] {
        assert_eq!(say(&mut pipe, direction, "x"), Default::default());
    }
}

/// Wants to be asked again about whatever it is shown.
struct Stubborn;

impl Session for Stubborn {
    fn buffer_bytes(&self) -> usize {
        32
    }

    fn data(
        &self,
        _direction: StreamDirection,
        _bytes: &[u8],
        _end: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        Ok(vec![StreamOperation::Hold(0)])
    }
}

#[test]
fn what_waits_for_an_answer_counts() {
    let mut pipe = Pipe::of(enforced(), Shadow::default());
    let (before, none) = (pipe.memory(), pipe.holds_nothing());
    for _ in 0..100 {
        say(&mut pipe, ToServer, "a\n");
    }
    let asked = pipe.memory() - before;
    assert!(asked > 100 * size_of::<StreamRequest>(), "{asked}");
    assert_eq!(
        pipe.holds_nothing(),
        none,
        "the connection is idle all the same"
    );
    say(&mut pipe, ToClient, "well");
    assert!(pipe.memory() < before + asked);
    pipe.end();
    assert_eq!(pipe.memory(), before);
}

#[test]
fn a_failure_is_the_fail_modes() {
    for (line, open_passes) in [("trap\n", true), ("load\n", false), ("what\n", true)] {
        check(enforced(), &["a\n", line, "b\n"], "a\n", "", true);
        let open = vec![part(FailMode::Open, false)];
        let (passes, closed) = match open_passes {
            true => (format!("a\n{line}b\n"), false),
            false => ("a\n".to_owned(), true),
        };
        let pipe = check(open, &["a\n", line, "b\n"], &passes, "", closed);
        let failures = pipe.told.iter().filter(|told| told.by.error.is_some());
        assert_eq!(failures.count(), 1, "{line:?} is told");
    }
    // Who cannot judge some bytes goes on with those behind them; who failed does not.
    check(
        vec![part(FailMode::Open, false)],
        &["what\nno\n"],
        "what\n",
        "refused\n",
        false,
    );
    check(
        vec![part(FailMode::Open, false)],
        &["trap\nno\n"],
        "trap\nno\n",
        "",
        false,
    );
    let missing = Part {
        session: Err(Failure::Missing),
        ..part(FailMode::Closed, false)
    };
    assert!(Pipe::of(vec![missing], Shadow::default()).closed);
    let missing = Part {
        session: Err(Failure::Missing),
        ..part(FailMode::Open, false)
    };
    check(vec![missing], &["no\n"], "no\n", "", false);
}

#[test]
fn no_more_is_held_than_may_be() {
    let long = "x".repeat(33);
    let pipe = check(enforced(), &[&long], "", "", true);
    let error = pipe.told[0].by.error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::PluginFailed);
    assert!(error.what().contains("32 bytes"), "{error}");
    // It is known before they are there.
    check(enforced(), &["much"], "", "", true);
    check(
        vec![part(FailMode::Open, false)],
        &["much", "\n"],
        "much\n",
        "",
        false,
    );
}

#[test]
fn what_is_only_reported_passes_and_is_told() {
    let audit = || vec![part(FailMode::Closed, true)];
    let pipe = check(audit(), &["a\nno\nb", "\n"], "a\nno\nb\n", "", false);
    let Told { by, allowed, .. } = &pipe.told[0];
    assert!(by.audited && *allowed && by.unmatched, "{by:?}");
    assert_eq!(by.rules, [RuleId(11)]);
    check(audit(), &["end\n", "no\n"], "end\nno\n", "", false);
    check(audit(), &["trap\n", "no\n"], "trap\nno\n", "", false);
}

#[test]
fn requests_become_records_once_they_are_answered() {
    let mut pipe = Pipe::of(enforced(), Shadow::default());
    say(&mut pipe, ToServer, "get\nput\n");
    assert!(pipe.told.is_empty() && !pipe.is_quiet());
    say(&mut pipe, ToClient, "here\n");
    pipe.end();
    let told: Vec<_> = pipe
        .told
        .iter()
        .map(
            |Told {
                 by,
                 allowed,
                 summary,
                 ..
             }| {
                let L7Summary::Stream {
                    reader,
                    command,
                    code,
                    status,
                    ..
                } = summary
                else {
                    panic!("{summary:?}");
                };
                (
                    by.rules.clone(),
                    *allowed,
                    reader.as_str(),
                    command.as_str(),
                    *code,
                    status.as_str(),
                )
            },
        )
        .collect();
    assert_eq!(
        told,
        [
            (vec![RuleId(12)], true, "lines", "get", Some(7), "well"),
            (vec![RuleId(12)], true, "lines", "put", None, ""),
        ]
    );
    assert!(pipe.is_quiet());
}

#[test]
fn an_end_is_passed_on_behind_what_came_before() {
    let parts = vec![part(FailMode::Closed, false), part(FailMode::Closed, true)];
    let mut pipe = Pipe::of(parts, Shadow::default());
    assert!(!pipe.is_over(ToServer));
    let mut out = Default::default();
    pipe.take(ToServer, b"a\nb".to_vec(), false, &mut out);
    pipe.take(ToServer, Vec::new(), true, &mut out);
    assert_eq!(out[0], b"a\n", "what is left over is not passed");
    assert!(pipe.is_over(ToServer) && !pipe.is_over(ToClient));
}
