//! `tidegate fqdn list`

use tidegate_api::client::{Client, ClientError};
use tidegate_observe::directory::LearnedName;

use super::{
    ask::{Output, print_json, print_text},
    table::Table,
};

pub(super) async fn list(client: &Client, output: Output) -> Result<(), ClientError> {
    let learned: Vec<LearnedName> = client.get("/v1/fqdn").await?;
    if output == Output::Json {
        return print_json(&learned);
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "SECONDS LEFT"]);
    for learned in learned {
        let left = match learned.ttl_seconds {
            // Opens nothing new; flows that are there go on, and are called by it.
            0 => "expired".to_owned(),
            left => left.to_string(),
        };
        table.row([learned.name, learned.address.to_string(), left]);
    }
    print_text(
        &table.or_if_empty("No names learned: no allowed DNS answer has passed the proxy yet."),
    )
}
