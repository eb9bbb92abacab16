//! Everything that can happen to desired state.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use tidegate_policy::Source;
use tidegate_sources::{
    News,
    folder::{PluginStamp, Scan},
    secrets::Secrets,
};

use super::{
    plugins::{Candidate, Examination},
    publication::Outcome,
    sinks::KernelStatus,
    view::ProxyView,
};

/// Devices that are the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDevices {
    /// What each is, in words: `it leads outside (node.outsideDevices)`.
    pub own: BTreeMap<String, String>,
    /// Networks right behind those that lead outside, and the device.
    pub networks: BTreeMap<IpNet, String>,
}

/// The only way in.
#[derive(Debug)]
pub enum Event {
    /// The folders of a source were looked at.
    Scanned(Source, Scan),
    /// A source that has objects instead of files says something.
    Told(Source, News),
    /// The folder of certificates and keys was looked at.
    Secrets(Secrets),
    /// A plugin file was examined.
    Examined(Examination),
    /// A plugin file could not be examined, for a reason that is not its own: it is
    /// tried again.
    NotExamined {
        /// The file.
        path: PathBuf,
        /// The version that was to be examined.
        stamp: PluginStamp,
        /// What was in the way.
        reason: String,
    },
    /// A plugin of this program that a rule needs was compiled, or why not.
    BuiltIn(String, Result<Candidate, String>),
    /// The node's own addresses, as they are now.
    NodeAddresses(Vec<IpAddr>),
    /// Devices that are the node's own, as they are now.
    NodeDevices(NodeDevices),
    /// The kernel side, as it is now.
    Kernel(KernelStatus),
    /// The proxy, as it is now.
    Proxy(ProxyView),
    /// What [`super::state::Control::settle`] gave out has been tried.
    Published(Outcome),
    /// Time passed: failed work is tried again.
    Tick,
}
