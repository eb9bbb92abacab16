//! Links: which program runs where. Every link is pinned, so what it attached
//! stays when the agent ends, and a new agent only swaps the program behind it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use tidegate_bpf::{
    link::{self, AttachType, LinkInfo},
    map, pin,
};
use tidegate_ebpf_shared::maps::program;

use super::{DatapathError, bpffs, loader::Programs, place, turn};

/// Links that one audit looks at: about a microsecond each.
const AUDITED: usize = 4_096;
/// Pins that one audit looks at, each by its path: what they keep is in force as long as the
/// agent runs.
const PINS_AUDITED: usize = 128;

/// Every program with the hook it is made for. Links are replaced in this order,
/// so that what a steered flow meets late is new before what it meets early.
const HOOKS: [(&str, AttachType); 23] = [
    (program::PICK_LISTENER, AttachType::SkLookup),
    (program::TO_SOCKET, AttachType::CgroupIngress),
    (program::SOCKOPS, AttachType::SockOps),
    (program::FIRST_BYTES, AttachType::SkMsg),
    (program::RECVMSG4, AttachType::RecvMsg4),
    (program::RECVMSG6, AttachType::RecvMsg6),
    (program::GETPEERNAME4, AttachType::GetPeerName4),
    (program::GETPEERNAME6, AttachType::GetPeerName6),
    (program::CONNECT4, AttachType::Connect4),
    (program::CONNECT6, AttachType::Connect6),
    (program::SENDMSG4, AttachType::SendMsg4),
    (program::SENDMSG6, AttachType::SendMsg6),
    (program::OPEN_SOCKET, AttachType::SockCreate),
    (program::HOST_PACKET, AttachType::CgroupEgress),
    (program::TO_ENDPOINT, AttachType::TcxEgress),
    (program::HANDED_UP, AttachType::TcxIngress),
    (program::FROM_ENDPOINT, AttachType::TcxIngress),
    (program::TO_OUTSIDE, AttachType::TcxEgress),
    (program::TO_OUTSIDE_IP, AttachType::TcxEgress),
    (program::FROM_OUTSIDE, AttachType::TcxIngress),
    (program::FROM_OUTSIDE_IP, AttachType::TcxIngress),
    (program::DENY_LIST, AttachType::Xdp),
    (program::DENY_LIST_IP, AttachType::Xdp),
];

/// The programs of a cgroup, in the order they are attached: answers are
/// translated before questions are.
pub(super) const CGROUP_PROGRAMS: [&str; 12] = [
    program::TO_SOCKET,
    program::SOCKOPS,
    program::RECVMSG4,
    program::RECVMSG6,
    program::GETPEERNAME4,
    program::GETPEERNAME6,
    program::CONNECT4,
    program::CONNECT6,
    program::SENDMSG4,
    program::SENDMSG6,
    program::OPEN_SOCKET,
    program::HOST_PACKET,
];

/// How the deny list runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// What a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A device, by index.
    Device(u32),
    /// A device's driver or generic XDP hook.
    Xdp(u32, XdpMode),
    /// A cgroup.
    Cgroup(place::Cgroup),
    /// The agent's network namespace, by inode.
    Namespace(u32),
    /// A socket map, by the kernel's id.
    SocketMap(u32),
}

impl Place {
    /// Name of the pin. No dots: bpffs reserves them.
    fn pin_name(&self, program: &str) -> String {
        match self {
            Self::Device(index) => format!("{program}-{index}"),
            Self::Xdp(index, XdpMode::Native) => format!("{program}-{index}-native"),
            Self::Xdp(index, XdpMode::Generic) => format!("{program}-{index}-generic"),
            Self::Cgroup(_) | Self::Namespace(_) | Self::SocketMap(_) => program.to_owned(),
        }
    }

