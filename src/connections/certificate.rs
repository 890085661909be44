//! The one thing of a certificate that the library does not tell: until when it is valid.
//!
//! A walk through as much of its DER (X.690) as lies before the dates (RFC 5280 section 4.1).

use crate::time::{Wall, parse_time};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, which the version is in where it is said.
const VERSION: u8 = 0xa0;

/// The end of a certificate's time; none where it cannot be read.
pub fn valid_until(der: &[u8]) -> Option<Wall> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_, rest) = element(rest, INTEGER)?; // the serial number
    let (_, rest) = element(rest, SEQUENCE)?; // the algorithm of the signature
    let (_, rest) = element(rest, SEQUENCE)?; // the issuer
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, not_after) = time(validity)?;
    time(not_after).map(|(time, _)| time)
}

/// The octets of the first element, which has to have this tag, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // So many octets of length follow; certificates of four gigabytes there are none.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5), and what is behind it.
fn time(der: &[u8]) -> Option<(Wall, &[u8])> {
    let (text, rest, century) = match element(der, UTC_TIME) {
        // Two digits of a year are of 1950 to 2049.
        Some((text, rest)) => (text, rest, if *text.first()? < b'5' { "20" } else { "19" }),
        None => element(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, ""))?,
    };
    let digits = format!("{century}{}", std::str::from_utf8(text).ok()?.strip_suffix('Z')?);
    if digits.len() != 14 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(8, 10),
        part(10, 12),
        part(12, 14)
    );
    Some((parse_time(&text, Wall::default())?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 2, 28);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_read_in_both_spellings() {
        for (year, expected) in [(2049, "2049-02-28T00:00:00.000Z"), (2050, "2050-02-28T00:00:00.000Z")] {
            assert_eq!(valid_until(&made(year)).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_no_date_and_no_panic() {
        let whole = made(2030);
        for end in 0..whole.len().min(120) {
            assert_eq!(valid_until(&whole[..end]), None);
        }
        for at in 0..200.min(whole.len()) {
            for octet in [0, 0x30, 0x7f, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = octet;
                let _ = valid_until(&changed);
            }
        }
    }
}
