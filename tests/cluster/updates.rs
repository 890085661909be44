//! UPDATE where etcd holds the registry: at whichever node it comes in, once, all or nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::etcd::Etcd;
use super::message::{APEX, Said, Update, Way, full, key_file};
use super::secondary::{Secondary, transfer};
use crate::harness::dns::connect;
use crate::harness::{DEADLINE, Server, eventually, now, pause};

/// Nodes of these names that take UPDATEs signed with one key.
struct Nodes {
    etcd: Etcd,
    nodes: Vec<Server>,
    words: Vec<String>,
    _keys: TempDir,
}

impl Nodes {
    fn start(names: &[&str]) -> Self {
        let keys = tempfile::tempdir().expect("a directory for the key");
        let path = key_file(keys.path(), &["dhcp"]).display().to_string();
        let words = ["--tsig-keys", &path, "--update-allow", "key:dhcp"].map(str::to_owned).to_vec();
        let mut all = Self { etcd: Etcd::start(), nodes: Vec::new(), words, _keys: keys };
        all.nodes = names.iter().map(|name| all.node(name)).collect();
        all
    }

    fn node(&self, name: &str) -> Server {
        self.etcd.node(name, &self.words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Every node answers so, sooner or later.
    fn become_(&self, name: &str, rtype: &str, wanted: &[&str]) {
        for node in &self.nodes {
            eventually("what a node answers", DEADLINE, || {
                (answers(node, name, rtype) == wanted).then_some(())
            });
        }
    }
}

fn say(node: &Server, text: &str) -> Said {
    Way::Tcp(connect(node.dns[0])).say(&Update::of(text))
}

/// The data at a name, in order; nothing where there is none.
fn answers(node: &Server, name: &str, rtype: &str) -> Vec<String> {
    let rtype: RecordType = rtype.parse().expect("a type");
    let reply = node.resolver().tcp(&full(name).to_string(), rtype);
    let of_type = reply.answers.iter().filter(|record| record.record_type() == rtype);
    let mut data: Vec<String> = of_type.map(|record| record.data.to_string()).collect();
    data.sort_unstable();
    data
}

const INSTANCE: &str = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7";

#[test]
fn what_one_node_is_told_all_of_them_have() {
    let mut all = Nodes::start(&["a", "b"]);
    let [a, b] = &all.nodes[..] else { panic!("two nodes") };
    let mut secondary = Secondary::new(&transfer(b.dns[0], APEX, None).expect("the zone"));
    let begun = secondary.serial;
    let text = format!(
        "{INSTANCE}\nadd printer 300 A 10.0.0.99\nadd printer 60 TXT on the \"third floor\"\nadd {APEX} 60 MX 5 printer"
    );
    assert_eq!(say(a, &text).rcode, "NOERROR");
    // Acknowledged is visible, there at once.
    assert_eq!(answers(a, "printer", "A"), ["10.0.0.99"]);
    assert_eq!(answers(a, "web", "SRV"), ["0 1 8080 web-1.web.service.local."]);
    for (name, rtype, wanted) in
        [("printer", "A", "10.0.0.99"), ("web", "A", "10.0.0.7"), (APEX, "MX", "5 printer.service.local.")]
    {
        all.become_(name, rtype, &[wanted]);
    }
    // A secondary of the other node hears of it as a difference, and has the same as from the first one.
    let came = transfer(b.dns[0], APEX, Some(begun)).expect("what changed");
    assert!(came.is_difference(), "since {begun}");
    secondary.apply(&came).expect("a difference that fits");
    let whole = Secondary::new(&transfer(a.dns[0], APEX, None).expect("the zone"));
    assert_eq!(secondary.lines, whole.lines);
    // What one node set, another changes; and it is in the log of both, with the key.
    assert_eq!(say(b, "delset printer A\nadd printer 60 A 10.0.0.98").rcode, "NOERROR");
    all.become_("printer", "A", &["10.0.0.98"]);
    let [a, _] = &all.nodes[..] else { panic!("two nodes") };
    let log = a.client().ask(&json!({"log": {}})).to_string();
    assert!(log.contains("key dhcp.") && log.contains("10.0.0.98"), "{log}");
    // Who comes later reads it.
    let late = all.node("c");
    assert_eq!(answers(&late, "printer", "A"), ["10.0.0.98"]);
    assert_eq!(say(&late, "del printer\ndel web-1.web\ndelset _web._tcp SRV").rcode, "NOERROR");
    all.nodes.push(late);
    all.become_("printer", "A", &[]);
    all.become_("web", "A", &[]);
}

/// Of two that may not both win, one does: with a prerequisite, beside an alias, and against a registration.
#[test]
fn two_nodes_that_change_one_name_at_once_come_one_after_the_other() {
    let all = Nodes::start(&["a", "b"]);
    let at_once = |ask: &(dyn Fn(usize, &Server) -> String + Sync)| -> Vec<String> {
        std::thread::scope(|scope| {
            let asking = all.nodes.iter().enumerate().map(|(at, node)| scope.spawn(move || ask(at, node)));
            let asking: Vec<_> = asking.collect();
            asking.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        })
    };
    for round in 0..15 {
        let mut said = at_once(&|at, node| {
            say(node, &format!("nx n{round}\nadd n{round} 60 A 10.1.0.{at}")).rcode.to_owned()
        });
        said.sort_unstable();
        assert_eq!(said, ["NOERROR", "YXDOMAIN"], "round {round}");
        // What comes second is passed over.
        let said = at_once(&|at, node| {
            let data = ["CNAME www.example.com.", "TXT beside"][at];
            say(node, &format!("add c{round} 60 {data}")).rcode.to_owned()
        });
        assert_eq!(said, ["NOERROR", "NOERROR"], "round {round}");
        // Who has heard of what each node said last has heard of all before it.
        for (at, node) in all.nodes.iter().enumerate() {
            assert_eq!(say(node, &format!("add last{round}-{at} 60 A 10.1.0.1")).rcode, "NOERROR");
        }
        for at in 0..all.nodes.len() {
            all.become_(&format!("last{round}-{at}"), "A", &["10.1.0.1"]);
        }
        for node in &all.nodes {
            let name = format!("c{round}");
            let count = answers(node, &name, "CNAME").len() + answers(node, &name, "TXT").len();
            assert_eq!(count, 1, "round {round}: an alias with something beside it, or nothing");
        }
        // A name is a record's or a service's.
        let mut said = at_once(&|at, node| match at {
            0 => say(node, &format!("add s{round} 60 A 10.1.0.9")).rcode.to_owned(),
            _ => {
                let form = json!({"service": format!("s{round}"), "id": "x", "address": "10.0.0.1", "port": 80, "lease": "none"});
                let reply = node.client().ask(&json!({ "register": form }));
                let taken = reply["error"]["code"].as_str() == Some("taken");
                (if taken { "REFUSED" } else { "NOERROR" }).to_owned()
            }
        });
        said.sort_unstable();
        assert_eq!(said, ["NOERROR", "REFUSED"], "round {round}");
    }
    // A counter that both count on: nothing of what was carried out is lost.
    assert_eq!(say(&all.nodes[0], "add count 60 TXT 0").rcode, "NOERROR");
    all.become_("count", "TXT", &["0"]);
    let counted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for node in &all.nodes {
            scope.spawn(|| {
                let begun = now();
                while begun.elapsed() < Duration::from_secs(2) {
                    let number: usize = answers(node, "count", "TXT")[0].parse().expect("a number");
                    let text =
                        format!("is count TXT {number}\ndelset count TXT\nadd count 60 TXT {}", number + 1);
                    match say(node, &text).rcode {
                        "NOERROR" => drop(counted.fetch_add(1, Ordering::Relaxed)),
                        rcode => assert_eq!(rcode, "NXRRSET", "somebody else was first"),
                    }
                }
            });
        }
    });
    let counted = counted.into_inner();
    println!("cluster: two nodes counted to {counted}");
    assert!(counted > 0);
    all.become_("count", "TXT", &[&counted.to_string()]);
}

