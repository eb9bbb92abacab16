//! Tables of what the specification says, and any call with any numbers.

use std::{net::SocketAddr, sync::Arc};

use proptest::prelude::*;

use crate::{
    Answer, Attributes, Common, Connection, Fields, Level, LocalReply, Open, Outside, Vm,
    abi::{FUNCTIONS, Function, Kind, Status, errno},
    common::Change,
    vm::{Configuration, HELD, ROOT},
};

#[derive(Default)]
struct Sink {
    lines: Vec<(Level, String)>,
    changes: Vec<Change>,
}

impl Outside for Sink {
    fn log(&mut self, level: Level, message: &[u8]) {
        let line = String::from_utf8_lossy(message).into_owned();
        self.lines.push((level, line));
    }

    fn log_level(&self) -> Level {
        Level::Info
    }

    fn now_ns(&self) -> u64 {
        1_700_000_000_000_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        7
    }

    fn random(&mut self, out: &mut [u8]) {
        out.fill(4);
    }

    fn metric(&mut self, change: Change) {
        self.changes.push(change);
    }

    fn is_imagined(&self) -> bool {
        false
    }
}

/// An instance with one exchange under way, and memory with what the test puts there.
struct Guest {
    vm: Vm,
    memory: Vec<u8>,
    sink: Sink,
    exchange: u32,
}

/// Where a test's answers go.
const AT: u64 = 0;
const LENGTH_AT: u64 = 4;
const TEXT: usize = 64;

impl Guest {
    fn new() -> Self {
        Self::sharing(Arc::default())
    }

    fn sharing(common: Arc<Common>) -> Self {
        let configuration = Configuration {
            name: "sample".to_owned(),
            root_id: "root".to_owned(),
            plugin: b"plugin".to_vec(),
            vm: Vec::new(),
        };
        let mut vm = Vm::new(configuration, common);
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let exchange = vm.begin(Attributes {
            connection: Connection {
                source: at("10.0.0.1:4000"),
                destination: at("[::ffff:10.0.0.2]:80"),
            },
            protocol: "HTTP/1.1",
            time_ns: 5,
        });
        let request = &mut vm.exchange(exchange).expect("it").request;
        request.fields = Fields::new([
            (&b":path"[..], &b"/a/b?c=d"[..]),
            (b":method", b"GET"),
            (b":authority", b"shop"),
            (b"X-Two", b"1"),
            (b"x-two", b"2"),
            (b"x-empty", b""),
        ]);
        vm.configured();
        vm.enter(exchange);
        let fields = Open {
            fields: true,
            ..Open::default()
        };
        vm.exchange(exchange)
            .expect("it")
            .open(fields, Open::default());
        Self {
            vm,
            memory: vec![0; 4_096],
            sink: Sink::default(),
            exchange,
        }
    }

    fn call(&mut self, function: Function, arguments: &[u64]) -> Answer {
        self.vm
            .call(function, arguments, &mut self.memory, &mut self.sink)
    }

    /// Texts one behind the other; address and length of each.
    fn texts<const N: usize>(&mut self, texts: [&[u8]; N]) -> [(u64, u64); N] {
        let mut at = TEXT;
        texts.map(|text| {
            self.memory[at..at + text.len()].copy_from_slice(text);
            let place = (at as u64, text.len() as u64);
            at += text.len();
            place
        })
    }

    fn status(&mut self, function: Function, arguments: &[u64]) -> u32 {
        match self.call(function, arguments) {
            Answer::Number(status) => status,
            other => panic!("{function:?}: {other:?}"),
        }
    }

    fn given(&mut self, function: Function, arguments: &[u64]) -> Result<Vec<u8>, u32> {
        match self.call(function, arguments) {
            Answer::Number(status) => Err(status),
            Answer::Give { bytes, .. } => Ok(bytes),
            Answer::Exit(_) => panic!("{function:?}"),
        }
    }

