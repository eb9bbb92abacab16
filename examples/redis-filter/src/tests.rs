use proptest::prelude::*;
use tidegate_sdk::{Direction, Reply, StreamFilter as _, Trial};

use crate::{RedisFilter, Session};

const RULES: &str = r#"[
    {"command": "get", "key": "orders:*"},
    {"command": "mget", "key": "orders:*"},
    {"command": "CONFIG GET"},
    {"command": "subscribe", "key": "news"},
    {"command": "unsubscribe"},
    {"key": "mine"}
]"#;

const NO: &str = "-NOPERM this command or key is not allowed by policy\r\n";

fn connection(config: &str) -> Trial<Session> {
    Trial::of(RedisFilter::configure(config).expect(config).open(true))
}

/// A command as clients write it.
fn command(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    text
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

#[test]
fn commands_are_judged_by_name_and_keys() {
    for (line, passes) in [
        ("GET orders:1", true),
        ("get orders:1", true),
        ("GET other", false),
        ("SET orders:1 x", false),
        ("MGET orders:1 orders:2", true),
        ("MGET orders:1 other", false),
        ("CONFIG GET maxmemory", true),
        ("CONFIG SET maxmemory 1", false),
        ("PING", true),
        ("HELLO 3", true),
        ("SET mine x", true),
        ("DEL mine mine", true),
        ("DEL mine yours", false),
        ("RENAME mine yours", false),
        ("MSET mine yours", true),
        ("MSET mine 1 yours 2", false),
        ("BLPOP mine 0", true),
        // Keys that depend on options, scripts, or nothing known here.
        ("SORT mine", false),
        ("EVAL return 0", false),
        ("FLUSHALL", false),
        ("WHATEVER mine", false),
        ("GET", false),
        // No answer could be told from another behind these, whatever rules say.
        ("MONITOR", false),
        ("CLIENT REPLY OFF", false),
    ] {
        for asked in [command(line), format!("{line}\r\n"), format!(" {line} \n")] {
            let mut connection = connection(RULES);
            let passed = text(connection.client(asked.as_bytes()));
            assert_eq!(passed == asked, passes, "{line}");
            let refused = if passes { "" } else { NO };
            assert_eq!(text(connection.server(b"")), refused, "{line}");
            assert_eq!(connection.last().allowed, passes);
        }
    }
    let mut any = connection("[{}]");
    assert!(!any.client(command("FLUSHALL").as_bytes()).is_empty());
    assert!(
        any.client(command("CLIENT REPLY OFF").as_bytes())
            .is_empty()
    );
}

#[test]
fn a_refusal_stands_where_its_command_stood() {
    let mut connection = connection(RULES);
    let lines = ["GET orders:1", "SET a b", "GET orders:2", "SET a b"];
    let asked: String = lines.map(command).concat();
    let passed = text(connection.client(asked.as_bytes()));
    assert_eq!(passed, command(lines[0]) + &command(lines[2]));
    assert!(connection.server(b"$5\r\nhe").ends_with(b"he"));
    assert_eq!(text(connection.server(b"llo\r\n")), format!("llo\r\n{NO}"));
    let said = text(connection.server(b"-ERR broken\r\n"));
    assert_eq!(said, format!("-ERR broken\r\n{NO}"));
    let answered: Vec<_> = (connection.answers.iter())
        .map(|(id, answer)| (*id, answer.code, answer.text.as_str()))
        .collect();
    assert_eq!(answered, [(0, 0, ""), (2, 1, "ERR broken")]);
    assert!(matches!(&connection.requests[1].reply, Reply::Given(no) if no.text == "NOPERM"));
    assert_eq!(connection.requests[0].targets, ["orders:1"]);
}

#[test]
fn every_form_of_reply_is_one_reply() {
    for reply in [
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        "%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
        "|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n",
        "~2\r\n#t\r\n_\r\n",
        "=5\r\ntxt:a\r\n",
        "!5\r\nERR a\r\n",
        ",1.5\r\n",
        "(12345678901234567890\r\n",
    ] {
        let mut connection = connection(RULES);
        let lines = ["GET orders:1", "SET a b"];
        connection.client(lines.map(command).concat().as_bytes());
        // Not asked for.
        let pushed = ">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n";
        assert_eq!(text(connection.server(pushed.as_bytes())), pushed);
        let said = text(connection.server(reply.as_bytes()));
        assert_eq!(said, format!("{reply}{NO}"));
    }
}

#[test]
fn channels_are_told_each_by_itself_and_messages_answer_nothing() {
    let mut connection = connection(RULES);
    for refused in ["SUBSCRIBE news secret", "PSUBSCRIBE news"] {
        connection.client(command(refused).as_bytes());
        assert_eq!(text(connection.server(b"")), NO);
    }
    let lines = ["SUBSCRIBE news news", "GET a", "UNSUBSCRIBE", "GET a"];
    connection.client(lines.map(command).concat().as_bytes());
    let told = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    let message = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n";
    let left = "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n";
    assert_eq!(text(connection.server(told.as_bytes())), told);
    assert_eq!(text(connection.server(message.as_bytes())), message);
    let said = text(connection.server(told.as_bytes()));
    assert_eq!(said, format!("{told}{NO}"));
    assert_eq!(text(connection.server(message.as_bytes())), message);
    let said = text(connection.server(left.as_bytes()));
    assert_eq!(said, format!("{left}{NO}"));
}

#[test]
fn an_array_of_nothing_is_an_answer_and_all_of_it() {
    let mut connection = connection(RULES);
    connection.client(command("SUBSCRIBE news").as_bytes());
    connection.server(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    for nothing in ["*0\r\n", "*-1\r\n"] {
        connection.client(command("GET orders:1").as_bytes());
        assert_eq!(text(connection.server(nothing.as_bytes())), nothing);
    }
}

#[test]
fn a_transaction_is_done_as_a_whole_or_not_at_all() {
    let mut connection = connection(RULES);
    let lines = ["MULTI", "GET orders:1", "SET a b", "MULTI", "EXEC", "PING"];
    let passed = text(connection.client(lines.map(command).concat().as_bytes()));
    let expected = ["MULTI", "GET orders:1", "MULTI", "DISCARD", "PING"];
    assert_eq!(passed, expected.map(command).concat());
    let (ok, queued) = ("+OK\r\n", "+QUEUED\r\n");
    let nested = "-ERR MULTI calls can not be nested\r\n";
    let said = connection.server(format!("{ok}{queued}{nested}{ok}+PONG\r\n").as_bytes());
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let expected = format!("{ok}{queued}{NO}{nested}{aborted}+PONG\r\n");
    assert_eq!(text(said), expected);
    // The next one is a new one.
    let lines = ["MULTI", "EXEC"].map(command).concat();
    assert_eq!(text(connection.client(lines.as_bytes())), lines);
}

#[test]
fn what_cannot_be_read_passes_nowhere() {
    for wrong in [
        "*1\r\n+PING\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*01\r\n$4\r\nPING\r\n",
        "*1\r\n$4\r\nPINGxx",
        "*1\n$4\nPING\n",
        "*1\r\n$04\r\nPING\r\n",
        "*9999999999\r\n",
        "GET \"orders:1\"\r\n",
        "GET orders:1\0x\r\n",
        "\u{16}\u{3}\u{1}\u{2}\n",
    ] {
        let mut connection = connection("[{}]");
        assert!(connection.client(wrong.as_bytes()).is_empty(), "{wrong:?}");
        assert!(connection.closed.is_some(), "{wrong:?}");
    }
    let mut connection = connection(RULES);
    connection.server(b"HTTP/1.1 200 OK\r\n");
    assert!(connection.closed.is_some());
}

#[test]
fn any_number_of_commands_may_come_at_once() {
    let mut connection = connection(RULES);
    let lines = ["GET orders:1", "SET a b"].map(command).concat();
    connection.client(lines.repeat(5_000).as_bytes());
    let mut said = 0;
    while said < 10_000 {
        let more = text(connection.server(&b":1\r\n".repeat(100)));
        assert_eq!(connection.closed, None);
        said += more.lines().count();
    }
    assert_eq!(said, 10_000);
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, reason) in [
        ("{}", "not a list"),
        (r#"[{"commands": "GET"}]"#, "unknown field `commands`"),
        (r#"[{"command": ""}]"#, "rules[0]: command"),
        (r#"[{}, {"command": "A B C"}]"#, "rules[1]: command"),
        (r#"[{"command": "EVAL", "key": "a"}]"#, "would never match"),
    ] {
        let error = RedisFilter::configure(config).err().expect(config);
        assert!(error.contains(reason), "{error}");
    }
}

/// What came out both ways, and whether it was closed.
fn run(asked: &[u8], answered: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, bool) {
    let mut trial = connection(RULES);
    let mut out = (Vec::new(), Vec::new());
    for piece in asked.chunks(piece) {
        out.0.extend(trial.client(piece));
    }
    for piece in answered.chunks(piece) {
        out.1.extend(trial.server(piece));
    }
    out.0.extend(trial.take(Direction::ToServer));
    out.1.extend(trial.take(Direction::ToClient));
    (out.0, out.1, trial.closed.is_some())
}

fn any_of(parts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(parts), 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    /// In pieces or at once, whatever it is: the same passes, and nothing panics. What can be
    /// no command may be noticed later in pieces: until so much has come as it says it has,
    /// it is held back.
    #[test]
    fn pieces_do_not_matter(
        asked in any_of(&["*2\r\n$3\r\nGET\r\n$8\r\norders:1\r\n", "GET a\r\n", "PING\r\n", "\r\n",
            "*1\r\n$5\r\nMULTI\r\n", "*1\r\n$4\r\nEXEC\r\n", "*", "$", "9", "\r\n", "\r", "\n", "x",
            "*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n"]),
        answered in any_of(&["+OK\r\n", "*2\r\n", "$1\r\na\r\n", ":1\r\n", "%1\r\n", ">1\r\n", "$-1\r\n",
            "|1\r\n", "$7\r\nmessage\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "-ERR\r\n", "x"]),
        piece in 1_usize..40,
    ) {
        let (to_server, to_client, closed) = run(asked.as_bytes(), answered.as_bytes(), usize::MAX);
        let pieces = run(asked.as_bytes(), answered.as_bytes(), piece);
        prop_assert_eq!(pieces.0, to_server);
        match closed {
            true => prop_assert!(pieces.1.starts_with(&to_client)),
            false => prop_assert_eq!((pieces.1, pieces.2), (to_client, false)),
        }
    }

    #[test]
    fn no_bytes_panic(asked: Vec<u8>, answered: Vec<u8>) {
        run(&asked, &answered, 3);
    }
}
