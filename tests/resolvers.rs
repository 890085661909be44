//! Resolvers in front of us, set up with exactly what `callsign setup` prints, and programs behind them.
//!
//! Needs: unpacked, bind9-dnsutils, gcc, musl-tools, golang-go, nodejs, openjdk-17-jdk-headless, iproute2, util-linux
//!
//! Each machine has namespaces of its own: callsign on 127.0.0.1:5300, the resolver on port 53 in front of it, and a
//! resolv.conf that names the resolver. What is asked for has one, ten and 120 instances: the last is more than a
//! datagram holds, so TCP goes all the way. Before `setup`, `callsign doctor` has to say what is missing; after it,
//! that nothing is.
//!
//! The resolvers are Debian's, unpacked below target/unpacked by tests/unpacked/unpack (`./check` does it) and never
//! installed.

#[path = "resolvers/front.rs"]
mod front;
mod harness;
#[path = "resolvers/programs.rs"]
mod programs;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::json;

use front::{Kind, libraries, stands_in_front, status, unpacked};
use harness::Server;
use harness::machine::Machine;
use harness::program::needs;

// -- the resolvers ------------------------------------------------------------------------------------------------

/// With everything on that could stand in our way: 0x20, validation from the root, filters of private addresses.
#[test]
fn unbound() {
    let main = "server:\n    interface: 127.0.0.1\n    port: 53\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    \
                directory: \"/run\"\n    pidfile: \"\"\n    use-syslog: no\n    verbosity: 2\n    use-caps-for-id: yes\n    \
                qname-minimisation: yes\n    private-address: 10.0.0.0/8\n    private-address: 127.0.0.0/8\n    \
                trust-anchor: \". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\"\n\
                remote-control:\n    control-enable: no\n\
                include-toplevel: \"/etc/unbound/unbound.conf.d/*.conf\"\n";
    let kind = Kind {
        word: "unbound",
        own: "unbound",
        program: unpacked("usr/sbin/unbound"),
        at: "127.0.0.1",
        words: ["-d", "-c", "/etc/unbound/unbound.conf"].map(str::to_owned).to_vec(),
        etc: vec![("unbound/unbound.conf", main.to_owned())],
        folders: vec!["unbound/unbound.conf.d"],
        by_hand: vec![],
        beside: |_| None,
    };
    stands_in_front(&kind, |machine, daemon| {
        // 0x20: the case of its questions came back octet for octet, so it never had to ask without.
        let log = daemon.log();
        assert!(log.contains("query response was ANSWER"), "it says what came back");
        let caps = log.lines().filter(|line| line.to_lowercase().contains("capsforid"));
        // The root servers, which it wants for other names, are out of reach here, in any case.
        let fallen: Vec<&str> = caps.filter(|line| !line.contains("timeouts, starting fallback")).collect();
        assert!(fallen.is_empty(), "it fell back from 0x20: {fallen:?}");
        // Its stub stays what it is, also when our own NS and address records are in its cache.
        assert_eq!(status(machine, &["service.local", "NS"]), "NOERROR");
        assert_eq!(status(machine, &["ns.service.local", "A"]), "NOERROR");
        assert_eq!(status(machine, &["one.service.local", "AAAA"]), "NOERROR");
    });
}

#[test]
fn dnsmasq() {
    let words = [
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/etc/dnsmasq.conf",
        "--user=root",
        "--group=root",
        "--pid-file=",
    ];
    let main = "listen-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nstop-dns-rebind\n\
                conf-dir=/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new\n";
    let kind = Kind {
        word: "dnsmasq",
        own: "dnsmasq.d",
        program: unpacked("usr/sbin/dnsmasq"),
        at: "127.0.0.1",
        words: words.map(str::to_owned).to_vec(),
        etc: vec![("dnsmasq.conf", main.to_owned())],
        folders: vec!["dnsmasq.d"],
        by_hand: vec![],
        beside: |_| None,
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["big.service.local", "A"]), "NOERROR");
    });
}

