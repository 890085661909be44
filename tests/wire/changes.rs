//! What the registry does, and what a query sees of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use callsign::answer::Over;
use callsign::dns::wire::{Arrival, Policy, accept};
use callsign::instance::{Health, Lease};
use callsign::name::Name;
use callsign::registry::FORGET_AFTER;
use callsign::view::{View, Zones};
use callsign::zone::{Kind, Zone};
use callsign::zone_file;

use super::fixture::{Live, Wanted};
use super::judge::{Read, judge};
use super::query::{octets_of, wire_name};
use super::{CLIENT, UDP_OCTETS_MAX};

fn ask(view: &View, name: &str, qtype: u16) -> Read {
    let mut query = octets_of(0, "1234 0000 0001 0000 0000 0000");
    query.extend(wire_name(0, name));
    query.extend(qtype.to_be_bytes());
    query.extend([0, 1]);
    let arrival = Arrival { client: CLIENT, over: Over::Udp, draw: 1 };
    let reply = accept(view, &Policy::default(), &arrival, &query).unwrap();
    let (read, faults) = judge(&query, Over::Udp, UDP_OCTETS_MAX, &reply);
    assert_eq!(faults, [], "{name}");
    read.unwrap()
}

const A: u16 = 1;
const SOA: u16 = 6;
const SRV: u16 = 33;

/// Rcode and number of answers.
fn found(view: &View, name: &str) -> (u16, usize) {
    let read = ask(view, name, A);
    (read.rcode(), read.sections[0].len())
}

const NODATA: (u16, usize) = (0, 0);
const NXDOMAIN: (u16, usize) = (3, 0);

fn ready() -> Live {
    let live = Live::new(Zones::default());
    live.view.set_ready();
    live
}

#[test]
fn a_published_change_is_in_the_next_answer() {
    let mut live = ready();
    let one = Wanted::new("web", "one", &["10.0.0.1"], 80);
    let two = Wanted::new("web", "two", &["10.0.0.2"], 80);
    assert_eq!(found(&live.view, "web.service.local"), NXDOMAIN);
    live.register(&one);
    assert_eq!(found(&live.view, "web.service.local"), (0, 1));
    live.register(&two);
    assert_eq!(found(&live.view, "web.service.local"), (0, 2));
    live.report(&one, Health::Critical);
    assert_eq!(found(&live.view, "web.service.local"), (0, 1));
    live.report(&one, Health::Warning);
    assert_eq!(found(&live.view, "web.service.local"), (0, 2));
    live.drain(&two);
    assert_eq!(found(&live.view, "web.service.local"), (0, 1));
    live.deregister(&one);
    assert_eq!(found(&live.view, "web.service.local"), NODATA);
}

#[test]
fn what_left_is_known_for_a_minute() {
    let mut live = ready();
    let tagged = Wanted { tags: vec!["v2"], ..Wanted::new("web", "one", &["10.0.0.1"], 80) };
    let brief = Wanted { lease: Lease::Timed(Duration::from_secs(3)), ..tagged.clone() };
    let names = ["web.service.local", "one.web.service.local", "_web._v2.service.local", "_v2.service.local"];
    let all = |live: &Live| names.map(|name| found(&live.view, name));
    assert_eq!(all(&live), [NXDOMAIN; 4]);

    live.register(&brief);
    assert_eq!(all(&live), [(0, 1), (0, 1), (0, 1), NODATA]);
    live.wait(Duration::from_millis(2999));
    assert_eq!(all(&live), [(0, 1), (0, 1), (0, 1), NODATA]);
    live.wait(Duration::from_millis(1));
    assert_eq!(all(&live), [NODATA; 4], "expired, and known");

    // Back within the minute, and gone again: every name is counted as often as it is there.
    live.register(&tagged);
    assert_eq!(all(&live), [(0, 1), (0, 1), (0, 1), NODATA]);
    live.deregister(&tagged);
    assert_eq!(all(&live), [NODATA; 4]);
    live.wait(FORGET_AFTER);
    assert_eq!(all(&live), [NXDOMAIN; 4], "forgotten");
}

