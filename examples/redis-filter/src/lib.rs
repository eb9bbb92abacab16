//! Redis by commands and keys: a plugin for `l7proto: redis`, and the example of the chapter
//! "A protocol of your own" in `docs/plugins.md`.

mod keys;
mod reply;
mod request;
mod rules;
mod session;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use rules::Rules;
pub use session::Session;
use tidegate_sdk::StreamFilter;

/// The rules of one binding.
pub struct RedisFilter {
    rules: Rc<Rules>,
}

impl StreamFilter for RedisFilter {
    type Session = Session;

    fn configure(config: &str) -> Result<Self, String> {
        let rules = Rc::new(Rules::parse(config)?);
        Ok(Self { rules })
    }

    fn open(&self, enforced: bool) -> Session {
        Session::new(self.rules.clone(), enforced)
    }
}

tidegate_sdk::stream_filter!(RedisFilter, {
    "name": "redis",
    "version": "1.0.0",
    "capabilities": []
});
