//! The reader of zone files: text in, records with their line numbers out.
//!
//! The grammar (RFC 1035 section 5.1, `$TTL` of RFC 2308, the generic forms of RFC 3597) is that of the
//! `domain` crate, which is named here and nowhere else. It tells where an error is but not where a
//! record began, and every complaint about a zone needs that, so the text is cut into entries first
//! and the library is given one at a time. What it then makes of an entry must be exactly one record or
//! none; where the two disagree about an end, the file is refused.
//!
//! Record data goes through its octets on the wire: so the names that the library put together are
//! checked once more, and RFC 3597's form of a known type becomes that type.
//!
//! Deliberately not read: `$INCLUDE` and `$GENERATE` (part 10), TTLs with units (`1h`), classes but IN.
//! Each is refused with a sentence.

use domain::base::name::{Name as ScannedName, ToName};
use domain::base::rdata::ComposeRecordData;
use domain::base::{ParseRecordData, ParsedName, Rtype};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry as Scanned, ScannedRecord, Zonefile};

use crate::name::Name;
use crate::record::{Data, Record, Type};
use crate::zone::ZoneError;

/// Largest zone file. A million short records are about 24 MiB; a larger file is a mistake (a log, a
/// disk image) that should not be read into memory.
pub const FILE_OCTETS_MAX: usize = 64 << 20;

/// Most records of one zone file: about 400 octets each in memory, and more than a small site has.
pub const RECORDS_MAX: usize = 1_000_000;

/// The records of a zone file in its order, each with the line that it begins on, from 1.
///
/// Relative names are completed with `origin` until `$ORIGIN` says otherwise. Whether the records make
/// a zone is `Zone::new`'s question.
pub fn read(text: &[u8], origin: &Name) -> Result<Vec<(usize, Record)>, ZoneError> {
    if text.len() > FILE_OCTETS_MAX {
        let reason = format!("the file is {} octets long; at most {FILE_OCTETS_MAX} are read", text.len());
        return Err(ZoneError { line: 1, reason });
    }
    let mut reader = Reader::new(origin)?;
    let mut records = Vec::new();
    let mut rest = Rest { text, line: 1 };
    while let Some(entry) = rest.next_entry()? {
        if let Some(record) = reader.read(&entry)? {
            if records.len() == RECORDS_MAX {
                return Err(entry.error(format!("the file has more than {RECORDS_MAX} records")));
            }
            records.push((entry.line, record));
        }
    }
    Ok(records)
}

/// The text not yet cut into entries.
struct Rest<'a> {
    text: &'a [u8],
    /// Of its first octet, from 1.
    line: usize,
}

/// A record, a directive or nothing, up to and with the line end that closes it.
struct Entry<'a> {
    text: &'a [u8],
    line: usize,
    line_last: usize,
}

/// Where in an entry the cutter is.
#[derive(Clone, Copy)]
enum Within {
    Plain,
    Quotes,
    Comment,
}

impl<'a> Rest<'a> {
    /// Cuts off the next entry: a line end closes it unless it is within parentheses.
    ///
    /// RFC 1035 lets quotes run over it too, but nobody means that: BIND and the library refuse it, and
    /// so one forgotten quote is found on its own line.
    fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ZoneError> {
        if self.text.is_empty() {
            return Ok(None);
        }
        let first = self.line;
        let mut within = Within::Plain;
        let mut open: Vec<usize> = Vec::new(); // the lines of the open parentheses
        let mut octets = self.text.iter().enumerate();
        while let Some((at, octet)) = octets.next() {
            match (within, octet) {
                // An escaped line end is no line end of RFC 1035; the library refuses it.
                (Within::Plain | Within::Quotes, b'\\') if self.text.get(at + 1) != Some(&b'\n') => {
                    octets.next();
                }
                (Within::Plain, b'"') => within = Within::Quotes,
                (Within::Quotes, b'"') => within = Within::Plain,
                (Within::Plain, b';') => within = Within::Comment,
                (Within::Plain, b'(') => open.push(self.line),
                (Within::Plain, b')') => drop(open.pop()),
                (Within::Quotes, b'\n') => return Err(self.unclosed()),
                (Within::Plain | Within::Comment, b'\n') => {
                    self.line += 1;
                    within = Within::Plain;
                    if open.is_empty() {
                        return Ok(Some(self.cut(at + 1, first, self.line - 1)));
                    }
                }
                _ => {}
            }
        }
        match (within, open.first()) {
            (Within::Quotes, _) => Err(self.unclosed()),
            (_, Some(&line)) => Err(ZoneError { line, reason: "the `(` is not closed".to_owned() }),
            (_, None) => Ok(Some(self.cut(self.text.len(), first, self.line))),
        }
    }

