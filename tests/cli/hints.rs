//! What is said to who was nearly right: a name, a host, a port or a right that is another one.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_service_that_is_not_there_is_told_beside_what_was_asked() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --lease none");
    assert_snapshot!(server.says("service set wbe --ttl 10s"), @"
    service  wbe
    ttl      10s
    ! hint: wbe is not registered now; did you mean `web`?
    ");
    assert_snapshot!(server.says("service show nope"), @"
    service   nope
    settings  as the server's configuration says
    ! hint: nope is not registered now
    ");
    assert!(!server.says("service show web").contains("hint"));
    let mut child = server.verb("watch wbe").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(
        (line.as_str(), child.wait().unwrap().code()),
        ("hint: wbe is not registered now; did you mean `web`?\n", Some(0))
    );
}
