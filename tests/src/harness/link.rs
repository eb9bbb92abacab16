//! Frames of ARP and ICMPv6 as a program with a packet socket makes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::place::Place;

/// A hardware address.
pub type Hardware = [u8; 6];

/// That of all neighbours.
pub const EVERYBODY: Hardware = [0xff; 6];

/// Sends the frames it is given, one after the other.
const SEND: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for frame in sys.argv[1:]:
    s.send(bytes.fromhex(frame))
"#;

/// Sends frames by `eth0` of a place, in this order.
///
/// # Errors
///
/// If they cannot be sent.
pub fn send(place: &Place, frames: &[Vec<u8>]) -> anyhow::Result<()> {
    let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let frames: Vec<String> = frames.iter().map(hex).collect();
    let mut arguments = vec!["-c", SEND];
    arguments.extend(frames.iter().map(String::as_str));
    let output = place.run("/usr/bin/python3", &arguments)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// The hardware address of a device.
///
/// # Errors
///
/// If there is no such device.
pub fn hardware(place: &Place, device: &str) -> anyhow::Result<Hardware> {
    let link = place.run("ip", &["-json", "link", "show", device])?;
    let link: Value = serde_json::from_slice(&link.stdout)?;
    let text = link[0]["address"].as_str().context("no address")?;
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|it| u8::from_str_radix(it, 16))
        .collect();
    bytes?.try_into().ok().context("no hardware address")
}

/// What an ARP packet says (RFC 826).
#[derive(Clone, Copy)]
pub struct Arp {
    /// Kind of hardware: 1 for Ethernet.
    pub space: u8,
    /// 1 for a request, 2 for a reply.
    pub operation: u8,
    /// Who says it.
    pub sender: (Hardware, Ipv4Addr),
    /// To whom.
    pub target: (Hardware, Ipv4Addr),
}

impl Arp {
    /// A request for whoever has `target`.
    pub fn ask(sender: Hardware, address: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            space: 1,
            operation: 1,
            sender: (sender, address),
            target: ([0; 6], target),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, self.space, 8, 0, 6, 4, 0, self.operation];
        bytes.extend(self.sender.0);
        bytes.extend(self.sender.1.octets());
        bytes.extend(self.target.0);
        bytes.extend(self.target.1.octets());
        bytes
    }
}

/// A frame of ARP, with whatever follows.
pub fn arp(from: Hardware, to: Hardware, arp: &[u8], behind: &[u8]) -> Vec<u8> {
    [&to, &from, &[8, 6][..], arp, behind].concat()
}

/// A frame of ICMPv6. Its checksum is whatever the message says.
pub fn icmp6(
    (from, src): (Hardware, Ipv6Addr),
    (to, dst): (Hardware, Ipv6Addr),
    message: &[u8],
    behind: &[u8],
) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(message);
    frame.extend(behind);
    frame
}

/// A message of neighbour discovery (RFC 4861 §4.3, §4.4): type, first byte of the flags,
/// target, options.
pub fn discovery(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [
        &[kind, 0, 0, 0, flags, 0, 0, 0],
        &target.octets()[..],
        options,
    ]
    .concat()
}

/// The group that the host with this address listens to (RFC 4291 §2.7.1), and its hardware
/// address (RFC 2464 §7).
pub fn solicited_node(target: Ipv6Addr) -> (Hardware, Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    ([0x33, 0x33, 0xff, a, b, c], group)
}
