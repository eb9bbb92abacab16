//! TLS that the proxy ends and begins anew, as documents say it: with which secrets, never
//! what is in them.

use serde::{Deserialize, Serialize};

/// A secret and what of it is used: `terminatingTLS` or `originatingTLS`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsContext {
    /// Namespace of the secret.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its item with the authorities that are believed; `None`: `ca.crt`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<String>,
    /// Its item with the chain of certificates; `None`: `tls.crt`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Its item with the key; `None`: `tls.key`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

impl TlsContext {
    /// The secret, `namespace/name`.
    pub fn secret(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Names of the items, authorities, chain and key, and whether they were asked for by
    /// name: the usual ones are those that Cilium reads.
    pub fn items(&self) -> [(&str, bool); 3] {
        [
            (&self.trusted_ca, "ca.crt"),
            (&self.certificate, "tls.crt"),
            (&self.private_key, "tls.key"),
        ]
        .map(|(written, usual)| (written.as_deref().unwrap_or(usual), written.is_some()))
    }
}

/// What is done with the TLS of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsContexts {
    /// The client's is ended with this identity; its authorities, where there are some, are
    /// those of the clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<TlsContext>,
    /// The server's is begun believing these authorities; an identity, where there is one,
    /// is shown to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originating: Option<TlsContext>,
}

impl TlsContexts {
    /// Is nothing done with it?
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
