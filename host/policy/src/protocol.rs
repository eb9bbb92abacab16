//! Protocol numbers and names.

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// What `ANY` stands for: never ICMP.
pub const ANY: [u8; 3] = [TCP, UDP, SCTP];

/// Every protocol a port or ICMP rule can speak about, in ascending order.
pub const ALL: [u8; 5] = [ICMP, TCP, UDP, ICMPV6, SCTP];

/// Is it one of the two ICMPs, whose types take the place of ports?
pub fn is_icmp(protocol: u8) -> bool {
    protocol == ICMP || protocol == ICMPV6
}

/// Short name, or the number.
pub fn name(protocol: u8) -> String {
    match protocol {
        ICMP => "ICMP".to_owned(),
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        ICMPV6 => "ICMPv6".to_owned(),
        SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// A protocol's number as its name in lower case, or in digits; for serde's `with`.
pub mod by_name {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the name.
    ///
    /// # Errors
    ///
    /// The serializer's.
    // Serde calls it with a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(protocol: &u8, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::name(*protocol).to_ascii_lowercase())
    }

    /// Reads it back.
    ///
    /// # Errors
    ///
    /// If it is neither a name nor a number.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
        let text = String::deserialize(from)?;
        let mut known = super::ALL.into_iter();
        match known.find(|number| super::name(*number).eq_ignore_ascii_case(&text)) {
            Some(number) => Ok(number),
            None => text.parse().map_err(D::Error::custom),
        }
    }
}

/// ICMP types by name, as Cilium spells them.
const ICMP_TYPES: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// ICMPv6 types by name, as Cilium spells them.
const ICMPV6_TYPES: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// The number of an ICMP type given by name.
pub fn icmp_type(name: &str, ipv6: bool) -> Option<u8> {
    let table: &[(&str, u8)] = if ipv6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    table
        .iter()
        .find(|(own, _)| *own == name)
        .map(|(_, ty)| *ty)
}
