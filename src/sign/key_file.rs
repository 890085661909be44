//! The files of a key, in the form that BIND writes and that Knot, ldns and PowerDNS read: `Kservice.local.+013+12345.key`
//! with the public half as a record, and `.private` beside it with the secret one and the times of its life.
//!
//! A complaint names the line, and never what the file says there: it may be the secret.

use data_encoding::BASE64;
use ring::rand::SecureRandom;

use super::{ALGORITHM, FLAGS, KEYS_TTL, Key, PROTOCOL, PUBLIC_OCTETS, SECRET_OCTETS, Times};
use crate::name::Name;
use crate::time::{Wall, parse_time};

/// Octets of either file: ours have a tenth of it.
pub const FILE_OCTETS_MAX: u64 = 16_384;
/// The ends of the two files' names.
pub const PUBLIC: &str = "key";
pub const PRIVATE: &str = "private";

/// What is wrong, and in which line of which of the two, from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(".{file}:{line}: {reason}")]
pub struct KeyFileError {
    pub file: &'static str,
    pub line: usize,
    pub reason: String,
}

/// The name of both files without their ends.
pub fn stem(key: &Key) -> String {
    let apex = key.apex.to_string();
    format!("K{apex}+{ALGORITHM:03}+{:05}", key.tag)
}

/// The text of the public file.
pub fn public_text(key: &Key) -> String {
    let (apex, tag) = (&key.apex, key.tag);
    format!("; the key {tag} of {apex}\n{apex} {KEYS_TTL} IN DNSKEY {}\n", key.dnskey_text())
}

/// The text of the secret file.
pub fn private_text(secret: &[u8; SECRET_OCTETS], times: &Times) -> String {
    let secret = BASE64.encode(secret);
    let head =
        format!("Private-key-format: v1.3\nAlgorithm: {ALGORITHM} (ECDSAP256SHA256)\nPrivateKey: {secret}\n");
    with_times(&head, times)
}

/// The text of a secret file with other times.
pub fn with_times(text: &str, times: &Times) -> String {
    let is_time = |line: &&str| TIMES.iter().any(|name| line.starts_with(&format!("{name}:")));
    let mut out: String =
        text.lines().filter(|line| !is_time(line)).map(|line| format!("{line}\n")).collect();
    let known = [Some(times.created), Some(times.publish), times.activate, times.inactive, times.delete];
    for (name, time) in TIMES.iter().zip(known) {
        if let Some(time) = time {
            out += &format!("{name}: {}\n", time_text(time));
        }
    }
    out
}

const TIMES: [&str; 5] = ["Created", "Publish", "Activate", "Inactive", "Delete"];

/// `20261121150405`, in UTC.
fn time_text(time_s: u64) -> String {
    let wall = Wall { unix_ms: i64::try_from(time_s).unwrap_or_default().saturating_mul(1000) };
    wall.to_string().chars().filter(char::is_ascii_digit).take(14).collect()
}

fn read_time(text: &str) -> Option<u64> {
    if text.len() != 14 || !text.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let [year, month, day, hour, minute, second] =
        [&text[..4], &text[4..6], &text[6..8], &text[8..10], &text[10..12], &text[12..]];
    let rfc3339 = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    parse_time(&rfc3339, Wall::default()).map(Wall::unix_s)
}

/// The key of the two texts.
///
/// # Errors
///
/// They are not of this form, the key is of another kind, or the halves are no pair.
pub fn read(public: &str, private: &str, random: &dyn SecureRandom) -> Result<Key, KeyFileError> {
    let (apex, public) = read_public(public)?;
    let (secret, times) = read_private(private)?;
    Key::new(&apex, times, &secret, &public, random).map_err(|error| KeyFileError {
        file: PRIVATE,
        line: 1,
        reason: format!("the PrivateKey {error}"),
    })
}

/// `service.local. 300 IN DNSKEY 257 3 13 base64`, with comments and without TTL and class as well.
fn read_public(text: &str) -> Result<(Name, [u8; PUBLIC_OCTETS]), KeyFileError> {
    let error = |line, reason: &str| KeyFileError { file: PUBLIC, line, reason: reason.to_owned() };
    let mut lines = text.lines().zip(1..).filter(|(line, _)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with(';')
    });
    let Some((line, number)) = lines.next() else { return Err(error(1, "there is no DNSKEY in this file")) };
    if let Some((_, number)) = lines.next() {
        return Err(error(number, "there is more than one record in this file"));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.eq_ignore_ascii_case("DNSKEY"));
    let (Some(at), Some(apex)) = (at, words.first()) else {
        return Err(error(number, "there is no DNSKEY in this line"));
    };
    let apex = Name::parse(apex).map_err(|reason| error(number, &format!("the zone's name: {reason}")))?;
    let kind = words.get(at + 1..at + 4);
    let expected = [FLAGS.to_string(), PROTOCOL.to_string(), ALGORITHM.to_string()];
    if kind.is_none_or(|kind| kind != expected) {
        return Err(error(
            number,
            "the key must begin with `257 3 13`: ECDSA P-256, and one key for everything",
        ));
    }
    let octets = BASE64.decode(words[at + 4..].concat().as_bytes()).ok();
    let octets = octets.and_then(|octets| octets.try_into().ok());
    let octets = octets.ok_or_else(|| error(number, "the key must be base64 of 64 octets"))?;
    Ok((apex.to_lowercase(), octets))
}

fn read_private(text: &str) -> Result<([u8; SECRET_OCTETS], Times), KeyFileError> {
    let error = |line, reason: &str| KeyFileError { file: PRIVATE, line, reason: reason.to_owned() };
    let (mut secret, mut times) = (None, [None; TIMES.len()]);
    for (line, number) in text.lines().zip(1..) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name {
            "Algorithm" if value.split_whitespace().next() != Some("13") => {
                return Err(error(number, "the Algorithm must be 13 (ECDSAP256SHA256)"));
            }
            "PrivateKey" => {
                let octets = BASE64.decode(value.as_bytes()).ok().and_then(|octets| octets.try_into().ok());
                let octets =
                    octets.ok_or_else(|| error(number, "the PrivateKey must be base64 of 32 octets"))?;
                secret = Some(octets);
            }
            _ => {
                if let Some(at) = TIMES.iter().position(|known| *known == name) {
                    let time = read_time(value)
                        .ok_or_else(|| error(number, "a time must be written as 20261121150405, in UTC"))?;
                    times[at] = Some(time);
                }
            }
        }
    }
    let end = text.lines().count().max(1);
    let secret = secret.ok_or_else(|| error(end, "there is no PrivateKey in this file"))?;
    let [created, publish, activate, inactive, delete] = times;
    // Of another maker's key without times nobody waits for anything.
    let created = created.or(publish).unwrap_or_default();
    let publish = publish.unwrap_or(created);
    let activate = if times == [None; TIMES.len()] { Some(publish) } else { activate };
    Ok((secret, Times { created, publish, activate, inactive, delete }))
}
