//! How the data of each type is laid out that the library does not read.

use crate::record::Type;

/// One part of the data of a type that the library does not read.
#[derive(Clone, Copy)]
pub(super) enum Field {
    U8,
    U16,
    U32,
    Name,
    /// A string of at most 255 octets with its length.
    Text,
    /// One such string or more, to the end.
    Texts,
    /// One string without a length, as long as it is.
    LongText,
    /// A string, if there is one.
    MaybeText,
    Hex,
    Base64,
    /// A set of types (RFC 4034 section 4.1.2).
    Types,
    Address4,
    /// Pairs of hexadecimal digits with hyphens between, so many.
    Eui(usize),
    /// Four groups of hexadecimal digits with colons between.
    Node64,
    /// A number or a word of RFC 4398 section 2.1.
    Certificate,
    Location,
    Prefixes,
    /// `0x` and hexadecimal digits, with dots wherever somebody likes them.
    Nsap,
    /// A protocol, and the ports of it that are served.
    Services,
    /// Algorithm, tag, key, and the servers where the host is met.
    HostIdentity,
}

/// How the data of a type is laid out, for those that the library does not read.
pub(super) fn fields_of(rtype: Type) -> Option<&'static [Field]> {
    use Field::*;
    Some(match rtype.0 {
        11 => &[Address4, Services],        // WKS (RFC 1035 section 3.4.2)
        18 | 21 | 36 | 107 => &[U16, Name], // AFSDB RT KX LP
        19 => &[Text],                      // X25
        20 => &[Text, MaybeText],           // ISDN
        22 => &[Nsap],                      // NSAP (RFC 1706 section 7)
        25 => &[U16, U8, U8, Base64],       // KEY
        26 => &[U16, Name, Name],           // PX
        27 => &[Text, Text, Text],          // GPOS
        29 => &[Location],                  // LOC (RFC 1876)
        37 => &[Certificate, U16, U8, Base64],
        42 => &[Prefixes],                // APL (RFC 3123)
        49 => &[Base64],                  // DHCID
        53 => &[U8, U8, U8, Hex],         // SMIMEA
        55 => &[HostIdentity],            // HIP (RFC 8005 section 6)
        62 => &[U32, U16, Types],         // CSYNC
        99 | 258 | 261 | 262 => &[Texts], // SPF AVC RESINFO WALLET
        104 | 106 => &[U16, Node64],      // NID L64
        105 => &[U16, Address4],          // L32
        108 => &[Eui(6)],
        109 => &[Eui(8)],
        256 => &[U16, U16, LongText],         // URI
        32768 | 32769 => &[U16, U8, U8, Hex], // TA DLV
        _ => return None,
    })
}
