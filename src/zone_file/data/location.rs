//! Where something is (LOC, RFC 1876): angles, a height and precisions, to octets.

use super::fields::Fields;
use crate::zone::ZoneError;

impl Fields<'_, '_> {
    /// RFC 1876 section 3: `d [m [s]] N|S d [m [s]] E|W altitude [size [horizontal [vertical]]]`.
    pub fn location(&mut self) -> Result<(), ZoneError> {
        let latitude = self.angle(["N", "S"], 90)?;
        let longitude = self.angle(["E", "W"], 180)?;
        let altitude = self.centimetres(-10_000_000, 4_284_967_295)?;
        let mut precisions = [100, 1_000_000, 1000]; // 1 m, 10 km, 10 m
        for precision in precisions.iter_mut().take(self.tokens.len()) {
            *precision = self.centimetres(0, 9_000_000_000)?;
        }
        self.octets.push(0); // the version
        self.octets.extend(precisions.map(|centimetres| {
            // A digit, and how many zeros behind it.
            let (mut digit, mut zeros) = (centimetres, 0u8);
            while digit > 9 {
                (digit, zeros) = (digit / 10, zeros + 1);
            }
            (digit as u8) << 4 | zeros
        }));
        for number in [latitude, longitude, (altitude + 10_000_000) as u32] {
            self.octets.extend(number.to_be_bytes());
        }
        Ok(())
    }

    /// Thousandths of a second of arc, counted from 2^31.
    fn angle(&mut self, [positive, negative]: [&str; 2], degrees_max: i64) -> Result<u32, ZoneError> {
        let what = "a latitude or longitude such as `52 22 23.000 N`";
        let mut milliseconds = 0;
        for (place, unit) in [3_600_000, 60_000, 1000].into_iter().enumerate() {
            let number = self.word(what, |text| {
                let number = thousandths(text)?;
                let in_range = if place == 0 { number <= degrees_max * 1000 } else { number < 60_000 };
                (in_range && (place == 2 || number % 1000 == 0)).then_some(number)
            })?;
            milliseconds += number * unit / 1000;
            if self.tokens.first().is_some_and(|token| token.is(positive) || token.is(negative)) {
                break;
            }
        }
        let sign = self.word(what, |text| match text {
            text if text.eq_ignore_ascii_case(positive) => Some(1),
            text if text.eq_ignore_ascii_case(negative) => Some(-1),
            _ => None,
        })?;
        match milliseconds > degrees_max * 3_600_000 {
            true => Err(self.head.error(format!("an angle is larger than {degrees_max} degrees"))),
            false => Ok(((1 << 31) + sign * milliseconds) as u32),
        }
    }

    fn centimetres(&mut self, least: i64, most: i64) -> Result<i64, ZoneError> {
        self.word("metres within what RFC 1876 allows, such as `-24m`", |text| {
            let text = text.strip_suffix(['m', 'M']).unwrap_or(text);
            let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
            let centimetres = sign * (thousandths(digits)? / 10);
            (least..=most).contains(&centimetres).then_some(centimetres)
        })
    }
}

/// A decimal number with up to three places, times 1000.
fn thousandths(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    if whole.is_empty() || whole.len() > 10 || part.len() > 3 || !digits(whole) || !digits(part) {
        return None;
    }
    format!("{whole}{part:0<3}").parse().ok()
}