    fn property(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let path = path.replace('.', "\0");
        let [(at, length)] = self.texts([path.as_bytes()]);
        self.given(Function::GetProperty, &[at, length, AT, LENGTH_AT])
    }

    fn field(&mut self, map: u64, name: &str) -> Result<Vec<u8>, u32> {
        let [(at, length)] = self.texts([name.as_bytes()]);
        self.given(Function::GetMapValue, &[map, at, length, AT, LENGTH_AT])
    }

    fn change(&mut self, function: Function, map: u64, name: &str, value: &str) -> u32 {
        let [name, value] = self.texts([name.as_bytes(), value.as_bytes()]);
        self.status(function, &[map, name.0, name.1, value.0, value.1])
    }
}

const OK: u32 = Status::Ok as u32;
const NOT_FOUND: u32 = Status::NotFound as u32;
const BAD: u32 = Status::BadArgument as u32;
const BEYOND: u32 = Status::InvalidMemoryAccess as u32;

#[test]
fn maps_are_written_as_the_specification_says() {
    let fields = Fields::new([(&b"a"[..], &b"1"[..]), (b"b", b"22")]);
    let written = fields.write();
    let expected = b"\x02\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0a\x001\0b\x0022\0";
    assert_eq!(written, expected);
    assert_eq!(fields.written(), expected.len());
    assert_eq!(Fields::read(&written), Ok(fields));
    for none in [&b""[..], b"\0", b"\0\0\0\0"] {
        assert_eq!(Fields::read(none), Ok(Fields::default()), "{none:?}");
    }
    for end in 4..written.len() {
        assert!(Fields::read(&written[..end]).is_err(), "{end}");
    }
    assert!(Fields::read(&[0xff; 64]).is_err());
}

#[test]
fn fields_are_read_and_changed_while_they_are_open() {
    let mut guest = Guest::new();
    assert_eq!(guest.field(0, ":path"), Ok(b"/a/b?c=d".to_vec()));
    // The first of several, as in Envoy, whatever its case.
    assert_eq!(guest.field(0, "X-TWO"), Ok(b"1".to_vec()));
    assert_eq!(guest.field(0, "x-empty"), Ok(Vec::new()));
    assert_eq!(guest.field(0, "x-none"), Err(NOT_FOUND));
    assert_eq!(guest.field(9, "x-none"), Err(BAD));
    let change = Guest::change;
    assert_eq!(
        change(&mut guest, Function::AddMapValue, 0, "X-Two", "3"),
        OK
    );
    assert_eq!(
        change(&mut guest, Function::ReplaceMapValue, 0, "x-new", "n"),
        OK
    );
    assert_eq!(
        change(&mut guest, Function::ReplaceMapValue, 2, "x", "n"),
        BAD
    );
    assert_eq!(
        change(&mut guest, Function::RemoveMapValue, 0, "x-empty", ""),
        OK
    );
    let id = guest.exchange;
    let fields = guest.vm.exchange(id).expect("it").request.fields.clone();
    let twos: Vec<_> = fields.all(b"x-two").collect();
    assert_eq!(twos, [b"1", b"2", b"3"]);
    assert_eq!(
        change(&mut guest, Function::ReplaceMapValue, 0, "x-two", "9"),
        OK
    );
    let fields = guest.vm.exchange(id).expect("it").request.fields.clone();
    assert_eq!(fields.all(b"x-two").collect::<Vec<_>>(), [b"9"]);
    let given = guest.given(Function::GetMapPairs, &[0, AT, LENGTH_AT]);
    assert_eq!(given, Ok(fields.write()));
    assert_eq!(guest.status(Function::GetMapSize, &[0, AT]), OK);
    assert_eq!(guest.memory[..4], (fields.written() as u32).to_le_bytes());
    let all = Fields::new([(&b":path"[..], &b"/"[..])]).write();
    let [(at, length)] = guest.texts([&all]);
    assert_eq!(guest.status(Function::SetMapPairs, &[0, at, length]), OK);
    assert_eq!(guest.vm.exchange(id).expect("it").request.fields.len(), 1);
    guest
        .vm
        .exchange(id)
        .expect("it")
        .open(Open::default(), Open::default());
    assert_eq!(change(&mut guest, Function::AddMapValue, 0, "x", "3"), BAD);
    assert_eq!(guest.field(0, ":path"), Ok(b"/".to_vec()));
}

