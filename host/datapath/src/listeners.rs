//! Where steered flows go: the proxy's listeners, one per class and CPU.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::sys::socket::{SockaddrStorage, getsockname};
use tidegate_contract::ListenerInfo;
use tidegate_ebpf_shared::{limits::MAX_CPUS, steer::class};

use super::{Datapath, DatapathError};

impl Datapath {
    /// Makes these the listeners, and no others: places without one are emptied, and
    /// what needs the proxy is refused there. Host sockets are steered to the first
    /// CPU's listener of their class, by its port.
    pub fn set_listeners(
        &mut self,
        listeners: &[(ListenerInfo, BorrowedFd<'_>)],
    ) -> Result<(), DatapathError> {
        let mut places = BTreeMap::new();
        let mut ports = [None; class::COUNT as usize];
        let mut listeners = listeners.to_vec();
        listeners.sort_by_key(|(info, _)| (info.class, info.cpu));
        for (info, fd) in &listeners {
            let refused = |reason: String| DatapathError::Listener {
                class: info.class,
                cpu: info.cpu,
                reason,
            };
            if info.class >= class::COUNT || info.cpu >= MAX_CPUS {
                return Err(refused("there is no place for it".into()));
            }
            let port = local_port(*fd).map_err(refused)?;
            places.insert(info.class * MAX_CPUS + info.cpu, fd.as_raw_fd() as u32);
            ports[info.class as usize].get_or_insert(port);
        }
        let places = dealt(places);
        for place in 0..class::COUNT * MAX_CPUS {
            match places.get(&place) {
                Some(fd) => self.tables.listeners.put(&place, fd)?,
                None => self.tables.listeners.delete(&place).map(drop)?,
            }
        }
        self.configure(|config| {
            config.host_listener = ports.map(|port| port.unwrap_or(0u16).to_be_bytes());
        })
    }
}

/// The listeners at every place of their class where it is the flow that says which:
/// any place may be asked for, and the workers share them evenly.
fn dealt(places: BTreeMap<u32, u32>) -> BTreeMap<u32, u32> {
    let mut dealt = places.clone();
    for of in [class::UDP4, class::UDP6] {
        let range = of * MAX_CPUS..(of + 1) * MAX_CPUS;
        let listeners: Vec<u32> = places.range(range.clone()).map(|(_, fd)| *fd).collect();
        dealt.extend(range.zip(listeners.into_iter().cycle()));
    }
    dealt
}

fn local_port(fd: BorrowedFd<'_>) -> Result<u16, String> {
    let address: SockaddrStorage =
        getsockname(fd.as_raw_fd()).map_err(|errno| format!("no local address: {errno}"))?;
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Ok(v4.port()),
        (_, Some(v6)) => Ok(v6.port()),
        _ => Err("not an internet socket".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_of_datagrams_has_a_worker() {
        let at = |class: u32, place: u32| class * MAX_CPUS + place;
        let given = BTreeMap::from([
            (at(class::TCP4, 3), 30),
            (at(class::UDP4, 3), 40),
            (at(class::UDP4, 7), 41),
        ]);
        let dealt = dealt(given);
        let of = |class: u32| -> Vec<u32> {
            let range = at(class, 0)..at(class + 1, 0);
            dealt.range(range).map(|(_, fd)| *fd).collect()
        };
        assert_eq!(of(class::TCP4), [30]);
        assert_eq!(of(class::UDP4), [40, 41].repeat(MAX_CPUS as usize / 2));
        assert_eq!(of(class::UDP6), [0; 0]);
    }
}
