//! How names, texts and times are spelt in a zone file (RFC 1035 section 5.1).

use crate::name::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, Name};

/// The first octet of a text, an escape being one, and what is behind it; no octet where an escape is none.
fn octet(text: &[u8]) -> Option<(Option<u8>, &[u8])> {
    let (first, rest) = text.split_first()?;
    if *first != b'\\' {
        return Some((Some(*first), rest));
    }
    Some(match rest {
        [a, b, c, behind @ ..] if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => {
            let number = [a, b, c].iter().fold(0, |number, digit| number * 10 + u32::from(**digit - b'0'));
            (u8::try_from(number).ok(), behind)
        }
        [digit, ..] if digit.is_ascii_digit() => (None, &[]),
        [escaped, behind @ ..] => (Some(*escaped), behind),
        [] => (None, &[]),
    })
}

/// The octets of a token, without its quotes and escapes.
pub(super) fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let text = match text.strip_prefix(b"\"") {
        Some(text) => text.strip_suffix(b"\"")?,
        None => text,
    };
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((octet, after)) = octet(rest) {
        octets.push(octet?);
        rest = after;
    }
    Some(octets)
}

/// A name, which `origin` completes where no dot ends it; a lone `@` is the origin.
pub(super) fn name(text: &[u8], origin: &Name) -> Result<Name, &'static str> {
    const UNREADABLE: &str = "a name has a control or non-ASCII character, or a broken escape; write IDNA's `xn--…`, or `\\DDD` for an octet";
    if text == b"@" {
        return Ok(origin.clone());
    }
    if text == b"." {
        return Ok(Name::root());
    }
    let mut wire = [0; NAME_OCTETS_MAX + 1];
    let (mut at, mut length_at, mut rest, mut is_absolute) = (1, 0, text, false);
    while let Some((found, after)) = octet(rest) {
        let is_escaped = rest[0] == b'\\';
        rest = after;
        match found {
            Some(b'.') if !is_escaped => {
                let octets = at - length_at - 1;
                if octets == 0 {
                    return Err("a label is empty (two dots in a row, or a dot in front)");
                }
                wire[length_at] = octets as u8; // LABEL_OCTETS_MAX at most
                is_absolute = rest.is_empty();
                length_at = at;
            }
            Some(octet) if is_escaped || octet.is_ascii_graphic() && octet != b'"' => {
                if at - length_at > LABEL_OCTETS_MAX {
                    return Err("a label is longer than 63 octets");
                }
                wire[at] = octet;
            }
            _ => return Err(UNREADABLE),
        }
        at += 1;
        if at >= wire.len() {
            return Err("the name is longer than 255 octets");
        }
    }
    if is_absolute {
        return Name::from_wire(&wire[..at]).map_err(|_| "the name is longer than 255 octets");
    }
    if at - length_at == 1 {
        return Err("a name is empty");
    }
    wire[length_at] = (at - length_at - 1) as u8;
    let whole = [&wire[..at], origin.as_wire()].concat();
    Name::from_wire(&whole).map_err(|_| "the name is longer than 255 octets with its origin")
}

/// Seconds: a number, or numbers with units as BIND has them: `1w2d3h4m5s`.
pub(super) fn seconds(text: &[u8]) -> Option<u32> {
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let (mut sum, mut rest) = (0u32, text);
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let number: u32 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let unit = match rest.get(digits)?.to_ascii_lowercase() {
            b'w' => 604_800,
            b'd' => 86_400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("3600", Some(3600)),
            ("1h30m", Some(5400)),
            ("1W2D3H4M5S", Some(788_645)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("7102w", None),
            ("1h30", None),
            ("h", None),
            ("", None),
            ("1x", None),
            ("-1", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn names_are_completed_escaped_and_bounded() {
        let origin = Name::parse("corp.test").unwrap();
        let shown = |text: &str| name(text.as_bytes(), &origin).map(|name| name.to_string());
        for (text, expected) in [
            ("@", "corp.test."),
            ("\\@", "\\@.corp.test."),
            ("www", "www.corp.test."),
            ("www.", "www."),
            (".", "."),
            ("a\\.b.c", "a\\.b.c.corp.test."),
            ("a\\.", "a\\..corp.test."),
            ("\\119w", "ww.corp.test."),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "..", "a..b", ".a", "a\\", "a\\2", "a\\256", "\"a\"", "\u{fc}", "a\u{7f}"] {
            assert!(shown(text).is_err(), "{text:?}");
        }
        let label = "a".repeat(63);
        assert!(shown(&label).is_ok() && shown(&format!("{label}a")).is_err());
        let long = |octets: usize| format!("{label}.{label}.{label}.{}.", "b".repeat(octets));
        assert!(shown(&long(61)).is_ok() && shown(&long(62)).is_err());
        let relative = |octets: usize| format!("{label}.{label}.{label}.{}", "b".repeat(octets));
        assert!(shown(&relative(51)).is_ok() && shown(&relative(52)).is_err());
        assert!(shown(&"a.".repeat(400)).is_err());
    }
}
