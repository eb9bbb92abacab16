//! Any bytes as what a client says first and later, and what a server answers: no cut into
//! pieces makes another verdict, and nothing passes that was not said.
#![no_main]

use tidegate_wire::tls::{ClientHello, HelloReader, NoHello, Watch};

/// The first byte says how the rest is cut: into pieces of that size, and where the server's
/// part begins.
fn first(
    bytes: &[u8],
    size: usize,
) -> Result<Option<(ClientHello, Vec<u8>, Watch, usize)>, NoHello> {
    let mut reader = HelloReader::default();
    let mut read = 0;
    for piece in bytes.chunks(size) {
        read += piece.len();
        if let Some(hello) = reader.add(piece)? {
            let (held, watch) = reader.finish(&hello);
            return Ok(Some((hello, held, watch, read)));
        }
    }
    Ok(None)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [cut, server, said @ ..] = data else {
        return;
    };
    let size = usize::from(*cut).max(1);
    let whole = first(said, said.len().max(1));
    let cut = first(said, size);
    let of = |read: &Result<Option<(ClientHello, Vec<u8>, Watch, usize)>, NoHello>| {
        read.as_ref()
            .map(|hello| {
                hello
                    .as_ref()
                    .map(|(hello, held, ..)| (hello.clone(), held.clone()))
            })
            .map_err(|e| *e)
    };
    assert_eq!(of(&whole), of(&cut), "pieces of {size}");
    let Ok(Some((hello, held, mut watch, read))) = cut else {
        return;
    };
    assert!(said.starts_with(&held));
    let rest = &said[read..];
    let (answer, rest) = rest.split_at(usize::from(*server).min(rest.len()));
    let mut out = Vec::new();
    let mut passed = watch.from_client(&[], &mut out);
    watch.from_server(answer);
    for piece in rest.chunks(size) {
        if passed.is_ok() {
            passed = watch.from_client(piece, &mut out);
        }
    }
    let later = [&said[held.len()..read], rest].concat();
    assert!(later.starts_with(&out), "{hello:?}");
    if watch.is_open() && passed.is_ok() {
        assert_eq!(later, out);
    }
});
