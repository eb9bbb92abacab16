//! Reading the packed header list of `wit/filter@0.1.0/http.wit`.

/// The headers a filter asked for, in message order. Names are lower case; values are
/// raw bytes, because HTTP does not promise text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    packed: Vec<u8>,
}

impl Headers {
    /// Headers in packed form, as the host sends them. A list that ends in the middle
    /// of a header reads as if it ended before it.
    pub fn from_packed(packed: Vec<u8>) -> Self {
        Self { packed }
    }

    /// First header of this (lower-case) name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|(other, _)| *other == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// First header of this (lower-case) name, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every value of this (lower-case) name, in message order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(other, _)| *other == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// Names and values, in message order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.packed }
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    /// For tests of filters: names are lower-cased as the host would.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut packed = Vec::new();
        for (name, value) in headers {
            let name = name.as_ref().to_ascii_lowercase();
            pack_header(&mut packed, name.as_bytes(), value.as_ref());
        }
        Self { packed }
    }
}

/// Appends one header in packed form. One whose name or value is too long for its
/// length field is left out; no HTTP parser lets such a header through.
pub fn pack_header(packed: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let (Ok(name_length), Ok(value_length)) =
        (u16::try_from(name.len()), u32::try_from(value.len()))
    else {
        return;
    };
    packed.extend_from_slice(&name_length.to_le_bytes());
    packed.extend_from_slice(name);
    packed.extend_from_slice(&value_length.to_le_bytes());
    packed.extend_from_slice(value);
}

/// Iterator over packed headers.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_reading_agree() {
        let headers: Headers = [("Accept", "a"), ("X-Id", ""), ("accept", "b")]
            .into_iter()
            .collect();
        assert_eq!(headers.get("accept"), Some(&b"a"[..]));
        assert_eq!(headers.get("x-id"), Some(&b""[..]));
        assert_eq!(headers.get("x"), None);
        assert_eq!(headers.get_all("accept").count(), 2);
        assert_eq!(headers.iter().count(), 3);
    }

    #[test]
    fn a_list_cut_anywhere_reads_as_a_prefix() {
        let whole: Headers = [("a", "1"), ("bb", "22"), ("ccc", "")]
            .into_iter()
            .collect();
        let all: Vec<_> = whole.iter().collect();
        for end in 0..whole.packed.len() {
            let cut = Headers::from_packed(whole.packed[..end].to_vec());
            let read: Vec<_> = cut.iter().collect();
            assert!(read.len() < all.len());
            assert_eq!(read, all[..read.len()]);
        }
    }
}
