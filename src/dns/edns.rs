//! EDNS (RFC 6891): the OPT record of a query, read once, and the options of its reply.
//!
//! Every option is read here and nowhere else; the decoder behind us sees them as options that it does not
//! know ([`Edns::hide`]). What is not known is ignored (RFC 6891 section 6.1.2); what is known and broken is
//! [`Malformed`], and its message a FORMERR.

use std::ops::Range;

use super::cookie::{CLIENT_OCTETS, COOKIE_OCTETS};
use super::tcp::IDLE_MAX;
use crate::answer::{FIXED_OCTETS, Over};
use crate::record::Type;

/// The codes of options (IANA, "DNS EDNS0 Option Codes"): RFC 9664, 5001, 7871, 7873, 7828, 7830, 8914.
pub const UPDATE_LEASE: u16 = 2;
const NSID: u16 = 3;
const CLIENT_SUBNET: u16 = 8;
pub const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
pub const PADDING: u16 = 12;
pub const EXTENDED_ERROR: u16 = 15;
/// A code that nobody may give a meaning to (RFC 6891 section 9).
const LOCAL_USE: u16 = 65_001;

/// Octets of an option besides its data: code and length.
pub const OPTION_OCTETS: usize = 4;
/// Octets of the name that a server may tell of itself: beside it, a cookie and the longest question, 512
/// octets still hold a denial.
pub const NSID_OCTETS_MAX: usize = 128;
/// Replies over encrypted transports are as many octets as a multiple of this (RFC 8467 section 4.1).
const PADDING_BLOCK_OCTETS: usize = 468;
/// Octets of a server's part of a cookie (RFC 7873 section 4).
const SERVER_COOKIE_OCTETS: Range<usize> = 8..33;

/// The OPT record of a query.
#[derive(Clone, Copy, Debug)]
pub struct Edns<'a> {
    pub udp_octets: u16,
    pub version: u8,
    pub dnssec_ok: bool,
    /// RFC 9824 section 5.
    pub compact_ok: bool,
    /// Where its options begin in the message.
    at: usize,
    /// They as they came; `None` where the message ends before they do.
    data: Option<&'a [u8]>,
}

/// What the options of a query ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    pub nsid: bool,
    pub cookie: Option<Cookie<'a>>,
    pub keepalive: bool,
    pub padding: bool,
    /// The octets of Update Lease, which mean something to an UPDATE alone.
    pub update_lease: Option<&'a [u8]>,
}

/// A cookie as a client sends it (RFC 7873 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie<'a> {
    pub client: [u8; CLIENT_OCTETS],
    /// What a server once gave it: empty, or 8 to 32 octets.
    pub server: &'a [u8],
}

/// The options cannot be read, or one of ours is not as its RFC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Edns<'a> {
    /// Reads the OPT record whose type stands at `at`; `None` where that is another one, or the message ends.
    pub fn read(message: &'a [u8], at: usize) -> Option<Self> {
        let (fixed, rest) = message.get(at..)?.split_first_chunk::<FIXED_OCTETS>()?;
        let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        (number(0) == Type::OPT.0).then(|| Self {
            udp_octets: number(2),
            version: fixed[5],
            dnssec_ok: fixed[6] & 0x80 != 0,
            compact_ok: fixed[6] & 0x40 != 0,
            at: at + FIXED_OCTETS,
            data: rest.get(..usize::from(number(8))),
        })
    }

    /// What the options ask for; those of another version mean nothing to us.
    pub fn options(&self) -> Result<Options<'a>, Malformed> {
        let mut options = Options::default();
        if self.version != 0 {
            return Ok(options);
        }
        for option in split(self.data.ok_or(Malformed)?) {
            match option? {
                (NSID, _) => options.nsid = true, // its data mean nothing in a query (RFC 5001 section 2.1)
                (CLIENT_SUBNET, data) => check_subnet(data)?,
                // Of several the first (RFC 7873 section 5.2).
                (COOKIE, data) if options.cookie.is_none() => options.cookie = Some(Cookie::read(data)?),
                (KEEPALIVE, _) => options.keepalive = true,
                (PADDING, _) => options.padding = true,
                (UPDATE_LEASE, data) => options.update_lease = Some(data),
                _ => {}
            }
        }
        Ok(options)
    }

    /// True where this option is among them.
    pub fn has(&self, code: u16) -> bool {
        split(self.data.unwrap_or_default()).flatten().any(|(known, _)| known == code)
    }

    /// Gives every option in `message`, a copy of the one that was read, the code of one that nobody knows: the
    /// decoder behind us refuses a client subnet of family 0, which is `dig +subnet=0`.
    pub fn hide(&self, message: &mut [u8]) {
        let mut at = self.at;
        for (_, data) in split(self.data.unwrap_or_default()).flatten() {
            if let Some(code) = message.get_mut(at..at + 2) {
                code.copy_from_slice(&LOCAL_USE.to_be_bytes());
            }
            at += OPTION_OCTETS + data.len();
        }
    }
}

/// Code and data of each option.
fn split(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        let ([a, b, c, d], data) = match rest.split_first_chunk() {
            Some((head, data)) => (*head, data),
            None if rest.is_empty() => return None,
            None => {
                rest = &[];
                return Some(Err(Malformed));
            }
        };
        let Some((data, after)) = data.split_at_checked(usize::from(u16::from_be_bytes([c, d]))) else {
            rest = &[];
            return Some(Err(Malformed));
        };
        rest = after;
        Some(Ok((u16::from_be_bytes([a, b]), data)))
    })
}

