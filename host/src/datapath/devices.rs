//! News of the node's devices, from rtnetlink.

use std::io;

use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;

/// Sends when links or addresses of this network namespace may have changed; a full
/// channel already holds the news. Ends with the netlink connection.
pub async fn watch_devices(changed: mpsc::Sender<()>) -> io::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, _handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    while messages.next().await.is_some() {
        let _ = changed.try_send(());
    }
    connection.abort();
    Ok(())
}
