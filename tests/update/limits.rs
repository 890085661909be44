//! What a message may hold, and what it may cost.

use callsign::update::{CHANGES_MAX, PREREQUISITES_MAX};

use super::*;
use crate::harness::strace::Attached;

/// What an UPDATE of one instance costs does not grow with what the message does not speak of.
#[test]
fn a_service_of_many_is_updated() {
    let updated = Updated::start(&[]);
    let mut way = updated.ways().into_iter().nth(1).expect("TCP").1;
    for block in 0..5 {
        let lines = (0..400).map(|n| {
            format!(
                "add _web._tcp 60 SRV 0 1 80 n{block}-{n}.web\nadd n{block}-{n}.web 60 A 10.2.{block}.1\n"
            )
        });
        assert_eq!(way.say(&Update::of(&lines.collect::<String>())).rcode, "NOERROR");
    }
    let begun = now();
    assert_eq!(way.say(&Update::of("add n0-0.web 60 A 10.3.0.1")).rcode, "NOERROR");
    println!("update: one address more in a service of 2,000 instances took {:?}", begun.elapsed());
    assert_eq!(updated.answers("n0-0.web", "A"), ["10.2.0.1", "10.3.0.1"]);
    assert_eq!(updated.server.client().list().len(), 2000);
}

/// A message costs what it says and one look through its service, not one look for each name: be it where others
/// registered, or where records stand at names of instances.
#[test]
fn the_names_of_a_message_do_not_multiply_with_those_of_the_service() {
    const MANY: usize = 3_000;
    const FEW: usize = 100;
    let updated = Updated::start(&[]);
    let mut way = updated.ways().into_iter().nth(1).expect("TCP").1;
    let mut client = updated.server.client();
    for (service, count) in [("few", FEW), ("many", MANY)] {
        for from in (0..count).step_by(100) {
            for number in from..from + 100 {
                client.send(&json!({"register": {"service": service, "id": format!("id {number}"),
                    "address": "10.0.0.7", "port": 80, "lease": "none"}}));
            }
            (0..100).for_each(|_| assert!(client.receive().get("registered").is_some()));
        }
        for from in (0..count).step_by(1000) {
            let lines = (from..count.min(from + 1000)).map(|n| format!("add p{n}.{service} 60 TXT x\n"));
            assert_eq!(way.say(&Update::of(&lines.collect::<String>())).rcode, "NOERROR");
        }
    }
    let mut took = |service: &str, line: &dyn Fn(usize) -> String| {
        let update = Update::of(&(0..400).map(line).collect::<String>());
        let begun = now();
        assert_eq!(way.say(&update).rcode, "NOERROR", "{service}");
        begun.elapsed()
    };
    let mut shortest = [[Duration::MAX; 2]; 2];
    for round in 0..3 {
        for (at, service) in ["few", "many"].into_iter().enumerate() {
            let texts = took(service, &|n| format!("add t{round}-{n}._{service}._tcp 60 TXT x\n"));
            let instances = took(service, &|n| {
                let name = format!("n{round}-{n}.{service}");
                format!("add _{service}._tcp 60 SRV 0 1 80 {name}\nadd {name} 60 A 10.2.0.1\n")
            });
            for (shortest, took) in shortest[at].iter_mut().zip([texts, instances]) {
                *shortest = took.min(*shortest);
            }
        }
    }
    let [few, many] = shortest;
    println!("update: 400 texts, 400 instances; a service of {FEW}: {few:?}, of {MANY}: {many:?}");
    for (few, many) in few.into_iter().zip(many) {
        assert!(many < 20 * few, "{many:?} in a service of {MANY}, and {few:?} in one of {FEW}");
    }
}

/// Who left and is held by the guard answers at its names, which no record may take.
#[test]
fn the_names_of_what_a_guard_holds_are_taken() {
    let updated = Updated::start(&[]);
    let mut client = updated.server.client();
    let settings = json!({"service": "web", "guard": "50%", "guard_for": "10m"});
    client.done("settings", &json!({ "settings": settings }));
    let mut holder = updated.server.client();
    for number in 0..6 {
        let form = json!({"service": "web", "id": format!("w{number}"), "address": "10.0.0.7", "port": 80 + number,
            "lease": "connection"});
        holder.done("registered", &json!({ "register": form }));
    }
    drop(holder);
    eventually("the end of all", DEADLINE, || client.list().is_empty().then_some(()));
    assert_eq!(updated.answers("w0.web", "A"), ["10.0.0.7"], "the guard holds it");
    for line in ["add w0.web 60 TXT x", "add w0.web 60 A 10.1.0.1", "add web 60 TXT x"] {
        assert_eq!(updated.says(line).rcode, "REFUSED", "{line}");
    }
    assert_eq!(updated.says("add free.web 60 TXT x").rcode, "NOERROR");
}

