//! The topology: a node that routes between its workloads and an outside world.
//!
//! ```text
//!   frontend ── veth ──┐
//!   backend  ── veth ──┤ node 10.10.0.1 ── uplink 192.0.2.1 ── 192.0.2.100 outside
//!   …        ── veth ──┘      fd10::1            2001:db8:2::1  2001:db8:2::100
//! ```
//!
//! Workloads have one IPv4 and one IPv6 address, without a subnet, and reach
//! everything through the node, as pods do.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    path::PathBuf,
};

use anyhow::Context;

use super::{
    node::Node,
    place::Place,
    tag::{self, Reaper, Tag},
};

/// The node's own addresses, as workloads see it.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
/// See [`NODE_V4`].
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 1);
/// The outside world's end of the uplink.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// See [`OUTSIDE_V4`].
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100);
/// The node's device that leads outside.
pub const UPLINK: &str = "uplink";

/// The node's addresses on [`BRIDGE`], as workloads there see it.
pub const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// See [`BRIDGE_V4`].
pub const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1);
/// The node's bridge, once a workload is on it.
pub const BRIDGE: &str = "br0";

/// Everything a test has. Dropping it removes everything.
pub struct World {
    tag: Tag,
    /// The machine under test.
    pub node: Node,
    /// What is beyond its uplink.
    pub outside: Place,
    workloads: Vec<Workload>,
    reaper: Reaper,
    kept: bool,
}

/// A network namespace behind a veth of the node.
#[derive(Clone, Debug)]
pub struct Workload {
    place: Place,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The node's end of its veth.
    pub interface: String,
}

impl Deref for Workload {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Workload {
    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Programs started here from now on ask this DNS server.
    pub fn set_resolver(&mut self, server: impl std::fmt::Display) -> anyhow::Result<()> {
        self.place.set_resolver(server)
    }
}

impl World {
    /// A node and an outside world, nothing else yet. Sweeps away what dead owners
    /// left behind first.
    pub fn new() -> anyhow::Result<Self> {
        tag::sweep().context("cannot remove what an earlier run left behind")?;
        let tag = Tag::fresh();
        fs::create_dir_all(tag.dir())?;
        let reaper = Reaper::watch(&tag)?;
        let node = Place::create(&tag, "node")?;
        let outside = Place::create(&tag, "outside")?;
        connect(&node, &outside)?;
        Ok(Self {
            node: Node::new(node, tag.dir(), tag.cgroup()?)?,
            outside,
            tag,
            workloads: Vec::new(),
            reaper,
            kept: false,
        })
    }

    /// Folder for files, logs and the node's bpffs.
    pub fn dir(&self) -> PathBuf {
        self.tag.dir()
    }

    /// Adds a workload.
    pub fn workload(&mut self, name: &str) -> anyhow::Result<Workload> {
        let number = u8::try_from(self.workloads.len() + 10).context("too many workloads")?;
        let place = Place::create(&self.tag, name)?;
        let workload = Workload {
            v4: Ipv4Addr::new(10, 10, 0, number),
            v6: Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, number.into()),
            interface: format!("tg-{name}"),
            place,
        };
        self.plug(&workload)?;
        self.workloads.push(workload.clone());
        Ok(workload)
    }

