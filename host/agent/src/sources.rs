//! Where events come from: folders, addresses of the node, time.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tidegate_config::{Addresses, Config, Vendor};
use tidegate_control::event::{Event, NodeDevices};
use tidegate_policy::Source;
use tidegate_sources::{
    News,
    burst::Burst,
    folder::{Origins, QUIET, Scanner, VENDOR, Watched},
    secrets::Secrets,
    watch::{Nudge, Watch},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

/// Folders are looked at this often even if nobody says they changed: network file
/// systems tell nothing.
const RESCAN: Duration = Duration::from_secs(3);

/// Nudges that may wait. More are lost, which costs no more than a wait of [`QUIET`].
const NUDGES: usize = 1_024;

/// What a vendor's folder says: folders to be looked at, or news of there being none.
pub(super) fn vendor(vendor: &Vendor) -> Result<Watched, News> {
    match vendor {
        Vendor::At(root) => Ok(Watched::vendor(root)),
        Vendor::None => Err(News::All(BTreeMap::new())),
        Vendor::Unsaid => Err(News::Unnamed(
            "tidegate.yaml does not say `folders.vendor` any more; what that folder said stays \
             in force: name it again, or write `folders.vendor: none` to remove what it said"
                .to_owned(),
        )),
    }
}

/// The event that says so.
pub(super) fn no_vendor(news: News) -> Event {
    Event::Told(Source::named(VENDOR), news)
}

/// Sends a scan of a source's folders at once and whenever they may have changed. `rescan`
/// asks for one now. Ends when nobody listens any more.
pub(super) async fn folders(
    watched: Watched,
    origins: Origins,
    mut rescan: mpsc::Receiver<()>,
    events: mpsc::Sender<Event>,
) {
    let (nudge, mut nudges) = mpsc::channel(NUDGES);
    let mut watch = match Watch::new(&watched, nudge) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(%error, "cannot watch folders; they are scanned every {RESCAN:?} instead");
            None
        }
    };
    let source = watched.source().clone();
    let mut scanner = Scanner::new(watched, &origins);
    let mut last = None;
    loop {
        let scan = scanner.scan(SystemTime::now()).clone();
        let wait = if scan.unsettled { QUIET } else { RESCAN };
        if last.as_ref() != Some(&scan) {
            last = Some(scan.clone());
            if events
                .send(Event::Scanned(source.clone(), scan))
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::select! {
            // Without a watch the channel is closed and this arm is off.
            Some(nudge) = nudges.recv() => settle(nudge, &mut nudges, &mut scanner).await,
            asked = rescan.recv() => if asked.is_none() { return },
            () = sleep(wait) => {}
        }
        if let Some(watch) = &mut watch {
            watch.refresh();
        }
    }
}

/// Lets a burst of notifications pass, so that files written together are seen
/// together; a steady stream does not hold the scan up for longer than a moment.
async fn settle(first: Nudge, nudges: &mut mpsc::Receiver<Nudge>, scanner: &mut Scanner) {
    let deadline = Instant::now() + 4 * QUIET;
    let mut burst = Burst::default();
    scanner.hear(&first);
    burst.take(first);
    while Instant::now() < deadline {
        tokio::select! {
            // What is known already belongs to it.
            biased;
            nudge = nudges.recv() => match nudge {
                Some(nudge) => {
                    scanner.hear(&nudge);
                    burst.take(nudge);
                }
                None => break,
            },
            () = sleep_until(deadline.min(Instant::now() + burst.wait())) => break,
        }
    }
    burst.complete().for_each(|file| scanner.complete(file));
}

/// How often certificates and keys are looked at. Two looks have to agree: a chain and its
/// key are seldom written in one moment.
const SECRETS: Duration = Duration::from_millis(250);
/// How often they are told of though nothing has changed: time passes for certificates.
const TIME_PASSES: Duration = Duration::from_secs(3_600);

/// What the folder of certificates and keys holds.
pub(super) fn secrets(folder: &Path) -> Secrets {
    tidegate_sources::secrets::scan(folder)
}

