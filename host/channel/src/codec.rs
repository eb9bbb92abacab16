//! How a message is written. MessagePack with the names of its fields: compact, and still
//! read by a version with other fields. What versions of another protocol must understand,
//! greeting and farewell, is JSON, and tells itself apart by its first byte.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// Writes a value.
///
/// # Errors
///
/// If it cannot be written so.
pub fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    let writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    // As JSON has it: what is buffered on its way, as a value with its kind inside, does not
    // know any other form of an address.
    value
        .serialize(&mut writer.with_human_readable())
        .map_err(io::Error::other)?;
    Ok(bytes)
}

/// Writes a value for a reader of whatever version.
///
/// # Errors
///
/// If it cannot be written so.
pub(crate) fn encode_plain(value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// Reads a value, in either form. No message is one of the small numbers that JSON begins
/// with.
///
/// # Errors
///
/// `InvalidData` if it is none.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.first() {
        Some(b'{' | b'"') => serde_json::from_slice(bytes).map_err(invalid),
        _ => {
            let mut reader = rmp_serde::Deserializer::new(bytes).with_human_readable();
            T::deserialize(&mut reader).map_err(invalid)
        }
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use tidegate_contract::L7Summary;

    use super::*;

    #[test]
    fn a_value_is_what_it_was_in_either_form() {
        let asked = L7Summary::Dns {
            query: "a.example.".to_owned(),
            qtype: "AAAA".to_owned(),
            rcode: None,
            ips: vec![[192, 0, 2, 1].into(), [7_u16; 8].into()],
            ttl: 60,
            latency_us: 1_250,
        };
        let table = BTreeMap::from([(7_u32, Some(asked.clone())), (300, None)]);
        for bytes in [encode(&table), encode_plain(&table)] {
            let read: BTreeMap<u32, Option<L7Summary>> = decode(&bytes.unwrap()).unwrap();
            assert_eq!(read, table);
        }
        let (short, long) = (encode(&table).unwrap(), encode_plain(&table).unwrap());
        assert!(short.len() < long.len(), "{} {}", short.len(), long.len());
        assert!(decode::<L7Summary>(&short[..short.len() - 1]).is_err());
        assert!(decode::<L7Summary>(b"").is_err());
    }

    /// A version may have fields more, or less.
    #[test]
    fn fields_have_names() {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        enum Ours {
            Message { known: u32, newer: Vec<u8> },
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        enum Theirs {
            Message {
                known: u32,
                #[serde(default)]
                older: bool,
            },
        }
        let newer = vec![1];
        let bytes = encode(&Ours::Message { known: 5, newer }).unwrap();
        let older = false;
        assert_eq!(
            decode::<Theirs>(&bytes).unwrap(),
            Theirs::Message { known: 5, older }
        );
    }
}
