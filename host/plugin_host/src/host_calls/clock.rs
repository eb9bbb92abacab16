//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{instance::State, worlds::imports::clock::Host};

impl Host for State {
    fn now_ms(&mut self) -> u64 {
        // A clock set before 1970 reads as 0.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }
}
