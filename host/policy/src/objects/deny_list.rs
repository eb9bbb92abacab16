//! Prefixes refused before anything else, on outside devices.

use ipnet::IpNet;

use super::meta::Meta;
use crate::origin::At;

/// A deny list.
#[derive(Clone, Debug, PartialEq)]
pub struct DenyList {
    /// Name and origin.
    pub meta: Meta,
    /// The prefixes, and where each stands.
    pub cidrs: Vec<(At, IpNet)>,
}
