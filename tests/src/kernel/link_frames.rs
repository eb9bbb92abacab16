//! Random frames of ARP, neighbour discovery, IGMP and MLD: as hosts and routers of a link
//! send them, and with something off.

use super::random::Random;

type Hardware = [u8; 6];

/// Who sends, and to whom besides everybody.
const FROM: Hardware = [2; 6];
const TO: Hardware = [2, 0, 0, 0, 0, 9];

/// One of them; half of the time something is off.
pub fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = match random.below(7) {
        0 | 1 => arp(random),
        2 | 3 => discovery(random),
        4 => igmp(random),
        5 => mld(random),
        _ => of_router(random),
    };
    match random.below(8) {
        // A bit, beyond the addresses at times.
        0 | 1 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        2 => frame.truncate(14 + random.below(frame.len() - 13)),
        3 => frame.extend(vec![0x55; 1 + random.below(24)]),
        // Padded as it should be, with whatever.
        4 | 5 if frame.len() < 60 => frame.resize(60, random.pick(&[0, 0x55])),
        _ => {}
    }
    frame
}

fn ethernet(random: &mut Random, group: Hardware, kind: [u8; 2]) -> Vec<u8> {
    let to = if random.one_in(3) { TO } else { group };
    [&to[..], &FROM, &kind].concat()
}

/// The first is of whom most of it comes.
const V4: [[u8; 4]; 8] = [
    [10, 0, 0, 10],
    [10, 0, 0, 10],
    [10, 0, 0, 10],
    [10, 0, 0, 11],
    [10, 0, 0, 1],
    [0; 4],
    // One that nobody has declared, and a group.
    [10, 0, 0, 77],
    [224, 0, 0, 251],
];

fn arp(random: &mut Random) -> Vec<u8> {
    let mut frame = ethernet(random, [0xff; 6], [8, 6]);
    let to: Hardware = [frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]];
    frame.extend([0, random.pick(&[1, 1, 1, 1, 6]), 8, 0, 6, 4]);
    frame.extend([0, random.pick(&[1, 1, 1, 2, 2, 3])]);
    frame.extend(random.pick(&[FROM, FROM, FROM, FROM, TO]));
    frame.extend(random.pick(&V4));
    frame.extend(random.pick(&[[0; 6], [0xff; 6], FROM, to, [7; 6]]));
    frame.extend(random.pick(&V4));
    frame
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>()
        .expect("literal")
        .octets()
}

const V6: [&str; 9] = [
    "fd00::10",
    "fd00::10",
    "fd00::10",
    "fd00::11",
    "fd00::1",
    "fe80::9",
    "::",
    // Nobody's: of the node's link, and outside.
    "fd00::77",
    "2001:db8::7",
];