/// Tells of the folder of certificates and keys, once it is other than `told` and stays so.
/// Ends when nobody listens any more.
pub(super) async fn watch_secrets(folder: PathBuf, mut told: Secrets, events: mpsc::Sender<Event>) {
    let mut last = told.clone();
    let mut at = Instant::now();
    loop {
        sleep(SECRETS).await;
        let from = folder.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || secrets(&from)).await else {
            continue;
        };
        let settled = now == last;
        if settled && (now != told || at.elapsed() > TIME_PASSES) {
            told = now.clone();
            at = Instant::now();
            if events.send(Event::Secrets(now.clone())).await.is_err() {
                return;
            }
        }
        last = now;
    }
}

/// Addresses with the identity `host`.
pub(super) fn node_addresses(configured: &Addresses) -> Vec<IpAddr> {
    match configured {
        Addresses::List(list) => list.clone(),
        Addresses::Auto => {
            let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
                return Vec::new();
            };
            let addresses = interfaces.filter_map(|interface| interface.address);
            let mut addresses: Vec<IpAddr> = addresses
                .filter_map(
                    |address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                        _ => None,
                    },
                )
                .filter(is_routable)
                .collect();
            addresses.sort();
            addresses.dedup();
            addresses
        }
    }
}

/// Devices that no workload is behind, and why: loopback, the declared outside devices,
/// bridges, and what default routes lead through.
pub(super) fn node_devices(config: &Config, bridges: Vec<String>) -> NodeDevices {
    let mut devices = BTreeMap::new();
    for device in default_route_devices() {
        devices.insert(
            device,
            "a default route of the node leads through it".to_owned(),
        );
    }
    for device in &config.node.outside_devices {
        devices.insert(
            device.clone(),
            "it leads outside (node.outsideDevices)".to_owned(),
        );
    }
    let networks = networks_behind(&devices);
    let loopback = "it is the node's loopback device".to_owned();
    devices.insert("lo".to_owned(), loopback);
    for name in bridges {
        let bridge = "it is a bridge; its ports are workloads'".to_owned();
        devices.entry(name).or_insert(bridge);
    }
    NodeDevices {
        own: devices,
        networks,
    }
}

/// Networks right behind these devices, by their addresses.
fn networks_behind(devices: &BTreeMap<String, String>) -> BTreeMap<IpNet, String> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeMap::new();
    };
    let of_devices = interfaces.filter(|i| devices.contains_key(&i.interface_name));
    let networks = of_devices.filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        let v4 = address.as_sockaddr_in().zip(mask.as_sockaddr_in());
        let v6 = address.as_sockaddr_in6().zip(mask.as_sockaddr_in6());
        let (address, mask): (IpAddr, IpAddr) = match (v4, v6) {
            (Some((address, mask)), _) => (address.ip().into(), mask.ip().into()),
            (_, Some((address, mask))) => (address.ip().into(), mask.ip().into()),
            _ => return None,
        };
        let network = IpNet::with_netmask(address, mask).ok()?.trunc();
        let is_network = network.prefix_len() < network.max_prefix_len();
        (is_network && is_routable(&address)).then_some((network, interface.interface_name))
    });
    networks.collect()
}

/// `/proc/net/route` (device, destination in hex, …, mask) and `/proc/net/ipv6_route`
/// (destination, prefix length, …, device): proc_pid_net(5).
fn default_route_devices() -> Vec<String> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let v4 = read("/proc/thread-self/net/route");
    let v6 = read("/proc/thread-self/net/ipv6_route");
    let v4 = v4.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_default = words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000");
        is_default.then(|| words[0].to_owned())
    });
    let v6 = v6.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_default = words.get(1) == Some(&"00") && words[0].bytes().all(|b| b == b'0');
        is_default.then(|| words.last().map(|device| (*device).to_owned()))?
    });
    // The kernel keeps a rejecting default route on `lo`.
    v4.chain(v6).filter(|device| device != "lo").collect()
}

/// Loopback and link-local addresses are everybody's, not this node's alone.
fn is_routable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}
