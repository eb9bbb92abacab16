//! `DenyList`: prefixes refused before anything else, on outside devices.

use super::{
    Heading, read_meta, read_net,
    reader::{Cursor, all},
};
use crate::objects::DenyList;

pub(super) fn read(root: &Cursor<'_>, heading: &Heading<'_>) -> Option<DenyList> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, heading);
    let fields = top.required("spec")?.fields(&["cidrs"])?;
    let items = fields.required("cidrs")?.items()?;
    let read = items.iter().map(|item| {
        let net = read_net(item)?;
        if net.prefix_len() == 0 {
            item.warn(
                "refuses everything of its family that arrives on an outside device, answers too",
                "list the prefixes that shall be refused",
            );
        }
        Some((item.at(), net))
    });
    let cidrs = all(read);
    Some(DenyList {
        cidrs: cidrs?,
        meta: meta?,
    })
}
