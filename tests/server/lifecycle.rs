//! Start, refusal to start, stop: the socket file, taken ports, signals, `--check-config`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::dns::{connect, framed, ports, query, receive_framed};
use crate::harness::{DEADLINE, Ended, Server, binary, callsign, eventually, srv, stays};

fn form(id: &str, lease: &str) -> Value {
    json!({"register": {"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": lease}})
}

/// A server that has to refuse to start, and says why in one sentence.
fn refuses(before: &[&str], flags: &[&str]) -> Ended {
    let Err(ended) = Server::launch(before, flags) else { panic!("the server started with {flags:?}") };
    assert!(ended.stdout.is_empty(), "{ended:?}");
    // A log line may come before it; the reason is the last, and has our name in front.
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("callsign: "), "{ended:?}");
    ended
}

fn path(directory: &tempfile::TempDir, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

// -- the socket file ----------------------------------------------------------------------------------------------

#[test]
fn the_socket_is_for_its_owner_and_group() {
    let mut server = Server::start(&[]);
    let found = fs::symlink_metadata(&server.socket).expect("the socket's file");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    // Whatever the umask is: it may be wider, and narrower.
    for umask in ["000", "077"] {
        let script = format!("umask {umask} && exec \"$0\" \"$@\"");
        let other = Server::start_under(&["sh", "-c", &script], &[]);
        let found = fs::symlink_metadata(&other.socket).expect("the socket's file");
        assert_eq!(found.permissions().mode() & 0o777, 0o660, "umask {umask}");
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    assert!(!server.socket.exists(), "the file goes with the server");
}

#[test]
fn the_file_of_a_dead_server_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = path(&directory, "s");
    let mut dead = Server::start(&["--socket", &socket]);
    dead.crash();
    assert!(Path::new(&socket).exists(), "a crash leaves it");
    let server = Server::start(&["--socket", &socket]);
    server.client().done("status", &json!({"status": {}}));
    let left: Vec<_> = fs::read_dir(directory.path()).expect("the directory").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_live_server_keeps_its_socket() {
    let first = Server::start(&[]);
    let socket = first.socket.display().to_string();
    let before = fs::symlink_metadata(&socket).expect("the socket's file");
    let ended = refuses(&[], &["--socket", &socket]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&format!("another server is listening on {socket}")), "{ended:?}");
    assert!(ended.stderr.contains("--socket"), "{ended:?}");
    let after = fs::symlink_metadata(&socket).expect("the socket's file");
    assert_eq!(before.modified().expect("a time"), after.modified().expect("a time"));
    first.client().done("status", &json!({"status": {}}));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let live = Server::start(&[]);
    let (file, folder) = (path(&directory, "file"), path(&directory, "folder"));
    fs::write(&file, "precious").expect("writing a file");
    fs::create_dir(&folder).expect("making a folder");
    let links = ["to-file", "to-socket", "to-nothing"].map(|name| path(&directory, name));
    symlink(&file, &links[0]).expect("a symbolic link");
    symlink(&live.socket, &links[1]).expect("a symbolic link");
    symlink(path(&directory, "nothing"), &links[2]).expect("a symbolic link");
    for taken in [&file, &folder].into_iter().chain(&links) {
        let ended = refuses(&[], &["--socket", taken]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{taken} is there and is not a socket")), "{ended:?}");
    }
    assert_eq!(fs::read_to_string(&file).expect("the file"), "precious");
    assert!(links.iter().all(|link| fs::symlink_metadata(link).expect("the link").is_symlink()));
    assert!(!Path::new(&path(&directory, "nothing")).exists());
    live.client().done("status", &json!({"status": {}}));
}

/// Starts of a server beside somebody who may write in its directory.
const RACED_STARTS: usize = 40;

/// Whoever may write there can take the socket away, and gets nothing else by it.
#[test]
fn who_races_for_the_path_of_the_socket_wins_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("another directory");
    let (socket, precious) = (path(&directory, "s"), elsewhere.path().join("precious"));
    fs::write(&precious, "precious").expect("writing a file");
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).expect("our own file");
    let over = AtomicBool::new(false);
    let (mut started, links, wide) = std::thread::scope(|threads| {
        let attacker = threads.spawn(|| {
            let (mut links, mut wide) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(directory.path()).expect("the directory").flatten() {
                    let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
                    let mode = found.permissions().mode() & 0o777;
                    if found.file_type().is_socket() && mode & !0o660 != 0 {
                        wide.push((entry.path(), mode));
                    }
                    // Every second time the link is there for a moment alone, so that some starts get on.
                    if fs::remove_file(entry.path()).is_ok() && symlink(&precious, entry.path()).is_ok() {
                        links += 1;
                        if links % 2 == 0 {
                            drop(fs::remove_file(entry.path()));
                        }
                    }
                }
            }
            (links, wide)
        });
        let mut started = 0;
        for _ in 0..RACED_STARTS {
            let mut server = Server::begin(&[], &["--socket", &socket, "--store", "memory"]);
            started += usize::from(server.until_ready());
            drop(server);
            drop(fs::remove_file(&socket));
        }
        over.store(true, Ordering::Relaxed);
        let (links, wide) = attacker.join().expect("the attacker");
        (started, links, wide)
    });
    let found = fs::metadata(&precious).expect("the file");
    assert_eq!(fs::read_to_string(&precious).expect("the file"), "precious");
    assert_eq!(found.permissions().mode() & 0o777, 0o600, "after {links} links, {started} starts");
    assert!(wide.is_empty(), "{wide:?}");
    // Alone again, it starts.
    fs::read_dir(directory.path())
        .expect("the directory")
        .flatten()
        .for_each(|entry| drop(fs::remove_file(entry.path())));
    started += usize::from(Server::begin(&[], &["--socket", &socket]).until_ready());
    assert!(started > 0 && links > 0, "{started} starts, {links} links");
}