    /// Is a link with this information attached here? A link outlives its device
    /// or cgroup, attached to nothing.
    fn is_of(&self, link: &LinkInfo) -> bool {
        match self {
            Self::Device(index) | Self::Xdp(index, _) => link.ifindex() == *index,
            Self::Cgroup(cgroup) => link.cgroup() == cgroup.id,
            Self::Namespace(inode) => link.netns() == *inode,
            Self::SocketMap(id) => link.map() == *id,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(index) => write!(f, "device {index}"),
            Self::Xdp(index, XdpMode::Native) => write!(f, "device {index} (native XDP)"),
            Self::Xdp(index, XdpMode::Generic) => write!(f, "device {index} (generic XDP)"),
            Self::Cgroup(cgroup) => write!(f, "cgroup {}", cgroup.path.display()),
            Self::Namespace(_) => f.write_str("the network namespace"),
            Self::SocketMap(_) => f.write_str("its socket map"),
        }
    }
}

/// The pinned links of this node.
pub(super) struct Links {
    folder: PathBuf,
    held: BTreeMap<String, OwnedFd>,
    /// Names of the link and of the pin at which the last audit ended.
    audited: [String; 2],
}

impl Links {
    /// Takes over the links found in `folder` and puts the new programs behind
    /// them, each between two packets. Links that are attached to nothing any more,
    /// or whose program no longer exists, are removed.
    pub(super) fn adopt(folder: &Path, programs: &Programs) -> Result<Self, DatapathError> {
        let mut links = Self {
            folder: folder.to_owned(),
            held: BTreeMap::new(),
            audited: Default::default(),
        };
        let mut names = bpffs::names(folder).map_err(|source| DatapathError::Bpffs {
            action: "list the pins in",
            path: folder.to_owned(),
            source,
        })?;
        names.sort_by_key(|name| {
            HOOKS
                .iter()
                .position(|(program, _)| *program == program_of(name))
        });
        for name in names {
            let path = folder.join(&name);
            let link = pin::open(&path).map_err(|source| DatapathError::Bpffs {
                action: "open the pinned link",
                path: path.clone(),
                source,
            })?;
            let hook = HOOKS
                .iter()
                .find(|(program, _)| *program == program_of(&name));
            let alive = LinkInfo::of(link.as_fd()).is_ok_and(|info| info.is_attached());
            let (Some((program, _)), true) = (hook, alive) else {
                drop_link(&path, &link);
                continue;
            };
            link::update(link.as_fd(), programs.get(program)?.fd.as_fd()).map_err(|source| {
                DatapathError::Attach {
                    program,
                    place: format!("where {} is pinned", path.display()),
                    source,
                }
            })?;
            links.held.insert(name, link);
        }
        Ok(links)
    }

    /// Makes sure that `program` runs at `place`. Says whether it had to be attached.
    pub(super) fn ensure(
        &mut self,
        programs: &Programs,
        program: &'static str,
        place: &Place,
    ) -> Result<bool, DatapathError> {
        let name = place.pin_name(program);
        if let Some(link) = self.held.get(&name) {
            if LinkInfo::of(link.as_fd()).is_ok_and(|info| place.is_of(&info)) {
                return Ok(false);
            }
            self.remove(&name);
        }
        let failed = |source| DatapathError::Attach {
            program,
            place: place.to_string(),
            source,
        };
        let code = programs.get(program)?.fd.as_fd();
        let link = create(code, program, place).map_err(failed)?;
        pin::make(link.as_fd(), &self.folder.join(&name)).map_err(failed)?;
        self.held.insert(name, link);
        Ok(true)
    }

    /// Looks at what the kernel has of every link. One that somebody else detached is let
    /// go, so that it is attached anew; one whose pin was removed, and so would end with
    /// this process, is pinned again; one that somebody gave another program gets ours
    /// back. Returns what was found, in words.
    ///
    /// A round looks at [`AUDITED`] of them and at [`PINS_AUDITED`] pins; the next one goes
    /// on where it ended.
    pub(super) fn audit(&mut self, programs: &Programs) -> Vec<String> {
        let [links, pins] = [(0, AUDITED), (1, PINS_AUDITED)].map(|(which, most)| {
            let round = turn::next(self.held.keys(), &self.audited[which], most);
            self.audited[which] = round.last().cloned().unwrap_or_default();
            round
        });
        let mut found = Vec::new();
        for name in links {
            found.extend(self.audit_link(&name, programs));
        }
        for name in pins {
            found.extend(self.audit_pin(&name));
        }
        found
    }