#[test]
fn properties_are_envoys() {
    let mut guest = Guest::new();
    for (path, expected) in [
        ("request.path", &b"/a/b?c=d"[..]),
        ("request.url_path", b"/a/b"),
        ("request.query", b"c=d"),
        ("request.host", b"shop"),
        ("request.method", b"GET"),
        ("request.protocol", b"HTTP/1.1"),
        ("request.headers.x-two", b"1,2"),
        ("request.time", &5_u64.to_le_bytes()),
        ("source.address", b"10.0.0.1:4000"),
        ("source.port", &4_000_u64.to_le_bytes()),
        ("destination.address", b"10.0.0.2:80"),
        ("connection.mtls", &[0]),
        ("plugin_name", b"sample"),
        ("plugin_root_id", b"root"),
        ("plugin_vm_id", b""),
    ] {
        assert_eq!(guest.property(path).as_deref(), Ok(expected), "{path}");
    }
    for path in [
        "node.id",
        "cluster_name",
        "request",
        "request.none",
        "response.code",
        "",
    ] {
        assert_eq!(guest.property(path), Err(NOT_FOUND), "{path}");
    }
    let [name, value] = guest.texts([b"own", b"said"]);
    let set = guest.status(Function::SetProperty, &[name.0, name.1, value.0, value.1]);
    assert_eq!(set, OK);
    assert_eq!(guest.property("own"), Ok(b"said".to_vec()));
    guest.vm.enter(ROOT);
    assert_eq!(guest.property("own"), Err(NOT_FOUND), "another context's");
    assert_eq!(guest.property("request.path"), Err(NOT_FOUND));
}

#[test]
fn buffers_are_there_when_the_specification_says() {
    let mut guest = Guest::new();
    let read = |guest: &mut Guest, buffer, start, length| {
        guest.given(Function::GetBuffer, &[buffer, start, length, AT, LENGTH_AT])
    };
    assert_eq!(
        read(&mut guest, 7, 0, 100),
        Err(NOT_FOUND),
        "it is configured"
    );
    assert_eq!(read(&mut guest, 0, 0, 100), Err(NOT_FOUND), "no body yet");
    assert_eq!(read(&mut guest, 99, 0, 100), Err(BAD));
    guest.vm.configuring = true;
    assert_eq!(read(&mut guest, 7, 0, 100), Ok(b"plugin".to_vec()));
    assert_eq!(read(&mut guest, 7, 2, 2), Ok(b"ug".to_vec()));
    assert_eq!(read(&mut guest, 7, 100, 2), Ok(Vec::new()));
    assert_eq!(read(&mut guest, 7, 2, u64::from(u32::MAX)), Err(BAD));
    assert_eq!(read(&mut guest, 6, 0, 9), Ok(Vec::new()));
    assert_eq!(
        guest.status(Function::GetBufferStatus, &[7, AT, LENGTH_AT]),
        OK
    );
    assert_eq!(guest.memory[..4], 6_u32.to_le_bytes());
    let open = Open {
        body: true,
        ..Open::default()
    };
    let exchange = guest.vm.exchange(guest.exchange).expect("it");
    exchange.request.body = b"0123456789".to_vec();
    exchange.open(open, Open::default());
    assert_eq!(read(&mut guest, 0, 3, 4), Ok(b"3456".to_vec()));
    assert_eq!(read(&mut guest, 1, 0, 4), Err(NOT_FOUND), "the response's");
    let [value] = guest.texts([b"ab"]);
    for (start, length, expected) in [
        (0, 0, &b"ab0123456789"[..]),
        (u64::from(u32::MAX), 0, b"ab0123456789ab"),
        (2, 3, b"abab3456789ab"),
        (4, u64::from(u32::MAX), b"ababab"),
    ] {
        let set = guest.status(Function::SetBuffer, &[0, start, length, value.0, value.1]);
        assert_eq!(set, OK, "{start} {length}");
        let body = &guest.vm.exchange(guest.exchange).expect("it").request.body;
        assert_eq!(&body[..], expected, "{start} {length}");
    }
    // A guest that never stops adding gets no more than there may be.
    guest.memory.resize(600 << 10, 0);
    let add = [0, 0, 0, 0, 600 << 10];
    assert_eq!(guest.status(Function::SetBuffer, &add), OK);
    let full = guest.status(Function::SetBuffer, &add);
    assert_eq!(full, Status::InternalFailure as u32);
}

