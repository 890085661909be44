//! Record data: text to octets.
//!
//! The library reads what it knows. It takes a lone `@` for a label, numbers of a SOA without units and no octet above
//! 127, so what it is shown is rewritten first; and the names that it put together are checked once more, on their way
//! through the octets. What it does not know is laid out here, field by field.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use domain::base::iana::Class;
use domain::base::name::Name as ScannedName;
use domain::base::rdata::ComposeRecordData;
use domain::base::{ParseRecordData, ParsedName, Rtype};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry as Scanned, ScannedRecord, Zonefile};

use super::entry::Token;
use super::spelling::{name, seconds, unquoted};
use crate::name::Name;
use crate::record::{Data, Type};
use crate::zone::ZoneError;

/// Octets of the data of a record.
const DATA_OCTETS_MAX: usize = u16::MAX as usize;

/// A type by its name, or as `TYPE123`.
pub(super) fn rtype(token: &Token<'_>) -> Option<Type> {
    let text = std::str::from_utf8(token.text).ok()?;
    text.parse::<Rtype>().ok().map(|rtype| Type(rtype.to_int()))
}

/// The class that a token names: true where it is IN, which is the only one that is served.
pub(super) fn class(token: &Token<'_>) -> Option<bool> {
    let text = std::str::from_utf8(token.text).ok()?;
    text.parse::<Class>().ok().map(|class| class == Class::IN)
}

/// The library, which reads a line at a time and remembers nothing but the origin.
pub(super) struct Library {
    zonefile: Zonefile,
    origin: Name,
    /// Its line, and where each token of it began: the octet, from 1, and its line in the file.
    fed: Vec<u8>,
    begins: Vec<(usize, usize)>,
    /// How many lines it was shown.
    lines: usize,
}

impl Library {
    pub fn new(origin: &Name) -> Self {
        let (fed, begins) = Default::default();
        Self { zonefile: fresh(origin), origin: origin.clone(), fed, begins, lines: 0 }
    }

