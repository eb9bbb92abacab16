//! A filter of byte streams that misbehaves on demand: the first byte says how. Anything
//! else passes, behind a letter for each session that was ever opened in its instance.

use std::cell::Cell;

use tidegate_sdk::{Data, Direction, Operations, StreamFilter, StreamSession};

struct Stumble;

thread_local! {
    static SESSIONS: Cell<usize> = const { Cell::new(0) };
}

struct Session;

impl StreamFilter for Stumble {
    type Session = Session;

    fn configure(_: &str) -> Result<Self, String> {
        Ok(Self)
    }

    fn open(&self, _: bool) -> Session {
        SESSIONS.set(SESSIONS.get() + 1);
        Session
    }
}

impl StreamSession for Session {
    fn on_data(&mut self, data: Data<'_>) -> Operations {
        let mut said = Operations::none();
        match data.bytes.first() {
            Some(b't') => panic!("on demand"),
            Some(b's') => loop {
                std::hint::black_box(());
            },
            Some(b'm') => {
                // Of each kind in turn: what follows its like is said as one.
                for _ in 0..5_000 {
                    said.pass(1).discard(1);
                }
            }
            _ => {
                let sessions = SESSIONS.get();
                said.inject(Direction::ToServer, vec![b'.'; sessions]);
                said.pass(data.bytes.len() as u64);
            }
        }
        said
    }
}

tidegate_sdk::stream_filter!(Stumble, { "name": "stumble", "version": "1.0.0", "capabilities": [] });
