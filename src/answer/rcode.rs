//! How a message ends: its response code, and why.

use crate::view::EDE_OCTETS_MAX;

/// RFC 6895 section 2.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rcode {
    #[default]
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    YxDomain = 6,
    YxRrSet = 7,
    NxRrSet = 8,
    NotAuth = 9,
    NotZone = 10,
    BadVers = 16,
    BadCookie = 23,
}

/// An Extended DNS Error (RFC 8914): its code and a text of at most `EDE_OCTETS_MAX` octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ede {
    pub code: u16,
    pub text: Box<str>,
}

impl Ede {
    pub const OTHER: u16 = 0;
    pub const STALE_ANSWER: u16 = 3;
    pub const STALE_NXDOMAIN_ANSWER: u16 = 19;
    pub const CACHED_ERROR: u16 = 13;
    pub const NOT_READY: u16 = 14;
    pub const PROHIBITED: u16 = 18;
    pub const NOT_AUTHORITATIVE: u16 = 20;
    pub const NOT_SUPPORTED: u16 = 21;
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub const NETWORK_ERROR: u16 = 23;
    pub const INVALID_QUERY_TYPE: u16 = 30;

    /// The code of what is answered from an old view (RFC 8914 sections 4.4 and 4.20).
    pub fn stale(rcode: Rcode) -> u16 {
        match rcode {
            Rcode::NxDomain => Self::STALE_NXDOMAIN_ANSWER,
            _ => Self::STALE_ANSWER,
        }
    }

    /// Some words repeat a label of the question, which may hold any octet: what a terminal would obey
    /// is taken out.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let mut text = text.into().replace(char::is_control, "?");
        while text.len() > EDE_OCTETS_MAX {
            text.pop();
        }
        Self { code, text: text.into() }
    }
}