    /// The data of a record of this type. `head` is the token of the type, which complaints about the end are on.
    pub fn read(
        &mut self,
        rtype: Type,
        head: &Token<'_>,
        tokens: &[Token<'_>],
        origin: &Name,
    ) -> Result<Data, ZoneError> {
        let is_generic = tokens.first().is_some_and(|token| token.text == b"\\#");
        if !is_generic && let Some(fields) = fields_of(rtype) {
            let octets = Fields { head, tokens, origin, octets: Vec::new() }.read(fields)?;
            return data(rtype, &octets).map_err(|reason| head.error(reason));
        }
        if self.origin != *origin {
            (self.zonefile, self.origin, self.lines) = (fresh(origin), origin.clone(), 0);
        }
        self.feed(rtype, tokens)?;
        match self.scan() {
            Ok(record) => {
                let mut octets = Vec::new();
                // Into a `Vec` every name goes whole, without compression, and there is always room.
                if record.data().compose_rdata(&mut octets).is_err() {
                    return Err(head.error("the data of the record is longer than 65,535 octets"));
                }
                data(rtype, &octets).map_err(|reason| head.error(reason))
            }
            Err((reason, line)) => {
                // Behind an error its state is that of no line.
                (self.zonefile, self.lines) = (fresh(origin), 0);
                let last = tokens.last().map_or(head.line, |token| token.line);
                let reason = sentence(&reason, rtype);
                Err(ZoneError { line: line.unwrap_or(last).clamp(head.line, last), reason })
            }
        }
    }

    /// Shows it the record as one line, with the root as its owner.
    fn feed(&mut self, rtype: Type, tokens: &[Token<'_>]) -> Result<(), ZoneError> {
        self.fed.clear();
        self.begins.clear();
        self.fed.extend_from_slice(b". 0 IN ");
        self.fed.extend_from_slice(Rtype::from_int(rtype.0).to_string().as_bytes());
        for (at, token) in tokens.iter().enumerate() {
            if !token.is_glued {
                self.fed.push(b' ');
            }
            self.begins.push((self.fed.len() + 1, token.line));
            let with_units = rtype == Type::SOA && at > 2 && !token.text.iter().all(u8::is_ascii_digit);
            if token.text == b"@" && is_name(rtype, at) {
                self.fed.extend_from_slice(self.origin.to_string().as_bytes());
            } else if with_units && let Some(seconds) = seconds(token.text) {
                self.fed.extend_from_slice(seconds.to_string().as_bytes());
            } else if token.is_quoted() {
                let mut rest = token.text;
                while let [octet, behind @ ..] = rest {
                    rest = behind;
                    match (octet, behind) {
                        (b'\\', [next, behind @ ..]) if is_plain(*next) => {
                            self.fed.extend([b'\\', *next]);
                            rest = behind;
                        }
                        // The octet behind it stands for itself in any case.
                        (b'\\', _) => {}
                        (octet, _) if is_plain(*octet) => self.fed.push(*octet),
                        (octet, _) => self.fed.extend_from_slice(format!("\\{octet:03}").as_bytes()),
                    }
                }
            } else if token.text.iter().any(|octet| !octet.is_ascii_graphic()) {
                return Err(token.error(UNREADABLE));
            } else {
                self.fed.extend_from_slice(token.text);
            }
        }
        self.fed.push(b'\n');
        self.zonefile.extend_from_slice(&self.fed);
        self.lines += 1;
        Ok(())
    }

    /// What it makes of the line, which has to be one record; or why not, and on which line.
    fn scan(&mut self) -> Result<ScannedRecord, (String, Option<usize>)> {
        let record = match self.zonefile.next_entry() {
            Ok(Some(Scanned::Record(record))) => record,
            Ok(_) => return Err(("this is no record".to_owned(), None)),
            Err(error) => {
                // Its text is `line:column: reason`.
                let text = error.to_string();
                let mut parts = text.splitn(3, ':');
                let mut number = || parts.next().and_then(|number| number.trim().parse::<usize>().ok());
                let (line, column) = (number(), number());
                let reason = parts.next().unwrap_or(&text).trim().to_owned();
                // It counts the line end before it complains of what was missing in front of it.
                let begun = column.filter(|_| line == Some(self.lines)).map(|column| {
                    self.begins.iter().rev().find(|(begin, _)| *begin <= column).map(|(_, line)| *line)
                });
                return Err((reason, begun.flatten()));
            }
        };
        match self.zonefile.next_entry() {
            Ok(None) => Ok(record),
            Ok(Some(_)) | Err(_) => Err(("the end of this record is ambiguous".to_owned(), None)),
        }
    }
}

/// What the library reads as it stands in quotes.
fn is_plain(octet: u8) -> bool {
    octet == b' ' || octet.is_ascii_graphic()
}

fn fresh(origin: &Name) -> Zonefile {
    let mut zonefile = Zonefile::new();
    // A name of ours is one of theirs; without an origin a relative name is refused.
    if let Ok(origin) = ScannedName::from_octets(origin.as_wire().to_vec().into()) {
        zonefile.set_origin(origin);
    }
    zonefile.set_default_class(Class::IN);
    zonefile
}

/// True where the token at this place of the data is a name.
fn is_name(rtype: Type, at: usize) -> bool {
    match rtype.0 {
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 | 47 => at == 0, // NS MD MF CNAME MB MG MR PTR DNAME NSEC
        6 | 14 | 17 => at < 2,                               // SOA MINFO RP
        15 | 64 | 65 => at == 1,                             // MX SVCB HTTPS
        33 | 45 => at == 3,                                  // SRV IPSECKEY
        35 => at == 5,                                       // NAPTR
        _ => false,
    }
}

fn data(rtype: Type, octets: &[u8]) -> Result<Data, String> {
    if octets.len() > DATA_OCTETS_MAX {
        return Err("the data of the record is longer than 65,535 octets".to_owned());
    }
    let whole = is_well_formed(Rtype::from_int(rtype.0), octets);
    let data = Data::from_wire(rtype, octets).filter(|_| whole);
    data.ok_or_else(|| format!("the data is not that of a record {}", Rtype::from_int(rtype.0)))
}

/// True where the octets, in which no name is compressed, are data of this type, to the last one.
pub fn is_data_of(rtype: Type, octets: &[u8]) -> bool {
    is_well_formed(Rtype::from_int(rtype.0), octets)
}

/// True where the octets read back as data of their type, to the last one; a type that the library
/// does not know may be anything.
fn is_well_formed(rtype: Rtype, octets: &[u8]) -> bool {
    match rtype.to_int() {
        // WKS (RFC 1035 section 3.4.2): an address, a protocol, and a bit for each port.
        11 => return (5..=5 + PORTS_OCTETS_MAX).contains(&octets.len()),
        // NSAP (RFC 1706 section 5).
        22 => return !octets.is_empty(),
        55 => return is_host_identity(octets),
        _ => {}
    }
    let mut parser = Parser::from_ref(octets);
    let parsed = ZoneRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(rtype, &mut parser);
    matches!(parsed, Ok(Some(_))) && parser.remaining() == 0
}

/// Octets of a map of all ports.
const PORTS_OCTETS_MAX: usize = 65_536 / 8;

/// HIP (RFC 8005 section 5): lengths of tag and key, these two, and names to the end.
fn is_host_identity(octets: &[u8]) -> bool {
    let [tag, _, key @ ..] = octets else { return false };
    let Some((key, rest)) = key.split_first_chunk() else { return false };
    let (tag, key) = (usize::from(*tag), usize::from(u16::from_be_bytes(*key)));
    let Some(mut names) = rest.get(tag + key..).filter(|_| tag > 0 && key > 0) else { return false };
    while !names.is_empty() {
        let Ok(name) = Name::from_wire(names) else { return false };
        names = &names[name.as_wire().len()..];
    }
    true
}

const UNREADABLE: &str =
    "a control or non-ASCII character, or a broken escape; write such an octet as `\\DDD`";

/// The library's terse words in ours; those not listed are good as they are.
fn sentence(reason: &str, rtype: Type) -> String {
    if reason.starts_with("bad symbol") {
        return UNREADABLE.to_owned();
    }
    let rtype = Rtype::from_int(rtype.0);
    match reason {
        "unknown record type with concrete data" => {
            return format!(
                "the data of {rtype} is read only in the generic form of RFC 3597, `\\# length hex`"
            );
        }
        "bad name" => "a name has an empty label, a label of more than 63 octets, or more than 255 in all",
        "bad charstr" => "a string has at most 255 octets; write it as several",
        "unexpected end of entry" => "the record ends early",
        "trailing tokens" => "something follows the end of the record",
        other => return format!("{other} in the data of {rtype}"),
    }
    .to_owned()
}

/// One part of the data of a type that the library does not read.
#[derive(Clone, Copy)]
enum Field {
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
fn fields_of(rtype: Type) -> Option<&'static [Field]> {
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

/// The data of one record, field by field.
struct Fields<'a, 't> {
    head: &'a Token<'t>,
    tokens: &'a [Token<'t>],
    origin: &'a Name,
    octets: Vec<u8>,
}

impl<'a, 't> Fields<'a, 't> {
    fn read(mut self, fields: &[Field]) -> Result<Vec<u8>, ZoneError> {
        for field in fields {
            self.field(*field)?;
        }
        match self.tokens.first() {
            Some(token) => Err(token.error("something follows the end of the record")),
            None => Ok(self.octets),
        }
    }

    fn next(&mut self) -> Result<&'a Token<'t>, ZoneError> {
        let (first, rest) = self.tokens.split_first().ok_or_else(|| {
            self.head.error(format!("the record ends early in the data of {}", self.head.shown()))
        })?;
        self.tokens = rest;
        Ok(first)
    }

    fn field(&mut self, field: Field) -> Result<(), ZoneError> {
        match field {
            Field::U8 => self.number::<u8>("a number up to 255")?,
            Field::U16 => self.number::<u16>("a number up to 65535")?,
            Field::U32 => self.number::<u32>("a number up to 4294967295")?,
            Field::Name => {
                let token = self.next()?;
                let name = name(token.text, self.origin).map_err(|reason| token.error(reason))?;
                self.octets.extend_from_slice(name.as_wire());
            }
            Field::Text => {
                let token = self.next()?;
                self.text(token)?;
            }
            Field::MaybeText if self.tokens.is_empty() => {}
            Field::MaybeText => self.field(Field::Text)?,
            Field::Texts => {
                self.field(Field::Text)?;
                while !self.tokens.is_empty() {
                    self.field(Field::Text)?;
                }
            }
            Field::LongText => {
                let token = self.next()?;
                let text = unquoted(token.text).ok_or_else(|| token.error(UNREADABLE))?;
                self.octets.extend(text);
            }
            Field::Hex => self.encoded("hexadecimal digits, two for an octet", &HEXLOWER_PERMISSIVE)?,
            Field::Base64 => self.encoded("base64", &BASE64)?,
            Field::Types => self.types()?,
            Field::Address4 => {
                let address = self.word("an IPv4 address", |text| text.parse::<std::net::Ipv4Addr>().ok())?;
                self.octets.extend(address.octets());
            }
            Field::Eui(octets) => {
                let octets = self.word("pairs of hexadecimal digits with `-` between", |text| {
                    let pairs: Option<Vec<u8>> = text
                        .split('-')
                        .map(|pair| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok())?)
                        .collect();
                    pairs.filter(|pairs| pairs.len() == octets)
                })?;
                self.octets.extend(octets);
            }
            Field::Node64 => {
                let groups = self.word("four groups of hexadecimal digits with `:` between", |text| {
                    let groups: Option<Vec<u16>> = text
                        .split(':')
                        .map(|group| (group.len() <= 4).then(|| u16::from_str_radix(group, 16).ok())?)
                        .collect();
                    groups.filter(|groups| groups.len() == 4)
                })?;
                self.octets.extend(groups.into_iter().flat_map(u16::to_be_bytes));
            }
            Field::Certificate => {
                const WORDS: [&str; 8] =
                    ["PKIX", "SPKI", "PGP", "IPKIX", "ISPKI", "IPGP", "ACPKIX", "IACPKIX"];
                let kind = self.word("a type of certificate, PKIX or PGP for instance", |text| {
                    let known = WORDS.iter().position(|word| word.eq_ignore_ascii_case(text));
                    match (known, &*text.to_ascii_uppercase()) {
                        (Some(at), _) => Some(at as u16 + 1),
                        (None, "URI") => Some(253),
                        (None, "OID") => Some(254),
                        (None, number) => number.parse().ok(),
                    }
                })?;
                self.octets.extend(kind.to_be_bytes());
            }
            Field::Location => self.location()?,
            Field::Prefixes => {
                while !self.tokens.is_empty() {
                    let prefix =
                        self.word("a prefix such as `1:10.0.0.0/8` or `!2:2001:db8::/32`", prefix)?;
                    self.octets.extend(prefix);
                }
            }
            Field::Nsap => {
                let octets =
                    self.word("`0x` and pairs of hexadecimal digits, with or without dots", |text| {
                        let digits =
                            text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?.replace('.', "");
                        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().filter(|octets| !octets.is_empty())
                    })?;
                self.octets.extend(octets);
            }
            Field::Services => self.services()?,
            Field::HostIdentity => self.host_identity()?,
        }
        Ok(())
    }

    /// A token that is what `read` takes it for; `what` says in a complaint what that is.
    fn word<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, ZoneError> {
        let token = self.next()?;
        let text = std::str::from_utf8(token.text).ok().filter(|_| !token.is_quoted());
        text.and_then(read).ok_or_else(|| token.error(format!("{} should be {what}", token.shown())))
    }

    fn number<T: TryFrom<u32>>(&mut self, what: &str) -> Result<(), ZoneError> {
        let number = self.word(what, |text| {
            let number = text.parse::<u32>().ok()?;
            T::try_from(number).ok().map(|_| number)
        })?;
        let octets = number.to_be_bytes();
        self.octets.extend_from_slice(&octets[4 - size_of::<T>()..]);
        Ok(())
    }

    fn text(&mut self, token: &Token<'_>) -> Result<(), ZoneError> {
        let text = unquoted(token.text).ok_or_else(|| token.error(UNREADABLE))?;
        let length = u8::try_from(text.len());
        let length =
            length.map_err(|_| token.error("a string has at most 255 octets; write it as several"))?;
        self.octets.push(length);
        self.octets.extend(text);
        Ok(())
    }

    /// Everything that is left, together.
    fn encoded(&mut self, what: &str, encoding: &data_encoding::Encoding) -> Result<(), ZoneError> {
        let first = self.next()?;
        let mut text = first.text.to_vec();
        for token in std::mem::take(&mut self.tokens) {
            text.extend_from_slice(token.text);
        }
        let octets = encoding.decode(&text);
        self.octets.extend(octets.map_err(|_| first.error(format!("{} should be {what}", first.shown())))?);
        Ok(())
    }

    fn types(&mut self) -> Result<(), ZoneError> {
        let mut windows: std::collections::BTreeMap<u8, Vec<u8>> = std::collections::BTreeMap::new();
        for token in std::mem::take(&mut self.tokens) {
            let found = rtype(token);
            let [window, low] = found
                .ok_or_else(|| token.error(format!("{} is no record type", token.shown())))?
                .0
                .to_be_bytes();
            let bits = windows.entry(window).or_default();
            let at = usize::from(low / 8);
            bits.resize(bits.len().max(at + 1), 0);
            bits[at] |= 0x80 >> (low % 8);
        }
        for (window, bits) in windows {
            self.octets.extend([window, bits.len() as u8]); // 32 at most
            self.octets.extend(bits);
        }
        Ok(())
    }

    /// Bit n of the map is port n.
    fn services(&mut self) -> Result<(), ZoneError> {
        let protocol = self.word("a protocol: tcp, udp or a number up to 255", |text| match text {
            text if text.eq_ignore_ascii_case("tcp") => Some(6u8),
            text if text.eq_ignore_ascii_case("udp") => Some(17),
            number => number.parse().ok(),
        })?;
        let mut map: Vec<u8> = Vec::new();
        while !self.tokens.is_empty() {
            let port = self.word("a port, as a number up to 65535 or a word such as smtp", |text| {
                let known = SERVICES.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
                known.map(|(_, port)| *port).or_else(|| text.parse().ok())
            })?;
            let at = usize::from(port / 8);
            map.resize(map.len().max(at + 1), 0);
            map[at] |= 0x80 >> (port % 8);
        }
        self.octets.push(protocol);
        self.octets.extend(map);
        Ok(())
    }

    /// RFC 8005 section 5: the lengths come first.
    fn host_identity(&mut self) -> Result<(), ZoneError> {
        let algorithm: u8 = self.word("the number of an algorithm, up to 255", |text| text.parse().ok())?;
        let tag = self.word("a tag of up to 255 octets, in hexadecimal digits", |text| {
            let tag = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
            (1..=usize::from(u8::MAX)).contains(&tag.len()).then_some(tag)
        })?;
        let key = self.word("a key in base 64, in one piece", |text| {
            let key = BASE64.decode(text.as_bytes()).ok()?;
            (1..=usize::from(u16::MAX)).contains(&key.len()).then_some(key)
        })?;
        self.octets.extend([tag.len() as u8, algorithm]);
        self.octets.extend((key.len() as u16).to_be_bytes());
        self.octets.extend(tag);
        self.octets.extend(key);
        while !self.tokens.is_empty() {
            self.field(Field::Name)?;
        }
        Ok(())
    }

    /// RFC 1876 section 3: `d [m [s]] N|S d [m [s]] E|W altitude [size [horizontal [vertical]]]`.
    fn location(&mut self) -> Result<(), ZoneError> {
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

/// Ports by the words that old files have for them (RFC 1010); what is newer is written as a number.
const SERVICES: [(&str, u16); 16] = [
    ("echo", 7),
    ("discard", 9),
    ("daytime", 13),
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("time", 37),
    ("domain", 53),
    ("tftp", 69),
    ("finger", 79),
    ("http", 80),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
];

/// A decimal number with up to three places, times 1000.
fn thousandths(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    if whole.is_empty() || whole.len() > 10 || part.len() > 3 || !digits(whole) || !digits(part) {
        return None;
    }
    format!("{whole}{part:0<3}").parse().ok()
}

/// `[!]family:address/length` (RFC 3123 section 4).
fn prefix(text: &str) -> Option<Vec<u8>> {
    let (negated, text) = text.strip_prefix('!').map_or((0, text), |text| (0x80, text));
    let (family, rest) = text.split_once(':')?;
    let (address, length) = rest.rsplit_once('/')?;
    let (family, mut octets, bits) = match family {
        "1" => (1u16, address.parse::<std::net::Ipv4Addr>().ok()?.octets().to_vec(), 32),
        "2" => (2, address.parse::<std::net::Ipv6Addr>().ok()?.octets().to_vec(), 128),
        _ => return None,
    };
    let length: u8 = length.parse().ok().filter(|length| *length <= bits)?;
    while octets.last() == Some(&0) {
        octets.pop();
    }
    let [high, low] = family.to_be_bytes();
    let mut prefix = vec![high, low, length, negated | octets.len() as u8];
    prefix.extend(octets);
    Some(prefix)
}
