//! What of a file stands where among all documents in use.

use std::sync::Arc;

use tidegate_policy::{Document, Input, Origin, objects::Place};

use super::file::File;

/// What of a file was last put together with the others.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    rank: u8,
    documents: Arc<[Document]>,
    without_shadow: bool,
}

impl Placed {
    /// What of it belongs there now. What is in force comes before what changed, and that
    /// before newcomers.
    fn of(file: &File) -> Option<Self> {
        let rank = match (file.changed(), file.good.is_none()) {
            (false, false) => 0,
            (false, true) => 1,
            (true, false) => 2,
            (true, true) => 3,
        };
        file.chosen().map(|version| Self {
            rank,
            documents: version.documents.clone(),
            without_shadow: file.without_shadow,
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.rank == other.rank
            && self.without_shadow == other.without_shadow
            && Arc::ptr_eq(&self.documents, &other.documents)
    }

    fn each(&self, origin: &Origin) -> impl Iterator<Item = (Place, &Document)> {
        let documents = (0..).zip(self.documents.iter());
        let places = documents.map(|(nth, document)| {
            let place = Place {
                rank: self.rank,
                origin: Some(origin.clone()),
                nth,
            };
            (place, document)
        });
        places.filter(|(_, document)| !(self.without_shadow && document.meta().is_shadow()))
    }
}

impl File {
    /// Puts its documents in use where they belong among all. Costs nothing if they are there.
    pub(super) fn take_place(&mut self, origin: &Origin, all: &mut Input) {
        let now = Placed::of(self);
        match (&self.placed, &now) {
            (None, None) => return,
            (Some(before), Some(now)) if before.is(now) => return,
            _ => {}
        }
        self.leave(origin, all);
        for (place, document) in now.iter().flat_map(|now| now.each(origin)) {
            all.put(place, document);
        }
        self.placed = now;
    }

    /// Takes its documents out of all.
    pub(super) fn leave(&mut self, origin: &Origin, all: &mut Input) {
        let before = self.placed.take();
        for (place, document) in before.iter().flat_map(|before| before.each(origin)) {
            all.take(&place, document);
        }
    }
}
