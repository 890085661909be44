//! The writer of a node, where the test is etcd.

use std::time::Duration;

use callsign::balance::circle::Circle;
use callsign::check::{Definition, Kind, Place};
use callsign::instance::Health;
use callsign::name::Name;
use callsign::record::{Data, Type};
use callsign::registry::{Author, ListedCheck, Reason, Refusal, Report, ReportOf, Subject};
use callsign::store::etcd::follow::Told;
use callsign::store::etcd::messages::{Condition, Operation, Pair};
use callsign::store::etcd::{Answer, Job, LinkEnd, News};
use callsign::store::record::{ClusterFormat, MemberForm};
use callsign::time::Wall;
use callsign::update::{CLASS_NONE, Rr, Update};
use callsign::view::Worth;
use callsign::writer::node::Node;
use callsign::writer::{Handle, Verdict};
use tokio::sync::oneshot;

use super::*;

/// A node's end of etcd, played by the test.
struct Played {
    end: LinkEnd,
    revision: u64,
}

impl Played {
    async fn tell(&mut self, key: &[u8], value: Vec<u8>) {
        self.revision += 1;
        let revision = self.revision;
        let pair = Pair { key: key.to_vec(), value, modified: revision, created: revision, lease: 0 };
        let told = Told { key: key.to_vec(), revision, pair: Some(pair) };
        self.end.news.send(News::Changed(vec![told])).await.unwrap();
    }

    async fn tell_gone(&mut self, key: &[u8]) {
        self.revision += 1;
        let told = Told { key: key.to_vec(), revision: self.revision, pair: None };
        self.end.news.send(News::Changed(vec![told])).await.unwrap();
    }

    /// Makes an instance that this node wrote another one's.
    async fn give(&mut self, (key, value): &(Vec<u8>, Vec<u8>), owner: &str) {
        let (mut note, record) = record::read_noted(value).unwrap();
        (note.owner, note.number) = (owner.into(), 1);
        self.tell(key, record::write_noted(&note, record)).await;
    }

    async fn join(&mut self, name: &str, run: u64) {
        let member = MemberForm { run, ..MemberForm::default() };
        self.tell(format!("n/{name}").as_bytes(), record::write_member(&member)).await;
    }