/// More records than there may be are refused, and the server goes on.
#[test]
fn there_are_only_so_many_records() {
    let updated = Updated::start(&[]);
    let mut way = updated.ways().into_iter().nth(1).expect("TCP").1;
    for block in 0..10 {
        let lines: Vec<String> = (0..1000).map(|n| format!("add h{block}-{n} 60 A 10.2.{block}.1")).collect();
        assert_eq!(way.say(&Update::of(&lines.join("\n"))).rcode, "NOERROR");
    }
    let said = way.say(&Update::of("add one-more 60 A 10.2.0.1"));
    assert_eq!(
        (said.rcode, &*said.why),
        ("REFUSED", "10000 records are set, and no more may be; delete some, or u")
    );
    let begun = now();
    assert_eq!(way.say(&Update::of("del h0-0\nadd one-more 60 A 10.2.0.1")).rcode, "NOERROR");
    println!("update: one change to a tree of 10,000 records took {:?}", begun.elapsed());
}

/// A lease is as long as its holder was told, however long the disk took.
#[test]
fn a_lease_begins_when_it_is_given() {
    let updated = Updated::start(&[]);
    let slow = Attached::slowed(&updated.server, "fdatasync", Duration::from_millis(1500));
    assert_eq!(updated.says("lease 2\nadd a 60 TXT leased").lease, Some(2));
    let given = stays(Duration::from_millis(1500), || updated.answers("a", "TXT") == ["leased"]);
    assert!(given, "it ended before its time");
    drop(slow);
}

/// One message asks for so much and no more: whoever else has a change waits for it.
#[test]
fn there_are_only_so_many_prerequisites_and_changes() {
    let updated = Updated::start(&[]);
    let mut way = updated.ways().into_iter().nth(1).expect("TCP").1;
    for (line, most, why) in [
        ("nx free", PREREQUISITES_MAX, "257 prerequisites, and 256 at most"),
        ("del free", CHANGES_MAX, "2001 changes, and 2000 at most"),
    ] {
        let of = |count: usize| Update::of(&vec![line; count].join("\n"));
        assert_eq!(way.say(&of(most)).rcode, "NOERROR", "{line}");
        let said = way.say(&of(most + 1));
        assert!(said.rcode == "REFUSED" && said.why.contains(why), "{line}: {said:?}");
    }
}

/// One set is no larger than a reply, and all of them together no larger than what we keep.
#[test]
fn there_are_only_so_many_octets() {
    let updated = Updated::start(&[]);
    let mut way = updated.ways().into_iter().nth(1).expect("TCP").1;
    let text = vec!["x".repeat(255); 20].join(" ");
    let lines = |name: &str, from: usize, count: usize| -> String {
        (from..from + count).map(|n| format!("add {name} 60 TXT {n} {text}\n")).collect()
    };
    assert_eq!(way.say(&Update::of(&lines("large", 0, 10))).rcode, "NOERROR");
    let said = way.say(&Update::of(&lines("large", 10, 2)));
    assert_eq!((said.rcode, &*said.why), ("REFUSED", "no reply holds so many TXT of large.service.local."));
    assert_eq!(updated.answers("large", "TXT").len(), 10);
    let refused = (0..200).find_map(|number| {
        let said = way.say(&Update::of(&lines(&format!("n{number}"), 0, 10)));
        (said.rcode != "NOERROR").then_some((number, said))
    });
    let (sets, said) = refused.expect("a bound");
    println!("update: {sets} sets of 51,000 octets, and then: {said:?}");
    assert!(said.rcode == "REFUSED" && said.why.starts_with("8388608 octets of records are set"), "{said:?}");
    assert!(sets > 100, "{sets}");
    assert_eq!(way.say(&Update::of("del large")).rcode, "NOERROR");
    assert_eq!(way.say(&Update::of("add small 60 A 10.1.0.1")).rcode, "NOERROR", "there is room again");
}