/// What was set a moment ago is deleted at a node that has not heard of it.
#[test]
fn a_node_that_is_behind_does_not_say_that_there_is_nothing_to_do() {
    let all = Nodes::start(&["a", "b"]);
    let [a, behind] = &all.nodes[..] else { panic!("two nodes") };
    for round in 0..10 {
        let mut way = Way::Tcp(connect(behind.dns[0]));
        behind.signal(Signal::SIGSTOP);
        assert_eq!(say(a, &format!("add moment{round} 60 A 10.1.0.1")).rcode, "NOERROR");
        std::thread::scope(|scope| {
            let update = Update::of(&format!("del moment{round}"));
            let deleting = scope.spawn(move || way.say(&update));
            behind.signal(Signal::SIGCONT);
            assert_eq!(deleting.join().expect("an answer").rcode, "NOERROR", "round {round}");
        });
        all.become_(&format!("moment{round}"), "A", &[]);
    }
}

/// Whoever saw a message on its way sends it to another node, which never saw it.
#[test]
fn a_message_is_carried_out_at_one_node() {
    let all = Nodes::start(&["a", "b"]);
    let [a, b] = &all.nodes[..] else { panic!("two nodes") };
    let (message, signer) = Update::of("add a 60 A 10.1.0.1").signed(7);
    let said = |node: &Server| {
        super::message::read(&Way::Tcp(connect(node.dns[0])).exchange(&message), 7, signer.as_ref())
    };
    assert_eq!((said(a).rcode, &*said(a).why), ("NOERROR", "it came before, and was not carried out again"));
    assert_eq!(say(a, "del a").rcode, "NOERROR");
    let replayed = said(b);
    assert_eq!(
        (replayed.rcode, &*replayed.why),
        ("NOERROR", "it came before, and was not carried out again")
    );
    all.become_("a", "A", &[]);
    // One that changed nothing would change something later.
    let (message, signer) = Update::of("del a").signed(8);
    let said = |node: &Server| {
        super::message::read(&Way::Tcp(connect(node.dns[0])).exchange(&message), 8, signer.as_ref())
    };
    assert_eq!((said(a).rcode, &*said(a).why), ("NOERROR", "it came before, and was not carried out again"));
    assert_eq!(say(a, "add a 60 A 10.1.0.2").rcode, "NOERROR");
    assert_eq!(said(b).rcode, "NOERROR");
    all.become_("a", "A", &["10.1.0.2"]);
    // And a node that comes later knows it too.
    assert_eq!(said(&all.node("c")).rcode, "NOERROR");
    all.become_("a", "A", &["10.1.0.2"]);
}