/// With DNSSEC validation as it comes, and no root to be reached.
#[test]
fn bind() {
    // As Debian's package has them: `setup` says which line goes into which of them.
    let options = "options {\n    directory \"/run\";\n    listen-on { 127.0.0.1; };\n    listen-on-v6 { none; };\n    \
                   dnssec-validation auto;\n    pid-file none;\n    session-keyfile none;\n    INCLUDED\n};\n";
    let include =
        |text: &str, file: &str| text.replace("INCLUDED", &format!("include \"/etc/bind/{file}\";"));
    let kind = Kind {
        word: "bind",
        own: "bind",
        program: unpacked("usr/sbin/named"),
        at: "127.0.0.1",
        words: ["-g", "-c", "/etc/bind/named.conf"].map(str::to_owned).to_vec(),
        etc: vec![
            ("bind/named.conf.options", options.replace("INCLUDED", "")),
            ("bind/named.conf.local", String::new()),
            (
                "bind/named.conf",
                ["options", "local"]
                    .map(|part| format!("include \"/etc/bind/named.conf.{part}\";\n"))
                    .concat(),
            ),
        ],
        folders: vec![],
        by_hand: vec![
            ("bind/named.conf.options", include(options, "callsign-options.conf")),
            ("bind/named.conf.local", include("INCLUDED\n", "callsign.conf")),
        ],
        beside: |_| None,
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["one.service.local", "AAAA"]), "NOERROR");
    });
}

/// A network with a nameserver of its own, which a manager of networks gave to the link: it serves `other.example`.
fn network(machine: &Machine) -> Option<Server> {
    let line = machine.run(&needs("ip", "iproute2"), &["-oneline", "link", "show", "wire"]);
    let (index, _) = line.split_once(':').expect("a link has a number");
    let state = "ADMIN_STATE=configured\nOPER_STATE=routable\nDNS=192.0.2.1\n";
    fs::write(machine.run_folder("systemd/netif/links").join(index), state).expect("the state of the link");
    let pid = machine.server.pid().to_string();
    let mut inside = vec!["nsenter", "--target", &pid, "--net", "--mount", "--root"];
    if !nix::unistd::geteuid().is_root() {
        inside.extend(["--user", "--preserve-credentials"]);
    }
    let flags = ["--domain", "other.example", "--dns", "192.0.2.1:53", "--http", "none"];
    Some(Server::start_under(&inside, &flags))
}

/// It listens on 127.0.0.53 and is what programs come to by resolv.conf.
#[test]
fn systemd_resolved() {
    let kind = Kind {
        word: "resolved",
        own: "systemd/resolved.conf.d",
        program: unpacked("lib/systemd/systemd-resolved"),
        at: "127.0.0.53",
        words: vec![],
        // Its user, whom the package would have made; it is who we are, for it changes to it.
        etc: vec![
            ("passwd", "root:x:0:0::/:/bin/sh\nsystemd-resolve:x:0:0::/:/bin/sh\n".to_owned()),
            ("group", "root:x:0:\nsystemd-resolve:x:0:\n".to_owned()),
            ("systemd/resolved.conf", "[Resolve]\n".to_owned()),
        ],
        folders: vec!["systemd/resolved.conf.d"],
        by_hand: vec![],
        beside: network,
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["@127.0.0.53", "other.local", "A"]), "REFUSED");
        // Names that are not routed to us go where they went before, to the network's server.
        assert_eq!(status(machine, &["@127.0.0.53", "other.example", "SOA"]), "NOERROR");
        assert_eq!(status(machine, &["@127.0.0.53", "none.other.example", "A"]), "NXDOMAIN");
    });
}

// -- resolv.conf --------------------------------------------------------------------------------------------------

/// callsign as the one nameserver of a machine: the registry's names, and everybody else's through it.
#[test]
fn resolv_conf() {
    // What the machine asked before is the network's server, and callsign asks it now.
    let machine = front::machine("192.0.2.1", &["--dns", "127.0.0.1:53", "--forward", "192.0.2.1"]);
    let _network = network(&machine);
    let before = machine.callsign(&["doctor"]);
    assert_eq!(before.code, Some(1), "{}", before.stdout);
    let refused = machine.callsign(&["setup", "resolvconf", "--write"]);
    assert_eq!(refused.code, Some(4), "it is somebody else's: {refused:?}");
    let printed = machine.callsign(&["setup", "resolvconf"]);
    let written = machine.callsign(&["setup", "resolvconf", "--write", "--force"]);
    assert_eq!(written.code, Some(0), "{written:?}");
    assert_eq!(fs::read_to_string(machine.etc("resolv.conf")).expect("what was written"), printed.stdout);
    let after = machine.callsign(&["doctor"]);
    assert_eq!(after.code, Some(0), "{}", after.stdout);
    assert!(!after.stdout.contains("refuses every other name"), "{}", after.stdout);
    front::programs_see("resolvconf", &machine);
    assert_eq!(status(&machine, &["other.example", "SOA"]), "NOERROR");
    assert_eq!(status(&machine, &["none.other.example", "A"]), "NXDOMAIN");
}