    fn audit_link(&mut self, name: &str, programs: &Programs) -> Option<String> {
        let link = self.held.get(name)?;
        let info = LinkInfo::of(link.as_fd()).ok()?;
        let program = program_of(name);
        if !info.is_attached() {
            // A device that went took its programs along: that is not somebody's doing.
            let target_is_gone =
                device_of(name).is_some_and(|i| place::interface_name(i).is_none());
            self.remove(name);
            return (!target_is_gone)
                .then(|| format!("{program} was detached from {}", where_is(name)));
        }
        let ours = HOOKS.iter().find(|(hook, _)| *hook == program);
        let ours = ours.and_then(|(hook, _)| programs.get(hook).ok())?;
        let replaced =
            info.program != ours.id && link::update(link.as_fd(), ours.fd.as_fd()).is_ok();
        replaced.then(|| format!("{program} was replaced on {}", where_is(name)))
    }

    fn audit_pin(&self, name: &str) -> Option<String> {
        let link = LinkInfo::of(self.held.get(name)?.as_fd()).ok()?;
        let pinned = pin::open(&self.folder.join(name))
            .and_then(|pin| LinkInfo::of(pin.as_fd()))
            .is_ok_and(|pin| pin.id == link.id);
        (!pinned && self.pin_again(name)).then(|| {
            format!(
                "the pin of {} on {} was removed",
                program_of(name),
                where_is(name)
            )
        })
    }

    fn pin_again(&self, name: &str) -> bool {
        let path = self.folder.join(name);
        // What stands in its place, if anything, is not ours.
        let _ = fs::remove_file(&path);
        let _ = fs::create_dir_all(&self.folder);
        let link = self.held.get(name);
        link.is_some_and(|link| pin::make(link.as_fd(), &path).is_ok())
    }

    /// Is a link of `program` at `place` held, if only as one that was taken over?
    pub(super) fn has(&self, program: &str, place: &Place) -> bool {
        self.held.contains_key(&place.pin_name(program))
    }

    /// Detaches `program` from `place`, if it is there.
    pub(super) fn detach(&mut self, program: &str, place: &Place) {
        self.remove(&place.pin_name(program));
    }

    /// Device indices where any of `programs` is attached.
    pub(super) fn devices(&self, programs: &[&str]) -> BTreeSet<u32> {
        self.held
            .keys()
            .filter(|name| programs.contains(&program_of(name)))
            .filter_map(|name| device_of(name))
            .collect()
    }

    /// Where `program` runs, in words: what the kernel says, not what was once done.
    /// `devices` has the names of devices by index.
    pub(super) fn places(&self, program: &str, devices: &HashMap<u32, &str>) -> Vec<String> {
        let place = |name: &str| match device_of(name).and_then(|index| devices.get(&index)) {
            Some(device) => (*device).to_owned(),
            None => where_is(name),
        };
        self.held
            .iter()
            .filter(|(name, _)| program_of(name) == program)
            .filter(|(_, link)| LinkInfo::of(link.as_fd()).is_ok_and(|info| info.is_attached()))
            .map(|(name, _)| place(name))
            .collect()
    }

    fn remove(&mut self, name: &str) {
        if let Some(link) = self.held.remove(name) {
            drop_link(&self.folder.join(name), &link);
        }
    }
}

/// Is it the name that the kernel has of one of our programs?
pub(super) fn is_ours(name: &str) -> bool {
    HOOKS.iter().any(|(program, _)| *program == name)
}

/// Device indices where an earlier agent left any of `programs`, by their pins in `folder`.
pub(super) fn pinned_devices(folder: &Path, programs: &[&str]) -> io::Result<BTreeSet<u32>> {
    let names = bpffs::names(folder)?;
    let of_these = names
        .iter()
        .filter(|name| programs.contains(&program_of(name)));
    Ok(of_these.filter_map(|name| device_of(name)).collect())
}

