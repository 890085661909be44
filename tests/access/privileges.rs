//! A server that root has started, and that is not root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::harness::{Server, callsign};

/// What the kernel says of a process: a line of its `status`, without the name.
fn status(server: &Server, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
    line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()
}

#[test]
fn who_is_root_at_the_start_is_not_for_long() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let data = place.path().join("data");
    let user = nix::unistd::User::from_name("nobody").expect("the users").expect("nobody");
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    let text = data.display().to_string();
    let flags = ["--user", "nobody", "--data", &text];
    for times in 0..2 {
        let mut server = Server::start(&flags);
        assert_eq!(status(&server, "Uid"), [&uid; 4].map(String::as_str));
        assert_eq!(status(&server, "Gid"), [&gid; 4].map(String::as_str));
        assert_eq!(status(&server, "Groups"), [gid.as_str()]);
        for kind in ["CapEff", "CapPrm"] {
            assert_eq!(status(&server, kind), ["0000000000000000"], "{kind}");
        }
        // Every thread of it.
        for thread in fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a process").flatten() {
            let environment = fs::metadata(thread.path().join("environ")).expect("a thread");
            assert_eq!(environment.uid(), 0, "and none may be dumped");
            let text = fs::read_to_string(thread.path().join("status")).expect("a thread");
            assert!(text.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{text}");
        }
        let socket = fs::metadata(&server.socket).expect("the socket");
        assert_eq!(
            (socket.uid(), socket.gid(), socket.mode() & 0o777),
            (user.uid.as_raw(), user.gid.as_raw(), 0o660)
        );
        assert_eq!(fs::metadata(&data).expect("the data").uid(), user.uid.as_raw());
        let mut client = server.client();
        assert_eq!(client.list().len(), times, "what was registered before is there");
        let form =
            json!({"service": "web", "id": "web-1", "address": "10.0.0.7", "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
        let backup = place.path().join("backup").display().to_string();
        callsign(&["store", "backup", &backup, "--server", &format!("unix:{}", server.socket.display())]);
        server.crash();
        // Whoever looks after the store is root, and what he makes is the server's all the same.
        fs::remove_file(data.join("callsign.lock")).expect("the lock of a server that has ended");
        callsign(&["store", "check", "--data", &text]);
        callsign(&["store", "restore", &backup, "--data", &text]);
    }
}

/// The directory is the server's user's, who may have put there what he likes.
#[test]
fn who_looks_after_a_store_as_root_gives_nothing_else_away() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let at = |name: &str| place.path().join(name);
    let text = at("data").display().to_string();
    let mut server = Server::start(&["--user", "nobody", "--data", &text]);
    let backup = at("backup").display().to_string();
    let socket = format!("unix:{}", server.socket.display());
    assert_eq!(callsign(&["store", "backup", &backup, "--server", &socket]).code, Some(0));
    server.crash();
    fs::write(at("precious"), "root's").expect("a file");
    let is_roots = || {
        let about = fs::metadata(at("precious")).expect("the file");
        (about.uid(), about.nlink(), fs::read_to_string(at("precious")).expect("its text"))
            == (0, 1, "root's".to_owned())
    };
    for name in ["data/callsign.lock", "data/callsign.redb.new"] {
        drop(fs::remove_file(at(name)));
        std::os::unix::fs::symlink(at("precious"), at(name)).expect("a link");
    }
    let ended = callsign(&["store", "check", "--data", &text]);
    assert!(ended.code == Some(1) && ended.stderr.contains("callsign.lock"), "{ended:?}");
    assert!(is_roots());
    fs::remove_file(at("data/callsign.lock")).expect("removing it");
    assert_eq!(callsign(&["store", "restore", &backup, "--data", &text]).code, Some(0));
    assert!(is_roots());
    fs::remove_file(at("data/callsign.lock")).expect("removing it");
    fs::hard_link(at("precious"), at("data/callsign.lock")).expect("a second name");
    callsign(&["store", "check", "--data", &text]);
    assert_eq!(fs::metadata(at("precious")).expect("the file").uid(), 0);
}

#[test]
fn what_root_has_used_before_is_told_from_what_is_the_servers() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let text = place.path().join("data").display().to_string();
    Server::start(&["--data", &text]).crash();
    let Err(ended) = Server::launch(&[], &["--data", &text, "--user", "nobody"]) else {
        panic!("root's store was served")
    };
    let phrase = format!(
        "{text}: Permission denied (os error 13), for the server is `nobody` from here on; `chown -R nobody {text}`"
    );
    assert!(ended.stderr.contains(&phrase), "{ended:?}");
}

#[test]
fn a_privilege_that_bound_the_sockets_is_given_up() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let socket = place.path().join("s").display().to_string();
    let privileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let with = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    // Programs of checks may gain rights by themselves, but have none from us.
    for more in [&[][..], &["--probe-commands"]] {
        let flags = [&["--store", "memory", "--socket", &socket], more].concat();
        let server = Server::start_under(&[&privileged[..], &with].concat(), &flags);
        for thread in fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a process").flatten() {
            let text = fs::read_to_string(thread.path().join("status")).expect("a thread");
            for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(text.contains(&format!("{kind}:\t0000000000000000\n")), "{more:?}: {text}");
            }
        }
        assert_eq!(server.client().list().len(), 0);
    }
}

#[test]
fn nobody_that_cannot_be_is_become() {
    for (flags, phrase) in [
        (vec!["--user", "no-such-user-here"], "there is no user `no-such-user-here`"),
        (vec!["--user", "nobody", "--group", "no-such-group-here"], "there is no group"),
        (vec!["--group", "nogroup"], "needs `user`"),
        (vec!["--user", ""], "must be a name"),
    ] {
        let Err(ended) = Server::launch(&[], &flags) else { panic!("{flags:?} was served") };
        assert!(ended.code != Some(0) && ended.stderr.contains(phrase), "{flags:?}: {ended:?}");
    }
    let Err(ended) = Server::launch(
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        &["--user", "nobody"],
    ) else {
        panic!("only root can become another")
    };
    assert!(ended.stderr.contains("only root"), "{ended:?}");
}
