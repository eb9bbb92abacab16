//! Plugins of byte streams.

use std::sync::Arc;

use tidegate_plugin_host::{Failure, StreamDirection, StreamOperation, StreamSession};

use tidegate_policy::compiled::RuleId;

use super::{Bound, WORKER};
use crate::decide::{
    Facts, Filter,
    stream::{Session, StreamFilter},
};

impl StreamFilter for Bound {
    fn open(&self, facts: &Arc<Facts>, enforced: bool) -> Result<Box<dyn Session>, Failure> {
        let session =
            WORKER.with_borrow_mut(|worker| worker.stream_open(&self.0, facts, enforced))?;
        Ok(Box::new(Open(session)))
    }

    fn config(&self) -> Option<&str> {
        self.0.config()
    }

    fn with_rules(
        &self,
        rules: Vec<RuleId>,
        config: &str,
        enforced: bool,
    ) -> Result<Box<dyn Filter>, Failure> {
        let united = self.0.with_rules(rules, config, enforced)?;
        Ok(Box::new(Bound(Arc::new(united))))
    }
}

/// A session of this thread.
struct Open(StreamSession);

impl Session for Open {
    fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes()
    }

    fn data(
        &self,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        WORKER.with_borrow_mut(|worker| worker.stream_data(&self.0, direction, bytes, end))
    }
}
