//! What a signature is worth (RFC 8945), on every kind of message.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use ring::hmac;

use crate::harness::dns::{connect, receive_framed, send_framed};
use crate::harness::program::needs;
use crate::harness::{DEADLINE, Draws, Server, now, seed};

pub const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SECRET_OCTETS: &[u8] = b"0123456789abcdef0123456789abcdef";
const KEY: &[u8] = b"\x0bsecondaries\0";
const ALGORITHM: &[u8] = b"\x0bhmac-sha256\0";
const QUESTION: &[u8] = b"\x07service\x05local\0\0\x06\0\x01";
const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const NOTAUTH: u8 = 9;

/// A file with the key, for nobody else to read.
pub fn key_file(directory: &std::path::Path) -> PathBuf {
    let path = directory.join("secondaries.key");
    let text = format!("key \"secondaries\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n");
    std::fs::write(&path, text).expect("writing the key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a file of ours");
    path
}

#[expect(clippy::disallowed_methods, reason = "a signature has the time in it")]
fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

/// A signature of the tests' own making, to be right or wrong.
#[derive(Clone)]
struct Signature {
    key: &'static [u8],
    algorithm: &'static [u8],
    secret: &'static [u8],
    time: u64,
    fudge: u16,
    mac_octets: usize,
}

impl Signature {
    fn new() -> Self {
        let (time, fudge, mac_octets) = (now_s(), 300, 32);
        Self { key: KEY, algorithm: ALGORITHM, secret: SECRET_OCTETS, time, fudge, mac_octets }
    }

    fn variables(&self, error: u16, other: &[u8]) -> Vec<u8> {
        let time = &self.time.to_be_bytes()[2..];
        let (fudge, error, length) =
            (self.fudge.to_be_bytes(), error.to_be_bytes(), (other.len() as u16).to_be_bytes());
        [self.key, &[0, 255, 0, 0, 0, 0], self.algorithm, time, &fudge, &error, &length, other].concat()
    }

    /// `message` with the signature.
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let digested = [message, &self.variables(0, &[])].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.secret), &digested);
        let mac: Vec<u8> = tag.as_ref().iter().copied().chain([0; 32]).take(self.mac_octets).collect();
        let mut signed = message.to_vec();
        signed.extend(self.record(&message[..2], &mac));
        signed[11] += 1;
        signed
    }

    fn record(&self, id: &[u8], mac: &[u8]) -> Vec<u8> {
        let data = [
            self.algorithm,
            &self.time.to_be_bytes()[2..],
            &self.fudge.to_be_bytes(),
            &(mac.len() as u16).to_be_bytes(),
            mac,
            id,
            &[0; 4],
        ]
        .concat();
        [self.key, &[0, 250, 0, 255, 0, 0, 0, 0], &(data.len() as u16).to_be_bytes(), &data].concat()
    }
}

fn question() -> Vec<u8> {
    [&[0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], QUESTION].concat()
}

/// What a reply says of its signature.
#[derive(Debug)]
struct Said {
    rcode: u8,
    /// Error, MAC, other data; none where the reply is not signed at all.
    signature: Option<(u16, Vec<u8>, Vec<u8>)>,
    /// The MAC is right.
    sound: bool,
}

/// Reads a reply to `asked`, whose signature is its last record.
fn read(reply: &[u8], asked: &[u8]) -> Said {
    let rcode = reply[3] & 15;
    let start = reply
        .windows(KEY.len() + 2)
        .rposition(|at| at[..KEY.len()].eq_ignore_ascii_case(KEY) && at[KEY.len()..] == [0, 250]);
    let Some(start) = start else { return Said { rcode, signature: None, sound: false } };
    let data = &reply[start + KEY.len() + 10 + ALGORITHM.len()..];
    let number = |at: usize| usize::from(u16::from_be_bytes([data[at], data[at + 1]]));
    let mac = data[10..10 + number(8)].to_vec();
    let rest = 10 + mac.len();
    let error = number(rest + 2) as u16;
    let other = data[rest + 6..rest + 6 + number(rest + 4)].to_vec();
    let mut unsigned = reply[..start].to_vec();
    unsigned[11] -= 1;
    let time = u64::from_be_bytes([&[0, 0], &data[..6]].concat().try_into().expect("eight octets"));
    let signature = Signature { time, fudge: number(6) as u16, ..Signature::new() };
    // The MAC of the question stands in front of its ID, error and other length: six octets.
    let before = &asked[asked.len() - 6 - 32..asked.len() - 6];
    let digested = [&[0, 32], before, &unsigned, &signature.variables(error, &other)].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET_OCTETS);
    let sound = hmac::verify(&key, &digested, &mac).is_ok();
    Said { rcode, signature: Some((error, mac, other)), sound }
}

struct Signed {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Signed {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the key");
        let file = key_file(directory.path());
        let all = [&["--store", "memory", "--tsig-keys", file.to_str().expect("a path")], flags].concat();
        Self { server: Server::start(&all), _directory: directory }
    }

    fn udp(&self, message: &[u8]) -> Vec<u8> {
        let resolver = self.server.resolver();
        resolver.send(message);
        resolver.receive(DEADLINE).expect("a reply")
    }

