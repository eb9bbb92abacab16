//! `tidegate service list`

use std::net::SocketAddr;

use tidegate_control::view::View;
use tidegate_policy::compiled::{Algorithm, BackendState, CompiledBackend};

use super::table::Table;

pub(super) fn render(view: &View) -> String {
    let mut table = Table::new(&["NAME", "FRONTEND", "PROTOCOL", "ALGORITHM", "BACKENDS"]);
    for s in &view.services {
        table.row([
            s.name.clone(),
            SocketAddr::new(s.addr, s.port).to_string(),
            match s.protocol {
                6 => "tcp".into(),
                17 => "udp".into(),
                other => other.to_string(),
            },
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

fn backend(b: &CompiledBackend) -> String {
    let state = match b.state {
        BackendState::Active => "",
        BackendState::Terminating => " (terminating)",
        BackendState::Quarantined => " (quarantined)",
        BackendState::Maintenance => " (maintenance)",
    };
    let weight = if b.weight == 1 {
        String::new()
    } else {
        format!(" weight {}", b.weight)
    };
    format!("{}{weight}{state}", SocketAddr::new(b.addr, b.port))
}