#[test]
fn a_stopped_server_leaves_the_socket_of_its_successor() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = path(&directory, "s");
    let mut first = Server::start(&["--socket", &socket]);
    fs::remove_file(&socket).expect("removing the file, as a careless script does");
    let second = Server::start(&["--socket", &socket]);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code, Some(0));
    second.client().done("status", &json!({"status": {}}));
}

// -- ports --------------------------------------------------------------------------------------------------------

#[test]
fn a_taken_port_is_one_sentence_with_who_holds_it() {
    let holder = Server::start(&[]);
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let (udp, tcp) = (udp.expect("a UDP socket"), tcp.expect("a TCP socket"));
    let here = std::process::id();
    let taken = [
        (holder.dns[0], holder.pid()),
        (udp.local_addr().expect("an address"), here),
        (tcp.local_addr().expect("an address"), here),
    ];
    for (address, pid) in taken {
        let ended = refuses(&[], &["--dns", &address.to_string()]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for part in [address.to_string(), format!("(pid {pid})"), "--dns".to_owned()] {
            assert!(ended.stderr.contains(&part), "no `{part}` in {ended:?}");
        }
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    // The same for registrations over TCP.
    let address = tcp.local_addr().expect("an address").to_string();
    let ended = refuses(&[], &["--listen", &address]);
    assert!(ended.stderr.contains(&address) && ended.stderr.contains(&format!("(pid {here})")), "{ended:?}");
}

/// Its memory is its own, so whoever is not root cannot see which process has the port.
#[test]
fn a_second_server_of_ones_own_is_told_of_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let socket = path(&directory, "s");
    let first = Server::start_under(&nobody, &["--socket", &socket, "--store", "memory"]);
    let told = format!(
        "a callsign server of yours runs already (pid {}): use it (`callsign status`), or stop it",
        first.pid()
    );
    let (dns, http) = (first.dns[0].to_string(), first.http[0].to_string());
    let flags = [vec!["--dns", dns.as_str()], vec!["--http", http.as_str()], vec![]];
    for (number, flags) in flags.iter().enumerate() {
        let flags = [flags.as_slice(), &["--socket", &socket, "--store", "memory"]].concat();
        let Err(ended) = Server::launch(&nobody, &flags) else { panic!("{flags:?} started") };
        assert!(ended.stderr.contains(&told), "{number}: {ended:?}");
    }
    // Another server's socket says nothing of who has the port.
    let other = path(&directory, "other");
    let _second = Server::start_under(&nobody, &["--socket", &other, "--store", "memory"]);
    let flags = ["--dns", &dns, "--socket", &path(&directory, "third"), "--store", "memory"];
    let Err(ended) = Server::launch(&nobody, &flags) else { panic!("it started") };
    assert!(ended.stderr.contains("only root may look into"), "{ended:?}");
}

#[test]
fn a_port_that_needs_a_privilege_is_told_with_the_ways_to_it() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let nobody = ["unshare", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let flags = ["--dns", "0.0.0.0:53", "--socket", &path(&directory, "s"), "--store", "memory"];
    let Err(ended) = Server::launch(&nobody, &flags) else { panic!("it started") };
    for way in [
        "start it as root with --user NAME",
        "`sysctl net.ipv4.ip_unprivileged_port_start=53`",
        "a socket unit",
        "--dns ADDR:PORT",
    ] {
        assert!(ended.stderr.contains(way), "no `{way}` in {ended:?}");
    }
}

#[test]
fn several_addresses_answer_alike_and_are_printed() {
    let server = Server::start(&["--dns", "127.0.0.1:0", "--dns", "127.0.0.2:0", "--listen", "127.0.0.1:0"]);
    server.client().done("registered", &form("a", "none"));
    assert_eq!((server.dns.len(), server.listen.len()), (2, 1));
    for address in &server.dns {
        assert_ne!(address.port(), 0);
        let mut resolver = crate::harness::Resolver::new(*address);
        assert_eq!(ports(&resolver.udp(&srv("web"), RecordType::SRV)).len(), 1);
        assert_eq!(ports(&resolver.tcp(&srv("web"), RecordType::SRV)).len(), 1);
    }
    let last = server.lines.last().expect("lines");
    assert!(last.starts_with("ready") && last.contains(&binary().display().to_string()), "{last}");
    assert!(server.lines.contains(&format!("socket {}", server.socket.display())), "{:?}", server.lines);
}

// -- stop ---------------------------------------------------------------------------------------------------------

#[test]
fn on_sigterm_dns_answers_on_and_a_second_one_ends_it() {
    let mut server = Server::start(&["--grace", "60s", "--listen", "127.0.0.1:0"]);
    let (mut client, mut resolver) = (server.client(), server.resolver());
    client.done("registered", &form("timed", "none"));
    client.done("registered", &form("held", "connection"));
    let mut idle = connect(server.dns[0]);
    server.signal(Signal::SIGTERM);
    assert_eq!(client.next(), None, "a registration connection is closed");
    eventually("no new registrations", DEADLINE, || {
        UnixStream::connect(&server.socket).is_err().then_some(())
    });
    // Our stop is not the holder's end.
    let both = |resolver: &mut crate::harness::Resolver| {
        ports(&resolver.udp(&srv("web"), RecordType::SRV)).len() == 2
    };
    assert!(stays(Duration::from_millis(500), || both(&mut resolver)), "DNS answers through the grace");
    assert_eq!(ports(&resolver.tcp(&srv("web"), RecordType::SRV)).len(), 2);
    server.signal(Signal::SIGTERM);
    let ended = server.wait(); // long before the grace is over
    assert!(ended.code.is_some(), "{ended:?}");
    assert!(receive_framed(&mut idle).is_err(), "the connection ended with the server");
    assert!(!server.socket.exists());
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let mut server = Server::start(&[]);
    let _idle = (server.client(), connect(server.dns[0]));
    server.signal(Signal::SIGINT);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!server.socket.exists());
}

