//! The Huffman code of HPACK (RFC 7541 appendix B), decoding only. The code is
//! canonical, so the lengths of its symbols say everything.

/// Code length of every symbol in bits (RFC 7541 appendix B); the last is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const SHORTEST: usize = 5;
const LONGEST: usize = 30;
/// The symbol that must not appear in a string.
const EOS: u16 = 256;

/// Symbols by code, and where in that order each length begins.
struct Code {
    symbols: [u16; 257],
    /// For each length: its first code, and the position of that code's symbol.
    first: [(u32, u16); LONGEST + 2],
}

static CODE: Code = order();

const fn order() -> Code {
    let mut code = Code {
        symbols: [0; 257],
        first: [(0, 0); LONGEST + 2],
    };
    let (mut next, mut position, mut length) = (0_u32, 0_u16, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = (next, position);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[position as usize] = symbol as u16;
                position += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code.first[LONGEST + 1] = (next << 1, position);
    code
}

/// Appends what `coded` stands for; `None` if it is not valid: EOS in it, or padding
/// that is longer than 7 bits or not made of ones (RFC 7541 §5.2).
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut held) = (0_u64, 0);
    let mut bytes = coded.iter();
    loop {
        while held <= 32
            && let Some(byte) = bytes.next()
        {
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        match next_symbol(bits, held) {
            Some((EOS, _)) => return None,
            Some((symbol, length)) => {
                out.push(symbol as u8);
                held -= length;
                bits &= (1 << held) - 1;
            }
            // All bytes are in `bits`: more than 30 would have been a symbol.
            None => return (held < 8 && bits == (1 << held) - 1).then_some(()),
        }
    }
}

/// The symbol that the first of `held` bits spell, and its length.
fn next_symbol(bits: u64, held: usize) -> Option<(u16, usize)> {
    (SHORTEST..=LONGEST.min(held)).find_map(|length| {
        let value = (bits >> (held - length)) as u32;
        let (first, position) = CODE.first[length];
        let count = CODE.first[length + 1].1 - position;
        let offset = value.checked_sub(first)?;
        (offset < u32::from(count)).then(|| {
            (
                CODE.symbols[usize::from(position) + offset as usize],
                length,
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    /// Writes symbols by the same lengths, bit by bit.
    fn coded(symbols: &[u16], padding: bool) -> Vec<u8> {
        let mut bits = Vec::new();
        for symbol in symbols {
            let length = usize::from(LENGTHS[usize::from(*symbol)]);
            let (first, position) = CODE.first[length];
            let at = CODE
                .symbols
                .iter()
                .position(|s| s == symbol)
                .expect("known");
            let code = first + (at as u32 - u32::from(position));
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(padding);
        }
        let byte = |bits: &[bool]| bits.iter().fold(0, |all, bit| all << 1 | u8::from(*bit));
        bits.chunks(8).map(byte).collect()
    }

    #[test]
    fn the_standards_examples() {
        // RFC 7541 §C.4 and §C.6.
        let check = |coded: &[u8], text: &str| {
            assert_eq!(decoded(coded).as_deref(), Some(text.as_bytes()), "{text}");
        };
        check(
            &[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
            ],
            "www.example.com",
        );
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache");
        check(&[0x64, 0x02], "302");
        check(&[], "");
    }

    #[test]
    fn every_symbol_is_read_and_bad_ends_are_not() {
        let all: Vec<u16> = (0..256).collect();
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&coded(&all, true)), Some(bytes));
        assert_eq!(decoded(&coded(&[EOS], true)), None, "EOS");
        assert_eq!(decoded(&coded(&[48], false)), None, "padding of zeros");
        assert_eq!(decoded(&[0xff]), None, "8 bits of padding");
    }
}