    fn unclosed(&self) -> ZoneError {
        ZoneError { line: self.line, reason: "the quotes are not closed on this line".to_owned() }
    }

    fn cut(&mut self, at: usize, line: usize, line_last: usize) -> Entry<'a> {
        let (text, rest) = self.text.split_at(at);
        self.text = rest;
        Entry { text, line, line_last }
    }
}

impl Entry<'_> {
    fn error(&self, reason: impl Into<String>) -> ZoneError {
        ZoneError { line: self.line, reason: reason.into() }
    }

    /// The library's error on its line, as a sentence.
    fn refused(&self, error: &domain::zonefile::inplace::Error) -> ZoneError {
        // Its text is `line:column: reason`. It counts the line end of the entry before it complains
        // of what was missing in front of it, so the line is held to those of the entry.
        let text = error.to_string();
        let mut parts = text.splitn(3, ':');
        let line = parts.next().and_then(|line| line.parse().ok()).unwrap_or(self.line);
        let reason = parts.nth(1).unwrap_or(&text).trim();
        ZoneError { line: line.clamp(self.line, self.line_last), reason: sentence(reason) }
    }

    /// Refuses what must not reach the library.
    ///
    /// `domain` 0.12.3 panics on `$INCLUDE ""x`, so it is shown only the two directives that we follow.
    /// Nor may a parenthesis hide one from us.
    fn admit(&self) -> Result<(), ZoneError> {
        if self.text.starts_with(b"(") {
            return Err(self.error("a record begins with its owner or a space, not with `(`"));
        }
        if !self.text.starts_with(b"$") {
            return Ok(());
        }
        let is_end = |octet: &u8| octet.is_ascii_whitespace() || b"();\"".contains(octet);
        let end = self.text.iter().position(is_end).unwrap_or(self.text.len());
        let directive = &self.text[..end];
        let is = |known: &&str| directive.eq_ignore_ascii_case(known.as_bytes());
        if ["$ORIGIN", "$TTL"].iter().any(is) {
            return Ok(());
        }
        match ["$INCLUDE", "$GENERATE"].iter().find(|known| is(known)) {
            Some(known) => Err(self.error(format!("{known} is not supported yet"))),
            None => {
                let shown = directive[..end.min(20)].escape_ascii();
                Err(self.error(format!("`{shown}` is no directive; a name that begins so is written `\\$…`")))
            }
        }
    }

    fn holds(&self, needle: &[u8]) -> bool {
        contains(self.text, needle)
    }
}

/// The library's terse words in ours; those not listed are good as they are.
fn sentence(reason: &str) -> String {
    if let Some(classes) = reason.strip_prefix("different class: ") {
        return format!("only class IN is served ({classes})");
    }
    if reason.starts_with("bad symbol") {
        return "a control or non-ASCII character, or a broken escape; write such an octet as `\\DDD`"
            .to_owned();
    }
    match reason {
        "expected rtype" => "a record type is expected here; a TTL is a number of seconds, without a unit",
        "unknown record type with concrete data" => {
            "the data of this type is read only in the generic form of RFC 3597, `\\# length hex`"
        }
        "missing last owner" => "the first record has no owner name",
        "bad name" => "a name has an empty label, a label of more than 63 octets, or more than 255 in all",
        "unexpected end of entry" => "the record ends early",
        "trailing tokens" => "something follows the end of the record",
        "unbalanced parens" => "a `)` without its `(`",
        other => other,
    }
    .to_owned()
}

/// The library with what it remembers from one entry to the next: origin, owner, TTL.
struct Reader {
    zonefile: Zonefile,
    origin: Name,
}

impl Reader {
    fn new(origin: &Name) -> Result<Self, ZoneError> {
        let scanned = ScannedName::from_octets(origin.as_wire().to_vec().into())
            .map_err(|error| ZoneError { line: 1, reason: error.to_string() })?;
        let mut zonefile = Zonefile::new();
        zonefile.set_origin(scanned);
        zonefile.set_default_class(domain::base::iana::Class::IN);
        Ok(Self { zonefile, origin: origin.clone() })
    }