impl<'a> Cookie<'a> {
    /// # Errors
    ///
    /// It has another length.
    pub fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let (client, server) = data.split_first_chunk().ok_or(Malformed)?;
        // RFC 7873 section 5.2.2: any other length is FORMERR.
        let fits = server.is_empty() || SERVER_COOKIE_OCTETS.contains(&server.len());
        fits.then_some(Self { client: *client, server }).ok_or(Malformed)
    }
}

/// Nothing is answered by a client's subnet, but a broken one is told so (RFC 7871 section 7.1.2): family and
/// prefix fit each other, there are exactly as many octets as the prefix needs, and no bit behind it is set.
fn check_subnet(data: &[u8]) -> Result<(), Malformed> {
    let [0, family, prefix, scope, address @ ..] = data else { return Err(Malformed) };
    let bits_max = match family {
        0 => 0, // no address at all: do not tell mine
        1 => 32,
        2 => 128,
        _ => return Err(Malformed),
    };
    let fits = *prefix <= bits_max && *scope == 0 && address.len() == usize::from(prefix.div_ceil(8));
    let bits = prefix % 8; // of the last octet
    let clean = bits == 0 || address.last().is_some_and(|last| last & (0xff >> bits) == 0);
    (fits && clean).then_some(()).ok_or(Malformed)
}

impl Options<'_> {
    /// The options of the reply, in wire form; Extended DNS Error and padding, which give way to records and
    /// come of them, are the encoder's.
    pub fn reply(&self, nsid: Option<&str>, cookie: Option<[u8; COOKIE_OCTETS]>, over: Over) -> Vec<u8> {
        let mut out = Vec::new();
        if let (true, Some(nsid)) = (self.nsid, nsid) {
            push(&mut out, NSID, nsid.as_bytes());
        }
        if let Some(cookie) = cookie {
            push(&mut out, COOKIE, &cookie);
        }
        if self.keepalive && over.tells_idle_time() {
            let timeout = IDLE_MAX.as_millis() / 100; // RFC 7828 section 3.1
            push(&mut out, KEEPALIVE, &(timeout as u16).to_be_bytes());
        }
        out
    }
}

/// Adds one option, whose data are far below what its length can say.
pub fn push(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

/// Adds padding to the options in `out`, the reply so far, of at most `limit` octets: to the next multiple of
/// the block, or as far as there is room (RFC 8467 section 4.1).
pub fn pad(out: &mut Vec<u8>, limit: usize) {
    let octets = (out.len() + OPTION_OCTETS).next_multiple_of(PADDING_BLOCK_OCTETS).min(limit);
    if let Some(octets) = octets.checked_sub(out.len() + OPTION_OCTETS) {
        out.extend_from_slice(&PADDING.to_be_bytes());
        out.extend_from_slice(&(octets as u16).to_be_bytes());
        out.resize(out.len() + octets, 0); // RFC 7830 section 3: of zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An OPT record from its type on, with these options.
    fn opt(version: u8, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0, 41, 0x10, 0, 0, version, 0x80, 0];
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    }

    fn options(data: &[u8]) -> Result<(bool, Option<usize>, bool, bool), Malformed> {
        let record = opt(0, data);
        let options = Edns::read(&record, 0).unwrap().options()?;
        let cookie = options.cookie.map(|cookie| cookie.server.len());
        Ok((options.nsid, cookie, options.keepalive, options.padding))
    }

    #[test]
    fn options_are_read_to_their_end_or_not_at_all() {
        assert_eq!(options(&[]), Ok((false, None, false, false)));
        let all = [&[0, 3, 0, 0][..], &[0, 10, 0, 8], &[7; 8], &[0, 11, 0, 0], &[0, 12, 0, 1, 0]].concat();
        assert_eq!(options(&all), Ok((true, Some(0), true, true)));
        for end in 1..all.len() {
            let whole = [4, 16, 20].contains(&end);
            assert_eq!(options(&all[..end]).is_ok(), whole, "{end} octets");
        }
        // A message that ends before its options do; and options that mean nothing to us.
        let record = opt(0, &all);
        assert_eq!(Edns::read(&record[..record.len() - 1], 0).unwrap().options(), Err(Malformed));
        let record = opt(1, &[0]);
        assert_eq!(Edns::read(&record, 0).unwrap().options(), Ok(Options::default()));
        assert!(Edns::read(&record[..9], 0).is_none() && Edns::read(&record, 1).is_none());
    }

    #[test]
    fn hidden_options_keep_their_places() {
        let all = [&[0, 3, 0, 0][..], &[0, 8, 0, 4, 0, 0, 0, 0], &[0, 10, 0]].concat();
        let message = [vec![9; 5], opt(0, &all)].concat();
        let mut hidden = message.clone();
        Edns::read(&message, 5).unwrap().hide(&mut hidden);
        let local = LOCAL_USE.to_be_bytes();
        let expected = [&local[..], &[0, 0], &local, &[0, 4, 0, 0, 0, 0], &[0, 10, 0]].concat();
        assert_eq!(hidden, [vec![9; 5], opt(0, &expected)].concat());
    }
}
