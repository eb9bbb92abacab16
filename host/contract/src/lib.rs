//! What agent and proxy tell each other, and what both keep of it: data alone, so that a
//! room that reads a record or a limit needs neither of the two.

mod delta;
pub mod durations;
mod failure;
mod message;
mod note;
mod plugin;
mod record;
mod secret;
mod snapshot;
mod stats;
pub mod units;

pub use delta::{Delta, Misfit};
pub use failure::{Failure, FailureKind};
pub use message::{
    Judgement, ListenerInfo, Message, PROTOCOL_VERSION, Question, TABLES, ToAgent, ToProxy, WRITTEN,
};
pub use note::{Concern, Family, Note};
pub use plugin::{BUILT_IN, Limits, PluginInfo, World, config_id};
pub use record::{GrpcCall, L7Record, L7Summary, Rehearsed, rcode_description, rcode_name};
pub use secret::{Context, Credentials, Secret, TlsEnd, context_key, contexts};
pub use snapshot::{Reject, Remembered, Snapshot};
pub use stats::{BindingState, BindingStats, PluginStats, ProxyStats, WorkerTurns};
pub use tidegate_policy::compiled::Generation;