/// A lease goes on where it is said again, at whichever node, and ends once, also where its node died.
#[test]
fn a_lease_of_records_runs_at_one_node_and_is_taken_over() {
    let mut all = Nodes::start(&["a", "b"]);
    let leased = format!("lease 2\nadd leased 60 TXT here\n{INSTANCE}");
    assert_eq!(say(&all.nodes[0], &leased).lease, Some(2));
    all.become_("leased", "TXT", &["here"]);
    let begun = now();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(say(&all.nodes[turn % 2], &leased).rcode, "NOERROR");
        for node in &all.nodes {
            assert_eq!(answers(node, "leased", "TXT"), ["here"]);
            assert_eq!(answers(node, "web", "A"), ["10.0.0.7"]);
        }
        turn += 1;
        pause();
    }
    all.become_("leased", "TXT", &[]);
    all.become_("web", "A", &[]);
    // Its node dies: the other one has it end.
    assert_eq!(say(&all.nodes[0], &leased).rcode, "NOERROR");
    assert_eq!(say(&all.nodes[0], "add stays 60 TXT here").rcode, "NOERROR");
    all.become_("leased", "TXT", &["here"]);
    let mut dead = all.nodes.remove(0);
    dead.crash();
    all.become_("leased", "TXT", &[]);
    assert_eq!(answers(&all.nodes[0], "stays", "TXT"), ["here"]);
}

