//! Header maps, and how they are written in a guest's memory.

/// Most fields of a map a guest may hand over, and most bytes of all of them: more could not be
/// sent either.
const MOST: usize = 1_024;
const BYTES: usize = 256 << 10;

/// Fields in order; a name may be there more than once. Names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

/// A map that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl Fields {
    /// Of pairs of name and value.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let pairs = pairs.into_iter();
        Self(
            pairs
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
                .collect(),
        )
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values together, bytes.
    fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// The first value of a name, as Envoy has it.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let same = |field: &(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name);
        self.iter().find(same).map(|(_, value)| value)
    }

    /// Every value of a name.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let same = move |field: &(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name);
        self.iter().filter(same).map(|(_, value)| value)
    }

    /// Adds a field.
    ///
    /// # Errors
    ///
    /// If there are too many then.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unreadable> {
        if self.len() >= MOST || self.bytes() + name.len() + value.len() > BYTES {
            return Err(Unreadable);
        }
        self.0.push((name.to_ascii_lowercase(), value.to_vec()));
        Ok(())
    }

    /// Sets a name to one value, where it stood first.
    ///
    /// # Errors
    ///
    /// As [`Self::add`].
    pub fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unreadable> {
        let same = |field: &(Vec<u8>, Vec<u8>)| field.0.eq_ignore_ascii_case(name);
        let Some(first) = self.0.iter().position(same) else {
            return self.add(name, value);
        };
        let grown = (self.bytes() - self.0[first].1.len()).saturating_add(value.len());
        if grown > BYTES {
            return Err(Unreadable);
        }
        self.0[first].1 = value.to_vec();
        let mut at = 0;
        self.0.retain(|field| {
            at += 1;
            at - 1 <= first || !field.0.eq_ignore_ascii_case(name)
        });
        Ok(())
    }

    /// Removes every field of a name.
    pub fn remove(&mut self, name: &[u8]) {
        self.0.retain(|field| !field.0.eq_ignore_ascii_case(name));
    }

    /// As guests read them: the number of pairs, both lengths of each, then names and values,
    /// each with a zero behind it; nothing for none.
    pub fn write(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(self.written());
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        out.extend(number(self.len()));
        for (name, value) in self.iter() {
            out.extend(number(name.len()));
            out.extend(number(value.len()));
        }
        for part in self.iter().flat_map(|(name, value)| [name, value]) {
            out.extend_from_slice(part);
            out.push(0);
        }
        out
    }

    /// Length of [`Self::write`].
    pub fn written(&self) -> usize {
        match self.len() {
            0 => 0,
            fields => 4 + fields * 10 + self.bytes(),
        }
    }

    /// Reads what a guest wrote; none may be no bytes, or zeros.
    ///
    /// # Errors
    ///
    /// If lengths lead beyond the bytes, or there are too many.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() < 4 && bytes.iter().all(|byte| *byte == 0) {
            return Ok(Self::default());
        }
        let number = |at: usize| {
            let four = bytes.get(at..at.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
        };
        let read = || {
            let count = number(0).filter(|count| *count <= MOST)?;
            let mut at = 4 + count * 8;
            let mut part = |length: usize| {
                let end = at.checked_add(length)?;
                let part = bytes.get(at..end)?;
                // The zero behind it.
                bytes.get(end)?;
                at = end + 1;
                Some(part)
            };
            let mut fields = Self::default();
            for n in 0..count {
                let (name, value) = (number(4 + n * 8)?, number(8 + n * 8)?);
                let (name, value) = (part(name)?, part(value)?);
                fields.add(name, value).ok()?;
            }
            Some(fields)
        };
        read().ok_or(Unreadable)
    }
}
