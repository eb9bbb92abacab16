//! Random frames: mostly well-formed conversations between the addresses of a
//! [`World`](super::world::World), some mangled, some garbage.

use std::net::IpAddr;

use super::{
    random::Random,
    world::{self, PORTS},
};

/// What a frame is built from.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: u8,
    /// Source port, or ICMP type and code.
    pub src_port: [u8; 2],
    /// Destination port, or ICMP identifier.
    pub dst_port: [u8; 2],
    /// TCP flags.
    pub tcp_flags: u8,
    /// TCP sequence and acknowledgment numbers.
    pub numbers: (u32, u32),
    /// Is its frame for more than one neighbour?
    pub group: bool,
}

/// Where a piece begins and ends, and whether more come.
pub type Cut = (usize, usize, bool);

/// Numbers around those that ends acknowledge, and far from them.
const NUMBERS: [u32; 6] = [0, 1, 1000, 1 << 22, 1 << 31, u32::MAX];

const ADDRESSES: [&str; 15] = [
    "10.0.0.10",
    "10.0.0.11",
    "10.0.0.10",
    "10.0.0.1",
    "192.0.2.9",
    "198.51.100.7",
    "fd00::10",
    "fd00::11",
    "fd00::10",
    "fd00::1",
    "2001:db8::7",
    // For more than one neighbour, and one that no endpoint declares.
    "10.0.0.255",
    "ff05::2",
    "fe80::9",
    "ff02::16",
];

impl Spec {
    /// A random packet.
    pub fn random(random: &mut Random) -> Self {
        let src: IpAddr = random.pick(&ADDRESSES).parse().expect("literal");
        let dst = loop {
            let dst: IpAddr = random.pick(&ADDRESSES).parse().expect("literal");
            if dst.is_ipv4() == src.is_ipv4() {
                break dst;
            }
        };
        let icmp = if src.is_ipv4() { 1 } else { 58 };
        let protocol = random.pick(&[6, 6, 6, 17, 17, icmp, icmp, 132, 59 - icmp, 47]);
        let (src_port, dst_port) = if protocol == 1 || protocol == 58 {
            let kind = random.pick(&[8, 8, 0, 128, 128, 129, 3, 11, 1, 2, 13, 133, 135, 136, 143]);
            ([kind, 0], [0, random.pick(&[1, 2])])
        } else {
            (
                random.pick(&PORTS).to_be_bytes(),
                random.pick(&PORTS).to_be_bytes(),
            )
        };
        Self {
            src,
            dst,
            protocol,
            src_port,
            dst_port,
            tcp_flags: random.pick(&[2, 2, 2, 16, 24, 17, 18, 4, 20]),
            numbers: (random.pick(&NUMBERS), random.pick(&NUMBERS)),
            group: random.one_in(2),
        }
    }

    /// Another packet of the same conversation.
    pub fn next(&self, random: &mut Random) -> Self {
        let mut next = self.clone();
        next.tcp_flags = random.pick(&[2, 16, 16, 24, 17, 17, 18, 4]);
        next.numbers = (random.pick(&NUMBERS), random.pick(&NUMBERS));
        if random.one_in(2) {
            (next.src, next.dst) = (self.dst, self.src);
            match self.protocol {
                1 => next.src_port[0] ^= 8,
                58 => next.src_port[0] ^= 1,
                _ => (next.src_port, next.dst_port) = (self.dst_port, self.src_port),
            }
        }
        next
    }

    /// The node's NAT on the way: another destination, source, or both.
    pub fn translate(&mut self, random: &mut Random) {
        let v4 = self.src.is_ipv4();
        let pick = |random: &mut Random| loop {
            let addr: IpAddr = random.pick(&ADDRESSES).parse().expect("literal");
            if addr.is_ipv4() == v4 {
                break addr;
            }
        };
        if !random.one_in(3) {
            self.dst = pick(random);
            if self.protocol != 1 && self.protocol != 58 {
                self.dst_port = random.pick(&PORTS).to_be_bytes();
            }
        }
        if random.one_in(3) {
            self.src = pick(random);
        }
    }

    /// The packet in two or three fragments: in order or not, complete or not, and at times
    /// one that would overwrite what came before.
    pub fn fragments(&self, random: &mut Random, id: u8) -> Vec<Vec<u8>> {
        let (data, cuts) = self.cuts(random);
        let cuts = cuts.into_iter();
        cuts.map(|cut| self.piece(random, &data, cut, id)).collect()
    }