/// An IPv6 packet in its frame.
fn ipv6(random: &mut Random, src: &str, dst: [u8; 16], next: u8, hops: u8, rest: &[u8]) -> Vec<u8> {
    let [.., a, b, c, d] = dst;
    let mut frame = ethernet(random, [0x33, 0x33, a, b, c, d], [0x86, 0xdd]);
    if dst[0] != 0xff {
        frame[..6].copy_from_slice(&TO);
    }
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((rest.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(v6(src));
    frame.extend(dst);
    frame.extend(rest);
    frame
}

fn discovery(random: &mut Random) -> Vec<u8> {
    let kind = random.pick(&[133, 135, 135, 135, 136, 136]);
    let (src, target) = (random.pick(&V6), v6(random.pick(&V6)));
    let mut message = vec![kind, 0, 0, 0];
    message.push(if kind == 136 {
        random.pick(&[0, 0x20, 0x60, 0xe0])
    } else {
        0
    });
    message.extend([0; 3]);
    if kind != 133 {
        message.extend(target);
    }
    let option = match (kind, src) {
        (135, "::") => 14,
        (136, _) => 2,
        _ => 1,
    };
    if random.one_in(2) {
        message.extend([random.pick(&[option, option, option, 1, 200]), 1]);
        message.extend(random.pick(&[FROM, FROM, FROM, TO]));
    }
    if random.one_in(12) {
        message.extend([200, 1, 0, 0, 0, 0, 0, 0]);
    }
    let [.., a, b, c] = target;
    let mut solicited = v6("ff02::1:ff00:0");
    solicited[13..].copy_from_slice(&[a, b, c]);
    let dst = match kind {
        _ if random.one_in(8) => v6(random.pick(&V6)),
        _ if random.one_in(12) => v6("ff02::77"),
        133 => v6("ff02::2"),
        135 if random.one_in(3) => target,
        135 => solicited,
        _ => random.pick(&[v6("ff02::1"), v6("ff02::2"), v6("fd00::11")]),
    };
    let hops = random.pick(&[255, 255, 255, 255, 64]);
    if random.one_in(12) {
        // Behind options that say nothing.
        let options = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
        return ipv6(random, src, dst, 60, hops, &options);
    }
    ipv6(random, src, dst, 58, hops, &message)
}

/// Group records with addresses of this length.
fn records(random: &mut Random, group: &[u8]) -> Vec<u8> {
    let count = random.pick(&[0, 1, 1, 2, 3, 40, 96, 97]);
    let mut bytes = (count as u16).to_be_bytes().to_vec();
    for _ in 0..count {
        let kind = 1 + random.below(if count < 4 { 7 } else { 6 }) as u8;
        let sources = random.pick(&[0, 0, 0, 1, 2]);
        bytes.extend([kind, u8::from(count < 4 && random.one_in(16)), 0, sources]);
        bytes.extend(group);
        bytes.extend(vec![5; usize::from(sources) * group.len()]);
    }
    bytes
}

/// An IPv4 packet of IGMP in its frame.
fn ipv4(random: &mut Random, src: [u8; 4], dst: [u8; 4], message: &[u8]) -> Vec<u8> {
    let [_, b, c, d] = dst;
    let mut frame = ethernet(random, [1, 0, 0x5e, b & 0x7f, c, d], [8, 0]);
    let options: &[u8] = random.pick(&[&[0x94, 4, 0, 0][..], &[0x94, 4, 0, 0], &[], &[1; 4]]);
    let length = (20 + options.len() + message.len()) as u16;
    frame.extend([0x45 + (options.len() / 4) as u8, 0xc0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, random.pick(&[0, 0x40, 0x40, 0x40, 0x20]), 0]);
    frame.extend([random.pick(&[1, 1, 1, 1, 2]), 2, 0, 0]);
    frame.extend(src);
    frame.extend(dst);
    frame.extend(options);
    frame.extend(message);
    frame
}

fn igmp(random: &mut Random) -> Vec<u8> {
    let src = random.pick(&V4);
    let group = random.pick(&[
        [224, 0, 0, 251],
        [239, 1, 2, 3],
        [239, 1, 2, 3],
        [10, 0, 0, 11],
    ]);
    let kind = random.pick(&[0x12, 0x16, 0x17, 0x22, 0x22, 0x22, 0x13]);
    let mut message = vec![kind, 0, 0, 0];
    let dst = if kind == 0x22 {
        message.extend([0, 0]);
        message.extend(records(random, &group));
        [224, 0, 0, 22]
    } else {
        message.extend(group);
        if kind == 0x17 { [224, 0, 0, 2] } else { group }
    };
    let dst = if random.one_in(8) {
        [10, 0, 0, 11]
    } else {
        dst
    };
    ipv4(random, src, dst, &message)
}

/// The option Router Alert (RFC 2711), and what follows it.
fn behind_alert(random: &mut Random, message: &[u8]) -> Vec<u8> {
    let padding = random.pick(&[1, 1, 1, 0, 2]);
    [&[58, 0, 5, 2, 0, 0, padding, 0], message].concat()
}

fn mld(random: &mut Random) -> Vec<u8> {
    let src = random.pick(&["fe80::9", "fe80::9", "::", "fd00::10"]);
    let group = v6(random.pick(&["ff02::fb", "ff05::2", "ff0e::1:2", "fd00::11"]));
    let kind = random.pick(&[131, 131, 132, 143, 143]);
    let mut message = vec![kind, 0, 0, 0, 0, 0];
    let dst = if kind == 143 {
        message.extend(records(random, &group));
        v6("ff02::16")
    } else {
        message.extend([0, 0]);
        message.extend(group);
        if kind == 132 { v6("ff02::2") } else { group }
    };
    let dst = if random.one_in(8) {
        v6("fd00::11")
    } else {
        dst
    };
    let rest = behind_alert(random, &message);
    let next = random.pick(&[0, 0, 0, 0, 0, 60]);
    let hops = random.pick(&[1, 1, 1, 1, 64]);
    ipv6(random, src, dst, next, hops, &rest)
}

/// Queries, router advertisements, redirects: by a router, or by who wants to be one.
fn of_router(random: &mut Random) -> Vec<u8> {
    if random.one_in(3) {
        let dst = random.pick(&[[224, 0, 0, 1], [239, 1, 2, 3], [10, 0, 0, 11]]);
        let mut message = vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
        message.truncate(random.pick(&[8, 12]));
        let src = random.pick(&V4);
        return ipv4(random, src, dst, &message);
    }
    let src = random.pick(&["fe80::9", "fe80::9", "fe80::9", "fd00::10", "2001:db8::7"]);
    let dst = v6(random.pick(&["ff02::1", "ff02::1", "ff05::2", "fe80::7", "fd00::11"]));
    let (kind, hops) = random.pick(&[(130, 1), (134, 255), (134, 255), (137, 255)]);
    let hops = random.pick(&[hops, hops, hops, 64]);
    let message = [&[kind, 0, 0, 0][..], &[0; 24]].concat();
    if kind == 130 {
        let rest = behind_alert(random, &message);
        return ipv6(random, src, dst, 0, hops, &rest);
    }
    ipv6(random, src, dst, 58, hops, &message)
}