    /// The next transaction.
    async fn asked(&mut self) -> (Vec<Condition>, Vec<Operation>, u64) {
        match self.end.jobs.recv().await {
            Some(Job::Transact { conditions, operations, number }) => (conditions, operations, number),
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&mut self, number: u64, answer: Answer) {
        self.end.news.send(News::Answered { number, answer }).await.unwrap();
    }

    /// Does what the next transaction says; the keys that it wrote, below the prefix, and what.
    async fn carry_out(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (_, operations, number) = self.asked().await;
        let mut written = Vec::new();
        for operation in operations {
            let Operation::Put { key, value, .. } = operation else { panic!("{operation:?}") };
            written.push((key["/c/".len()..].to_vec(), value));
        }
        for (key, value) in &written {
            self.tell(key, value.clone()).await;
        }
        self.answer(number, Answer::Stored).await;
        written
    }

    /// The test is over: a transaction is not carried out, who waits for it is told so, and the node leaves.
    async fn end_with(&mut self, number: u64, waiting: oneshot::Receiver<Verdict>, handle: Handle) {
        self.answer(number, Answer::NotAsked("the test is over".to_owned())).await;
        assert!(waiting.await.unwrap().is_err());
        drop(handle);
        self.leave().await;
    }

    /// Waits for the node to leave.
    async fn leave(&mut self) {
        match self.end.jobs.recv().await {
            Some(Job::Leave { done }) => done.send(()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// What tells the played node's run from others.
const RUN: u64 = 7;

/// Node `a`, on an etcd that holds nothing and that the test plays. It is not loaded yet.
fn node(instances_max: usize, stale_for: Option<Duration>) -> (Played, Node, Handle, Arc<View>) {
    let (etcd, end) = etcd::way();
    let mut settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
    settings.stale_for = stale_for;
    let view = Arc::new(View::new(settings, Zones::default()));
    let registry = Registry::new(instances_max, FORGET_AFTER);
    let (clock, access) = (Clock::start(), Arc::default());
    let (node, handle) = Node::new(registry, etcd, ("a", "/c/"), RUN, view.clone(), clock, access);
    (Played { end, revision: 10 }, node, handle, view)
}

/// The same, which has read everything and is a member, for the time that a test takes.
async fn member(instances_max: usize, stale_for: Option<Duration>) -> (Played, Node, Handle, Arc<View>) {
    let (mut played, mut node, handle, view) = node(instances_max, stale_for);
    played.tell(b"format", record::write_format(&ClusterFormat { serial_base: 1 })).await;
    played.join("a", RUN).await;
    played.end.news.send(News::CaughtUp(12)).await.unwrap();
    node.load().await.unwrap();
    (played, node, handle, view)
}

/// Waits for what a node does by itself.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

fn register_with(id: &str, lease: Lease, checks: Vec<ListedCheck>) -> Command {
    let Command::Register(registration) = register(id, "one") else { panic!() };
    Command::Register(Box::new(Registration { lease, checks, ..*registration }))
}

#[tokio::test]
async fn what_one_connection_held_leaves_with_it_however_much_it_is() {
    /// More than the way to etcd holds at once, twice.
    const MANY: usize = 3000;
    let (mut played, node, handle, view) = member(MANY, None).await;
    let playing = async {
        let ids: Vec<String> = (0..MANY).map(|number| format!("web-{number}")).collect();
        for id in &ids {
            let form = register_with(id, Lease::Connection(5), Vec::new());
            let registered = handle.command(form, Identity::server()).await.unwrap();
            played.carry_out().await;
            registered.await.unwrap().unwrap();
        }
        let keys = ids.iter().map(|id| key(id, "one")).collect();
        handle.tell(Command::Closed { connection: 5, keys }).await.unwrap();
        for _ in 0..MANY {
            played.carry_out().await;
        }
        until("the end of all", || view.census().instances() == 0).await;
        // And what is asked for then is taken.
        let registered = handle.command(register("new", "one"), Identity::server()).await.unwrap();
        played.carry_out().await;
        registered.await.unwrap().unwrap();
        drop(handle);
        played.leave().await;
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(120), both).await.expect("an end of it");
}

fn verdict(of: &Key, definition: &Arc<Definition>) -> Command {
    let on = Subject::Instance(Holder { key: of.clone(), lease_id: None });
    let of = ReportOf::Probed(definition.clone());
    Command::Report(Report { on, check: "page".into(), status: Health::Passing, output: "".into(), of })
}

#[tokio::test]
async fn a_verdict_holds_only_under_the_ring_that_it_was_reached_under() {
    let (mut etcd_played, node, handle, _) = member(100, None).await;
    let playing = async {
        let definition = Arc::new(Definition {
            kind: Kind::Tcp(Place { host: "::1".into(), port: 1 }),
            rise: 1,
            fall: 1,
            ..Definition::default()
        });
        let key = key("web", "one");
        let Command::Register(mut registration) = register("web", "one") else { panic!() };
        let listed = ListedCheck { definition: definition.clone(), ..ListedCheck::reported("page", None) };
        registration.checks.push(listed);
        let registered = handle.command(Command::Register(registration), Identity::server()).await.unwrap();
        let (_, operations, number) = etcd_played.asked().await;
        let [Operation::Put { key: at, value, .. }] = &operations[..] else { panic!("{operations:?}") };
        etcd_played.tell(&at["/c/".len()..], value.clone()).await;
        etcd_played.answer(number, Answer::Stored).await;
        registered.await.unwrap().unwrap();

        // Three things it holds under: we are a member, nobody came or left, and nobody has written the instance.
        let told = handle.command(verdict(&key, &definition), Identity::server()).await.unwrap();
        let (conditions, _, number) = etcd_played.asked().await;
        let member = Condition::CreatedAt(b"/c/n/a".to_vec(), 12);
        let same_ring = Condition::NoneSince(b"/c/n/".to_vec(), b"/c/n0".to_vec(), 14);
        let same_instance = Condition::ModifiedAt(at.clone(), 13);
        for condition in [member, same_ring, same_instance] {
            assert!(conditions.contains(&condition), "{condition:?} is not among {conditions:?}");
        }
        // One that does not hold is dropped, and not tried again: who probes hears of it.
        etcd_played.answer(number, Answer::Refused).await;
        assert!(matches!(told.await.unwrap(), Err(Refusal::Unavailable(_))));

        // Where the ring names another node, it is not asked for at all: the next transaction is about something else.
        let circle = |others: &str| Circle::new(&"a".into(), ["a", others].into_iter().map(Into::into));
        let other = ["b", "c", "d", "e", "f"].into_iter().find(|other| !circle(other).is_ours("web/web@one"));
        etcd_played.join(other.unwrap(), 8).await;
        let told = handle.command(verdict(&key, &definition), Identity::server()).await.unwrap();
        let next = handle.command(deregister("web", "one"), Identity::server()).await.unwrap();
        assert!(matches!(told.await.unwrap(), Err(Refusal::Unavailable(_))));
        let (_, operations, number) = etcd_played.asked().await;
        assert!(matches!(&operations[..], [Operation::Put { .. }]), "{operations:?}");
        etcd_played.end_with(number, next, handle).await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn what_is_not_there_holds_by_its_own_key_too() {
    let (mut played, node, handle, _) = member(100, None).await;
    let playing = async {
        // Not known: it is not to be there, whatever the watch has not told.
        let registered = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        let (conditions, operations, number) = played.asked().await;
        let [Operation::Put { key: at, value, .. }] = &operations[..] else { panic!("{operations:?}") };
        assert!(conditions.contains(&Condition::CreatedAt(at.clone(), 0)), "{conditions:?}");
        played.tell(&at["/c/".len()..], value.clone()).await;
        played.answer(number, Answer::Stored).await;
        registered.await.unwrap().unwrap();
        // Remembered as gone: it is to be what is remembered.
        let gone = handle.command(deregister("web-1", "one"), Identity::server()).await.unwrap();
        played.carry_out().await;
        gone.await.unwrap().unwrap();
        let again = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        let (conditions, _, number) = played.asked().await;
        assert!(conditions.contains(&Condition::ModifiedAt(at.clone(), 14)), "{conditions:?}");
        played.end_with(number, again, handle).await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn a_node_that_may_be_no_member_says_of_nothing_that_it_is_not_there() {
    let (mut played, node, handle, view) = member(100, None).await;
    let playing = async {
        // Nobody told it yet for how long it is one.
        let unknown = key("nobody", "one");
        let now = Clock::start().now();
        assert_eq!(view.renew(&unknown, None, now), Ok(None));
        let claim = Command::Claim(Holder { key: unknown, lease_id: None });
        let told = handle.command(claim.clone(), Identity::server()).await.unwrap();
        assert!(matches!(told.await.unwrap(), Err(Refusal::Unavailable(_))));
        played.end.news.send(News::Member { until_ns: u64::MAX, created: 12 }).await.unwrap();
        until("its word", || view.renew(&key("nobody", "one"), None, now).is_err()).await;
        let told = handle.command(claim, Identity::server()).await.unwrap();
        assert!(matches!(told.await.unwrap(), Err(Refusal::NotFound(_))));
        drop(handle);
        played.leave().await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn a_node_hears_what_others_did_before_it_takes_heartbeats_again() {
    let (mut played, node, handle, view) = member(100, None).await;
    let playing = async {
        let registered = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        let written = played.carry_out().await;
        registered.await.unwrap().unwrap();
        let (web, now) = (key("web-1", "one"), Clock::start().now());
        // It was no member for a while, and is one again since a revision that the watch has yet to tell.
        played.end.news.send(News::Member { until_ns: u64::MAX, created: 16 }).await.unwrap();
        handle.ping().await.unwrap();
        assert_eq!(view.renew(&web, None, now), Ok(None));
        played.tell_gone(b"n/a").await;
        let (mut note, instance) = record::read_noted(&written[0].1).unwrap();
        (note.there, note.number) = (false, 1);
        played.tell(&written[0].0, record::write_noted(&note, instance)).await;
        handle.ping().await.unwrap();
        assert_eq!(view.renew(&web, None, now), Ok(None));
        played.join("a", RUN).await;
        until("its word", || view.renew(&web, None, now) == Err(Refusal::NotFound(web.clone()))).await;
        drop(handle);
        played.leave().await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn a_node_whose_name_is_taken_follows_all_the_same_and_counts_as_stale_without_etcd() {
    let (mut played, mut node, _handle, view) = node(100, Some(Duration::from_millis(300)));
    let playing = async {
        played.tell(b"format", record::write_format(&ClusterFormat { serial_base: 1 })).await;
        played.end.news.send(News::CaughtUp(11)).await.unwrap();
        until("what there is", || view.is_ready()).await;
        played.end.news.send(News::Taken("a".to_owned())).await.unwrap();
        until("the trouble", || view.store_trouble().is_some_and(|it| it.contains("the name `a`"))).await;
        assert_eq!(view.stale_for(Clock::start().now()), None, "it follows");
        // Nothing is heard from here on but the time.
        played.end.news.send(News::Lost("it is away".to_owned())).await.unwrap();
        until("the end of its patience", || view.worth() == Worth::TooOld).await;
        played.end.news.send(News::CaughtUp(11)).await.unwrap();
        until("fresh answers", || view.worth() == Worth::Fresh).await;
        played.join("a", RUN).await;
    };
    let (loaded, ()) = tokio::join!(node.load(), playing);
    loaded.unwrap();
}

#[tokio::test]
async fn a_new_member_takes_no_heartbeat_of_what_another_one_watches_over() {
    let (mut played, node, handle, _) = member(100, None).await;
    let playing = async {
        let form = register_with("web-1", Lease::Timed(Duration::from_secs(60)), Vec::new());
        let registered = handle.command(form, Identity::server()).await.unwrap();
        let written = played.carry_out().await;
        registered.await.unwrap().unwrap();
        played.join("b", 8).await;
        played.give(&written[0], "b").await;
        let claim = Command::Claim(Holder { key: key("web-1", "one"), lease_id: None });
        let told = handle.command(claim, Identity::server()).await.unwrap();
        assert!(matches!(told.await.unwrap(), Err(Refusal::Unavailable(_))));
        drop(handle);
        played.leave().await;
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(30), both).await.expect("a refusal");
}

/// As after a start on sockets that systemd held: it says so before it runs.
#[tokio::test]
async fn what_waited_for_a_node_takes_nothing_from_another() {
    let (mut played, mut node, handle, _) = member(100, None).await;
    node.expect_backlog();
    let playing = async {
        let sent = Identity::user(0, 0);
        let registered = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        let written = played.carry_out().await;
        registered.await.unwrap().unwrap();
        played.join("b", 8).await;
        played.give(&written[0], "b").await;
        let ended = Command::Deregister(Holder { key: key("web-1", "one"), lease_id: None });
        for command in [register("web-1", "one"), ended] {
            let told = handle.command(command, sent.clone()).await.unwrap();
            assert!(matches!(told.await.unwrap(), Err(Refusal::Unavailable(_))));
        }
        // What nobody has is new.
        let registered = handle.command(register("web-2", "one"), sent).await.unwrap();
        played.carry_out().await;
        registered.await.unwrap().unwrap();
        drop(handle);
        played.leave().await;
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(30), both).await.expect("a refusal");
}

#[tokio::test]
async fn no_difference_leads_over_a_reading_that_came_between() {
    let (mut played, node, handle, view) = member(100, None).await;
    let history = node.history();
    let playing = async {
        let registered = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        played.carry_out().await;
        registered.await.unwrap().unwrap();
        let reaches = |since| history.is_whole_after(since, history.after(since, 1).unwrap().1);
        assert!(reaches(12) && reaches(13));
        played.end.news.send(News::Reread(20)).await.unwrap();
        handle.ping().await.unwrap();
        assert!(!reaches(13) && !reaches(19) && reaches(20));
        assert_eq!(view.beginnings().1, 20, "zones that are older are sent whole");
        drop(handle);
        played.leave().await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn what_a_connection_to_another_node_holds_stays_there() {
    let (mut played, node, handle, view) = member(100, None).await;
    let playing = async {
        played.end.news.send(News::Member { until_ns: u64::MAX, created: 12 }).await.unwrap();
        let definition = Definition { kind: Kind::Ttl(Duration::from_secs(60)), ..Definition::default() };
        let up = ListedCheck {
            definition: Arc::new(definition),
            ..ListedCheck::reported("up", Some(Health::Passing))
        };
        let form = register_with("web-1", Lease::Connection(5), vec![up]);
        let registered = handle.command(form, Identity::server()).await.unwrap();
        let written = played.carry_out().await;
        registered.await.unwrap().unwrap();
        played.join("b", 8).await;
        played.give(&written[0], "b").await;

        // A heartbeat is answered without a write; a report is written, and moves nothing.
        let web = key("web-1", "one");
        let holder = Holder { key: web.clone(), lease_id: None };
        let claim = Command::Claim(holder.clone());
        handle.command(claim, Identity::server()).await.unwrap().await.unwrap().unwrap();
        let (on, status) = (Subject::Instance(holder), Health::Passing);
        let report = Report { on, check: "up".into(), status, output: "".into(), of: ReportOf::Known };
        let told = handle.command(Command::Report(report), Identity::user(0, 0)).await.unwrap();
        let written = played.carry_out().await;
        told.await.unwrap().unwrap();
        assert_eq!(&*record::read_noted(&written[0].1).unwrap().0.owner, "b");

        // The same report, of an instance of this node's, heard at the other one: the check's time begins anew.
        let deadline = || {
            let member = view.member(&web).expect("it is registered");
            member.instance.checks[0].deadline.as_ref().and_then(|cell| cell.deadline_ns())
        };
        assert_eq!(deadline(), None);
        // What comes from a node that lives has some seconds more at first, which would hide it.
        played.tell_gone(b"n/b").await;
        until("its time in the place of the other", || deadline().is_some()).await;
        let before = deadline();
        played.give(&written[0], "a").await;
        until("its time here", || deadline() > before).await;
        let before = deadline();
        played.give(&written[0], "a").await;
        until("its time anew", || deadline() > before).await;
        drop(handle);
        played.leave().await;
    };
    tokio::join!(node.run(), playing);
}

/// An UPDATE with this prerequisite: a name that is not in use.
fn update(free: &str, changes: Vec<Rr>) -> Command {
    let owner = Name::parse(free).unwrap();
    let free = Rr { owner, rtype: Type::ANY, class: CLASS_NONE, ttl: 0, data: None };
    Command::Update(Box::new(Update {
        id: (1_700_000_000, *b"0123456789abcdef"),
        apex: Apex::parse("service.local").unwrap(),
        prerequisites: vec![free],
        changes,
        lease: None,
        lease_id: 1,
        loopback_allowed: false,
    }))
}

/// What is said again is spoken of: its lease does not end while etcd has yet to say that nothing is newer.
#[tokio::test]
async fn no_lease_ends_while_what_says_it_again_is_under_way() {
    let lease = Duration::from_secs(1);
    let (mut played, node, handle, _) = member(100, None).await;
    let said = |number: u64| {
        let (owner, data) = (Name::parse("a.service.local.").unwrap(), Data::A([10, 0, 0, 1].into()));
        let change = Rr { owner, rtype: Type::A, class: 1, ttl: 60, data: Some(data) };
        let Command::Update(update) = update("free.service.local.", vec![change]) else { panic!() };
        let id = (number, update.id.1);
        Command::Update(Box::new(Update { id, lease: Some(lease), ..*update }))
    };
    let playing = async {
        played.end.news.send(News::Member { until_ns: u64::MAX, created: 12 }).await.unwrap();
        let set = handle.command(said(1), Identity::server()).await.unwrap();
        played.carry_out().await;
        assert_eq!(set.await.unwrap().unwrap().changes.len(), 1);
        let again = handle.command(said(2), Identity::server()).await.unwrap();
        let (_, operations, number) = played.asked().await;
        let [Operation::Put { key, value, .. }] = &operations[..] else { panic!("{operations:?}") };
        let more = tokio::time::timeout(2 * lease, played.asked()).await;
        assert!(more.is_err(), "{more:?}");
        played.tell(&key["/c/".len()..], value.clone()).await;
        played.answer(number, Answer::Stored).await;
        assert!(again.await.unwrap().unwrap().changes.is_empty());
        // Then it has one whole lease more, and ends.
        let written = played.carry_out().await;
        assert!(!record::read_noted(&written[0].1).unwrap().0.there, "{written:?}");
        drop(handle);
        played.leave().await;
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("its end");
}

/// True where a transaction holds only if nothing at a key, or below it, was written.
fn guards(conditions: &[Condition], key: &str) -> bool {
    let is_it = |from: &[u8]| from == [b"/c/", key.as_bytes()].concat();
    conditions.iter().any(|condition| matches!(condition, Condition::NoneSince(from, ..) if is_it(from)))
}

#[tokio::test]
async fn what_is_registered_again_hides_no_record_of_another_node() {
    let (mut played, node, handle, _) = member(100, None).await;
    let playing = async {
        let registered = handle.command(register("web-1", "one"), Identity::server()).await.unwrap();
        played.carry_out().await;
        registered.await.unwrap().unwrap();
        let form = register_with("web-1", Lease::Timed(Duration::from_secs(60)), Vec::new());
        let again = handle.command(form, Identity::server()).await.unwrap();
        let (conditions, _, number) = played.asked().await;
        assert!(guards(&conditions, "p/web\0"), "{conditions:?}");
        played.end_with(number, again, handle).await;
    };
    tokio::join!(node.run(), playing);
}

#[tokio::test]
async fn an_update_without_a_change_writes_nothing() {
    let (mut played, node, handle, _) = member(100, None).await;
    let playing = async {
        let nothing = update("web.service.local.", Vec::new());
        let done = handle.command(nothing, Identity::server()).await.unwrap().await.unwrap().unwrap();
        assert!(done.changes.is_empty());
        drop(handle);
        played.leave().await; // it is the first thing that the node asks for
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(30), both).await.expect("an answer");
}

/// More than one sweep takes, and none has to wait for the next half minute.
#[tokio::test]
async fn what_left_long_ago_is_forgotten_many_at_once() {
    const GONE: usize = 1250;
    let (mut played, mut node, handle, _) = node(100, None);
    played.tell(b"format", record::write_format(&ClusterFormat { serial_base: 1 })).await;
    played.join("a", RUN).await;
    let note = record::Note {
        owner: "a".into(),
        number: 1,
        reason: Reason::Updated,
        author: Author::Server,
        at: Wall::default(),
        there: false,
    };
    let gone = (0..GONE).map(|number| {
        played.revision += 1;
        let revision = played.revision;
        let key = format!("p/\0gone{number}.x.y.z.service.local.\x0016").into_bytes();
        let value = record::write_noted(&note, b"");
        let pair = Pair { key: key.clone(), value, modified: revision, created: revision, lease: 0 };
        Told { key, revision, pair: Some(pair) }
    });
    let gone = gone.collect();
    played.end.news.send(News::Changed(gone)).await.unwrap();
    played.end.news.send(News::CaughtUp(played.revision)).await.unwrap();
    node.load().await.unwrap();
    let playing = async {
        let (mut left, mut transactions) = (GONE, 0);
        while left > 0 {
            let (conditions, operations, number) = played.asked().await;
            assert!(conditions.len() <= 128 && operations.len() <= 100);
            left -= operations.len();
            transactions += 1;
            played.revision += 1;
            let revision = played.revision;
            let told = operations.into_iter().map(|operation| {
                let Operation::Delete { key } = operation else { panic!("{operation:?}") };
                Told { key: key["/c/".len()..].to_vec(), revision, pair: None }
            });
            played.end.news.send(News::Changed(told.collect())).await.unwrap();
            played.answer(number, Answer::Stored).await;
        }
        assert_eq!(transactions, GONE.div_ceil(100));
        drop(handle);
        played.leave().await;
    };
    let both = async { tokio::join!(node.run(), playing) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the end of all");
}

#[tokio::test]
async fn a_prerequisite_holds_against_hosts_and_guards_too() {
    let (mut played, node, handle, _) = member(100, None).await;
    let playing = async {
        let (owner, data) = (Name::parse("a.service.local.").unwrap(), Data::A([10, 0, 0, 1].into()));
        let change = Rr { owner, rtype: Type::A, class: 1, ttl: 60, data: Some(data) };
        let asked = update("web.service.local.", vec![change]);
        let told = handle.command(asked, Identity::server()).await.unwrap();
        let (conditions, operations, number) = played.asked().await;
        assert_eq!(operations.len(), 2, "the record, and that it was carried out");
        for key in ["g/web", "h/", "i/web\0", "p/web\0"] {
            assert!(guards(&conditions, key), "{key}: {conditions:?}");
        }
        assert!(!guards(&conditions, "g/a"), "no answer of it is asked for");
        played.end_with(number, told, handle).await;
    };
    tokio::join!(node.run(), playing);
}
