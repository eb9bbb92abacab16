//! `tidegate fqdn list`

use std::net::IpAddr;

use super::{
    ask::{Output, print_json, print_text},
    client::{Client, ClientError},
    table::Table,
};

pub(super) async fn list(client: &Client, output: Output) -> Result<(), ClientError> {
    let learned: Vec<(IpAddr, String, u64)> = client.get("/v1/fqdn").await?;
    if output == Output::Json {
        return print_json(&learned);
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "SECONDS LEFT"]);
    for (address, name, left) in learned {
        table.row([name, address.to_string(), left.to_string()]);
    }
    print_text(
        &table.or_if_empty("No names learned: no allowed DNS answer has passed the proxy yet."),
    )
}
