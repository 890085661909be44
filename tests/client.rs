//! The crate's client: a registration that is held as long as a value lives, a watch as a stream, what is live.

mod harness;

use std::time::Duration;

use callsign::client::{Client, ClientError, Registration, Server, Watch, Watched, Way, choose};
use callsign::protocol::{ChangeForm, CheckForm, FilterForm, RegisterForm};
use futures_util::{Stream, StreamExt};
use harness::DEADLINE;

fn place(server: &harness::Server) -> Server {
    Server::Unix(server.socket.clone())
}

fn web(id: &str) -> RegisterForm {
    RegisterForm {
        service: "web".to_owned(),
        id: Some(id.to_owned()),
        port: Some(8080),
        ..RegisterForm::default()
    }
}

async fn change(watch: &mut (impl Stream<Item = Result<Watched, ClientError>> + Unpin)) -> ChangeForm {
    let next = async {
        loop {
            match watch.next().await.expect("a stream without an end").expect("no trouble") {
                Watched::Change(change) => return *change,
                Watched::Snapshot { .. } => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, next).await.expect("a change in time")
}

#[tokio::test]
async fn a_registration_lives_as_long_as_its_value() {
    let server = harness::Server::start(&["--store", "memory"]);
    let watch =
        Watch::begin(Way::to(place(&server)), FilterForm::default(), DEADLINE).await.expect("a watch");
    let mut watch = Box::pin(watch.into_stream());

    let registration =
        Registration::register(Way::to(place(&server)), web("one")).await.expect("registering");
    assert_eq!(registration.registered().dns, "one.web.service.local.");
    assert_eq!(change(&mut watch).await.reason, "registered");

    let mut client = Client::connect(&place(&server), DEADLINE).await.expect("connecting");
    let live = client.live("web").await.expect("an answer");
    assert_eq!(choose(&live, 3).map(|instance| instance.id.as_str()), Some("one"));

    registration.drain().await;
    assert_eq!(change(&mut watch).await.reason, "drained");
    assert_eq!(client.live("web").await.expect("an answer"), []);

    registration.leave().await.expect("leaving");
    let left = change(&mut watch).await;
    assert_eq!((&*left.reason, left.instance), ("deregistered", None));

    // Dropped, with a lease that would last for hours.
    let form = RegisterForm { lease: Some("2h".to_owned()), ..web("two") };
    let registration = Registration::register(Way::to(place(&server)), form).await.expect("registering");
    assert_eq!(change(&mut watch).await.reason, "registered");
    drop(registration);
    assert_eq!(change(&mut watch).await.reason, "deregistered");
}

#[tokio::test]
async fn what_is_refused_is_an_error_and_what_is_ill_is_not_live() {
    let server = harness::Server::start(&["--store", "memory"]);
    let refused =
        Registration::register(Way::to(place(&server)), RegisterForm { port: Some(0), ..web("one") }).await;
    let error = refused.expect_err("port 0");
    assert_eq!(error.to_string(), "port must be 1 to 65535, not 0");

    let ill =
        CheckForm { id: "disk".to_owned(), status: Some("critical".to_owned()), ..CheckForm::default() };
    let form = RegisterForm { checks: Some(vec![ill]), ..web("ill") };
    let _registration = Registration::register(Way::to(place(&server)), form).await.expect("registering");
    let mut client = Client::connect(&place(&server), DEADLINE).await.expect("connecting");
    let live = client.live("web").await.expect("an answer");
    assert!(live.is_empty() && choose(&live, 0).is_none());
    assert_eq!(client.instances(FilterForm::default()).await.expect("an answer").len(), 1);
}

#[tokio::test]
async fn a_registration_comes_back_with_the_server() {
    let mut server = harness::Server::start(&["--store", "memory"]);
    let socket = server.socket.display().to_string();
    let form = RegisterForm { lease: Some("1s".to_owned()), ..web("one") };
    let registration = Registration::register(Way::to(place(&server)), form).await.expect("registering");
    server.crash();
    // Another one in its place, which knows nothing.
    let second = harness::Server::start(&["--store", "memory", "--socket", &socket]);
    let watch =
        Watch::begin(Way::to(place(&second)), FilterForm::default(), DEADLINE).await.expect("a watch");
    let mut watch = Box::pin(watch.into_stream());
    let found = async {
        loop {
            match watch.next().await.expect("a stream").expect("no trouble") {
                Watched::Snapshot { page, .. } if page.instances.is_empty() => {}
                Watched::Snapshot { page, .. } => return page.instances[0].id.clone(),
                Watched::Change(change) => return change.id.expect("an instance"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), found).await.expect("in time"), "one");
    drop(registration);
}
