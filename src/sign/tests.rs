use data_encoding::{BASE64, HEXLOWER};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::key_file::{private_text, public_text, read, with_times};
use super::*;

/// The example of RFC 6605 section 6.1.
const SECRET: &str = "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=";
const PUBLIC: &str =
    "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";
const DAY_S: u64 = 86_400;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn octets<const N: usize>(base64: &str) -> [u8; N] {
    BASE64.decode(base64.as_bytes()).unwrap().try_into().unwrap()
}

fn example(times: Times) -> Key {
    Key::new(&name("Example.net"), times, &octets(SECRET), &octets(PUBLIC), &SystemRandom::new()).unwrap()
}

fn drawn(times: Times) -> Arc<Key> {
    let random = SystemRandom::new();
    let (secret, public) = draw(&random).unwrap();
    Arc::new(Key::new(&name("service.local"), times, &secret, &public, &random).unwrap())
}

#[test]
fn the_example_of_the_rfc_is_ours() {
    let key = example(Times::default());
    assert_eq!(key.tag, 55_648);
    let digest = "B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17";
    assert_eq!(key.ds_text(), format!("55648 13 2 {digest}"));
    let Data::Other { octets: ds, .. } = key.as_ds(Type::DS) else { panic!("no DS") };
    assert_eq!(HEXLOWER.encode(&ds[4..]), digest.to_lowercase());
    assert_eq!(key.dnskey_text(), format!("257 3 13 {PUBLIC}"));
    // The signature of the example, over the text that we make of its record.
    let signature =
        "qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==";
    let owner = name("WWW.example.net");
    let fields = SetFields { owner: &owner, rtype: Type::A, ttl: 3600 };
    let mut text = key.rrsig(&fields, 0);
    text[8..12].copy_from_slice(&1_284_026_679_u32.to_be_bytes()); // 2010-09-09 10:04:39
    text[12..16].copy_from_slice(&1_281_607_479_u32.to_be_bytes()); // 2010-08-12 10:04:39
    text.extend(canonical::rrset(&owner, Type::A, 3600, [&Data::A([192, 0, 2, 1].into())]));
    let public = [&[4], &octets::<PUBLIC_OCTETS>(PUBLIC)[..]].concat();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
    let signature: [u8; SIGNATURE_OCTETS] = octets(signature);
    public.verify(&text, &signature).unwrap();
    text[20] ^= 1;
    public.verify(&text, &signature).unwrap_err();
}

#[test]
fn halves_that_are_no_pair_are_no_key() {
    let random = SystemRandom::new();
    let (_, other) = draw(&random).unwrap();
    let key = Key::new(&name("a"), Times::default(), &octets(SECRET), &other, &random);
    assert_eq!(key.unwrap_err(), NoKey);
}

#[test]
fn labels_of_a_wildcard_are_counted_without_it() {
    let key = example(Times::default());
    let labels = |text: &str| key.rrsig(&SetFields { owner: &name(text), rtype: Type::A, ttl: 1 }, 0)[3];
    assert_eq!((labels("*.lab.example.net"), labels("x.lab.example.net"), labels("*.x")), (3, 4, 1));
    assert_eq!(labels("a.*.example.net"), 4, "in the middle it is a label as any");
}

#[test]
fn signatures_are_made_anew_before_they_end() {
    let signed = Signed { at_s: 1_000_000, signature: [0; SIGNATURE_OCTETS] };
    let serves = |at_s: i64| signed.serves(Wall { unix_ms: at_s * 1000 + 999 });
    let ends = 1_000_000 + LIFE_S;
    assert!(serves(1_000_000) && serves(ends - LIFE_S / 3 - 1));
    assert!(!serves(ends - LIFE_S / 3), "at two thirds of its life");
    // A clock that was put back: as long as it is valid for who has the same one.
    assert!(serves(1_000_000 - SKEW_S / 2) && !serves(1_000_000 - SKEW_S / 2 - 1));
    // A century later its times are still told in 32 bits.
    let key = example(Times::default());
    let text = key.rrsig(&SetFields { owner: &name("a"), rtype: Type::A, ttl: 1 }, (1 << 33) + 7);
    assert_eq!(text[12..16], (7u32.wrapping_sub(SKEW_S as u32)).to_be_bytes());
}

/// What a zone publishes: the tags of DNSKEY and of CDS, the key that signs first; and who signs DNSKEY.
fn published(keys: &[Arc<Key>], now_s: u64) -> (Vec<u16>, Option<u16>) {
    let zone = ZoneKeys::at(keys, now_s).unwrap();
    let set = |rtype| zone.sets().iter().find(|set| set.rtype == rtype);
    let cds = set(Type::CDS).map(|set| match &set.data[..] {
        [Data::Other { octets, .. }] => u16::from_be_bytes([octets[0], octets[1]]),
        other => panic!("{other:?}"),
    });
    assert_eq!(set(Type::CDS).is_some(), set(Type::CDNSKEY).is_some());
    assert_eq!(set(Type::DNSKEY).unwrap().data.len(), zone.tags().len());
    assert_eq!(zone.signers(Type::DNSKEY).len(), zone.tags().len(), "each says of all");
    assert_eq!(zone.signers(Type::A)[0].tag, zone.tags()[0]);
    (zone.tags(), cds)
}

