//! `$GENERATE`, as BIND has it: one line that stands for many.
//!
//! `$GENERATE 1-254/2 host-${0,3,d} A 10.0.0.$`: a range with a step, and in the text behind it `$` for the number;
//! `${offset,width,base}` for the number and the offset, as wide as that, in the base `d`, `o`, `x`, `X`, or as nibbles of
//! a reverse name `n`, `N`; `\$` and `$$` for a dollar sign.

use super::entry::Token;
use crate::zone::ZoneError;

/// Widest number: a name's nibbles are 63 octets, and no other has so many digits.
const WIDTH_MAX: usize = 255;
/// Longest line. The 65,535 octets that a record's data may have are 256 KiB where each is written as `\DDD`; without a
/// limit, widths make of a long text one that is thirty times as long.
const LINE_OCTETS_MAX: usize = 1 << 20;
/// Largest number, as in BIND.
const NUMBER_MAX: i64 = i32::MAX as i64;

/// The numbers of a range, and the text that each of them goes into.
pub(super) struct Generated {
    next: i64,
    last: i64,
    step: i64,
    text: Vec<u8>,
}

impl Generated {
    /// Of the tokens behind `$GENERATE`.
    pub fn of(directive: &Token<'_>, tokens: &[Token<'_>]) -> Result<Self, ZoneError> {
        let [range, owner, rest @ ..] = tokens else {
            return Err(directive.error("$GENERATE needs a range, an owner, a type and data"));
        };
        let (next, last, step) = numbers(range.text).ok_or_else(|| {
            range.error(format!(
                "{} is no range; write it as `1-254` or `0-254/2`, the first not above the last, up to {NUMBER_MAX}",
                range.shown()
            ))
        })?;
        let mut text = owner.text.to_vec();
        for (at, token) in rest.iter().enumerate() {
            if !token.is_glued {
                text.push(b' ');
            }
            // BIND reads the data as one token, which has to be in quotes where it is several.
            let is_data = at + 1 == rest.len() && token.is_quoted();
            let inner = |text| <[u8]>::strip_suffix(text, b"\"");
            let words = token.text.strip_prefix(b"\"").and_then(inner).filter(|_| is_data);
            text.extend_from_slice(words.unwrap_or(token.text));
        }
        text.push(b'\n');
        Ok(Self { next, last, step, text })
    }
}

impl Iterator for Generated {
    type Item = Result<Vec<u8>, String>;

    /// The text of the next record.
    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next;
        if number > self.last {
            return None;
        }
        self.next = number + self.step;
        Some(filled(&self.text, number))
    }
}

/// First, last and step.
fn numbers(text: &[u8]) -> Option<(i64, i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (range, step) = text.split_once('/').unwrap_or((text, "1"));
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number <= NUMBER_MAX)
    };
    let (first, last, step) = (number(first)?, number(last)?, number(step)?);
    (first <= last && step > 0).then_some((first, last, step))
}

/// The text with the number in the places of its dollar signs.
fn filled(text: &[u8], number: i64) -> Result<Vec<u8>, String> {
    let mut filled = Vec::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some((&octet, after)) = rest.split_first() {
        if filled.len() > LINE_OCTETS_MAX {
            return Err(format!("$GENERATE makes a line of more than {LINE_OCTETS_MAX} octets"));
        }
        rest = after;
        match (octet, after) {
            (b'\\' | b'$', [b'$', behind @ ..]) => {
                filled.push(b'$');
                rest = behind;
            }
            (b'\\', [escaped, behind @ ..]) => {
                filled.extend([b'\\', *escaped]);
                rest = behind;
            }
            (b'$', [b'{', behind @ ..]) => {
                let end = behind.iter().position(|octet| *octet == b'}');
                let form = end.and_then(|end| std::str::from_utf8(&behind[..end]).ok());
                let shown = form.and_then(|form| written(form, number)).ok_or_else(|| {
                    format!(
                        "the `${{` of $GENERATE is `${{offset,width,base}}`: a width up to {WIDTH_MAX}, a base of d, o, x, X, n or N, and no number below 0"
                    )
                })?;
                filled.extend_from_slice(shown.as_bytes());
                rest = &behind[end.unwrap_or_default() + 1..];
            }
            (b'$', _) => filled.extend_from_slice(number.to_string().as_bytes()),
            _ => filled.push(octet),
        }
    }
    Ok(filled)
}

/// `offset[,width[,base]]` of a number.
fn written(form: &str, number: i64) -> Option<String> {
    let mut parts = form.split(',');
    let offset: i32 = parts.next()?.parse().ok()?;
    let width: usize = parts.next().map_or(Some(0), |width| width.parse().ok())?;
    let base = parts.next().unwrap_or("d");
    let number = u64::try_from(number + i64::from(offset)).ok()?;
    if width > WIDTH_MAX || parts.next().is_some() {
        return None;
    }
    match base {
        "d" => Some(format!("{number:0width$}")),
        "o" => Some(format!("{number:0width$o}")),
        "x" => Some(format!("{number:0width$x}")),
        "X" => Some(format!("{number:0width$X}")),
        "n" => Some(nibbles(number, width)),
        "N" => Some(nibbles(number, width).to_ascii_uppercase()),
        _ => None,
    }
}

/// The digits of a number in base 16, the lowest first, with dots between; the width counts these too.
fn nibbles(mut number: u64, mut width: usize) -> String {
    let mut nibbles = String::new();
    loop {
        nibbles.push_str(&format!("{:x}", number & 15));
        number >>= 4;
        width = width.saturating_sub(1);
        if number == 0 && width == 0 {
            return nibbles;
        }
        nibbles.push('.');
        width = width.saturating_sub(1);
        if number == 0 && width == 0 {
            return nibbles; // as BIND: an even width ends with a dot
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_written_as_asked() {
        for (form, expected) in [
            ("0", "26"),
            ("4", "30"),
            ("-26", "0"),
            ("0,4", "0026"),
            ("0,4,d", "0026"),
            ("0,0,o", "32"),
            ("0,4,x", "001a"),
            ("0,0,X", "1A"),
            ("0,3,n", "a.1"),
            ("0,7,N", "A.1.0.0"),
            ("0,1,n", "a.1"),
        ] {
            assert_eq!(written(form, 26).as_deref(), Some(expected), "{form}");
        }
        for form in ["", "-27", "0,256", "0,1,y", "0,1,d,1", "x", "0,-1"] {
            assert_eq!(written(form, 26), None, "{form}");
        }
    }

    #[test]
    fn dollar_signs_are_numbers_unless_escaped() {
        let filled = |text: &str| filled(text.as_bytes(), 7).map(|text| String::from_utf8(text).unwrap());
        let long = filled(&"${0,255}".repeat(5000)).unwrap_err();
        assert_eq!(long, "$GENERATE makes a line of more than 1048576 octets");
        assert_eq!(filled("a$.b A 10.0.$.$").unwrap(), "a7.b A 10.0.7.7");
        assert_eq!(filled("\\$a$$b\\.c\\").unwrap(), "$a$b\\.c\\");
        assert_eq!(filled("x${1,3,d}y${-7}").unwrap(), "x008y0");
        assert!(filled("x${1").is_err() && filled("x${-8}").is_err());
    }

    #[test]
    fn ranges_are_first_last_and_step() {
        assert_eq!(numbers(b"1-3"), Some((1, 3, 1)));
        assert_eq!(numbers(b"0-254/2"), Some((0, 254, 2)));
        for wrong in ["3-1", "1", "1-2/0", "-1-2", "1-2147483648", "+1-2", "1-2/", "a-b"] {
            assert_eq!(numbers(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
