//! Loading the object and running its packet programs.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, MapData, PerCpuArray, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{Program, SchedClassifier, SkLookup, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use tidegate_bpf::testing;
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    event::{Counter, Event},
    maps::{map, program},
    policy::{PolicyEntry, PolicyKey},
};

/// Interface index of the loopback device, where test runs take place.
pub const LOOPBACK: u32 = 1;

/// Capacity of the flow and name tables in tests.
const FLOWS: u32 = 1024;
/// Bytes of each ring in tests.
const RING: u32 = 64 << 10;

/// Programs that see a frame, with which a test run is possible.
pub const TCX: [&str; 6] = [
    program::FROM_ENDPOINT,
    program::TO_ENDPOINT,
    program::FROM_OUTSIDE,
    program::TO_OUTSIDE,
    program::FROM_OUTSIDE_IP,
    program::TO_OUTSIDE_IP,
];

/// Bytes of a `struct bpf_sk_lookup` (linux/bpf.h).
pub const LOOKUP: usize = 72;

/// What a program made of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Return code.
    pub code: u32,
    /// Packet mark afterwards.
    pub mark: u32,
    /// Mean time of a run.
    pub nanoseconds: u32,
    /// Bytes of the frame afterwards.
    pub length: usize,
}

/// The loaded object.
pub struct Object {
    ebpf: Ebpf,
}

/// Where `cargo xtask build` leaves the object.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/artifacts/tidegate.bpf.o")
}