    /// What is in the packet, and where it is cut.
    pub fn cuts(&self, random: &mut Random) -> (Vec<u8>, Vec<Cut>) {
        let whole = self.ip(random, false);
        let mut data = whole[self.fixed()..].to_vec();
        data.extend(random.bytes(64));
        // Too short for some protocols' headers at times.
        let first = random.pick(&[8, 16, 24, 24, 32, 32, 40]);
        let second = first + random.pick(&[8, 16]);
        let mut pieces = vec![
            (0, first, true),
            (first, second, true),
            (second, data.len(), false),
        ];
        if random.one_in(4) {
            pieces.push((random.pick(&[8, 16]), 40, true));
        }
        if random.one_in(5) {
            let at = random.below(pieces.len());
            pieces.swap(0, at);
        }
        if random.one_in(8) {
            pieces.remove(random.below(pieces.len()));
        }
        if random.one_in(8) {
            // All of it, said to be a fragment: for IPv6 that has a meaning of its own.
            pieces.insert(0, (0, data.len(), false));
        }
        (data, pieces)
    }

    /// A piece of the packet, from these ends.
    pub fn piece(&self, random: &mut Random, data: &[u8], cut: Cut, id: u8) -> Vec<u8> {
        let (start, end, more) = cut;
        let fixed = self.fixed();
        let mut data = data.to_vec();
        if self.protocol != 1 && self.protocol != 58 {
            data[..2].copy_from_slice(&self.src_port);
            data[2..4].copy_from_slice(&self.dst_port);
        }
        let mut ip = self.header(random, &data, false)[..fixed].to_vec();
        {
            if self.src.is_ipv4() {
                let field = (start / 8) as u16 | if more { 0x2000 } else { 0 };
                ip[2..4].copy_from_slice(&((fixed + end - start) as u16).to_be_bytes());
                ip[4..6].copy_from_slice(&[0, id]);
                ip[6..8].copy_from_slice(&field.to_be_bytes());
            } else {
                let field = start as u16 | u16::from(more);
                ip[4..6].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
                let next = std::mem::replace(&mut ip[6], 44);
                let [high, low] = field.to_be_bytes();
                ip.extend([next, 0, high, low, 0, 0, 0, id]);
            }
            ip.extend(&data[start..end]);
            self.frame(&ip)
        }
    }

    /// Bytes of the header that each fragment has.
    fn fixed(&self) -> usize {
        if self.src.is_ipv4() { 20 } else { 40 }
    }

    /// An ICMP error about this packet, from whoever is in the way.
    pub fn error(&self, random: &mut Random) -> Vec<u8> {
        let kind = if self.src.is_ipv4() {
            random.pick(&[3, 11, 5])
        } else {
            random.pick(&[1, 2, 3])
        };
        let fancy = random.one_in(3);
        let inner = self.ip(random, fancy);
        let mut error = Self {
            src: self.dst,
            dst: if random.one_in(6) { self.dst } else { self.src },
            protocol: if self.src.is_ipv4() { 1 } else { 58 },
            src_port: [kind, 0],
            dst_port: [0, 0],
            tcp_flags: 0,
            numbers: (0, 0),
            group: self.group,
        };
        if random.one_in(3) {
            error.src = if self.src.is_ipv4() {
                "192.0.2.1"
            } else {
                "2001:db8::1"
            }
            .parse()
            .expect("literal");
        }
        let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(&inner[..inner.len().min(64)]);
        error.frame(&error.header(random, &payload, false))
    }