/// Writes `octets` again and again until the server closes the connection.
fn writing(mut stream: impl Write + Send + 'static, octets: Vec<u8>) -> JoinHandle<()> {
    std::thread::spawn(move || while stream.write_all(&octets).is_ok() {})
}

#[test]
fn what_was_acknowledged_before_the_stop_is_answered_during_it() {
    const SERVICES: usize = 2_000;
    let server = Server::start(&["--grace", "60s"]);
    let mut client = server.client();
    let lines: String = (0..SERVICES)
        .map(|number| {
            let service = format!("web-{number}");
            let form = json!({"service": service, "id": service, "address": "10.0.0.7", "port": 80, "lease": "none"});
            format!("{}\n", json!({ "register": form }))
        })
        .collect();
    // A client that never stops asking does not hold up the stop.
    let asking = writing(client.stream(), lines.into_bytes());
    let (mut acknowledged, mut replies) = (BTreeSet::new(), 0);
    while let Some(reply) = client.next() {
        match reply["registered"]["service"].as_str() {
            Some(service) => drop(acknowledged.insert(service.to_owned())),
            None => assert_eq!(reply["error"]["code"], "unavailable", "{reply}"),
        }
        replies += 1;
        if replies == SERVICES / 4 {
            server.signal(Signal::SIGTERM);
        }
    }
    asking.join().expect("the writer ends with the connection");
    let mut resolver = server.resolver();
    for service in &acknowledged {
        assert_eq!(
            ports(&resolver.udp(&srv(service), RecordType::SRV)).len(),
            1,
            "{service} was acknowledged"
        );
    }
    println!(
        "stop: {replies} acknowledgements around the signal, of {} services, all answered",
        acknowledged.len()
    );
    assert!(replies >= SERVICES / 4);
}

