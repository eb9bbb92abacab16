//! How TLS of a client is ended, and TLS towards a server begun. TLS 1.2 and 1.3, no early
//! data. Tickets are sealed with keys of this one value: what one context believed of a
//! client is nothing to another, and nothing to the same one once its files have changed.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig, crypto::ring::Ticketer, server::WebPkiClientVerifier,
    sign::SingleCertAndKey,
};

use crate::pem::{Authorities, Identity, Unusable, provider};

/// What is spoken inside, as ALPN names it (RFC 7301 §6, RFC 9113 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
}

impl Protocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }

    /// The one with this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2]
            .into_iter()
            .find(|protocol| protocol.name().as_bytes() == name)
    }
}

/// Ends the TLS of clients.
#[derive(Clone)]
pub struct Terminator(Arc<ServerConfig>);

impl Terminator {
    /// With this identity. With `clients` each has to show a certificate that one of them
    /// has signed.
    ///
    /// # Errors
    ///
    /// If TLS cannot be spoken with them.
    pub fn new(identity: &Identity, clients: Option<&Authorities>) -> Result<Self, Unusable> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = clients.0.clone();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = verifier.build();
                let unfit = |error: rustls::server::VerifierBuilderError| {
                    Unusable::Unfit(error.to_string())
                };
                builder.with_client_cert_verifier(verifier.map_err(unfit)?)
            }
        };
        let key = SingleCertAndKey::from(identity.0.clone());
        let mut config = builder.with_cert_resolver(Arc::new(key));
        config.ticketer = Ticketer::new()?;
        Ok(Self(Arc::new(config)))
    }

    /// For a connection inside of which this is spoken; `None`: nothing with a name.
    pub fn config(&self, inside: Option<Protocol>) -> Arc<ServerConfig> {
        let Some(inside) = inside else {
            return self.0.clone();
        };
        let mut config = (*self.0).clone();
        config.alpn_protocols = vec![inside.name().into()];
        Arc::new(config)
    }
}

/// Begins TLS towards servers.
#[derive(Clone)]
pub struct Originator(Arc<ClientConfig>);

impl Originator {
    /// Servers have to show a certificate for their name that one of `servers` has signed;
    /// `identity` is shown to those that ask.
    ///
    /// # Errors
    ///
    /// If TLS cannot be spoken with them.
    pub fn new(servers: &Authorities, identity: Option<&Identity>) -> Result<Self, Unusable> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(servers.0.clone());
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = SingleCertAndKey::from(identity.0.clone());
                builder.with_client_cert_resolver(Arc::new(key))
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// For a connection inside of which one of these is to be spoken, the first at best.
    pub fn config(&self, inside: &[Protocol]) -> Arc<ClientConfig> {
        if inside.is_empty() {
            return self.0.clone();
        }
        let mut config = (*self.0).clone();
        config.alpn_protocols = inside.iter().map(|one| one.name().into()).collect();
        Arc::new(config)
    }
}