    /// The frame.
    pub fn build(&self, random: &mut Random) -> Vec<u8> {
        let fancy = random.one_in(4);
        let ip = self.ip(random, fancy);
        let mut frame = self.frame(&ip);
        if random.one_in(12) {
            // Something is off: a byte, or the end.
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        if random.one_in(16) {
            frame.truncate(14 + random.below(frame.len() - 13));
        }
        frame
    }

    /// The frame, well-formed and without anything unusual.
    pub fn plain(&self, random: &mut Random) -> Vec<u8> {
        self.frame(&self.ip(random, false))
    }

    fn frame(&self, ip: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame[0] |= u8::from(self.group);
        frame.extend(if self.src.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(ip);
        frame
    }

    fn ip(&self, random: &mut Random, fancy: bool) -> Vec<u8> {
        let mut transport = Vec::new();
        match self.protocol {
            6 => {
                transport.extend(self.src_port);
                transport.extend(self.dst_port);
                transport.extend(self.numbers.0.to_be_bytes());
                transport.extend(self.numbers.1.to_be_bytes());
                transport.extend([0x50, self.tcp_flags]);
                transport.extend([0xff, 0xff, 0, 0, 0, 0]);
            }
            1 | 58 => {
                transport.extend(self.src_port);
                transport.extend([0, 0]);
                transport.extend(self.dst_port);
                transport.extend([0, 1]);
                if (self.protocol, self.src_port[0]) == (58, 136) {
                    let target: IpAddr = random.pick(&ADDRESSES[5..]).parse().expect("literal");
                    transport.extend(world::addr(target).0);
                }
            }
            _ => {
                transport.extend(self.src_port);
                transport.extend(self.dst_port);
                transport.extend([0, 8, 0, 0, 0, 0, 0, 0]);
            }
        }
        let payload = random.below(40);
        transport.extend(random.bytes(payload));
        self.header(random, &transport, fancy)
    }

    fn header(&self, random: &mut Random, transport: &[u8], fancy: bool) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let options = if fancy { 4 * random.below(11) } else { 0 };
                let fragment: u16 = if fancy {
                    random.pick(&[0, 0, 0x2000, 0x2010, 7])
                } else {
                    0
                };
                let total = (20 + options + transport.len()) as u16;
                let mut ip = vec![0x45 + (options / 4) as u8, 0];
                ip.extend(total.to_be_bytes());
                ip.extend([0, 1]);
                ip.extend(fragment.to_be_bytes());
                ip.extend([64, self.protocol, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(vec![1; options]);
                ip.extend(transport);
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut next = self.protocol;
                let mut body = transport.to_vec();
                for _ in 0..if fancy { random.below(6) } else { 0 } {
                    let kind = random.pick(&[0, 43, 60, 60, 44]);
                    body = extension(random, kind, next, &body);
                    next = kind;
                }
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((body.len() as u16).to_be_bytes());
                ip.push(next);
                ip.push(random.pick(&[64, 255]));
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(body);
                ip
            }
            _ => Vec::new(),
        }
    }
}

fn extension(random: &mut Random, kind: u8, next: u8, body: &[u8]) -> Vec<u8> {
    let mut header = if kind == 44 {
        let offset: u16 = random.pick(&[0, 1, 8 << 3]);
        let [high, low] = offset.to_be_bytes();
        vec![next, 0, high, low, 0, 0, 0, 1]
    } else {
        let units = random.pick(&[0, 0, 1, 9]);
        let mut header = vec![next, units];
        header.resize((usize::from(units) + 1) * 8, 0);
        header
    };
    header.extend(body);
    header
}

/// A question for an address, or an answer to one (DHCP).
pub fn lease(random: &mut Random) -> Spec {
    let (src, dst, ports) = random.pick(&[
        ("0.0.0.0", "255.255.255.255", [68, 67]),
        ("10.0.0.1", "255.255.255.255", [67, 68]),
        ("10.0.0.1", "10.0.0.11", [67, 68]),
        ("192.0.2.9", "10.0.0.10", [67, 68]),
        ("fe80::9", "ff02::1:2", [546, 547]),
        ("fe80::7", "fe80::9", [547, 546]),
        // And what is none.
        ("10.0.0.1", "10.0.0.11", [67, 53]),
        ("fe80::9", "ff02::1:2", [547, 546]),
        ("10.0.0.11", "10.0.0.10", [67, 68]),
    ]);
    let [src_port, dst_port] = ports.map(u16::to_be_bytes);
    Spec {
        src: src.parse().expect("literal"),
        dst: dst.parse().expect("literal"),
        protocol: 17,
        src_port,
        dst_port,
        tcp_flags: 0,
        numbers: (0, 0),
        group: dst.starts_with("ff") || dst.starts_with("255"),
    }
}

/// Bytes that are not even trying.
pub fn garbage(random: &mut Random) -> Vec<u8> {
    let len = 14 + random.below(300);
    let mut frame = random.bytes(len);
    let ethertype = random.pick(&[
        [8, 0],
        [8, 0],
        [0x86, 0xdd],
        [0x86, 0xdd],
        [8, 6],
        [0x81, 0],
    ]);
    frame[12..14].copy_from_slice(&ethertype);
    if len > 14 && random.one_in(2) {
        frame[14] = random.pick(&[0x45, 0x60, 0x4f]);
    }
    frame
}
