//! News of the node's devices and of what leads to them, from rtnetlink.

use std::io;

use futures_util::StreamExt as _;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::sync::mpsc;

/// Sends when links, addresses, default routes or routing rules of this network
/// namespace may have changed; a full channel already holds the news. Ends with the
/// netlink connection.
pub async fn watch_devices(changed: mpsc::Sender<()>) -> io::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, _handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    while let Some((message, _)) = messages.next().await {
        if matters(&message) {
            let _ = changed.try_send(());
        }
    }
    connection.abort();
    Ok(())
}

/// Routers change routes by the thousand; only default ones say what is outside.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => route.header.destination_prefix_length == 0,
        _ => true,
    }
}
