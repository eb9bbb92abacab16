//! A guest's memory: bytes at addresses that it names.

/// The memory of the guest that calls.
pub(crate) struct Memory<'a>(pub(crate) &'a mut [u8]);

/// An address or length beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beyond;

impl Memory<'_> {
    pub(crate) fn bytes(&self, at: u32, length: u32) -> Result<&[u8], Beyond> {
        let (at, length) = (at as usize, length as usize);
        let end = at.checked_add(length).ok_or(Beyond)?;
        self.0.get(at..end).ok_or(Beyond)
    }

    pub(crate) fn word(&self, at: u32) -> Result<u32, Beyond> {
        let bytes = self.bytes(at, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| Beyond)?))
    }

    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Beyond> {
        let start = at as usize;
        let end = start.checked_add(bytes.len()).ok_or(Beyond)?;
        self.0
            .get_mut(start..end)
            .ok_or(Beyond)?
            .copy_from_slice(bytes);
        Ok(())
    }

    /// May a number of so many bytes be written here?
    pub(crate) fn has(&self, at: u32, length: u32) -> Result<(), Beyond> {
        self.bytes(at, length).map(drop)
    }
}
