//! Any calls with any numbers over any memory, as a module made for Envoy could make them: the
//! host answers each, promises bytes only for places that are in memory, and keeps no more than
//! it may.
#![no_main]

use std::sync::Arc;

use tidegate_proxy_wasm::{
    Answer, Attributes, Change, Common, Configuration, Connection, Fields, Level, Open, Outside,
    ROOT, Vm,
    abi::{FUNCTIONS, Function, Kind},
};

struct Nothing;

impl Outside for Nothing {
    fn log(&mut self, _: Level, _: &[u8]) {}

    fn log_level(&self) -> Level {
        Level::Info
    }

    fn now_ns(&self) -> u64 {
        1
    }

    fn monotonic_ns(&self) -> u64 {
        1
    }

    fn random(&mut self, out: &mut [u8]) {
        out.fill(7);
    }

    fn metric(&mut self, _: Change) {}

    fn is_imagined(&self) -> bool {
        false
    }
}

/// Bytes of memory.
const MEMORY: usize = 512;

/// A number as guests get them wrong: small ones, edges, and whatever.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match kind {
        0xf0 => u64::from(u32::MAX),
        0xf1 => u64::from(u32::MAX) - 3,
        0xf2 => MEMORY as u64,
        0xf3 => MEMORY as u64 - 4,
        0xf4 => 1 << 31,
        0xf5.. => {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            u64::from_le_bytes(*number)
        }
        // Steps, so that they name places and lengths that fit together.
        small => u64::from(*small),
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((memory, mut calls)) = data.split_at_checked(64) else {
        return;
    };
    let mut memory = memory.to_vec();
    memory.resize(MEMORY, b'a');
    let configuration = Configuration {
        plugin: memory[..16].to_vec(),
        ..Configuration::default()
    };
    let mut vm = Vm::new(configuration, Arc::<Common>::default());
    let nowhere = ([127, 0, 0, 1], 1).into();
    let context = vm.begin(Attributes {
        connection: Connection {
            source: nowhere,
            destination: nowhere,
        },
        protocol: "HTTP/1.1",
        time_ns: 1,
    });
    let all = Open {
        fields: true,
        body: true,
        trailers: true,
    };
    if let Some(exchange) = vm.exchange(context) {
        exchange.request.fields = Fields::new([(&b":path"[..], &b"/a?b"[..]), (b"a", b"b")]);
        exchange.request.body = memory[16..48].to_vec();
        exchange.open(all, all);
    }
    vm.enter(context);
    while let Some((function, rest)) = calls.split_first() {
        calls = rest;
        if *function == u8::MAX {
            vm.enter(ROOT);
            continue;
        }
        let function: Function = FUNCTIONS[usize::from(*function) % FUNCTIONS.len()];
        let mut numbers = [0; 12];
        for (number, kind) in numbers.iter_mut().zip(function.parameters()) {
            let Some(read) = self::number(&mut calls) else {
                return;
            };
            *number = match kind {
                Kind::Word => read & u64::from(u32::MAX),
                Kind::Long => read,
            };
        }
        let parameters = &numbers[..function.parameters().len()];
        match vm.call(function, parameters, &mut memory, &mut Nothing) {
            Answer::Give {
                bytes,
                at,
                length_at,
            } => {
                let last = MEMORY - 4;
                assert!(at as usize <= last && length_at as usize <= last);
                assert!(bytes.len() <= 2 << 20);
            }
            Answer::Number(_) | Answer::Exit(_) => {}
        }
        assert_eq!(memory.len(), MEMORY);
    }
    if let Some(exchange) = vm.exchange(context) {
        let fields = exchange.request.fields.clone();
        let Ok(again) = Fields::read(&fields.write()) else {
            panic!("what is written cannot be read: {fields:?}");
        };
        assert_eq!(again, fields);
    }
});
