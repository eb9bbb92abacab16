//! Whose plugin file it is: a detached signature beside it says so, and a node says whom it
//! believes. No IO.
//!
//! The format is that of minisign (<https://jedisct1.github.io/minisign/>): Ed25519 (RFC 8032)
//! over the BLAKE2b digest of the file, so that keys and signatures are made, kept and checked
//! with tools that people have, on a machine that no node can reach.

#[cfg(test)]
mod tests;

use minisign_verify::{Error, PublicKey, Signature};
use serde::{Deserialize, Serialize};

/// What is appended to a file's name: `bot.wasm.minisig` is beside `bot.wasm`.
pub const EXTENSION: &str = "minisig";
/// Longest signature, and longest public key, bytes. Comments in them have a line each.
pub const SIZE: usize = 4 << 10;

/// Somebody a node believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    name: String,
    /// As it is written, without comments.
    text: String,
    key: PublicKey,
}

/// The text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no public key of minisign is in it")]
pub struct NoKey;

impl TrustedKey {
    /// Reads what `minisign -G` or `tidegate plugin keygen` calls `NAME.pub`, or its last line
    /// alone. `name` is what people call its owner.
    ///
    /// # Errors
    ///
    /// If it is no such key.
    pub fn read(name: &str, text: &str) -> Result<Self, NoKey> {
        let text = text.trim().lines().next_back().unwrap_or_default().trim();
        Ok(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            key: PublicKey::from_base64(text).map_err(|_| NoKey)?,
        })
    }
}

/// Who signed a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signer {
    /// What the node calls the owner of the key.
    pub name: String,
    /// The public key.
    key: String,
}

/// Whom a node believes, and whether it takes files of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Whom.
    pub keys: Vec<TrustedKey>,
    /// Files that none of them signed are refused.
    pub required: bool,
}

/// Why a file is not taken. Each goes on from "it".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There has to be one.
    #[error(
        "is not signed, and `plugins.requireSignature` is on: put its signature beside it \
         (`tidegate plugin sign`), under its own name with `.minisig` behind it"
    )]
    Unsigned,
    /// Nothing can be said of it.
    #[error("has a signature beside it that cannot be read: it is not minisign's")]
    Unreadable,
    /// Made without hashing first.
    #[error("is signed in minisign's old way; sign it anew, without `-l`")]
    Old,
    /// Whoever changed it does not have the key.
    #[error("is not what {0} signed: it, or the signature beside it, has been changed since")]
    Changed(String),
    /// By nobody the node believes.
    #[error("is signed by a key that is not among `plugins.trustedKeys`")]
    Stranger,
}

impl Trust {
    /// Who signed these bytes; `None` if nobody did whom the node believes, and it need not be.
    ///
    /// # Errors
    ///
    /// Why it must not be used. One that says to be by somebody the node believes, and is not,
    /// is refused whether signatures are required or not.
    pub fn signer(&self, bytes: &[u8], signature: Option<&str>) -> Result<Option<Signer>, Doubt> {
        let or_stay_unknown = |doubt| match self.required {
            true => Err(doubt),
            false => Ok(None),
        };
        let Some(text) = signature else {
            return or_stay_unknown(Doubt::Unsigned);
        };
        if self.keys.is_empty() {
            return or_stay_unknown(Doubt::Stranger);
        }
        let signature = Signature::decode(text).map_err(|_| Doubt::Unreadable)?;
        let mut changed = None;
        for trusted in &self.keys {
            match trusted.key.verify(bytes, &signature, false) {
                Ok(()) => {
                    return Ok(Some(Signer {
                        name: trusted.name.clone(),
                        key: trusted.text.clone(),
                    }));
                }
                Err(Error::UnexpectedKeyId) => {}
                Err(Error::UnexpectedAlgorithm | Error::UnsupportedLegacyMode) => {
                    return Err(Doubt::Old);
                }
                Err(_) => changed = Some(Doubt::Changed(trusted.name.clone())),
            }
        }
        match changed {
            Some(doubt) => Err(doubt),
            None => or_stay_unknown(Doubt::Stranger),
        }
    }

    /// Would a file of this signer, or of nobody, still be taken?
    pub fn still_takes(&self, signer: Option<&Signer>) -> bool {
        let is_known = |signer: &Signer| self.keys.iter().any(|key| key.text == signer.key);
        !self.required || signer.is_some_and(is_known)
    }
}