#[test]
fn a_roll_never_leaves_a_zone_without_a_key_that_is_known() {
    let start = 1_800_000_000;
    let first = Times { created: start, publish: start, activate: Some(start), ..Times::default() };
    let mut keys = vec![drawn(first)];
    let old = keys[0].tag;
    assert!(ZoneKeys::at(&keys, start - 1).is_none(), "a zone before its key");
    assert_eq!(published(&keys, start), (vec![old], None), "caches may still have it unsigned");
    assert_eq!(published(&keys, start + COMING_S), (vec![old], Some(old)));

    let rolled = start + DAY_S;
    let coming = Times { created: rolled, publish: rolled, ..Times::default() };
    let (secret, public) = draw(&SystemRandom::new()).unwrap();
    let with = |times| {
        Arc::new(Key::new(&name("service.local"), times, &secret, &public, &SystemRandom::new()).unwrap())
    };
    keys.push(with(coming));
    let new = keys[1].tag;
    assert_eq!(published(&keys, rolled - 1), (vec![old], Some(old)));
    assert_eq!(published(&keys, rolled), (vec![old, new], Some(old)));
    assert_eq!(coming.stage(rolled + COMING_S - 1), Stage::Coming);
    assert_eq!(coming.stage(rolled + COMING_S), Stage::Ready);
    assert_eq!(published(&keys, rolled + COMING_S), (vec![old, new], Some(new)), "the zone above may change");
    assert_eq!(published(&keys, rolled + 90 * DAY_S), (vec![old, new], Some(new)), "and take its time");

    let done = rolled + 2 * DAY_S;
    keys[1] = with(Times { activate: Some(done), ..coming });
    // Between the two files: both sign, and the newer one is taken.
    assert_eq!(published(&keys, done), (vec![new, old], Some(new)));
    let times = Times { inactive: Some(done), delete: Some(done + LEAVING_S), ..first };
    let left = Key { times, ..Arc::try_unwrap(keys.remove(0)).unwrap() };
    keys.push(Arc::new(left));
    assert_eq!(published(&keys, done), (vec![new, old], Some(new)));
    assert_eq!(published(&keys, done + LEAVING_S - 1), (vec![new, old], Some(new)));
    assert_eq!(published(&keys, done + LEAVING_S), (vec![new], Some(new)));
    // Whose end was said, and no other one came: it signs on until it is gone.
    assert_eq!(published(&keys[1..], done + 1), (vec![old], None));
    assert!(ZoneKeys::at(&keys[1..], done + LEAVING_S).is_none());
}

#[test]
fn files_are_read_as_they_are_written() {
    let times = Times { created: 1_800_000_000, publish: 1_800_000_060, ..Times::default() };
    let key = example(times);
    assert_eq!(key_file::stem(&key), "Kexample.net.+013+55648");
    let (public, private) = (public_text(&key), private_text(&octets(SECRET), &times));
    assert!(private.contains("Created: 20270115080000\nPublish: 20270115080100\n"), "{private}");
    let back = read(&public, &private, &SystemRandom::new()).unwrap();
    assert_eq!((back.times, back.tag, back.apex), (times, 55_648, name("example.net")));
    let later = Times { activate: Some(1_800_000_400), delete: Some(1_900_000_000), ..times };
    let changed = with_times(&private, &later);
    assert_eq!(read(&public, &changed, &SystemRandom::new()).unwrap().times, later);
    assert_eq!(with_times(&changed, &times), private);
    // As BIND writes the example, with comments, and without times: it signs.
    let public = format!("; this is a key\nexample.net. IN DNSKEY 257 3 13 {PUBLIC}\n");
    let private =
        format!("Private-key-format: v1.2\nAlgorithm: 13 (ECDSAP256SHA256)\nPrivateKey: {SECRET}\n");
    let back = read(&public, &private, &SystemRandom::new()).unwrap();
    assert_eq!(back.times.stage(0), Stage::Signing);
}

#[test]
fn what_is_wrong_with_a_file_is_told_without_the_secret() {
    let (public, private) =
        (public_text(&example(Times::default())), private_text(&octets(SECRET), &Times::default()));
    let complaint = |public: &str, private: &str| {
        let error = read(public, private, &SystemRandom::new()).unwrap_err().to_string();
        assert!(!error.contains(&SECRET[..8]) && !error.contains("GEHEIM"), "{error}");
        error
    };
    for (from, to, expected) in [
        ("257 3 13", "256 3 13", ".key:2: the key must begin with `257 3 13`"),
        ("DNSKEY", "A", ".key:2: there is no DNSKEY in this line"),
        (&PUBLIC[80..], "AAAA", ".key:2: the key must be base64 of 64 octets"),
        ("example.net.", "a..b", ".key:2: the zone's name: a label is empty"),
    ] {
        let error = complaint(&public.replace(from, to), &private);
        assert!(error.starts_with(expected), "{error}");
    }
    for (from, to, expected) in [
        ("Algorithm: 13", "Algorithm: 8", ".private:2: the Algorithm must be 13"),
        (SECRET, "GEHEIM", ".private:3: the PrivateKey must be base64 of 32 octets"),
        (
            &SECRET[..8],
            "AAAAAAAA",
            ".private:1: the PrivateKey is no key of P-256, or not that of the public half",
        ),
        ("PrivateKey", "Private", ".private:5: there is no PrivateKey in this file"),
        ("Created: 1970", "Created: \u{1b}970", ".private:4: a time must be written as 20261121150405"),
    ] {
        let error = complaint(&public, &private.replace(from, to));
        assert!(error.starts_with(expected), "{error}");
    }
    let error = complaint("", &private);
    assert!(error.starts_with(".key:1: there is no DNSKEY in this file"), "{error}");
    assert!(complaint(&public.repeat(2), &private).starts_with(".key:4: there is more than one record"));
}
