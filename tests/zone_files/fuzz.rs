//! Text that nobody means to serve: nothing panics, every complaint has a line that is there, and what is read is read the
//! same from its own dump.
//!
//! Cases are pieces of the corpus, cut, joined and broken. They run for a minute in CI and for as long as somebody likes by
//! `tests/long/zone_files.sh`: `CALLSIGN_SEED` and `CALLSIGN_CASES` repeat and prolong a run, and its figures are printed.

use std::fmt::Write as _;

use callsign::balance::Draws;
use callsign::name::Name;
use callsign::record::Record;
use callsign::zone::{Kind, Zone};
use callsign::zone_file::{ERRORS_MAX, Included, Reading, advice, read_all};
use data_encoding::HEXUPPER;

use crate::corpus::{BROKEN, ODD, octets, read};
use crate::harness::now;

/// Cases where nobody says how many: most of a minute on two cores, without optimisation.
const CASES: u64 = 600_000;
/// Threads of a run: what CI has cores for.
const THREADS: u64 = 2;
/// Lines of the corpus in a case, at most.
const LINES_MAX: u64 = 8;

/// What runs of cases came to.
#[derive(Default)]
struct Sums {
    read: u64,
    refused: u64,
    zones: u64,
    records: u64,
}

/// Every line of the corpus.
fn lines() -> Vec<Vec<u8>> {
    let cases = [BROKEN, ODD].into_iter().flat_map(|text| read(text).1);
    let texts = cases.flat_map(|case| case.files.into_iter().map(|(_, text)| octets(&text)));
    let mut lines: Vec<Vec<u8>> = texts
        .flat_map(|text| {
            text.split_inclusive(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

fn pick<'a, T>(draws: &mut Draws, from: &'a [T]) -> &'a T {
    &from[(draws.next_u64() % from.len() as u64) as usize]
}

/// A text of some lines, some of which are broken.
fn text(draws: &mut Draws, lines: &[Vec<u8>]) -> Vec<u8> {
    const BREAKERS: &[u8] = b" \t\n\r()\";\\@$.{}#,0a:\xff\0";
    let mut text = Vec::new();
    if draws.next_u64().is_multiple_of(2) {
        text.extend(b"@ 60 SOA ns1 h 7 3600 600 86400 60\n@ NS ns1\n");
    }
    for _ in 0..1 + draws.next_u64() % LINES_MAX {
        let mut line = pick(draws, lines).clone();
        for _ in 0..(draws.next_u64() % 8).saturating_sub(5) {
            let at = (draws.next_u64() % (line.len() as u64 + 1)) as usize;
            match draws.next_u64() % 4 {
                0 => line.insert(at, *pick(draws, BREAKERS)),
                1 if at < line.len() => drop(line.remove(at)),
                2 => line.truncate(at),
                _ => {
                    let other = pick(draws, lines);
                    let from = (draws.next_u64() % (other.len() as u64 + 1)) as usize;
                    line.truncate(at);
                    line.extend_from_slice(&other[from..]);
                }
            }
        }
        text.extend(line);
    }
    text
}

fn read_of(text: &[u8], apex: &Name, others: &[Vec<u8>]) -> Reading {
    // Files that a text includes are pieces of the corpus too; none includes itself for ever.
    let mut fetched = 0;
    read_all("main", text, apex, &mut |path, _| {
        fetched += 1;
        let at = path.bytes().map(usize::from).sum::<usize>() % others.len();
        match fetched < 5 {
            true => Ok(Included { name: format!("{path} {fetched}"), text: others[at].clone() }),
            false => Err("no such file".to_owned()),
        }
    })
}

/// The records in the form that is the same for all types (RFC 3597 section 5).
fn dump(records: &[(usize, Record)]) -> String {
    let mut dump = String::new();
    for (_, Record { owner, ttl, data }) in records {
        let (rtype, octets) = (data.rtype().0, data.to_wire());
        let _ = write!(dump, "{owner} {ttl} CLASS1 TYPE{rtype} \\# {}", octets.len());
        if !octets.is_empty() {
            dump.push(' ');
            dump.push_str(&HEXUPPER.encode(&octets));
        }
        dump.push('\n');
    }
    dump
}

fn judge(text: &[u8], apex: &Name, others: &[Vec<u8>], sums: &mut Sums) {
    let shown = || String::from_utf8_lossy(text).into_owned();
    let reading = read_of(text, apex, others);
    assert!(reading.errors.len() <= ERRORS_MAX);
    let told = reading.errors.iter().map(|error| error.line);
    for line in told.chain(reading.warnings.iter().map(|warning| warning.line)) {
        let (file, line) = reading.files.place(line);
        assert!(line >= 1, "{file}:{line} of {}", shown());
        let lines = text.split(|octet| *octet == b'\n').count();
        assert!(file != "main" || line <= lines, "{file}:{line} of {}", shown());
    }
    if !reading.errors.is_empty() {
        sums.refused += 1;
        return;
    }
    sums.read += 1;
    sums.records += reading.records.len() as u64;
    let again =
        read_all("dump", dump(&reading.records).as_bytes(), &Name::root(), &mut |_, _| unreachable!());
    assert!(again.errors.is_empty(), "{:?} in the dump of {}", again.errors, shown());
    let records =
        |reading: &Reading| reading.records.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>();
    assert_eq!(records(&again), records(&reading), "the dump of {}", shown());
    let (zone, _, errors) = Zone::build(apex.clone(), Kind::Primary, reading.records, ERRORS_MAX);
    if errors.is_empty() {
        sums.zones += 1;
        advice(&zone);
    }
}

#[test]
fn no_text_does_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (seed, cases) =
        (number("CALLSIGN_SEED").unwrap_or(0x5eed), number("CALLSIGN_CASES").unwrap_or(CASES));
    let (lines, apex) = (lines(), Name::parse("corp.test").expect("a name"));
    let begun = now();
    let run = |thread: u64| {
        let (mut draws, mut sums) = (Draws::new(seed ^ thread << 32), Sums::default());
        for _ in 0..cases / THREADS {
            let text = text(&mut draws, &lines);
            // A range of a million is one case of a second, and says nothing new.
            if !text.windows(9).any(|word| word.eq_ignore_ascii_case(b"$GENERATE"))
                || draws.next_u64().is_multiple_of(64)
            {
                judge(&text, &apex, &lines, &mut sums);
            }
        }
        sums
    };
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        let mut all = Sums::default();
        for thread in threads {
            let sums = thread.join().expect("no case panics");
            all.read += sums.read;
            all.refused += sums.refused;
            all.zones += sums.zones;
            all.records += sums.records;
        }
        all
    });
    println!(
        "zone_files: seed={seed} cases={cases} read={} refused={} zones={} records={} seconds={}",
        sums.read,
        sums.refused,
        sums.zones,
        sums.records,
        begun.elapsed().as_secs_f64().ceil()
    );
    assert!(
        sums.read > cases / 20 && sums.refused > cases / 20 && sums.zones > cases / 100,
        "cases reach what they are for"
    );
}