#[test]
fn a_local_reply_is_kept_whole_and_once() {
    let mut guest = Guest::new();
    let fields = Fields::new([(&b"x-why"[..], &b"so"[..])]).write();
    let [body, map] = guest.texts([b"no\0body", &fields]);
    let none = u64::from(u32::MAX);
    let reply = |status| [status, 0, 0, body.0, body.1, map.0, map.1, none];
    assert_eq!(guest.status(Function::SendLocalResponse, &reply(42)), BAD);
    assert_eq!(guest.status(Function::SendLocalResponse, &reply(418)), OK);
    assert_eq!(guest.status(Function::SendLocalResponse, &reply(200)), OK);
    let id = guest.exchange;
    let kept = guest
        .vm
        .exchange(id)
        .expect("it")
        .reply
        .clone()
        .expect("a reply");
    assert_eq!((kept.status, &kept.body[..]), (418, &b"no\0body"[..]));
    assert_eq!(kept.fields.get(b"x-why"), Some(&b"so"[..]));
    assert_eq!(kept.grpc_status, None);
}

#[test]
fn shared_values_change_once_and_queues_are_in_order() {
    let common = Arc::<Common>::default();
    let mut guest = Guest::sharing(common.clone());
    let [key, value, name] = guest.texts([b"key", b"value", b"queue"]);
    let get = [key.0, key.1, AT, LENGTH_AT, 8];
    assert_eq!(guest.given(Function::GetSharedData, &get), Err(NOT_FOUND));
    let set = |cas| [key.0, key.1, value.0, value.1, cas];
    assert_eq!(guest.status(Function::SetSharedData, &set(0)), OK);
    assert_eq!(
        guest.given(Function::GetSharedData, &get),
        Ok(b"value".to_vec())
    );
    let cas = u64::from(u32::from_le_bytes(
        guest.memory[8..12].try_into().expect("four"),
    ));
    assert_eq!(guest.status(Function::SetSharedData, &set(cas)), OK);
    let late = guest.status(Function::SetSharedData, &set(cas));
    assert_eq!(late, Status::CasMismatch as u32);
    // Another thread's instance of the same binding.
    let mut other = Guest::sharing(common);
    other.memory.clone_from(&guest.memory);
    assert_eq!(
        other.given(Function::GetSharedData, &get),
        Ok(b"value".to_vec())
    );
    let resolve = [0, 0, name.0, name.1, AT];
    assert_eq!(other.status(Function::ResolveQueue, &resolve), NOT_FOUND);
    assert_eq!(
        guest.status(Function::RegisterQueue, &[name.0, name.1, AT]),
        OK
    );
    assert_eq!(other.status(Function::ResolveQueue, &resolve), OK);
    let queue = u64::from(u32::from_le_bytes(
        other.memory[..4].try_into().expect("four"),
    ));
    for item in [key, value] {
        assert_eq!(
            other.status(Function::Enqueue, &[queue, item.0, item.1]),
            OK
        );
    }
    assert_eq!(guest.vm.ready_queues(), [queue as u32]);
    assert_eq!(other.vm.ready_queues(), []);
    let take = [queue, AT, LENGTH_AT];
    assert_eq!(
        guest.given(Function::Dequeue, &[queue, AT, 1 << 20]),
        Err(BEYOND)
    );
    assert_eq!(guest.given(Function::Dequeue, &take), Ok(b"key".to_vec()));
    assert_eq!(guest.given(Function::Dequeue, &take), Ok(b"value".to_vec()));
    assert_eq!(
        guest.given(Function::Dequeue, &take),
        Err(Status::Empty as u32)
    );
    assert_eq!(
        guest.given(Function::Dequeue, &[77, AT, LENGTH_AT]),
        Err(NOT_FOUND)
    );
    // Another binding knows none of it.
    let mut stranger = Guest::new();
    stranger.memory.clone_from(&guest.memory);
    assert_eq!(
        stranger.given(Function::GetSharedData, &get),
        Err(NOT_FOUND)
    );
    assert_eq!(stranger.status(Function::ResolveQueue, &resolve), NOT_FOUND);
}

