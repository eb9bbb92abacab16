//! Questions to the kernel's routing and devices.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
        rule::RuleMessage,
        tc::{TcAttribute, TcHandle, TcMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// Where filters of incoming packets are, under either of the two qdiscs that have them
/// (`TC_H_CLSACT` with `TC_H_MIN_INGRESS`, linux/pkt_sched.h).
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff2,
};

/// A blocking rtnetlink conversation with the kernel.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers within the call; a limit all the same.
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::from(libc::timeval {
                tv_sec: Duration::from_secs(5).as_secs() as i64,
                tv_usec: 0,
            }),
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        self.sequence += 1;
        message.header.sequence_number = self.sequence;
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Hands the messages of the answer to `each` until the kernel says it is done.
    fn receive(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                // Messages are aligned to four bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or(&[]);
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
                if length == 0 {
                    return Err(io::Error::other("empty netlink message"));
                }
            }
        }
    }

    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_ACK)?;
        self.receive(|_| ())
    }

    pub(super) fn routes(&mut self, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        self.send(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP)?;
        let mut routes = Vec::new();
        self.receive(|message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                routes.push(route);
            }
        })?;
        Ok(routes)
    }

    pub(super) fn rules(&mut self, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
        let mut question = RuleMessage::default();
        question.header.family = family;
        self.send(RouteNetlinkMessage::GetRule(question), NLM_F_DUMP)?;
        let mut rules = Vec::new();
        self.receive(|message| {
            if let RouteNetlinkMessage::NewRule(rule) = message {
                rules.push(rule);
            }
        })?;
        Ok(rules)
    }

    /// Every device of the namespace. Their statistics, which take the kernel longest, are
    /// left out.
    pub(super) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let mut question = LinkMessage::default();
        let without_statistics = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        question.attributes.push(without_statistics);
        let question = RouteNetlinkMessage::GetLink(question);
        self.send(question, NLM_F_DUMP)?;
        let mut links = Vec::new();
        self.receive(|message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.push(link);
            }
        })?;
        Ok(links)
    }

    /// Kinds of the classic `tc` filters that see what a device takes in.
    pub(super) fn ingress_filters(&mut self, device: u32) -> io::Result<BTreeSet<String>> {
        let mut question = TcMessage::with_index(i32::try_from(device).map_err(io::Error::other)?);
        question.header.parent = INGRESS;
        self.send(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP)?;
        let mut kinds = BTreeSet::new();
        self.receive(|message| {
            if let RouteNetlinkMessage::NewTrafficFilter(filter) = message {
                let kind = filter.attributes.into_iter().find_map(|it| match it {
                    TcAttribute::Kind(kind) => Some(kind),
                    _ => None,
                });
                kinds.insert(kind.unwrap_or_else(|| "of some kind".to_owned()));
            }
        })?;
        Ok(kinds)
    }

    /// How what the node sends to an address would go; `None` if there is no way.
    pub(super) fn way_to(&mut self, address: IpAddr) -> io::Result<Option<Way>> {
        let mut question = RouteMessage::default();
        let (family, bits, to) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = bits;
        question.attributes = vec![RouteAttribute::Destination(to)];
        let mut way = None;
        let sent = self.send(RouteNetlinkMessage::GetRoute(question), NLM_F_ACK);
        let answer = sent.and_then(|()| {
            self.receive(|message| {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    way = Way::of(&route);
                }
            })
        });
        let unreachable = [libc::ENETUNREACH, libc::EHOSTUNREACH];
        match answer {
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|e| unreachable.contains(&e)) =>
            {
                Ok(None)
            }
            other => other.map(|()| way),
        }
    }
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Device it begins with.
    pub(super) device: u32,
    /// To the address itself there, not to a router.
    pub(super) direct: bool,
}

impl Way {
    fn of(route: &RouteMessage) -> Option<Self> {
        let mut way = None;
        let mut direct = true;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(device) => way = Some(*device),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => direct = false,
                _ => {}
            }
        }
        Some(Self {
            device: way?,
            direct,
        })
    }
}
