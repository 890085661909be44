//! Zone files as text: the records, lines and TTLs that come out, and what is refused.

use std::collections::HashMap;

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
    let show =
        |(line, record): (usize, Record)| format!("{line} {} {} {:?}", record.owner, record.ttl, record.data);
    records(text).unwrap().into_iter().map(show).collect()
}

fn octets_of(text: &str) -> Vec<u8> {
    match records(text).unwrap().remove(0).1.data {
        data @ (Data::Other { .. } | Data::Svcb { .. }) => data.to_wire(),
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
    assert_eq!(shown("\\@ NS @"), ["1 \\@.corp.test. 3600 Ns(corp.test.)"]);
    assert_eq!(octets_of("a TXT @"), b"\x01@");
    let corp = [b"\x04corp\x04test\0".as_slice(), b"\x01x\x04corp\x04test\0"];
    assert_eq!(octets_of("a RP @ x"), corp.concat());
    assert_eq!(octets_of("a HTTPS 0 @"), [b"\0\0".as_slice(), corp[0]].concat());
    assert_eq!(shown("$ORIGIN x\n$ORIGIN @\na NS @"), ["3 a.x.corp.test. 3600 Ns(x.corp.test.)"]);
}

#[test]
fn generic_forms_are_read_and_known_types_become_themselves() {
    assert_eq!(octets_of("a TYPE65280 \\# 3 ab cdef"), [0xab, 0xcd, 0xef]);
    assert_eq!(octets_of("a TYPE65280 \\# 0"), [0; 0]);
    assert_eq!(octets_of("a WKS \\# 5 0a00000106"), [10, 0, 0, 1, 6]);
    assert_eq!(octets_of("a HIP \\# 6 01020001aabb"), [1, 2, 0, 1, 0xaa, 0xbb]);
    assert_eq!(octets_of("a HIP \\# 7 01020001aabb00"), [1, 2, 0, 1, 0xaa, 0xbb, 0]);
    assert_eq!(shown("a TYPE1 \\# 4 0a000001"), ["1 a.corp.test. 3600 A(10.0.0.1)"]);
    assert_eq!(shown("a CLASS1 A \\# 4 0a000001"), ["1 a.corp.test. 3600 A(10.0.0.1)"]);
    assert_eq!(octets_of("a CAA 0 issue \"ca.example\""), b"\x00\x05issueca.example");
    assert_eq!(octets_of("a HTTPS 1 . alpn=h2"), b"\x00\x01\x00\x00\x01\x00\x03\x02h2");
    assert_eq!(octets_of("a TLSA 3 1 1 abcd"), [3, 1, 1, 0xab, 0xcd]);
    assert_eq!(octets_of("a NSAP 0x47.0005.80"), [0x47, 0, 5, 0x80]);
    assert_eq!(octets_of("a WKS 10.0.0.1 TCP ( smtp 0 9 )"), [10, 0, 0, 1, 6, 0x80, 0x40, 0, 0x40]);
    assert_eq!(octets_of("a WKS 10.0.0.1 17"), [10, 0, 0, 1, 17]);
    let identity = b"\x02\x03\0\x01\xab\xcd\x01\x01r\x04corp\x04test\0\x01s\0";
    assert_eq!(octets_of("a HIP 3 ABcd AQ== r s."), identity);
    assert_eq!(octets_of("a NAPTR 1 2 \"s\" \"\" \"\" b.")[..7], [0, 1, 0, 2, 1, b's', 0]);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    for (text, expected) in [
        ("\n\nwww A 10.0.0\n", "line 3: "),
        ("www A\n\n", "line 1: the record ends early"),
        ("www (\nA\n\n)\n", "line 2: the record ends early"),
        ("\nwww A", "line 2: the record ends early"),
        ("www A 10.0.0.1 x\n", "line 1: something follows the end of the record"),
        ("www A (\n10.0.0.1\nx )\nok A 10.0.0.1\n", "line 3: something follows the end of the record"),
        ("\nwww A 10.0.0.1 )\n", "line 2: a `)` without its `(`"),
        ("a A 10.0.0.1\nwww A ( 10.0.0.1\nb A 10.0.0.2\n", "line 2: the `(` is not closed"),
        ("\na TXT \"never\nb A 10.0.0.1\n", "line 2: the quotes are not closed on this line"),
        ("a TXT \"never", "line 1: the quotes are not closed on this line"),
        ("\n A 10.0.0.1\n", "line 2: the first record has no owner name"),
        ("a\n", "line 1: the record ends early"),
        ("a..b A 10.0.0.1\n", "line 1: `a..b`: a label is empty"),
        ("\na CNAME b..c\n", "line 2: the data is not that of a record CNAME"),
        ("a RP b..c d\n", "line 1: the data is not that of a record RP"),
        ("a 1y IN A 10.0.0.1\n", "line 1: `1y` is no TTL: write seconds, 2147483647 at most, or a time"),
        ("a 4294967296 A 10.0.0.1\n", "line 1: `4294967296` is no TTL"),
        ("a 60 60 A 10.0.0.1\n", "line 1: `60` is no record type"),
        ("a IN IN A 10.0.0.1\n", "line 1: `IN` is no record type"),
        ("a MAILBOX b\n", "line 1: `MAILBOX` is no record type (a TTL, a class and a type"),
        ("$TTL x\n", "line 1: `x` is no TTL"),
        ("$TTL\n", "line 1: `$TTL` needs one time"),
        ("$ORIGIN a b\n", "line 1: `$ORIGIN` needs one name"),
        ("a CH TXT x\n", "line 1: only class IN is served, not `CH`"),
        ("a CLASS3 TXT x\n", "line 1: only class IN is served, not `CLASS3`"),
        ("a A \\# 3 000000\n", "line 1: the data is not that of a record A"),
        ("a TXT \\# 0\n", "line 1: the data is not that of a record TXT"),
        ("a TYPE65280 \\# 3 abcd\n", "line 1: generic data has incorrect length"),
        ("a NS \\# 2 c000\n", "line 1: the data is not that of a record NS"),
        ("a WKS \\# 4 0a000001\n", "line 1: the data is not that of a record WKS"),
        ("a NSAP \\# 0\n", "line 1: the data is not that of a record NSAP"),
        ("a HIP \\# 3 010200\n", "line 1: the data is not that of a record HIP"),
        ("a HIP \\# 5 0002000101\n", "line 1: the data is not that of a record HIP"),
        ("a HIP \\# 5 01020000aa\n", "line 1: the data is not that of a record HIP"),
        ("a HIP \\# 5 01020001aa\n", "line 1: the data is not that of a record HIP"),
        ("a HIP \\# 8 01020001aabbc000\n", "line 1: the data is not that of a record HIP"),
        ("a HIP \\# 8 01020001aabb0161\n", "line 1: the data is not that of a record HIP"),
        ("a HIP 2 200100 b\n", "line 1: `b` should be a key in base 64, in one piece"),
        ("a HIP 2 20010 AwE=\n", "line 1: `20010` should be a tag of up to 255 octets"),
        ("a NSAP 470005\n", "line 1: `470005` should be `0x` and pairs of hexadecimal digits"),
        ("a NSAP 0x\n", "line 1: `0x` should be"),
        ("a WKS 10.0.0.1 tcp gopherd\n", "line 1: `gopherd` should be a port"),
        ("a WKS 10.0.0.1\n", "line 1: the record ends early in the data of `WKS`"),
        ("a A6 0 2001:db8::1\n", "line 1: the data of A6 is read only in the generic form of RFC 3597"),
        ("a LOC 91 N 1 E 0\n", "line 1: `91` should be a latitude or longitude"),
        ("a AFSDB x b\n", "line 1: `x` should be a number up to 65535"),
        ("a AFSDB 1\n", "line 1: the record ends early in the data of `AFSDB`"),
        ("a AFSDB 1 b c\n", "line 1: something follows the end of the record"),
        ("a APL 1:10.0.0.0/33\n", "line 1: `1:10.0.0.0/33` should be a prefix"),
        ("\n$INCLUDE other.zone\n", "line 2: including other.zone: "),
        ("$INCLUDE\n", "line 1: `$INCLUDE` needs a file"),
        ("$include \"\"x\n", "line 1: including : "),
        ("$GENERATE 3-1 a$ A 10.0.0.$\n", "line 1: `3-1` is no range"),
        ("$GENERATE 1-3 a$ A 10.0.$\n", "line 1: "),
        ("$GENERATE 1-3 a${-2} A 10.0.0.1\n", "line 1: the `${` of $GENERATE is"),
        ("$\\073NCLUDE \"\"x\n", "line 1: `$\\073NCLUDE` is no directive"),
        ("($INCLUDE \"\"x)\n", "line 1: a record begins with its owner or a space"),
        ("a\\\nb A 10.0.0.1\n", "line 1: `a\\`: a name has a control"),
        ("\u{fc} A 10.0.0.1\n", "line 1: "),
        ("a TXT \u{fc}\n", "line 1: a control or non-ASCII character"),
    ] {
        let error = records(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
    assert_eq!(octets_of("a TXT \"\u{fc}\""), b"\x02\xc3\xbc", "in quotes it is what it is");
    assert_eq!(octets_of("a TXT \"\\\u{fc}\\\\\t\""), b"\x04\xc3\xbc\\\t");
    assert!(records(&format!("{}.x A 10.0.0.1", "a".repeat(64))).is_err());
    assert!(records(&format!("{} A 10.0.0.1", "a.".repeat(128))).is_err());
    assert!(records(&format!("a TXT {}", "x".repeat(256))).is_err());
    assert!(read(&vec![b'\n'; FILE_OCTETS_MAX + 1], &Name::root()).is_err());
}

/// The files that are there, read from `main`: the records as `file:line owner`, and every complaint.
fn read_files(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let mut fetch = |path: &str, _: &str| {
        let text = files.get(path).ok_or("no such file")?;
        Ok(Included { name: path.to_owned(), text: text.as_bytes().to_vec() })
    };
    let reading = read_all("main", files["main"].as_bytes(), &name("corp.test"), &mut fetch);
    let place = |line: usize| {
        let (file, line) = reading.files.place(line);
        format!("{file}:{line}")
    };
    let shown = |(line, record): &(usize, Record)| format!("{} {}", place(*line), record.owner);
    let errors = reading.errors.iter().map(|error| format!("{}: {}", place(error.line), error.reason));
    (reading.records.iter().map(shown).collect(), errors.collect())
}

#[test]
fn included_files_have_their_own_origin_owner_and_lines() {
    let files = [
        ("main", "$TTL 60\na A 10.0.0.1\n$INCLUDE one sub\n A 10.0.0.2\n$INCLUDE \"two\"\nb A 10.0.0.3"),
        ("one", "\nx A 10.0.0.1\n$ORIGIN y\n@ A 10.0.0.1\n"),
        ("two", "z A 10.0.0.1\n$INCLUDE one\nzz A 10.0.0.1\n"),
    ];
    let (records, errors) = read_files(&files);
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        records,
        [
            "main:2 a.corp.test.",
            "one:2 x.sub.corp.test.",
            "one:4 y.sub.corp.test.",
            "main:4 a.corp.test.",
            "two:1 z.corp.test.",
            "one:2 x.corp.test.",
            "one:4 y.corp.test.",
            "two:3 zz.corp.test.",
            "main:6 b.corp.test.",
        ]
    );
}

#[test]
fn files_that_cannot_be_included_are_named_with_their_line() {
    let (records, errors) = read_files(&[
        ("main", "\n$INCLUDE none\n$INCLUDE a\nok A 10.0.0.1\n"),
        ("a", "x A 10.0.0\n$INCLUDE b\n A 10.0.0.1\n"),
        ("b", " A 10.0.0.1\n$INCLUDE a\n"),
    ]);
    assert_eq!(records, ["a:3 x.corp.test.", "main:4 ok.corp.test."]);
    assert_eq!(errors[0], "main:2: including none: no such file");
    assert!(errors[1].starts_with("a:1: "), "{}", errors[1]);
    assert_eq!(
        errors[2..],
        ["b:1: the first record has no owner name", "b:2: including a: the file includes itself"]
    );
    let deep = |number: usize| (number.to_string(), format!("$INCLUDE {}\n", number + 1));
    let mut files: Vec<(String, String)> = (1..20).map(deep).collect();
    files.push(("main".to_owned(), "$INCLUDE 1\n".to_owned()));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(read_files(&files).1, ["10:1: including 11: files may include each other 10 deep"]);
}

#[test]
fn one_line_may_stand_for_many_records() {
    assert_eq!(
        shown("a A 10.0.0.1\n$GENERATE 0-4/2 ${0,2,d}.x 60 IN CNAME h\\$${1}\n A 10.0.0.2\n"),
        [
            "1 a.corp.test. 3600 A(10.0.0.1)",
            "2 00.x.corp.test. 60 Cname(h\\$1.corp.test.)",
            "2 02.x.corp.test. 60 Cname(h\\$3.corp.test.)",
            "2 04.x.corp.test. 60 Cname(h\\$5.corp.test.)",
            "3 a.corp.test. 60 A(10.0.0.2)",
        ]
    );
    assert_eq!(
        shown("$GENERATE 7-7 @ MX \"1$ mail-$\""),
        ["1 corp.test. 3600 Mx { preference: 17, exchange: mail-7.corp.test. }"]
    );
    let error = records("$GENERATE 0-2147483647 a$ A 10.0.0.1\n").unwrap_err();
    assert_eq!(error.to_string(), "line 1: there are more than 1000000 records");
}

#[test]
fn the_lines_that_one_makes_count_as_octets_of_the_file() {
    let text = b"a A 10.0.0.1\n$GENERATE 1-9 a$ A 10.0.0.$\nb A 10.0.0.1\n";
    let line = b"a1 A 10.0.0.1\n".len();
    let read = |room: usize| {
        let mut fetch = |_: &str, _: &str| unreachable!();
        let mut reader = Reader::new(&mut fetch, &name("corp.test"));
        reader.octets = FILE_OCTETS_MAX - text.len() - room;
        let read = reader.file("", text, &name("corp.test"), 1);
        let _ = reader.note(read);
        let errors: Vec<String> = reader.reading.errors.iter().map(ToString::to_string).collect();
        (reader.reading.records.len(), errors)
    };
    assert_eq!(read(9 * line), (11, vec![]));
    let too_long = "line 2: the file is 67108865 octets long; at most 67108864 are read".to_owned();
    assert_eq!(read(9 * line - 1), (10, vec![too_long]));
}

#[test]
fn a_ttl_is_the_records_or_the_files_or_the_last_or_that_of_the_soa() {
    let ttls = |text: &str| {
        let reading = read_all("", text.as_bytes(), &name("corp.test"), &mut |_, _| unreachable!());
        assert!(reading.errors.is_empty());
        let ttls: Vec<u32> = reading.records.iter().map(|(_, record)| record.ttl).collect();
        (ttls, reading.warnings.iter().map(|warning| warning.line).collect::<Vec<_>>())
    };
    assert_eq!(
        ttls("$TTL 1h\na 1D A 10.0.0.1\nb A 10.0.0.2\nc IN 0 A 10.0.0.3\n"),
        (vec![86400, 3600, 0], vec![])
    );
    assert_eq!(
        ttls("a 60 A 10.0.0.1\nb A 10.0.0.2\nc 1m30s A 10.0.0.3\nd A 10.0.0.4\n"),
        (vec![60, 60, 90, 90], vec![])
    );
    let soa = "@ SOA a b 1 2h 30m 1W2D 17\n";
    assert_eq!(ttls(&format!("{soa}a 60 A 10.0.0.1\nb A 10.0.0.2\n")), (vec![17, 60, 17], vec![1]));
    assert_eq!(ttls("a A 10.0.0.1\nb A 10.0.0.2\n"), (vec![3600, 3600], vec![1]));
    let Data::Soa(soa) = &records(soa).unwrap()[0].1.data else { panic!() };
    assert_eq!([soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum], [1, 7200, 1800, 777_600, 17]);
}

#[test]
fn types_that_the_library_does_not_read_are_read() {
    // RFC 1876's own example, and what BIND makes of the others.
    for (text, octets) in [
        ("LOC 42 21 54 N 71 06 18 W -24m 30m", "00 33 16 13 89 17 2d d0 70 be 15 f0 00 98 8d 20"),
        ("LOC 1 N 1 E 0", "00 12 16 13 80 36 ee 80 80 36 ee 80 00 98 96 80"),
        ("AFSDB 1 a.", "00 01 01 61 00"),
        ("KX 2 @", "00 02 04 63 6f 72 70 04 74 65 73 74 00"),
        ("SPF \"v=spf1\" b", "06 76 3d 73 70 66 31 01 62"),
        ("URI 1 2 \"ftp://a\"", "00 01 00 02 66 74 70 3a 2f 2f 61"),
        ("EUI48 00-00-5e-00-53-2a", "00 00 5e 00 53 2a"),
        ("EUI64 00-00-5e-ef-10-00-00-2a", "00 00 5e ef 10 00 00 2a"),
        ("NID 10 14:4fff:ff20:ee64", "00 0a 00 14 4f ff ff 20 ee 64"),
        ("L32 10 10.1.2.0", "00 0a 0a 01 02 00"),
        ("CSYNC 66 3 A NS AAAA", "00 00 00 42 00 03 00 04 60 00 00 08"),
        ("APL 1:192.168.32.0/21 !1:192.168.38.0/28", "00 01 15 03 c0 a8 20 00 01 1c 83 c0 a8 26"),
        ("CERT PGP 0 0 AQID", "00 03 00 00 00 01 02 03"),
        ("SMIMEA 3 1 1 AB cd", "03 01 01 ab cd"),
        ("DLV 1 5 1 ab (\n cd )", "00 01 05 01 ab cd"),
        ("PX 1 a. b.", "00 01 01 61 00 01 62 00"),
        ("ISDN \"1\" 2", "01 31 01 32"),
        ("DHCID AAIB", "00 02 01"),
    ] {
        let read = octets_of(&format!("a {text}"));
        let hex: Vec<String> = read.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex.join(" "), octets, "{text}");
    }
    assert_eq!(octets_of("a AFSDB \\# 2 abcd"), [0xab, 0xcd]);
}

#[test]
fn every_mistake_is_said_up_to_a_limit() {
    let text = "a A 1\n\nb A 10.0.0.1\nc..d A 10.0.0.1\n A 10.0.0.2\ne TXT \"x\nf )\ng A 10.0.0.1\n";
    let reading = read_all("", text.as_bytes(), &name("corp.test"), &mut |_, _| unreachable!());
    let lines: Vec<usize> = reading.errors.iter().map(|error| error.line).collect();
    assert_eq!((lines, reading.records.len()), (vec![1, 4, 6, 7], 3));
    let reading = read_all("", &b"a A 1\n".repeat(100), &name("corp.test"), &mut |_, _| unreachable!());
    assert_eq!(reading.errors.len(), ERRORS_MAX);
}

#[test]
fn any_text_is_read_or_refused_and_never_worse() {
    let tokens: [&[u8]; 32] = [
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
        b"$GENERATE 1-2 ",
        b"$",
        b" LOC ",
        b"1h",
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
    let records = read(include_bytes!("../../zones/corp.test.zone"), &name("corp.test")).unwrap();
    let (zone, warnings) = Zone::new(name("corp.test"), Kind::Primary, records).unwrap();
    assert_eq!(warnings, []);
    assert!(zone.soa().is_some());
}
