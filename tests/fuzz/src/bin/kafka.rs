//! Any bytes, either way, through the Kafka matcher: it says only what a filter may say,
//! and what comes in pieces is judged as what comes at once.
#![no_main]

use tidegate_plugin_kafka::KafkaMatcher;
use tidegate_sdk::{Direction, StreamFilter as _, Trial};

/// Rules that let some requests pass by their head, some by their topics.
const RULES: &str =
    r#"{"rules":[{"topic":"a"},{"topic":"b"},{"apiKey":12},{"role":"consume","clientID":"c"}]}"#;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(([of_client, size], rest)) = data.split_first_chunk() else {
        return;
    };
    let (asked, answered) = rest.split_at(rest.len() * usize::from(*of_client) / 256);
    let piece = usize::from(*size) + 1;
    assert_eq!(
        run(asked, answered, piece),
        run(asked, answered, usize::MAX)
    );
});

/// What came out both ways, and whether it was closed.
fn run(asked: &[u8], answered: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, bool) {
    let filter = KafkaMatcher::configure(RULES).expect("rules");
    let mut trial = Trial::of(filter.open(true));
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for piece in asked.chunks(piece.min(asked.len().max(1))) {
        to_server.extend(trial.client(piece));
    }
    trial.end(Direction::ToServer);
    for piece in answered.chunks(piece.min(answered.len().max(1))) {
        to_client.extend(trial.server(piece));
    }
    trial.end(Direction::ToClient);
    to_server.extend(trial.take(Direction::ToServer));
    to_client.extend(trial.take(Direction::ToClient));
    (to_server, to_client, trial.closed.is_some())
}
