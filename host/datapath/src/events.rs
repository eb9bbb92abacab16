//! The kernel's events, denies before everything else.

use std::{io, path::Path, ptr};

use aya::maps::{Map, MapData, RingBuf};
use tidegate_ebpf_shared::{event::Event, maps::map};
use tokio::io::unix::AsyncFd;

use super::{Datapath, DatapathError};

/// Flow events and denies. Where it stands is kept in the kernel, so a restarted
/// agent goes on where the one before stopped.
pub struct EventStream {
    denies: AsyncFd<RingBuf<MapData>>,
    flows: AsyncFd<RingBuf<MapData>>,
}

impl Datapath {
    /// The event stream of this node. One reader at a time: two would share the
    /// events between them. Must be called inside a tokio runtime.
    pub fn take_events(&mut self) -> Result<EventStream, DatapathError> {
        Ok(EventStream {
            denies: open(&self.pins.maps, map::DENIES)?,
            flows: open(&self.pins.maps, map::EVENTS)?,
        })
    }
}

impl EventStream {
    /// The next event; a waiting deny comes before any waiting flow event.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            tokio::select! {
                biased;
                ready = self.denies.readable_mut() => ready?.clear_ready(),
                ready = self.flows.readable_mut() => ready?.clear_ready(),
            }
            // Readiness is an edge: an event that came before it was cleared is
            // found by looking again, one that comes later raises it again.
        }
    }

    /// The next event if one waits.
    pub fn try_next(&mut self) -> Option<Event> {
        read(self.denies.get_mut()).or_else(|| read(self.flows.get_mut()))
    }
}

/// The oldest record of a ring. Records of another size are none of ours: skipped.
fn read(ring: &mut RingBuf<MapData>) -> Option<Event> {
    while let Some(record) = ring.next() {
        if record.len() == size_of::<Event>() {
            // SAFETY: as long as an event, and an event is plain old data; the ring
            // does not promise its alignment.
            return Some(unsafe { ptr::read_unaligned(record.as_ptr().cast()) });
        }
    }
    None
}

fn open(folder: &Path, ring: &'static str) -> Result<AsyncFd<RingBuf<MapData>>, DatapathError> {
    let failed = |source| DatapathError::Events { ring, source };
    let data = MapData::from_pin(folder.join(ring)).map_err(|e| failed(io::Error::other(e)))?;
    let map = Map::from_map_data(data).map_err(|e| failed(io::Error::other(e)))?;
    let ring_buf = RingBuf::try_from(map).map_err(|e| failed(io::Error::other(e)))?;
    // SAFETY: the ring owns its descriptor: it is open, and stays the same one, for
    // as long as the ring lives, which the `AsyncFd` takes over.
    unsafe { AsyncFd::register_with_interest(ring_buf, tokio::io::Interest::READABLE) }
        .map_err(|error| failed(error.into()))
}
