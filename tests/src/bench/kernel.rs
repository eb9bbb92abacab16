//! Cost of the packet programs: nanoseconds a packet, as ratios to an empty program
//! run in the same round, so that a busy machine moves both.

use anyhow::{Result, ensure};
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix, proto},
    endpoint::EndpointInfo,
    identity::{AddrInfo, reserved},
    maps::{map, program},
    mark,
    policy::{PolicyEntry, PolicyKey, direction, verdict},
};

use super::{
    empty::{Empty, ProgramKind},
    row::Row,
};
use crate::kernel::{
    frames::Spec,
    model::{DROP, NEXT},
    object::{LOOPBACK, Object, TCX},
    random::Random,
    world::addr,
};

/// Rounds; each takes every row and its baseline once.
const ROUNDS: usize = 15;
/// Runs of a program per round.
const REPEAT: u32 = 100_000;
/// `XDP_PASS`.
const XDP_PASS: u32 = 2;
/// Prefixes on the deny list while XDP is measured.
const DENY_PREFIXES: u32 = 10_000;

const WORKLOAD: u32 = 10;
const POLICY: u32 = 1;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A frame through a program, and the code and mark that prove it took the way meant.
struct Path {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    mark: u32,
    code: u32,
    mark_after: u32,
}

/// Measures all rows. Needs root; attaches nothing.
pub fn run() -> Result<Vec<Row>> {
    let mut names = TCX.to_vec();
    names.push(program::DENY_LIST);
    let mut object = Object::load(&names)?;
    prepare(&mut object)?;
    let empty_tcx = Empty::load(ProgramKind::BPF_PROG_TYPE_SCHED_CLS, -1)?;
    let empty_xdp = Empty::load(ProgramKind::BPF_PROG_TYPE_XDP, XDP_PASS as i32)?;
    let paths = paths();
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..ROUNDS {
        for (path, samples) in paths.iter().zip(&mut samples) {
            let (empty, code) = if path.program == program::DENY_LIST {
                (&empty_xdp, XDP_PASS)
            } else {
                (&empty_tcx, NEXT)
            };
            let (got, baseline) = empty.run(&path.frame, REPEAT)?;
            ensure!(got == code, "an empty program returned {got}");
            samples.push((f64::from(measure(&object, path)?), f64::from(baseline)));
        }
    }
    Ok(paths
        .iter()
        .zip(samples)
        .map(|(path, samples)| row(path, &samples))
        .collect())
}

fn measure(object: &Object, path: &Path) -> Result<u32> {
    let run = if path.program == program::DENY_LIST {
        object.xdp(path.program, &path.frame, REPEAT)?
    } else {
        object.timed(path.program, &path.frame, path.mark, REPEAT)?
    };
    ensure!(
        (run.code, run.mark) == (path.code, path.mark_after),
        "{}: returned {:#x} with mark {:#x}",
        path.name,
        run.code,
        run.mark
    );
    Ok(run.nanoseconds)
}

/// One workload that may reach 80/tcp of anybody, and a long deny list.
fn prepare(object: &mut Object) -> Result<()> {
    object.set(map::GENERATION, 2_u32)?;
    let info = EndpointInfo {
        identity: 300,
        policy_id: [POLICY; 2],
        ..EndpointInfo::default()
    };
    object.hash(map::ENDPOINTS)?.insert(WORKLOAD, info, 0)?;
    object
        .hash(map::INTERFACES)?
        .insert(LOOPBACK, WORKLOAD, 0)?;
    for own in ["10.0.0.10", "fd00::10"] {
        let key = AddrPrefix {
            prefix_len: 128,
            addr: addr(own.parse()?),
        };
        let info = AddrInfo {
            identity: 300,
            endpoint: WORKLOAD,
        };
        object.set_prefix(map::IPCACHE, key, info)?;
    }
    let row = PolicyKey {
        prefix_len: PolicyKey::ROW,
        policy_id: POLICY.to_be_bytes(),
        identity: reserved::ANY.to_be_bytes(),
        direction: direction::EGRESS,
        protocol: 0,
        port: [0; 2],
    };
    object.set_policy(row, PolicyEntry::default())?;
    let web = PolicyKey {
        prefix_len: PolicyKey::FULL,
        protocol: proto::TCP,
        port: 80_u16.to_be_bytes(),
        ..row
    };
    let allow = PolicyEntry {
        verdict: verdict::ALLOW,
        shadow_verdict: verdict::ALLOW,
        ..PolicyEntry::default()
    };
    object.set_policy(web, allow)?;
    for i in 0..DENY_PREFIXES {
        let [_, _, high, low] = i.to_be_bytes();
        let key = AddrPrefix {
            prefix_len: Addr::V4_PREFIX_BITS + 24,
            addr: Addr::v4([100, high, low, 0]),
        };
        object.set_prefix(map::DENY_LIST, key, i)?;
    }
    Ok(())
}

fn paths() -> Vec<Path> {
    let checked = |name, frame, code, mark_after| Path {
        name,
        program: program::FROM_ENDPOINT,
        frame,
        mark: 0,
        code,
        mark_after,
    };
    vec![
        checked(
            "established flow, IPv4",
            frame("10.0.0.10", "192.0.2.7", 80, ACK),
            NEXT,
            mark::CHECKED,
        ),
        checked(
            "established flow, IPv6",
            frame("fd00::10", "2001:db8::7", 80, ACK),
            NEXT,
            mark::CHECKED,
        ),
        // A SYN that also resets ends its flow at once, so each opens a new one. The
        // event ring is soon full: events are counted, not built.
        checked(
            "new flow, IPv4 (event ring full)",
            frame("10.0.0.10", "192.0.2.8", 80, SYN | RST),
            NEXT,
            mark::CHECKED,
        ),
        checked(
            "denied packet, IPv4 (no event)",
            frame("10.0.0.10", "192.0.2.9", 81, SYN),
            DROP,
            0,
        ),
        Path {
            name: "already checked, to a workload",
            program: program::TO_ENDPOINT,
            frame: frame("192.0.2.7", "10.0.0.10", 80, ACK),
            mark: mark::CHECKED,
            code: NEXT,
            mark_after: mark::CHECKED,
        },
        Path {
            name: "XDP pass, 10,000 prefixes",
            program: program::DENY_LIST,
            frame: frame("192.0.2.7", "10.0.0.10", 80, ACK),
            mark: 0,
            code: XDP_PASS,
            mark_after: 0,
        },
    ]
}

fn frame(src: &str, dst: &str, port: u16, tcp_flags: u8) -> Vec<u8> {
    let spec = Spec {
        src: src.parse().expect("literal"),
        dst: dst.parse().expect("literal"),
        protocol: proto::TCP,
        src_port: 40_000_u16.to_be_bytes(),
        dst_port: port.to_be_bytes(),
        tcp_flags,
        numbers: (1, 0),
        group: false,
    };
    spec.plain(&mut Random::new(1))
}

fn row(path: &Path, samples: &[(f64, f64)]) -> Row {
    let baseline = if path.program == program::DENY_LIST {
        "empty XDP program"
    } else {
        "empty tcx program"
    };
    let own: Vec<f64> = samples.iter().map(|sample| sample.0).collect();
    // The clock of a test run counts whole nanoseconds.
    let base: Vec<f64> = samples.iter().map(|sample| sample.1.max(1.0)).collect();
    Row::new(path.name, baseline, "ns", &own, &base)
}