// -- nss-mdns -----------------------------------------------------------------------------------------------------

/// Plays avahi: every name is asked for in vain. Gives the names as they come.
fn avahi(machine: &Machine) -> Receiver<String> {
    let folder = machine.run_folder("avahi-daemon");
    fs::create_dir_all(&folder).expect("a folder in its /run");
    let listener = UnixListener::bind(folder.join("socket")).expect("avahi's socket");
    let (sender, asked) = sync_channel(100);
    // It ends with the test's process: nothing is left that could be asked.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            let read = BufReader::new(&stream).read_line(&mut line);
            if read.is_err() || sender.send(line.trim().to_owned()).is_err() {
                return;
            }
            drop(stream.write_all(b"-15 Timeout reached\n"));
        }
    });
    asked
}

/// Above `service.local` there is a name for who forwards, and no SOA: by that `one.local` is multicast's still.
#[test]
fn nss_mdns_beside_a_server_that_forwards() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53", "--forward", "127.0.0.9"]);
    let form = json!({"service": "one", "id": "one-1", "address": "10.3.0.1", "port": 8001, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": form}));
    let asked = avahi(&machine);
    machine.write("nsswitch.conf", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n");
    assert_eq!(status(&machine, &["local", "SOA"]), "NOERROR");
    for (name, by_dns) in [("one.service.local", true), ("one.local", false)] {
        let mut command = machine.inside(&needs("getent", "libc-bin"));
        let found = command.args(["ahosts", name]).env("LD_LIBRARY_PATH", libraries()).output();
        assert_eq!(found.expect("running nsenter").status.success(), by_dns, "{name}");
        assert_eq!(asked.try_iter().next().is_none(), by_dns, "{name}");
    }
}

/// The lines that distributions have in nsswitch.conf, and the one file that takes every name away from DNS. What
/// the doctor says of each is what happens.
#[test]
fn nss_mdns() {
    const MINIMAL: &str = "files mdns4_minimal [NOTFOUND=return] dns";
    const FULL: &str = "files mdns4 [NOTFOUND=return] dns";
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53"]);
    let form = json!({"service": "one", "id": "one-1", "address": "10.3.0.1", "port": 8001, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": form}));
    let asked = avahi(&machine);
    let getent = needs("getent", "libc-bin");
    for (line, allow, name, by_dns) in [
        (MINIMAL, None, "one.service.local", true),
        ("files mdns4_minimal dns", None, "one.service.local", true),
        ("files mdns_minimal [NOTFOUND=return] dns mdns", None, "one.service.local", true),
        (FULL, None, "one.service.local", true),
        (MINIMAL, Some(".local.\n.local\n"), "one.service.local", true),
        (FULL, Some(".local.\n.local\n"), "one.service.local", false),
        // Two labels: multicast's own, and the reason why services are not put right below .local.
        (MINIMAL, None, "one.local", false),
    ] {
        machine.write("nsswitch.conf", &format!("hosts: {line}\n"));
        match allow {
            Some(text) => machine.write("mdns.allow", text),
            None => drop(fs::remove_file(machine.etc("mdns.allow"))),
        }
        let mut command = machine.inside(&getent);
        let found = command.args(["ahosts", name]).env("LD_LIBRARY_PATH", libraries()).output();
        let found = found.expect("running nsenter");
        let by_multicast: Vec<String> = asked.try_iter().collect();
        assert_eq!(found.status.success(), by_dns, "{line} {allow:?} {name}: {found:?}");
        assert_eq!(by_multicast.is_empty(), by_dns, "{line} {allow:?} {name}: {by_multicast:?}");
        if name.ends_with("service.local") {
            let ended = machine.callsign_with(&libraries(), &["doctor"]);
            assert_eq!(ended.code, Some(if by_dns { 0 } else { 1 }), "{}", ended.stdout);
            let wrong = ended.stdout.lines().filter(|line| line.starts_with("wrong")).count();
            assert_eq!(wrong, if by_dns { 0 } else { 2 }, "nsswitch and the lookup: {}", ended.stdout);
            let _ = asked.try_iter().count(); // the lookup of the doctor itself
        }
    }
}