    /// The same over UDP and TCP.
    fn ask(&self, message: &[u8]) -> Said {
        let mut stream = connect(self.server.dns[0]);
        send_framed(&mut stream, message).expect("asking over TCP");
        let over_tcp = read(&receive_framed(&mut stream).expect("a reply over TCP"), message);
        let over_udp = read(&self.udp(message), message);
        assert_eq!((over_udp.rcode, over_udp.sound), (over_tcp.rcode, over_tcp.sound));
        over_udp
    }
}

/// Y-10 to Y-14.
#[test]
fn a_signature_is_worth_what_rfc_8945_says() {
    let signed = Signed::start(&[]);
    let right = Signature::new();
    let said = signed.ask(&right.sign(&question()));
    assert!(said.sound && said.rcode == NOERROR, "{said:?}");

    let unknown = Signature { key: b"\x05other\0", ..right.clone() };
    let reply = signed.udp(&unknown.sign(&question()));
    assert_eq!(reply[3] & 15, NOTAUTH);
    assert!(
        reply.ends_with(&[0, 17, 0, 0]) && reply[reply.len() - 8..reply.len() - 6] == [0, 0],
        "BADKEY, and no MAC"
    );
    let root = Signature { key: b"\0", ..right.clone() };
    assert_eq!(signed.udp(&root.sign(&question()))[3] & 15, NOTAUTH, "Y-14");
    let md5 = Signature { algorithm: b"\x08hmac-md5\x07sig-alg\x03reg\x03int\0", ..right.clone() };
    assert_eq!(signed.udp(&md5.sign(&question()))[3] & 15, NOTAUTH, "Y-13");

    let wrong = Signature { secret: b"another secret of thirty-two oct", ..right.clone() };
    let said = signed.ask(&wrong.sign(&question()));
    let (error, mac, _) = said.signature.expect("a signature that says why");
    assert_eq!((said.rcode, error, mac.len()), (NOTAUTH, 16, 0), "BADSIG is not signed");

    for time in [right.time - 301, right.time + 360] {
        let late = Signature { time, ..right.clone() };
        let said = signed.ask(&late.sign(&question()));
        assert!(said.sound, "BADTIME is signed: {said:?}");
        let (error, _, other) = said.signature.expect("a signature that says why");
        assert_eq!((said.rcode, error, other.len()), (NOTAUTH, 18, 6));
        let theirs = other.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet));
        assert!(theirs >= right.time, "the server's time is told");
    }
    let narrow = Signature { time: right.time - 20, fudge: 5, ..right.clone() };
    assert_eq!(signed.ask(&narrow.sign(&question())).rcode, NOTAUTH, "a client may ask for less");

    let short = Signature { mac_octets: 16, ..right.clone() };
    let reply = signed.udp(&short.sign(&question()));
    assert_eq!(reply[3] & 15, NOTAUTH);
    assert!(reply.ends_with(&[0, 22, 0, 0]), "BADTRUNC");
    for mac_octets in [0, 9, 15, 33] {
        let odd = Signature { mac_octets, ..right.clone() };
        assert_eq!(signed.udp(&odd.sign(&question()))[3] & 15, FORMERR, "{mac_octets} octets");
    }

    // Y-11: not the last record, or there twice.
    let mut behind = right.sign(&question());
    behind.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    behind[11] += 1;
    assert_eq!(signed.udp(&behind)[3] & 15, FORMERR);
    assert_eq!(signed.udp(&right.sign(&right.sign(&question())))[3] & 15, FORMERR);
}