impl Object {
    /// Creates the maps and loads the named programs; the verifier sees them here.
    pub fn load(programs: &[&str]) -> Result<Self> {
        let path = path();
        let bytes = std::fs::read(&path)
            .with_context(|| format!("read {} (cargo xtask build makes it)", path.display()))?;
        let mut ebpf = EbpfLoader::new()
            // Walking a table, or mapping a ring, costs its capacity; tests do it all
            // the time.
            .map_max_entries(map::FLOWS, FLOWS)
            .map_max_entries(map::FRAGMENTS, FLOWS)
            .map_max_entries(map::FQDN, FLOWS)
            .map_max_entries(map::EVENTS, RING)
            .map_max_entries(map::DENIES, RING)
            .load(&bytes)
            .context("create the maps")?;
        for name in programs {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?;
            load(program).with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Names of all programs in the object.
    pub fn programs(&self) -> Vec<String> {
        let mut names: Vec<_> = self.ebpf.programs().map(|(name, _)| name.into()).collect();
        names.sort();
        names
    }

    /// Names of all maps in the object.
    pub fn maps(&self) -> Vec<String> {
        let mut names: Vec<_> = self.ebpf.maps().map(|(name, _)| name.into()).collect();
        names.sort();
        names
    }

    /// How many instructions the verifier walked to accept a loaded program: its time, and
    /// so the time an agent takes to start (`verified_insns`, `struct bpf_prog_info`).
    pub fn verified(&self, name: &str) -> Result<u32> {
        let count = self.program(name)?.info()?.verified_instruction_count();
        count.context("the kernel does not say how long a program took to verify")
    }

    /// Runs a tcx program over a frame that arrives with `mark`, `repeat` times.
    ///
    /// Returns code and mark.
    pub fn tcx(&self, name: &str, frame: &[u8], mark: u32, repeat: u32) -> Result<(u32, u32)> {
        let run = self.timed(name, frame, mark, repeat)?;
        Ok((run.code, run.mark))
    }

    /// As [`Self::tcx`] once, and the length of the frame afterwards.
    pub fn length(&self, name: &str, frame: &[u8], mark: u32) -> Result<((u32, u32), usize)> {
        let mut after = vec![0; frame.len()];
        let run = self.run(name, frame, Some(&mut after), mark, 1)?;
        Ok(((run.code, run.mark), run.length))
    }

    /// Descriptor of a loaded program.
    pub fn program_fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program: &SchedClassifier = self.program(name)?.try_into()?;
        Ok(program.fd()?.as_fd())
    }

    /// Asks the program that chooses a socket; true if it chose one, and its answer.
    ///
    /// `context` is a `struct bpf_sk_lookup`.
    pub fn lookup(&self, name: &str, context: &[u8; LOOKUP]) -> Result<(bool, u32)> {
        let program: &SkLookup = self.program(name)?.try_into()?;
        let mut context = *context;
        let run = testing::run(program.fd()?.as_fd(), &[], &mut context, 1)?;
        // The chosen socket's cookie, which is never 0, comes first.
        Ok((context[..8] != [0; 8], run.answer))
    }

    /// The same, with the time a run takes.
    pub fn timed(&self, name: &str, frame: &[u8], mark: u32, repeat: u32) -> Result<Run> {
        self.run(name, frame, None, mark, repeat)
    }

    fn run(
        &self,
        name: &str,
        frame: &[u8],
        data_out: Option<&mut [u8]>,
        mark: u32,
        repeat: u32,
    ) -> Result<Run> {
        let program: &SchedClassifier = self.program(name)?.try_into()?;
        // `struct __sk_buff`: 192 bytes, the mark at 8 (linux/bpf.h).
        let mut ctx = [0_u8; 192];
        ctx[8..12].copy_from_slice(&mark.to_ne_bytes());
        let mut after = [0_u8; 192];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out,
            ctx_in: Some(&ctx),
            ctx_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        })?;
        let mut mark = [0; 4];
        mark.copy_from_slice(&after[8..12]);
        Ok(Run {
            code: result.return_value,
            mark: u32::from_ne_bytes(mark),
            nanoseconds: result.duration.subsec_nanos(),
            length: result.data_size_out as usize,
        })
    }

    /// Runs an XDP program over a frame, `repeat` times.
    pub fn xdp(&self, name: &str, frame: &[u8], repeat: u32) -> Result<Run> {
        let program: &Xdp = self.program(name)?.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(Run {
            code: result.return_value,
            mark: 0,
            nanoseconds: result.duration.subsec_nanos(),
            length: result.data_size_out as usize,
        })
    }

    /// A hash map (LRU or not).
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.map(name)?)?)
    }

    /// Sets the only value of an array.
    pub fn set<V: Pod>(&mut self, name: &str, value: V) -> Result<()> {
        self.set_at(name, 0, value)
    }

    /// Sets a value of an array.
    pub fn set_at<V: Pod>(&mut self, name: &str, index: u32, value: V) -> Result<()> {
        let mut array: Array<_, V> = Array::try_from(self.map(name)?)?;
        Ok(array.set(index, value, 0)?)
    }

    /// Writes an entry of a table keyed by address prefix.
    pub fn set_prefix<V: Pod>(&mut self, name: &str, key: AddrPrefix, value: V) -> Result<()> {
        let mut trie: LpmTrie<_, Addr, V> = LpmTrie::try_from(self.map(name)?)?;
        let key = Key::new(key.prefix_len, key.addr);
        Ok(trie.insert(&key, value, 0)?)
    }

    /// Writes a policy entry.
    pub fn set_policy(&mut self, key: PolicyKey, value: PolicyEntry) -> Result<()> {
        Ok(self.policy()?.insert(&trie_key(key), value, 0)?)
    }

    /// Removes a policy entry.
    pub fn remove_policy(&mut self, key: PolicyKey) -> Result<()> {
        Ok(self.policy()?.remove(&trie_key(key))?)
    }

    fn policy(&mut self) -> Result<LpmTrie<&mut MapData, [u8; 12], PolicyEntry>> {
        Ok(LpmTrie::try_from(self.map(map::POLICY)?)?)
    }

    /// Sets which endpoint is behind the loopback device, where test runs take place,
    /// at once: the programs keep what they looked up for a tick of the clock.
    pub fn set_interface(&mut self, endpoint: Option<u32>) -> Result<()> {
        let mut interfaces = self.hash::<u32, u32>(map::INTERFACES)?;
        match endpoint {
            Some(endpoint) => interfaces.insert(LOOPBACK, endpoint, 0)?,
            None => _ = interfaces.remove(&LOOPBACK),
        }
        // One answer per CPU: tick, interface and endpoint, in two words.
        let mut kept: PerCpuArray<_, [u64; 2]> =
            PerCpuArray::try_from(self.map("RECENT_INTERFACES")?)?;
        let nothing = vec![[0; 2]; nr_cpus().map_err(|(_, error)| error)?];
        Ok(kept.set(LOOPBACK, nothing.try_into()?, 0)?)
    }

    /// A counter, summed over CPUs.
    pub fn counter(&mut self, map: &str, index: u32) -> Result<Counter> {
        let cells: PerCpuArray<_, Counter> = PerCpuArray::try_from(self.map(map)?)?;
        let mut sum = Counter::default();
        for cell in cells.get(&index, 0)?.iter() {
            sum.packets += cell.packets;
            sum.bytes += cell.bytes;
        }
        Ok(sum)
    }

    /// Takes all events out of a ring.
    pub fn events(&mut self, name: &str) -> Result<Vec<Event>> {
        let mut ring = RingBuf::try_from(self.map(name)?)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            if item.len() != size_of::<Event>() {
                bail!("{} bytes in ring {name}", item.len());
            }
            // SAFETY: as long as an event, and every bit pattern is one; `item` need
            // not be aligned.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        Ok(events)
    }

    /// A map by name.
    pub fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))
    }

    /// A program by name, to attach it where a test may.
    pub fn program_mut(&mut self, name: &str) -> Result<&mut Program> {
        self.ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name}"))
    }

    fn program(&self, name: &str) -> Result<&Program> {
        self.ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))
    }
}

/// The key as the loader wants it: prefix length apart.
fn trie_key(key: PolicyKey) -> Key<[u8; 12]> {
    let mut data = [0; 12];
    data[..4].copy_from_slice(&key.policy_id);
    data[4..8].copy_from_slice(&key.identity);
    data[8] = key.direction;
    data[9] = key.protocol;
    data[10..].copy_from_slice(&key.port);
    Key::new(key.prefix_len, data)
}

fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        Program::CgroupSkb(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::SkMsg(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        other => bail!("a program of kind {:?}", other.prog_type()),
    }
    Ok(())
}