    /// Adds a workload whose veth is a port of the node's bridge, as container engines
    /// do it: it has a subnet with its neighbours there.
    pub fn bridged(&mut self, name: &str) -> anyhow::Result<Workload> {
        let node = self.node.place();
        if node.configure(&[format!("link show {BRIDGE}")]).is_err() {
            node.configure(&[
                format!("link add {BRIDGE} type bridge"),
                format!("link set {BRIDGE} up"),
                format!("address add {BRIDGE_V4}/24 dev {BRIDGE}"),
                format!("address add {BRIDGE_V6}/64 dev {BRIDGE} nodad"),
            ])?;
            self.outside.configure(&[
                "route add 10.20.0.0/24 via 192.0.2.1".to_owned(),
                "route add fd20::/64 via 2001:db8:2::1 dev node".to_owned(),
            ])?;
        }
        let number = u8::try_from(self.workloads.len() + 10).context("too many workloads")?;
        let workload = Workload {
            v4: Ipv4Addr::new(10, 20, 0, number),
            v6: Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, number.into()),
            interface: format!("tg-{name}"),
            place: Place::create(&self.tag, name)?,
        };
        let Workload {
            v4, v6, interface, ..
        } = &workload;
        self.node.place().configure(&[
            format!(
                "link add {interface} type veth peer name eth0 netns {}",
                workload.netns()
            ),
            format!("link set {interface} master {BRIDGE} up"),
        ])?;
        workload.configure(&[
            "link set eth0 up".to_owned(),
            format!("address add {v4}/24 dev eth0"),
            format!("address add {v6}/64 dev eth0 nodad"),
            format!("route add default via {BRIDGE_V4}"),
            format!("route add default via {BRIDGE_V6}"),
        ])?;
        self.workloads.push(workload.clone());
        Ok(workload)
    }

    /// An address of the outside world's own, beyond its end of the uplink.
    pub fn outside_address(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        self.outside
            .configure(&[format!("address add {address}/32 dev lo")])
    }

    /// Leaves everything up when this value goes; `cargo xtask demo --stop` removes it.
    pub fn keep(mut self) -> anyhow::Result<()> {
        self.tag.keep()?;
        self.kept = true;
        Ok(())
    }

    /// Makes a workload's veth anew, as a container engine does when it starts it again:
    /// the same name and addresses, another device.
    pub fn plug_again(&self, workload: &Workload) -> anyhow::Result<()> {
        let remove = format!("link delete {}", workload.interface);
        self.node.place().configure(&[remove])?;
        self.plug(workload)
    }

    /// Makes a workload's veth and routes.
    fn plug(&self, workload: &Workload) -> anyhow::Result<()> {
        let Workload {
            v4, v6, interface, ..
        } = workload;
        self.node.place().configure(&[
            format!(
                "link add {interface} type veth peer name eth0 netns {}",
                workload.netns()
            ),
            format!("link set {interface} up"),
            // The workload's gateway: neighbour discovery answers for addresses of the
            // device itself only.
            format!("address add fe80::1/64 dev {interface} nodad"),
            format!("route add {v4}/32 dev {interface}"),
            format!("route add {v6}/128 dev {interface}"),
        ])?;
        workload.configure(&[
            "link set eth0 up".to_owned(),
            format!("address add {v4}/32 dev eth0"),
            format!("address add {v6}/128 dev eth0 nodad"),
            format!("route add {NODE_V4} dev eth0 scope link"),
            format!("route add default via {NODE_V4}"),
            "route add default via fe80::1 dev eth0".to_owned(),
        ])
    }
}

/// The uplink, and the node as a router.
fn connect(node: &Place, outside: &Place) -> anyhow::Result<()> {
    node.sysctl(&[
        "net/ipv4/ip_forward=1",
        "net/ipv6/conf/all/forwarding=1",
        "net/ipv4/conf/all/rp_filter=0",
        "net/ipv4/conf/default/rp_filter=0",
    ])?;
    node.configure(&[
        format!("address add {NODE_V4}/32 dev lo"),
        format!("address add {NODE_V6}/128 dev lo"),
        format!(
            "link add {UPLINK} type veth peer name node netns {}",
            outside.netns()
        ),
        format!("link set {UPLINK} up"),
        format!("address add 192.0.2.1/24 dev {UPLINK}"),
        format!("address add 2001:db8:2::1/64 dev {UPLINK} nodad"),
        format!("route add default via {OUTSIDE_V4}"),
        format!("route add default via {OUTSIDE_V6} dev {UPLINK}"),
    ])?;
    outside.configure(&[
        "link set node up".to_owned(),
        format!("address add {OUTSIDE_V4}/24 dev node"),
        format!("address add {OUTSIDE_V6}/64 dev node nodad"),
        "route add 10.10.0.0/24 via 192.0.2.1".to_owned(),
        "route add fd10::/64 via 2001:db8:2::1 dev node".to_owned(),
    ])
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.node.print_logs();
        }
        if self.kept {
            self.reaper.dismiss();
            self.node.detach();
            return;
        }
        // Removed here, so that the next world starts on a clean machine; should that
        // fail, the reaper tries again when this process ends.
        match self.tag.remove() {
            Ok(()) => self.reaper.dismiss(),
            Err(error) => eprintln!("lab: {error:#}"),
        }
    }
}