    /// The record of an entry; none where it is a directive, a comment or empty.
    fn read(&mut self, entry: &Entry<'_>) -> Result<Option<Record>, ZoneError> {
        entry.admit()?;
        self.zonefile.extend_from_slice(entry.text);
        if !entry.text.ends_with(b"\n") {
            self.zonefile.extend_from_slice(b"\n"); // the last line of a file may have no end
        }
        let scanned = self.zonefile.next_entry().map_err(|error| entry.refused(&error))?;
        let record = match scanned {
            Some(Scanned::Include { .. }) => return Err(entry.error("$INCLUDE is not supported yet")),
            Some(Scanned::Record(scanned)) => Some(self.record(entry, &scanned)?),
            None => return self.directive(entry).map(|()| None),
        };
        match self.zonefile.next_entry().map_err(|error| entry.refused(&error))? {
            None => Ok(record),
            Some(_) => Err(entry.error("the end of this record is ambiguous")),
        }
    }

    /// Follows `$ORIGIN`, which the library has just read.
    fn directive(&mut self, entry: &Entry<'_>) -> Result<(), ZoneError> {
        if !entry.text.starts_with(b"$") {
            return Ok(());
        }
        let scanned = self.zonefile.origin().map_err(|error| entry.error(error.to_string()))?;
        let origin = whole_name(scanned.as_slice()).ok_or_else(|| entry.error(sentence("bad name")))?;
        if origin.labels().next() == Some(b"@") {
            return Err(entry.error("$ORIGIN needs a name, not `@`"));
        }
        self.origin = origin;
        Ok(())
    }

    fn record(&self, entry: &Entry<'_>, scanned: &ScannedRecord) -> Result<Record, ZoneError> {
        let owner = scanned.owner().to_vec();
        let owner = whole_name(owner.as_slice()).ok_or_else(|| entry.error(sentence("bad name")))?;
        let rtype = scanned.rtype();
        let mut octets = Vec::new();
        // Into a `Vec` every name goes whole, without compression, and there is always room.
        if scanned.data().compose_rdata(&mut octets).is_err() || octets.len() > usize::from(u16::MAX) {
            return Err(entry.error("the data of the record is longer than 65,535 octets"));
        }
        if !is_well_formed(rtype, &octets) {
            return Err(entry.error(format!("the data is not that of a record {rtype}")));
        }
        let escaped = entry.holds(b"\\@") || entry.holds(b"\\064");
        let at = if escaped { None } else { Some(&self.origin) };
        // In record data the library takes a lone `@` for a label.
        let meant = |name: Name| match (at, name.as_wire().strip_prefix(b"\x01@")) {
            (Some(origin), Some(rest)) if rest.eq_ignore_ascii_case(origin.as_wire()) => origin.clone(),
            _ => name,
        };
        let data = Data::from_wire_with(Type(rtype.to_int()), &octets, &meant)
            .ok_or_else(|| entry.error(format!("the data is not that of a record {rtype}")))?;
        if let (Data::Other { rtype: other, octets }, Some(origin)) = (&data, at)
            && *other != Type::TXT
            && contains(octets, &[b"\x01@", origin.as_wire()].concat())
        {
            return Err(
                entry.error(format!("`@` is not read in the data of {rtype}; write the name in full"))
            );
        }
        Ok(Record { owner, ttl: scanned.ttl().as_secs(), data })
    }
}

fn contains(octets: &[u8], needle: &[u8]) -> bool {
    octets.windows(needle.len()).any(|window| window == needle)
}

/// The name that `octets` are, to the last one. The library lets `a..b` through as a name with a root
/// in the middle.
fn whole_name(octets: &[u8]) -> Option<Name> {
    Name::from_wire(octets).ok().filter(|name| name.as_wire().len() == octets.len())
}

/// True where the octets, in which no name is compressed, are data of this type, to the last one.
pub fn is_data_of(rtype: Type, octets: &[u8]) -> bool {
    is_well_formed(Rtype::from_int(rtype.0), octets)
}