#[test]
fn what_is_shared_is_bounded() {
    let common = Common::default();
    let big = vec![0; 300 << 10];
    for n in 0..3_u8 {
        assert_eq!(common.set_value(&[n], &big, 0), Status::Ok);
    }
    assert_eq!(common.set_value(b"more", &big, 0), Status::InternalFailure);
    assert_eq!(common.set_value(&[0], b"less", 0), Status::Ok);
    let queue = common.register(b"q").expect("a queue");
    assert_eq!(common.enqueue(queue, &big), Status::Ok);
    assert_eq!(common.enqueue(queue, &big), Status::InternalFailure);
    assert_eq!(common.dequeue(queue).map(|item| item.len()), Ok(big.len()));
    assert_eq!(common.enqueue(queue, &big), Status::Ok);
    for n in 1..16_u8 {
        assert!(common.register(&[n]).is_ok());
    }
    assert_eq!(common.register(b"too many"), Err(Status::InternalFailure));
    for n in 0..64_u8 {
        assert!(common.define(0, &[b'a' + n % 26, n]).is_ok());
    }
    assert_eq!(common.define(0, b"too many"), Err(Status::InternalFailure));
}

#[test]
fn metrics_count_as_their_kind_says() {
    let mut guest = Guest::new();
    let [name] = guest.texts([b"hits"]);
    let mut ids = [0; 3];
    for (kind, id) in (0..).zip(&mut ids) {
        assert_eq!(
            guest.status(Function::DefineMetric, &[kind, name.0, name.1, AT]),
            OK
        );
        *id = u64::from(u32::from_le_bytes(
            guest.memory[..4].try_into().expect("four"),
        ));
    }
    let [counter, gauge, histogram] = ids;
    let minus = (-2_i64).cast_unsigned();
    for (function, arguments, expected) in [
        (Function::IncrementMetric, [counter, 5], OK),
        (Function::IncrementMetric, [counter, minus], BAD),
        (Function::RecordMetric, [gauge, 9], OK),
        (Function::IncrementMetric, [gauge, minus], OK),
        (Function::RecordMetric, [histogram, 3], OK),
        (Function::IncrementMetric, [histogram, 3], BAD),
        (Function::GetMetric, [histogram, AT], BAD),
        (Function::IncrementMetric, [77, 3], NOT_FOUND),
        (Function::RecordMetric, [77, 3], NOT_FOUND),
        (Function::GetMetric, [77, AT], NOT_FOUND),
        (Function::GetMetric, [gauge, 1 << 20], BEYOND),
        (Function::GetMetric, [counter, AT], OK),
    ] {
        let status = guest.status(function, &arguments);
        assert_eq!(status, expected, "{function:?} {arguments:?}");
    }
    assert_eq!(guest.memory[..8], 5_u64.to_le_bytes());
    let by: Vec<i64> = guest.sink.changes.iter().map(|change| change.by).collect();
    assert_eq!(by, [5, 9, -2, 3]);
    assert_eq!(
        guest.status(Function::DefineMetric, &[3, name.0, name.1, AT]),
        BAD
    );
}

