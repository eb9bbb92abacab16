//! The built-in Kafka matcher: lets requests pass that its rules allow, and answers the
//! others in their own API's words, in their place among the answers. A plugin like any
//! other; the host knows nothing of Kafka.
//!
//! Messages are those of the `kafka-protocol` crate, generated from Apache Kafka's own
//! definitions.

mod careful;
mod front;
mod kinds;
mod refusal;
mod replies;
mod rules;
mod session;

use std::rc::Rc;

use rules::Rules;
pub use session::Session;
use tidegate_sdk::StreamFilter;

/// The rules of one binding.
pub struct KafkaMatcher {
    rules: Rc<Rules>,
}

impl StreamFilter for KafkaMatcher {
    type Session = Session;

    fn configure(config: &str) -> Result<Self, String> {
        let rules = Rc::new(Rules::parse(config)?);
        Ok(Self { rules })
    }

    fn open(&self, enforced: bool) -> Session {
        Session::new(self.rules.clone(), enforced)
    }
}

tidegate_sdk::stream_filter!(KafkaMatcher, {
    "name": "kafka",
    "version": "0.1.0",
    "capabilities": []
});

#[cfg(test)]
mod tests;
