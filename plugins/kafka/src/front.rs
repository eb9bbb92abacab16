//! What stands at the front of a message, read before the rest of it is there: a large
//! one need not be held to be judged.

use anyhow::{Result, bail};
use kafka_protocol::messages::{ApiKey, ProduceRequest};
use kafka_protocol::protocol::HeaderVersion as _;

use crate::rules::Head;

/// Bytes that are waited for before the front of a message is read, as far as it is so
/// long: enough for the names that are usual.
pub(crate) const USUAL: usize = 512;

/// Longest names in front of what is looked for, four of them, and what is between.
pub(crate) const LONGEST: usize = 4 * (u16::MAX as usize / 2) + 64;

/// Reads from the front. What is not there yet is an error like any other: more may
/// mend it.
pub(crate) struct Front<'a>(&'a [u8]);

impl<'a> Front<'a> {
    /// Of a message without its length.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was not read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            bail!("it ends too soon");
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f).unbounded_shl(shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number is too long")
    }

    /// A text, or none; `compact` is how newer versions write it.
    fn text(&mut self, compact: bool) -> Result<Option<&'a str>> {
        let length = if compact {
            usize::try_from(self.varint()?)?.checked_sub(1)
        } else {
            usize::try_from(self.i16()?).ok()
        };
        let bytes = length.map(|length| self.take(length)).transpose()?;
        Ok(bytes.map(str::from_utf8).transpose()?)
    }

    /// Fields that newer versions of a header may have.
    pub(crate) fn tags(&mut self) -> Result<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = usize::try_from(self.varint()?)?;
            self.take(length)?;
        }
        Ok(())
    }

    /// The head of a request. All versions have its first four parts alike.
    ///
    /// # Errors
    ///
    /// If it is none, or not all of it is there.
    pub(crate) fn head(&mut self) -> Result<Head> {
        let (key, version, correlation) = (self.i16()?, self.i16()?, self.i32()?);
        let client_id = self.text(false)?.map(str::to_owned);
        let header = ApiKey::try_from(key).map(|key| key.request_header_version(version));
        if header == Ok(2) {
            self.tags()?;
        }
        Ok(Head {
            key,
            version,
            correlation,
            client_id,
        })
    }

    /// What a `Produce` of this version says before the first record.
    ///
    /// # Errors
    ///
    /// As [`Self::head`].
    pub(crate) fn produce(&mut self, version: i16) -> Result<Produce> {
        let compact = ProduceRequest::header_version(version) == 2;
        self.text(compact)?;
        let acknowledged = self.i16()? != 0;
        self.i32()?;
        let topics = if compact {
            self.varint()?.checked_sub(1)
        } else {
            u32::try_from(self.i32()?).ok()
        };
        // From this version on topics have ids instead of names.
        let named = version < 13;
        let only = match topics {
            Some(1) if named => self.text(compact)?.map(str::to_owned),
            _ => None,
        };
        Ok(Produce { acknowledged, only })
    }
}

/// What a `Produce` says before the first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Produce {
    /// It is answered.
    pub(crate) acknowledged: bool,
    /// The one topic it is about, if it is one.
    pub(crate) only: Option<String>,
}