#[test]
fn the_serial_goes_up_with_every_change() {
    let mut live = ready();
    let serial = |live: &Live| -> u32 {
        let read = ask(&live.view, "service.local", SOA);
        read.sections[0][0].data.split(' ').nth(2).unwrap().parse().unwrap()
    };
    let one = Wanted::new("web", "one", &["10.0.0.1"], 80);
    let mut before = serial(&live);
    let steps: [fn(&mut Live, &Wanted); 6] = [
        |live, one| live.register(one),
        |live, one| live.report(one, Health::Critical),
        |live, one| live.report(one, Health::Passing),
        |live, one| live.drain(one),
        |live, one| live.deregister(one),
        |live, _| live.wait(FORGET_AFTER),
    ];
    for (step, change) in steps.into_iter().enumerate() {
        change(&mut live, &one);
        let after = serial(&live);
        assert!(after > before, "step {step}: {after} after {before}");
        let negative = ask(&live.view, "nope.service.local", A).sections[1][0].data.clone();
        assert_eq!(
            negative.split(' ').nth(2).unwrap(),
            after.to_string(),
            "step {step}: the same in negatives"
        );
        before = after;
    }
    live.wait(Duration::from_secs(1));
    assert_eq!(serial(&live), before, "nothing changed");
}

/// Port and address change together; who sees the port sees the address that belongs to it.
#[test]
fn a_record_and_its_address_are_of_one_view() {
    const LOOKS: u32 = 5000;
    let mut live = ready();
    let variants = [1, 2].map(|n| Wanted::new("web", "one", &[&format!("10.0.0.{n}")], n));
    live.register(&variants[0]);
    let view: Arc<View> = live.view.clone();
    let looks = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while looks.fetch_add(1, Ordering::Relaxed) < LOOKS {
                let read = ask(&view, "web.service.local", SRV);
                let port = read.sections[0][0].data.split(' ').nth(2).unwrap().to_owned();
                assert_eq!(read.sections[2][0].data, format!("10.0.0.{port}"));
            }
        });
        let mut rounds = 0;
        while !reader.is_finished() {
            live.register(&variants[rounds % 2]);
            rounds += 1;
        }
        assert!(rounds > 100, "{rounds} changes in {LOOKS} looks show nothing");
    });
}

/// Until it is loaded, nobody is told that something does not exist.
#[test]
fn a_loaded_registry_denies_what_it_does_not_have() {
    let mut live = Live::new(Zones::default());
    assert_eq!(found(&live.view, "web.service.local"), (2, 0));
    live.register(&Wanted::new("web", "one", &["10.0.0.1"], 80));
    assert_eq!(found(&live.view, "web.service.local"), (2, 0));
    live.view.set_ready();
    assert_eq!(found(&live.view, "web.service.local"), (0, 1));
    assert_eq!(found(&live.view, "nope.service.local"), NXDOMAIN);
}

/// RFC 8020: where a name exists, so does every name above it, or a resolver may deny both.
#[test]
fn no_name_hangs_in_the_air() {
    let view = super::fixture::fixture();
    let (rows, _) = super::query::read(super::ROWS);
    let mut names = 0;
    for row in rows.iter().filter(|row| !row.unready && row.query.get(4..6) == Some(&[0, 1])) {
        let mut labels = Vec::new();
        let mut rest = row.query.get(12..).unwrap_or_default();
        while let [length @ 1..=63, after @ ..] = rest
            && let Some((label, after)) = after.split_at_checked(usize::from(*length))
        {
            labels.push(String::from_utf8_lossy(label).into_owned());
            rest = after;
        }
        let plain = |label: &String| label.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'.');
        if !labels.iter().all(plain) || labels.len() < 3 || labels.concat().len() > 200 {
            continue;
        }
        if ask(&view, &labels.join("."), A).rcode() != 0 {
            continue;
        }
        names += 1;
        for above in 1..labels.len() - 1 {
            let above = labels[above..].join(".");
            assert_ne!(ask(&view, &above, A).rcode(), 3, "{above}, though {} exists", labels.join("."));
        }
    }
    assert!(names > 100, "{names}");
}

#[test]
fn an_alias_beside_other_data_is_refused() {
    let apex = Name::parse("corp.test.").unwrap();
    let text =
        "@ 60 IN SOA ns1 hostmaster 1 60 60 60 60\n@ 60 IN NS ns1\nwww 60 IN A 10.0.0.1\nwww 60 IN CNAME x\n";
    let records = zone_file::read(text.as_bytes(), &apex).unwrap();
    let error = Zone::new(apex, Kind::Primary, records).unwrap_err();
    assert_eq!(error.line, 4);
}
