//! `tidegate service list`

use std::net::SocketAddr;

use tidegate_control::view::{BackendView, View};
use tidegate_policy::compiled::Algorithm;

use super::table::Table;

pub(super) fn render(view: &View) -> String {
    let mut table = Table::new(&["NAME", "FRONTEND", "PROTOCOL", "ALGORITHM", "BACKENDS"]);
    for s in view.services.iter() {
        table.row([
            s.name.clone(),
            SocketAddr::new(s.addr, s.port).to_string(),
            tidegate_policy::protocol::name(s.protocol).to_ascii_lowercase(),
            match s.algorithm {
                Algorithm::Random => "random".into(),
                Algorithm::Maglev => "maglev".into(),
            },
            s.backends
                .iter()
                .map(backend)
                .collect::<Vec<_>>()
                .join(", "),
        ]);
    }
    table.or_if_empty("No services. Declare them as YAML in the services folder.")
}

fn backend(b: &BackendView) -> String {
    let address = SocketAddr::new(b.addr, b.port);
    let weight = match b.weight {
        0 | 1 => String::new(),
        weight => format!(" weight {weight}"),
    };
    match &b.unusable {
        None => format!("{address}{weight}"),
        Some(why) => format!("{address}{weight} (unusable: {why})"),
    }
}