#[test]
fn contexts_are_ones_own() {
    let mut guest = Guest::new();
    let id = u64::from(guest.exchange);
    guest.vm.enter(ROOT);
    assert_eq!(guest.field(0, ":path"), Err(BAD));
    assert_eq!(guest.status(Function::SetEffectiveContext, &[99]), BAD);
    assert_eq!(guest.status(Function::SetEffectiveContext, &[id]), OK);
    assert_eq!(guest.field(0, ":method"), Ok(b"GET".to_vec()));
    assert_eq!(guest.status(Function::Done, &[]), NOT_FOUND);
    guest.vm.linger(guest.exchange);
    assert_eq!(guest.status(Function::Done, &[]), OK);
    assert_eq!(guest.vm.take_done(), [guest.exchange]);
    guest.vm.end(guest.exchange);
    assert_eq!(guest.field(0, ":method"), Err(BAD));
}

#[test]
fn what_is_not_there_is_said_to_be_so() {
    let mut guest = Guest::new();
    let call = [0; 10];
    assert_eq!(
        guest.status(Function::HttpCall, &call),
        BAD,
        "no upstream is known"
    );
    assert_eq!(
        guest.status(Function::GrpcCall, &[0; 12]),
        Status::ParseFailure as u32
    );
    assert_eq!(
        guest.status(Function::GrpcStream, &[0; 9]),
        Status::ParseFailure as u32
    );
    assert_eq!(guest.status(Function::GrpcCancel, &[1]), NOT_FOUND);
    assert_eq!(
        guest.status(Function::CallForeignFunction, &[0; 6]),
        NOT_FOUND
    );
    assert_eq!(
        guest.status(Function::ContinueStream, &[2]),
        Status::Unimplemented as u32
    );
    assert_eq!(guest.status(Function::ContinueStream, &[9]), BAD);
    for function in [Function::ArgsSizes, Function::EnvironSizes] {
        assert_eq!(guest.status(function, &[AT, LENGTH_AT]), errno::SUCCESS);
        assert_eq!(guest.memory[..8], [0; 8]);
    }
    assert_eq!(guest.status(Function::FdRead, &[0, 0, 0, 0]), errno::NOSYS);
    assert_eq!(guest.status(Function::FdPrestat, &[3, 0]), errno::BADF);
    assert_eq!(guest.status(Function::ClockTime, &[9, 0, 0]), errno::NOTSUP);
    assert_eq!(guest.status(Function::Random, &[AT, 1 << 30]), errno::INVAL);
    assert_eq!(guest.status(Function::Random, &[AT, 4]), errno::SUCCESS);
    assert_eq!(guest.memory[..5], [4, 4, 4, 4, 0]);
    assert_eq!(guest.call(Function::Exit, &[3]), Answer::Exit(3));
}

#[test]
fn standard_output_is_a_log_line() {
    let mut guest = Guest::new();
    guest.memory[64..72].copy_from_slice(b"one two\n");
    for (n, word) in [64_u32, 3, 67, 5].into_iter().enumerate() {
        guest.memory[16 + n * 4..20 + n * 4].copy_from_slice(&word.to_le_bytes());
    }
    assert_eq!(
        guest.status(Function::FdWrite, &[2, 16, 2, AT]),
        errno::SUCCESS
    );
    assert_eq!(guest.memory[..4], 8_u32.to_le_bytes());
    assert_eq!(guest.sink.lines, [(Level::Error, "one two".to_owned())]);
    assert_eq!(
        guest.status(Function::FdWrite, &[3, 16, 2, AT]),
        errno::BADF
    );
    assert_eq!(
        guest.status(Function::FdWrite, &[1, 16, 2, 1 << 20]),
        errno::FAULT
    );
    assert_eq!(guest.status(Function::Log, &[9, 64, 3]), BAD);
    assert_eq!(guest.status(Function::Log, &[3, 64, 3]), OK);
    assert_eq!(guest.sink.lines.len(), 2);
}

