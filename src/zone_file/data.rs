//! Record data: text to octets.
//!
//! The library reads what it knows. It takes a lone `@` for a label, numbers of a SOA without units and no octet above
//! 127, so what it is shown is rewritten first; and the names that it put together are checked once more, on their way
//! through the octets. What it does not know is laid out field by field (`layout`, `fields`).

mod fields;
mod layout;
mod location;
mod words;

use domain::base::iana::Class;
use domain::base::name::Name as ScannedName;
use domain::base::rdata::ComposeRecordData;
use domain::base::{ParseRecordData, ParsedName, Rtype};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry as Scanned, ScannedRecord, Zonefile};

use self::fields::Fields;
use self::layout::fields_of;
use super::entry::Token;
use super::spelling::seconds;
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