/// True where the octets read back as data of their type, to the last one; a type that the library
/// does not know may be anything.
fn is_well_formed(rtype: Rtype, octets: &[u8]) -> bool {
    let mut parser = Parser::from_ref(octets);
    let parsed = ZoneRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(rtype, &mut parser);
    matches!(parsed, Ok(Some(_))) && parser.remaining() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{Kind, Zone};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn records(text: &str) -> Result<Vec<(usize, Record)>, ZoneError> {
        read(text.as_bytes(), &name("corp.test"))
    }

    /// The records as `line owner ttl data`.
    fn shown(text: &str) -> Vec<String> {
        let show = |(line, record): (usize, Record)| {
            format!("{line} {} {} {:?}", record.owner, record.ttl, record.data)
        };
        records(text).unwrap().into_iter().map(show).collect()
    }

    fn octets_of(text: &str) -> Vec<u8> {
        match records(text).unwrap().remove(0).1.data {
            Data::Other { octets, .. } => octets.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_come_with_the_line_they_begin_on() {
        let text = "; a comment\n$TTL 300\n\n@ IN SOA ns1 hostmaster ( ; (\n 7 3600\n 600 86400\n 60 )\n\
            \tIN\tNS\tns1\r\n  \nns1 A 10.0.0.1 ; \"\nt TXT ( \"a;b\"\n\"(c\" d )\n$ORIGIN sub\n\
            w 60 IN A 10.0.0.2\n IN 61 AAAA 2001:db8::1\nX.example. MX 10 @";
        let Data::Soa(soa) = &records(text).unwrap()[0].1.data else { panic!() };
        assert_eq!((soa.mname.to_string(), soa.serial, soa.minimum), ("ns1.corp.test.".to_owned(), 7, 60));
        assert_eq!(
            shown(text)[1..],
            [
                "8 corp.test. 300 Ns(ns1.corp.test.)",
                "10 ns1.corp.test. 300 A(10.0.0.1)",
                "11 t.corp.test. 300 Other { rtype: Type(16), octets: [3, 97, 59, 98, 2, 40, 99, 1, 100] }",
                "14 w.sub.corp.test. 60 A(10.0.0.2)",
                "15 w.sub.corp.test. 61 Aaaa(2001:db8::1)",
                "16 X.example. 300 Mx { preference: 10, exchange: sub.corp.test. }",
            ]
        );
    }

    #[test]
    fn line_ends_of_every_kind_give_the_same_records() {
        let unix = "@ NS ns1\nns1 A (\n10.0.0.1 )\n; x\nt TXT \"a b\" c\n";
        let expected = shown(unix);
        assert_eq!(shown(&unix.replace('\n', "\r\n")), expected);
        assert_eq!(shown(unix.trim_end()), expected);
        assert_eq!(shown(unix.replace('\n', "\r\n").trim_end()), expected);
        assert_eq!(shown(&unix.replace(' ', "\t").replace("a\tb", "a b")), expected);
        assert_eq!(expected.len(), 3);
        assert_eq!(shown(""), [""; 0]);
        assert_eq!(shown("; only a comment"), [""; 0]);
    }

    #[test]
    fn escapes_stand_for_their_octets() {
        assert_eq!(octets_of("t TXT \"\\228\\\"\\000\" a\\;b"), b"\x03\xe4\"\0\x03a;b");
        let owner = records("a\\.b\\032c A 10.0.0.1").unwrap().remove(0).1.owner;
        assert_eq!(owner.labels().next(), Some(b"a.b c".as_slice()));
    }

    #[test]
    fn the_origin_sign_is_the_origin_wherever_it_stands_alone() {
        assert_eq!(shown("a CNAME @"), ["1 a.corp.test. 3600 Cname(corp.test.)"]);
        assert_eq!(shown("a PTR \\@"), ["1 a.corp.test. 3600 Ptr(\\@.corp.test.)"]);
        assert_eq!(shown("\\@ NS @"), ["1 \\@.corp.test. 3600 Ns(\\@.corp.test.)"]);
        assert_eq!(octets_of("a TXT @"), b"\x01@");
        let error = records("a RP @ .").unwrap_err();
        assert_eq!(error.reason, "`@` is not read in the data of RP; write the name in full");
        assert_eq!(
            records("\n$ORIGIN @\n").unwrap_err().to_string(),
            "line 2: $ORIGIN needs a name, not `@`"
        );
    }

    #[test]
    fn generic_forms_are_read_and_known_types_become_themselves() {
        assert_eq!(octets_of("a TYPE65280 \\# 3 ab cdef"), [0xab, 0xcd, 0xef]);
        assert_eq!(octets_of("a TYPE65280 \\# 0"), [0; 0]);
        assert_eq!(shown("a TYPE1 \\# 4 0a000001"), ["1 a.corp.test. 3600 A(10.0.0.1)"]);
        assert_eq!(shown("a CLASS1 A \\# 4 0a000001"), ["1 a.corp.test. 3600 A(10.0.0.1)"]);
        assert_eq!(octets_of("a CAA 0 issue \"ca.example\""), b"\x00\x05issueca.example");
        assert_eq!(octets_of("a HTTPS 1 . alpn=h2"), b"\x00\x01\x00\x00\x01\x00\x03\x02h2");
        assert_eq!(octets_of("a TLSA 3 1 1 abcd"), [3, 1, 1, 0xab, 0xcd]);
        assert_eq!(octets_of("a NAPTR 1 2 \"s\" \"\" \"\" b.")[..7], [0, 1, 0, 2, 1, b's', 0]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, expected) in [
            ("\n\nwww A 10.0.0\n", "line 3: "),
            ("www A\n\n", "line 1: the record ends early"),
            ("\nwww A", "line 2: the record ends early"),
            ("www A 10.0.0.1 x\n", "line 1: something follows the end of the record"),
            ("www A (\n10.0.0.1\nx )\nok A 10.0.0.1\n", "line 3: something follows the end of the record"),
            ("\nwww A 10.0.0.1 )\n", "line 2: a `)` without its `(`"),
            ("a A 10.0.0.1\nwww A ( 10.0.0.1\nb A 10.0.0.2\n", "line 2: the `(` is not closed"),
            ("\na TXT \"never\nb A 10.0.0.1\n", "line 2: the quotes are not closed on this line"),
            ("a TXT \"never", "line 1: the quotes are not closed on this line"),
            ("\n A 10.0.0.1\n", "line 2: the first record has no owner name"),
            ("a\n", "line 1: the record ends early"),
            ("a..b A 10.0.0.1\n", "line 1: a name has an empty label"),
            ("\na CNAME b..c\n", "line 2: the data is not that of a record CNAME"),
            ("a RP b..c d\n", "line 1: the data is not that of a record RP"),
            ("a 1h IN A 10.0.0.1\n", "line 1: a record type is expected here; a TTL is a number of seconds"),
            ("$TTL 1h\n", "line 1: expected decimal number"),
            ("a CH TXT x\n", "line 1: only class IN is served (CH != IN)"),
            ("a A \\# 3 000000\n", "line 1: the data is not that of a record A"),
            ("a TXT \\# 0\n", "line 1: the data is not that of a record TXT"),
            ("a TYPE65280 \\# 3 abcd\n", "line 1: generic data has incorrect length"),
            ("a NS \\# 2 c000\n", "line 1: the data is not that of a record NS"),
            ("a LOC 52 22 23.000 N 4 53 32.000 E -2m\n", "line 1: the data of this type is read only in"),
            ("\n$INCLUDE other.zone\n", "line 2: $INCLUDE is not supported yet"),
            ("$GENERATE 1-3 a$ A 10.0.0.$\n", "line 1: $GENERATE is not supported yet"),
            ("$include \"\"x\n", "line 1: $INCLUDE is not supported yet"),
            ("$\\073NCLUDE \"\"x\n", "line 1: `$\\\\073NCLUDE` is no directive"),
            ("($INCLUDE \"\"x)\n", "line 1: a record begins with its owner or a space"),
            ("a\\\nb A 10.0.0.1\n", "line 1: a control or non-ASCII character, or a broken escape"),
            ("\u{fc} A 10.0.0.1\n", "line 1: a control or non-ASCII character"),
        ] {
            let error = records(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
        assert!(records(&format!("{}.x A 10.0.0.1", "a".repeat(64))).is_err());
        assert!(records(&format!("{} A 10.0.0.1", "a.".repeat(128))).is_err());
        assert!(records(&format!("a TXT {}", "x".repeat(256))).is_err());
        assert!(read(&vec![b'\n'; FILE_OCTETS_MAX + 1], &Name::root()).is_err());
    }

    #[test]
    fn any_text_is_read_or_refused_and_never_worse() {
        let tokens: [&[u8]; 28] = [
            b" ",
            b"\n",
            b"\t",
            b"\r\n",
            b"(",
            b")",
            b"\"",
            b";",
            b"@",
            b"\\",
            b"\\#",
            b"\\065",
            b"a",
            b"b.c.",
            b"..",
            b".",
            b"$ORIGIN ",
            b"$TTL ",
            b"IN ",
            b" A ",
            b" TXT ",
            b" NS ",
            b" MX 1 ",
            b"10.0.0.1",
            b"0",
            b"\xff",
            b"\0",
            b" TYPE9 ",
        ];
        let mut seed = 7u64;
        let mut read_whole = 0;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.extend_from_slice(tokens[(seed >> 33) as usize % tokens.len()]);
            }
            let lines = text.split(|octet| *octet == b'\n').count();
            match read(&text, &name("corp.test")) {
                Ok(_) => read_whole += 1,
                Err(error) => assert!((1..=lines).contains(&error.line), "{error} in {text:?}"),
            }
        }
        assert!(read_whole > 0);
    }

    #[test]
    fn the_zone_that_ships_is_a_zone() {
        let records = read(include_bytes!("../zones/corp.test.zone"), &name("corp.test")).unwrap();
        let (zone, warnings) = Zone::new(name("corp.test"), Kind::Primary, records).unwrap();
        assert_eq!(warnings, []);
        assert!(zone.soa().is_some());
    }
}
