//! `tidegate endpoint list`

use tidegate_control::view::View;
use tidegate_policy::compiled::Location;

use super::table::Table;

pub(super) fn render(view: &View) -> String {
    let header = [
        "ID",
        "NAME",
        "IDENTITY",
        "INGRESS",
        "EGRESS",
        "LOCATION",
        "ADDRESSES",
        "STATE",
    ];
    let mut table = Table::new(&header);
    for e in view.endpoints.iter() {
        let enforced = |deny| if deny { "default deny" } else { "open" }.to_owned();
        table.row([
            e.id.to_string(),
            e.name.clone(),
            e.identity.to_string(),
            enforced(e.default_deny.ingress),
            enforced(e.default_deny.egress),
            match &e.location {
                Location::Interface(name) => name.clone(),
                Location::Cgroup(path) => format!("cgroup {path}"),
            },
            e.addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            e.state.to_string(),
        ]);
    }
    table.or_if_empty("No endpoints. Declare them as YAML in the endpoints folder.")
}
