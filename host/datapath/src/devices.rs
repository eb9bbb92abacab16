//! News of the node's devices and of what leads to them, from rtnetlink.

use std::io;

use futures_util::StreamExt as _;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::sync::mpsc;

/// Sends when links, their filters, addresses, default routes or routing rules of this network
/// namespace may have changed, and once when it begins to listen: what changed before is
/// nobody's news. A full channel already holds the news. Ends with the netlink connection.
pub async fn watch_devices(changed: mpsc::Sender<()>) -> io::Result<()> {
    let groups = [
        MulticastGroup::Link,
        // Filters that may write over tags.
        MulticastGroup::Tc,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, _handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    let _ = changed.try_send(());
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_filter_is_news() {
        let run = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
            let tc = |line: &str| {
                let status = Command::new("tc")
                    .args(line.split(' '))
                    .status()
                    .expect("tc");
                assert!(status.success(), "{line}");
            };
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (changed, mut news) = mpsc::channel(1);
                tc("qdisc add dev lo clsact");
                let watch = tokio::spawn(watch_devices(changed));
                let limit = std::time::Duration::from_secs(5);
                let begun = tokio::time::timeout(limit, news.recv()).await;
                assert_eq!(begun, Ok(Some(())), "it listens");
                let heard = async {
                    loop {
                        tc("filter add dev lo ingress protocol all u32 match u32 0 0 flowid 1:5");
                        let limit = std::time::Duration::from_millis(100);
                        if let Ok(Some(())) = tokio::time::timeout(limit, news.recv()).await {
                            return;
                        }
                    }
                };
                let limit = std::time::Duration::from_secs(5);
                let heard = tokio::time::timeout(limit, heard).await;
                assert!(heard.is_ok(), "no word of a filter");
                watch.abort();
            });
        };
        if let Err(panic) = std::thread::spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    }
}
