//! `tidegate policy list`

use tidegate_control::view::View;
use tidegate_policy::Enforcement;

use super::table::Table;

pub(super) fn render(view: &View) -> String {
    let mut table = Table::new(&[
        "NAMESPACE",
        "NAME",
        "KIND",
        "RULES",
        "MODE",
        "SELECTS",
        "FILE",
        "STATE",
    ]);
    for p in view.policies.iter() {
        table.row([
            p.namespace.clone().unwrap_or_default(),
            p.name.clone(),
            p.kind.clone(),
            p.rules.to_string(),
            match p.enforcement {
                Enforcement::Enforce => "enforce".into(),
                Enforcement::Shadow => "shadow".into(),
            },
            match p.selects.is_empty() {
                // It is about those outside.
                true if p.kind == "DenyList" => "outside devices".into(),
                true => "nothing here".into(),
                false => p.selects.join(","),
            },
            p.file.clone(),
            p.state.to_string(),
        ]);
    }
    table.or_if_empty("No policies: nothing is in default deny. Put YAML into the policies folder.")
}
