//! `tidegate identity list`

use tidegate_control::view::View;

use super::table::Table;

pub(super) fn render(view: &View) -> String {
    let mut table = Table::new(&["IDENTITY", "LABELS"]);
    for (id, labels) in view.identities.iter() {
        table.row([id.to_string(), labels.join(" ")]);
    }
    table.or_if_empty("No identities.")
}