/// Program a pin belongs to: the name up to the device.
fn program_of(pin: &str) -> &str {
    pin.split('-').next().unwrap_or(pin)
}

/// Device a pin belongs to, if it belongs to one.
fn device_of(pin: &str) -> Option<u32> {
    pin.split('-').nth(1)?.parse().ok()
}

/// Where a pinned link is attached, for people.
fn where_is(pin: &str) -> String {
    match device_of(pin) {
        Some(index) => {
            place::interface_name(index).unwrap_or_else(|| format!("device {index} (gone)"))
        }
        None => "node".to_owned(),
    }
}

/// A program's hook, for people.
pub(super) fn hook_name(program: &str) -> &'static str {
    let hook = HOOKS.iter().find(|(name, _)| *name == program);
    match hook.map(|(_, attach_type)| attach_type) {
        Some(AttachType::SockOps) => "cgroup sockops",
        Some(AttachType::SkMsg) => "sk_msg",
        Some(AttachType::SockCreate) => "cgroup sock_create",
        Some(AttachType::CgroupIngress) => "cgroup ingress",
        Some(AttachType::CgroupEgress) => "cgroup egress",
        Some(AttachType::Connect4) => "cgroup connect4",
        Some(AttachType::Connect6) => "cgroup connect6",
        Some(AttachType::SendMsg4) => "cgroup sendmsg4",
        Some(AttachType::SendMsg6) => "cgroup sendmsg6",
        Some(AttachType::RecvMsg4) => "cgroup recvmsg4",
        Some(AttachType::RecvMsg6) => "cgroup recvmsg6",
        Some(AttachType::GetPeerName4) => "cgroup getpeername4",
        Some(AttachType::GetPeerName6) => "cgroup getpeername6",
        Some(AttachType::SkLookup) => "sk_lookup",
        Some(AttachType::Xdp) => "xdp",
        Some(AttachType::TcxIngress) => "tcx ingress",
        Some(AttachType::TcxEgress) => "tcx egress",
        None => "none",
    }
}

/// Detaches and unpins. Both are tried whatever the other says: a link whose
/// device is gone cannot be detached, and one without a pin need not be unpinned.
fn drop_link(path: &Path, link: &OwnedFd) {
    let _ = link::detach(link.as_fd());
    let _ = fs::remove_file(path);
}

fn create(code: std::os::fd::BorrowedFd<'_>, program: &str, place: &Place) -> io::Result<OwnedFd> {
    let attach_type = HOOKS
        .iter()
        .find(|(name, _)| *name == program)
        .map(|(_, attach_type)| *attach_type)
        .ok_or(io::ErrorKind::NotFound)?;
    match place {
        Place::Device(index) => link::create(code, *index, attach_type, link::TCX_FIRST),
        Place::Xdp(index, mode) => {
            let flags = match mode {
                XdpMode::Native => link::XDP_NATIVE,
                XdpMode::Generic => link::XDP_GENERIC,
            };
            link::create(code, *index, attach_type, flags)
        }
        Place::Cgroup(cgroup) => {
            let folder = cgroup.open()?;
            link::create(code, link::target(&folder), attach_type, 0)
        }
        Place::Namespace(_) => {
            let (_, namespace) = place::network_namespace()?;
            link::create(code, link::target(&namespace), attach_type, 0)
        }
        Place::SocketMap(id) => {
            let map = map::by_id(*id)?;
            link::create(code, link::target(&map), attach_type, 0)
        }
    }
}

/// Detaches and unpins every link in a folder, whoever made it.
pub(super) fn remove_all(folder: &Path) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Bpffs {
        action: "remove the links in",
        path: folder.to_owned(),
        source,
    };
    for name in bpffs::names(folder).map_err(failed)? {
        let path = folder.join(name);
        if let Ok(link) = pin::open(&path) {
            let _ = link::detach(link.as_fd());
        }
        fs::remove_file(&path).map_err(failed)?;
    }
    Ok(())
}
