//! `register` that holds what it registered.

use super::*;

#[test]
fn register_without_a_lease_stays_and_leaves_with_its_process() {
    let server = Server::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let staying = Going::start(&mut server.verb("register web 10.0.0.7:8080 --id web-1 --host h1"));
        assert!(staying.line().starts_with("registered web web-1"));
        assert!(server.says("ls web").contains("web-1"));
        staying.signal(signal);
        assert_eq!(staying.end().1, Some(0));
        assert!(server.says("ls web").contains("is not registered"));
    }
}

#[test]
fn what_is_held_is_said_again_after_a_restart() {
    let server = Server::start();
    let timed = Going::start(&mut server.verb("register web 10.0.0.7:8080 --id timed --host h1"));
    let bound =
        Going::start(&mut server.verb("register web 10.0.0.7:8080 --id bound --host h1 --lease connection"));
    timed.line();
    bound.line();
    let directory = server.stop();
    let server = Server::start_in(directory);
    let watching = server.watch();
    // Who is not there yet comes as a change after the marker, which `watching` waits for.
    while server.says("ls web").matches("h1").count() < 2 {
        watching.line();
    }
    bound.signal(Signal::SIGTERM);
    assert_eq!(bound.end().1, Some(0));
    watching.line_with("web bound deregistered");
}

#[test]
fn a_registration_that_is_gone_is_made_again_and_one_that_was_taken_is_left() {
    let server = Server::start();
    let watching = server.watch();
    let held =
        Going::start(server.verb("register web 10.0.0.7:8080 --id web-1 --host h1").stderr(Stdio::null()));
    watching.line_with("web web-1 registered");
    server.says("deregister web web-1 --host h1");
    watching.line_with("web web-1 deregistered");
    // Its next heartbeat is answered with not_found.
    watching.line_with("web web-1 registered");
    server.says("register web 10.0.0.8:8080 --id web-1 --host h1 --lease none");
    assert_eq!(held.end().1, Some(1));
    assert!(server.says("ls web").contains("10.0.0.8"));
}