/// One transaction of etcd's holds so much and no more, and that is said.
#[test]
fn a_message_is_one_transaction() {
    let all = Nodes::start(&["a"]);
    let of = |count: usize| (0..count).map(|n| format!("add many{n} 60 A 10.1.0.1\n")).collect::<String>();
    let said = say(&all.nodes[0], &of(200));
    assert!(said.rcode == "REFUSED" && said.why.starts_with("it needs 20"), "{said:?}");
    assert_eq!(answers(&all.nodes[0], "many0", "A").len(), 0);
    assert_eq!(say(&all.nodes[0], &of(120)).rcode, "NOERROR");
    assert_eq!(answers(&all.nodes[0], "many119", "A"), ["10.1.0.1"]);
    // Instances need two names each, and as many things fit.
    let of = |count: usize| {
        (0..count)
            .map(|n| format!("add _web._tcp 60 SRV 0 1 80 n{n}.web\nadd n{n}.web 60 A 10.2.0.1\n"))
            .collect::<String>()
    };
    assert_eq!(say(&all.nodes[0], &of(100)).rcode, "NOERROR");
    assert_eq!(all.nodes[0].client().list().len(), 100);
}

/// And so many octets: sets that are there as a whole are written as a whole.
#[test]
fn a_transaction_has_so_many_octets() {
    let all = Nodes::start(&["a"]);
    let text = vec!["x".repeat(255); 20].join(" ");
    for name in 0..35 {
        let lines = (0..9).map(|n| format!("add n{name} 60 TXT {n} {text}\n")).collect::<String>();
        assert_eq!(say(&all.nodes[0], &lines).rcode, "NOERROR");
    }
    let beside = |names: usize| (0..names).map(|n| format!("add n{n} 60 TXT beside\n")).collect::<String>();
    let said = say(&all.nodes[0], &beside(35));
    assert!(said.rcode == "REFUSED" && said.why.contains("octets in etcd, which"), "{said:?}");
    assert_eq!(answers(&all.nodes[0], "n0", "TXT").len(), 9);
    assert_eq!(say(&all.nodes[0], &beside(30)).rcode, "NOERROR", "a transaction of 1.4 MiB");
    assert_eq!(answers(&all.nodes[0], "n29", "TXT").len(), 10);
}

/// The zone has an SOA whatever else is written, and what it says is another thing with everything that is.
#[test]
fn a_prerequisite_on_the_apex_is_answered_while_others_write() {
    let all = Nodes::start(&["a", "b"]);
    let [a, b] = &all.nodes[..] else { panic!("two nodes") };
    let soa = || {
        let reply = a.resolver().tcp(APEX, RecordType::SOA);
        format!("is {APEX} SOA {}", reply.answers[0].data)
    };
    let ended = AtomicBool::new(false);
    let written = AtomicUsize::new(0);
    let said: Vec<_> = std::thread::scope(|scope| {
        for writer in 0..4 {
            let (ended, written) = (&ended, &written);
            scope.spawn(move || {
                let mut client = b.client();
                while !ended.load(Ordering::Relaxed) {
                    let port = 1 + written.fetch_add(1, Ordering::Relaxed) % 60_000;
                    let form = json!({"service": "busy", "id": format!("b{writer}"), "host": "m", "address": "10.0.0.1",
                        "port": port, "lease": "none"});
                    client.done("registered", &json!({ "register": form }));
                }
            });
        }
        let asked = (0..20).map(|n| {
            let there = say(a, &format!("yxset {APEX} SOA\nyxset {APEX} NS\nadd there{n} 60 A 10.1.0.1"));
            let same = say(a, &format!("{}\nadd same{n} 60 A 10.1.0.1", soa()));
            (there.rcode, same.rcode)
        });
        let said = asked.collect();
        ended.store(true, Ordering::Relaxed);
        said
    });
    println!("cluster: {} changes at the other node meanwhile; {said:?}", written.into_inner());
    assert!(said.iter().all(|(there, _)| *there == "NOERROR"), "there is one: {said:?}");
    assert!(
        said.iter().all(|(_, same)| ["NOERROR", "NXRRSET"].contains(same)),
        "it is that one, or not: {said:?}"
    );
    eventually("a moment without a change", DEADLINE, || {
        (say(a, &format!("{}\nadd stood 60 A 10.1.0.1", soa())).rcode == "NOERROR").then_some(())
    });
    assert_eq!(answers(a, "stood", "A"), ["10.1.0.1"]);
}
