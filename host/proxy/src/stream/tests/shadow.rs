//! What is in shadow, beside what is enforced.

use tidegate_contract::Rehearsed;
use tidegate_policy::compiled::{Generation, RuleId};

use super::*;
use crate::decide::stream::Beside;

fn reads(refuses: &'static str) -> Part {
    let session = Lines {
        refuses,
        ..Lines::default()
    };
    Part {
        content: refuses.to_owned(),
        session: Ok(Box::new(session)),
        ..part(FailMode::Closed, false)
    }
}

/// A pipe that refuses lines `now`, and `no` ones; in shadow `then`.
fn pipe(now: Option<&'static str>, then: Option<&'static str>, same: bool) -> Pipe {
    let beside = Beside {
        at: 0,
        beside: now.is_some(),
        same,
        parts: then.map(reads).into_iter().collect(),
        asked_by: RuleId(21),
        generation: Generation(1),
    };
    let shadow = Shadow {
        beside: vec![beside],
        refuses: None,
    };
    Pipe::of(now.map(reads).into_iter().collect(), shadow)
}

/// What is told of lines, in order: the word, does it pass, would it.
fn told(pipe: &mut Pipe) -> Vec<(String, bool, Option<bool>)> {
    let told = pipe.told.drain(..).map(|told| {
        let L7Summary::Stream { command, .. } = told.summary else {
            panic!("no stream");
        };
        let would = told.by.rehearsed.map(|would| would.allowed);
        (command, told.allowed, would)
    });
    told.collect()
}

fn line(word: &str, passes: bool, would: Option<bool>) -> (String, bool, Option<bool>) {
    (word.to_owned(), passes, would)
}

#[test]
fn what_would_become_of_a_request_is_told_beside_what_does() {
    let mut both = pipe(Some("now"), Some("then"), false);
    let (to_server, to_client) = say(&mut both, ToServer, "a\nnow\nthen\nno\nb");
    assert_eq!(
        (&*to_server, &*to_client),
        ("a\nthen\n", "refused\nrefused\n"),
        "nothing of it has an effect"
    );
    // Those that pass are told once they are answered.
    let refused = [line("now", false, Some(true)), line("no", false, None)];
    assert_eq!(told(&mut both), refused);
    both.end();
    let passed = [line("a", true, None), line("then", true, Some(false))];
    assert_eq!(told(&mut both), passed);
}

#[test]
fn who_refuses_now_and_stays_refuses_then() {
    let mut more = pipe(Some("now"), Some("then"), true);
    say(&mut more, ToServer, "now\nthen\n");
    more.end();
    let expected = [line("now", false, None), line("then", true, Some(false))];
    assert_eq!(told(&mut more), expected);
    // Nobody would be asked any more.
    let mut open = pipe(Some("now"), None, false);
    say(&mut open, ToServer, "now\na\n");
    open.end();
    let expected = [line("now", false, Some(true)), line("a", true, None)];
    assert_eq!(told(&mut open), expected);
}

#[test]
fn what_nobody_tells_of_is_told_if_it_would_be_refused() {
    let mut alone = pipe(None, Some("then"), true);
    let (to_server, _) = say(&mut alone, ToServer, "a\nthen\nnext\nthen\n");
    assert_eq!(to_server, "a\nthen\nnext\nthen\n");
    let refused = line("then", true, Some(false));
    assert_eq!(told(&mut alone), [refused.clone(), refused]);
}

#[test]
fn what_fails_in_shadow_would_pass_nothing_more_and_harms_nobody() {
    let mut fails = pipe(Some("now"), Some("then"), false);
    let (to_server, _) = say(&mut fails, ToServer, "a\n");
    assert_eq!(to_server, "a\n");
    fails.end();
    assert_eq!(told(&mut fails), [line("a", true, None)]);
    for wrong in ["trap", "what", "end"] {
        let other = Part {
            session: Ok(Box::new(Passes)),
            ..reads("")
        };
        let beside = Beside {
            at: 0,
            beside: true,
            same: false,
            parts: vec![reads("then")],
            asked_by: RuleId(21),
            generation: Generation(1),
        };
        let shadow = Shadow {
            beside: vec![beside],
            refuses: None,
        };
        let mut pipe = Pipe::of(vec![other], shadow);
        let said = format!("{wrong}\na\n");
        assert_eq!(say(&mut pipe, ToServer, &said).0, said);
        assert!(!pipe.closed, "{wrong}");
        let last = pipe.told.pop().expect("a record");
        let would: Rehearsed = *last.by.rehearsed.expect("something else");
        assert!(
            !would.allowed && would.error.is_some(),
            "{wrong}: {would:?}"
        );
    }
}

#[test]
fn what_would_be_dropped_would_not_be_asked() {
    let shadow = Shadow {
        beside: Vec::new(),
        refuses: Some(RuleId(44)),
    };
    let mut pipe = Pipe::of(vec![reads("now")], shadow);
    say(&mut pipe, ToServer, "now\na\n");
    pipe.end();
    let expected = [line("now", false, None), line("a", true, Some(false))];
    assert_eq!(told(&mut pipe), expected);
}

#[test]
fn a_shadow_that_changes_ends_and_the_connection_goes_on() {
    let mut both = pipe(Some("now"), Some("then"), false);
    let same = ShadowContent::of(&Shadow {
        beside: vec![Beside {
            at: 0,
            beside: true,
            same: false,
            parts: vec![reads("then")],
            asked_by: RuleId(21),
            generation: Generation(1),
        }],
        refuses: None,
    });
    both.keep_shadow(&same);
    assert!(both.rehearses());
    both.keep_shadow(&ShadowContent::default());
    assert!(!both.rehearses());
    say(&mut both, ToServer, "then\n");
    both.end();
    assert_eq!(told(&mut both), [line("then", true, None)]);
}

/// Passes whatever comes, line by line.
struct Passes;

impl Session for Passes {
    fn buffer_bytes(&self) -> usize {
        64
    }

    fn data(
        &self,
        _: StreamDirection,
        bytes: &[u8],
        _: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        let mut said = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            said.push(StreamOperation::Request(StreamRequest {
                id: 0,
                command: "line".to_owned(),
                targets: Vec::new(),
                allowed: true,
                rule: None,
                reply: Some(None),
            }));
            said.push(StreamOperation::Pass(line.len() as u64));
        }
        Ok(said)
    }
}