/// Numbers that guests get wrong: edges of memory, of signs, and whatever.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..16,
        0_u64..300,
        250_u64..260,
        Just(u64::from(u32::MAX)),
        Just(u64::from(u32::MAX) - 3),
        Just(1 << 31),
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any calls with any numbers over any memory: never a panic, nothing written outside what
    /// was named, and every place that bytes are promised for lies in memory.
    #[test]
    fn no_call_breaks_the_host(
        memory in proptest::collection::vec(any::<u8>(), 256),
        calls in proptest::collection::vec((0..FUNCTIONS.len(), proptest::collection::vec(number(), 0..13)), 1..40),
    ) {
        let mut guest = Guest::new();
        guest.memory = memory;
        for (n, (function, arguments)) in calls.iter().enumerate() {
            if n % 7 == 3 {
                guest.vm.enter(ROOT);
            }
            match guest.call(FUNCTIONS[*function], arguments) {
                Answer::Give { at, length_at, .. } => {
                    prop_assert!(at <= 252 && length_at <= 252);
                }
                Answer::Number(status) => prop_assert!(status <= 58),
                Answer::Exit(_) => {}
            }
            prop_assert_eq!(guest.memory.len(), 256);
        }
    }

    /// What is written is read back, and what is read is never more than there was.
    #[test]
    fn maps_survive(pairs in proptest::collection::vec(("[a-z]{0,9}", "[ -~]{0,9}"), 0..9), junk in proptest::collection::vec(any::<u8>(), 0..99)) {
        let fields = Fields::new(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        prop_assert_eq!(Fields::read(&fields.write()), Ok(fields));
        if let Ok(read) = Fields::read(&junk) {
            prop_assert!(read.written() <= junk.len());
        }
    }
}

#[test]
fn every_function_has_a_place() {
    for function in FUNCTIONS {
        let module = function.modules()[0];
        assert_eq!(Function::find(module, function.name()), Some(*function));
        assert!(function.parameters().len() <= 12);
    }
    assert_eq!(Function::find("env", "fd_write"), None);
    assert_eq!(Function::find("env", "proxy_unheard_of"), None);
    assert_eq!(
        Function::RecordMetric.parameters(),
        [Kind::Word, Kind::Long]
    );
}

/// A filter that says it is not done keeps a context, not what it had of messages; and nobody
/// waits for what it answers then.
#[test]
fn what_is_kept_beside_an_instance_is_bounded() {
    const MIB: usize = 1 << 20;
    let mut guest = Guest::new();
    let attributes = guest
        .vm
        .exchange(guest.exchange)
        .expect("it")
        .attributes
        .clone();
    let mut all = Vec::new();
    let took = (0..100).take_while(|_| {
        let id = guest.vm.begin(attributes.clone());
        all.push(id);
        guest.vm.exchange(id).expect("begun").request.body = vec![0; MIB];
        guest.vm.weigh(id)
    });
    assert_eq!(took.count(), HELD / MIB);
    for id in &all {
        guest.vm.linger(*id);
        let exchange = guest.vm.exchange(*id).expect("it lingers");
        assert_eq!(exchange.weight(), 0);
        let reply = LocalReply {
            status: 200,
            fields: Fields::default(),
            body: vec![0; 10],
            grpc_status: None,
        };
        assert!(!exchange.answer(reply), "it is over");
    }
    let id = guest.vm.begin(attributes.clone());
    assert!(guest.vm.weigh(id), "given back");
    guest.vm.exchange(id).expect("begun").request.body = vec![0; HELD + 1];
    assert!(!guest.vm.weigh(id));
    guest.vm.end(id);
    assert!(guest.vm.weigh(all[0]), "given back");
}