/// The owner's name may be compressed as any other (RFC 1035 section 4.1.4), and is digested as it is written out (RFC 8945
/// section 4.3.3).
#[test]
fn a_keys_name_may_be_compressed() {
    const REFUSED: u8 = 5;
    let signed = Signed::start(&[]);
    // The key's name is above the question's, which is not ours.
    let plain = [&[0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x'], KEY, &[0, 1, 0, 1]].concat();
    let whole = Signature::new().sign(&plain);
    let (front, data) = (&whole[..plain.len()], &whole[plain.len() + KEY.len()..]);
    let here = 0xc0 | (plain.len() >> 8) as u8;
    for (owner, expected) in [
        (KEY, REFUSED),
        (b"\xc0\x0e", REFUSED),
        (b"\xc0\x0c", NOTAUTH),                    // another name, of no key
        (&[here, plain.len() as u8], FORMERR),     // itself
        (&[here, plain.len() as u8 + 2], FORMERR), // what is behind it
        (b"\x0bsecondaries\xc0\x0e", NOTAUTH),
    ] {
        let message = [front, owner, data].concat();
        let said = signed.ask(&message);
        assert_eq!((said.rcode, said.sound), (expected, expected == REFUSED), "{owner:x?}: {said:?}");
    }
}

/// Y-05 with a key, and who has none: each message of a transfer is signed, as dig and kdig see it.
#[test]
fn a_key_opens_the_zone() {
    let signed = Signed::start(&["--transfer-allow", "key:secondaries"]);
    let mut client = signed.server.client();
    for n in 0..400 {
        let form = serde_json::json!({"service": format!("s{}", n / 4), "id": format!("n{n}"), "address": "10.0.0.7", "port": 80});
        client.done("registered", &serde_json::json!({"register": form}));
    }
    let port = signed.server.dns[0].port().to_string();
    let dig = needs("dig", "bind9-dnsutils");
    let run = |program: &PathBuf, words: &[&str]| {
        let output = Command::new(program).args(words).output().expect("running a client");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let key = format!("hmac-sha256:secondaries:{SECRET}");
    let said = run(&dig, &["@127.0.0.1", "-p", &port, "-y", &key, "service.local", "AXFR"]);
    let summary =
        said.lines().find(|line| line.starts_with(";; XFR size")).unwrap_or_else(|| panic!("{said}"));
    let messages: usize = summary
        .split("messages ")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .and_then(|text| text.parse().ok())
        .expect("a number");
    assert!(messages > 1, "{summary}");
    assert!(!said.contains("verify failure") && !said.contains("WARNING"), "{said}");
    let kdig = needs("kdig", "knot-dnsutils");
    let said = run(&kdig, &["@127.0.0.1", "-p", &port, "-y", &key, "service.local", "AXFR"]);
    assert!(said.contains("messages") && !said.contains("WARNING"), "{said}");
    for words in [
        &["@127.0.0.1", "-p", &port, "service.local", "AXFR"][..],
        &[
            "@127.0.0.1",
            "-p",
            &port,
            "-y",
            "hmac-sha256:other:c2VjcmV0c2VjcmV0c2VjcmV0",
            "service.local",
            "AXFR",
        ],
    ] {
        let said = run(&dig, words);
        assert!(said.contains("Transfer failed"), "{said}");
    }
}

/// A file of keys that others may read, or a key that is in none, is refused at the start.
#[test]
fn keys_are_looked_at_before_the_start() {
    let directory = tempfile::tempdir().expect("a directory for the key");
    let file = key_file(directory.path());
    let path = file.to_str().expect("a path");
    let refused = |flags: &[&str]| match Server::launch(&[], &[&["--store", "memory"], flags].concat()) {
        Ok(_) => panic!("it started with {flags:?}"),
        Err(ended) => ended.stderr,
    };
    let said = refused(&["--tsig-keys", path, "--notify", "127.0.0.1 key:other"]);
    assert!(said.contains("notify names the key other., which is in no file of `tsig-keys`"), "{said}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a file of ours");
    let said = refused(&["--tsig-keys", path]);
    assert!(said.contains("everybody on this machine may read") && !said.contains(SECRET), "{said}");
    let mut text = std::fs::OpenOptions::new().append(true).open(&file).expect("a file of ours");
    text.write_all(b"key broken { secret \"??\"; };\n").expect("writing");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a file of ours");
    let said = refused(&["--tsig-keys", path]);
    assert!(said.contains("secondaries.key:5: the secret of broken. must be base64"), "{said}");
}

/// Messages with one bit changed are never believed, whichever bit. `CALLSIGN_FLIPS` says how many.
#[test]
fn no_flipped_bit_is_believed() {
    let flips: u64 = match std::env::var("CALLSIGN_FLIPS") {
        Ok(text) => text.parse().expect("CALLSIGN_FLIPS is a number"),
        Err(_) => 20_000,
    };
    let seed = seed();
    let signed = Signed::start(&["--transfer-allow", "key:secondaries"]);
    let mut draws = Draws(seed);
    let resolver = signed.server.resolver();
    let (mut accepted, mut silent, begun) = (0, 0, now());
    let asked = || {
        let soa = b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let mut message = question();
        message[27..31].copy_from_slice(b"\0\xfb\0\x01");
        message[9] = 1;
        [&message[..], soa].concat()
    };
    let believed = resolver_says(&resolver, &Signature::new().sign(&asked()));
    assert_eq!(believed, Some(NOERROR), "what is not flipped is believed");
    for _ in 0..flips {
        let plain = asked();
        let mut message = Signature::new().sign(&plain);
        // The ID is not signed (the original one is), and a reply is not answered.
        let (at, bit) = (2 + draws.below(message.len() - 2), draws.below(8));
        let names = plain.len()..plain.len() + KEY.len() + 10 + ALGORITHM.len();
        let other_case = bit == 5 && names.contains(&at) && message[at].is_ascii_alphabetic();
        if (at, bit) == (2, 7) || other_case {
            continue; // names are digested in lower case
        }
        message[at] ^= 1 << bit;
        match resolver_says(&resolver, &message) {
            Some(NOERROR) => {
                accepted += 1;
                println!("bit {bit} of octet {at} of {message:02x?}");
            }
            Some(_) => {}
            None => silent += 1,
        }
    }
    println!(
        "flips: seed={seed} flips={flips} accepted={accepted} silent={silent} seconds={:.1}",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!((accepted, silent), (0, 0));
}

fn resolver_says(resolver: &crate::harness::Resolver, message: &[u8]) -> Option<u8> {
    resolver.send(message);
    let reply = resolver.receive(DEADLINE)?;
    Some(reply[3] & 15)
}