#[test]
fn a_client_that_never_stops_asking_does_not_hold_up_the_stop() {
    let mut server = Server::start(&[]);
    server.client().done("registered", &form("a", "none"));
    let ask = framed(&query(1, &srv("web"), RecordType::SRV, None).to_vec().expect("a query")).repeat(100);
    let mut stream = connect(server.dns[0]);
    let asking = writing(stream.try_clone().expect("another descriptor"), ask);
    let mut replies = 0;
    // Each reply is read, so that nobody waits for us; the signal comes in the middle of them.
    while receive_framed(&mut stream).is_ok() {
        replies += 1;
        if replies == 1_000 {
            server.signal(Signal::SIGTERM);
        }
    }
    asking.join().expect("the writer ends with the connection");
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    println!("stop: {replies} replies over one TCP connection around the signal");
}

// -- configuration ------------------------------------------------------------------------------------------------

#[test]
fn a_configuration_is_checked_without_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, socket) = (path(&directory, "callsign.toml"), path(&directory, "s"));
    let check = |text: &str| {
        fs::write(&file, text).expect("writing a configuration");
        callsign(&["serve", "--check-config", "--config", &file, "--socket", &socket])
    };
    let sound = check("dns = [\"127.0.0.1:5300\"]\nttl = 10\n");
    assert_eq!((sound.code, sound.stdout.as_str()), (Some(0), "ok\n"), "{sound:?}");
    assert!(!Path::new(&socket).exists(), "nothing was started");
    for (text, phrases) in [
        ("lisen = [\"127.0.0.1:1\"]\n", [":1:1", "unknown key `lisen`", "did you mean `listen`?"]),
        ("ttl = 10\nttl = 11\n", [":2:", "callsign.toml", "duplicate"]),
        ("ttl = 301\n", [":1:7", "ttl", "0s to 300s"]),
        ("dns = [\"127.0.0.1\"]\n", [":1:8", "127.0.0.1:5300", "with a port"]),
        ("domain = [\n", [":1:", "callsign.toml", ""]),
    ] {
        let bad = check(text);
        assert_eq!(bad.code, Some(2), "{text}: {bad:?}");
        for phrase in phrases {
            assert!(bad.stderr.contains(phrase), "{text}: no `{phrase}` in {bad:?}");
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_at_start() {
    let directory = tempfile::tempdir().expect("a directory");
    // Reachable from elsewhere, and nobody has to say who they are.
    let ended = refuses(&[], &["--listen", "0.0.0.0:0"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("authentication") && ended.stderr.contains("--allow-unauthenticated"),
        "{ended:?}"
    );
    // A zone file with a mistake: file and line.
    let zones = path(&directory, "zones");
    fs::create_dir(&zones).expect("making a folder");
    fs::write(
        format!("{zones}/example.test.zone"),
        "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 10.0.0.256\n",
    )
    .expect("writing a zone");
    let ended = refuses(&[], &["--zones", &zones]);
    assert!(ended.stderr.contains("example.test.zone:4"), "{ended:?}");
    // A zone file whose name is the alias zone's: it would be hidden, and nobody would know why.
    let zones = path(&directory, "more-zones");
    fs::create_dir(&zones).expect("making a folder");
    fs::write(
        format!("{zones}/consul.zone"),
        "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 10.0.0.1\n",
    )
    .expect("writing a zone");
    let ended = refuses(&[], &["--zones", &zones, "--consul-domain", "consul"]);
    assert!(ended.stderr.contains("consul.zone") && ended.stderr.contains("consul-domain"), "{ended:?}");
    drop(Server::start(&["--zones", &zones]));
    // And one whose names are those of addresses.
    let zones = path(&directory, "zones-of-addresses");
    fs::create_dir(&zones).expect("making a folder");
    fs::write(
        format!("{zones}/1.0.10.in-addr.arpa.zone"),
        "$TTL 60\n@ SOA ns.example.test. hostmaster.example.test. 1 60 60 60 60\n@ NS ns.example.test.\n",
    )
    .expect("writing a zone");
    let ended = refuses(&[], &["--zones", &zones, "--reverse", "10.0.0.0/23"]);
    assert!(ended.stderr.contains("1.0.10.in-addr.arpa") && ended.stderr.contains("`reverse`"), "{ended:?}");
    drop(Server::start(&["--zones", &zones, "--reverse", "10.0.0.0/24"]));
    // A variable that is ours and unknown.
    let ended = refuses(&["env", "CALLSIGN_TTTL=3"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("CALLSIGN_TTTL") && ended.stderr.contains("`CALLSIGN_TTL`"), "{ended:?}");
}
