//! What may be where.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Pure: no clock, no I/O, no tasks, no logging. Imports only core.
    Core,
    /// What state and edges both stand on: the clock, limits. Imports only core.
    Ground,
    /// Makes changes last and visible. Imports core, ground and state.
    State,
    /// Talks to the world. Imports core, ground, the writer's handle, the store's history, the journal, the desk and its own folder.
    Edge,
    /// Puts it together. Imports everything.
    Wiring,
}

pub use Room::{Core, Edge, Ground, State, Wiring};

/// A file below `src/`, or a folder, which ends in `/`.
pub const ROOMS: &[(&str, Room)] = &[
    ("access.rs", Core),
    ("access/", Core),
    ("answer.rs", Core),
    ("answer/", Core),
    ("availability.rs", Core),
    ("balance.rs", Core),
    ("balance/", Core),
    ("check.rs", Core),
    ("explain.rs", Core),
    ("grammar.rs", Core),
    ("grammar/", Core),
    ("instance.rs", Core),
    ("lease.rs", Core),
    ("live.rs", Core),
    ("live/", Core),
    ("member.rs", Core),
    ("name.rs", Core),
    ("name/", Core),
    ("protobuf.rs", Core),
    ("protocol.rs", Core),
    ("protocol/", Core),
    ("record.rs", Core),
    ("registry.rs", Core),
    ("service_file.rs", Core),
    ("sign.rs", Core),
    ("sign/", Core),
    ("sorted.rs", Core),
    ("special.rs", Core),
    ("registry/", Core),
    ("time.rs", Core),
    ("update.rs", Core),
    ("update/", Core),
    ("view.rs", Core),
    ("view/", Core),
    ("xds.rs", Core),
    ("xds/", Core),
    ("zone.rs", Core),
    ("zone/", Core),
    ("zone_file.rs", Core),
    ("zone_file/", Core),
    ("clock.rs", Ground),
    ("connections.rs", Ground),
    ("connections/", Ground),
    ("counters.rs", Ground),
    ("counters/", Ground),
    ("grpc.rs", Ground),
    ("message.rs", Ground),
    ("owner.rs", Ground),
    ("traffic.rs", Ground),
    ("desk.rs", State),
    ("desk/", State),
    ("journal.rs", State),
    ("store/", State),
    ("writer.rs", State),
    ("writer/", State),
    ("dns/", Edge),
    ("health.rs", Edge),
    ("health/", Edge),
    ("http.rs", Edge),
    ("http/", Edge),
    ("socket.rs", Edge),
    ("socket/", Edge),
    ("bind.rs", Wiring),
    ("cli/", Wiring),
    ("client.rs", Wiring),
    ("client/", Wiring),
    ("config.rs", Wiring),
    ("config/", Wiring),
    ("definitions.rs", Wiring),
    ("key_folder.rs", Wiring),
    ("zone_folder.rs", Wiring),
    ("lib.rs", Wiring),
    ("main.rs", Wiring),
    ("serve.rs", Wiring),
    ("serve/", Wiring),
];

/// The state modules that edges may name: they hand the writer commands, and read what the others have.
pub const STATE_FOR_EDGES: [&str; 4] = ["writer", "store", "journal", "desk"];

/// What is named in a few places only: (text, the files below `src/` that may hold it, the reason).
///
/// Text that begins or ends like an identifier matches whole identifiers only.
pub const ONLY_IN: &[(&str, &[&str], &str)] = &[
    (
        "hickory_server",
        &["dns/handler.rs", "dns/wire/respond.rs"],
        "the general path is one place, our loops are others",
    ),
    (
        "domain::",
        &["zone_file/data.rs"],
        "the zone-file reader's library, and a name that is too good for elsewhere",
    ),
    ("redb", &["store/embedded.rs", "store/embedded/"], "the disk has one form, and one file that knows it"),
    ("quinn", &["dns/quic.rs", "serve/encrypted.rs"], "QUIC carries DNS and nothing else of ours"),
    ("rcgen", &["connections/tls.rs"], "a certificate of our own making is for a first try"),
    ("clap", &["cli/"], "what was typed becomes what is needed before anything else sees it"),
    ("axum", &["http.rs", "http/"], "the HTTP server is an edge"),
    (
        "anyhow",
        &[
            "bind.rs",
            "cli/",
            "client.rs",
            "config.rs",
            "config/",
            "key_folder.rs",
            "main.rs",
            "serve.rs",
            "serve/",
        ],
        "below the wiring an error says what the caller may still do",
    ),
    ("tokio::spawn", SPAWNERS, "a task that nobody owns dies unseen"),
    ("tokio::task::spawn", SPAWNERS, "a task that nobody owns dies unseen"),
    ("thread::spawn", SPAWNERS, "a thread that nobody owns dies unseen"),
    ("spawn_blocking", SPAWNERS, "a thread that nobody owns dies unseen"),
    (".spawn(", SPAWNERS, "a task that nobody owns dies unseen"),
    ("Instant::now", CLOCKS, "time comes in as an argument"),
    ("SystemTime::now", CLOCKS, "time comes in as an argument"),
    ("unbounded_channel", &[], "nothing is unbounded"),
    ("allow(unsafe_code", &["dns/batch.rs"], "one file speaks to the kernel in pointers, and is read for it"),
    ("thread::sleep", &[], "wait for the event itself, with a deadline"),
];

/// `serve.rs` starts the services, accept loops their connections, `dns/forward.rs` a bounded number of questions to other
/// servers, which many clients may wait for and one may leave; `dns/udp.rs` a thread for each core; the command line
/// the user's command, a client's `Registration` the task that holds it, the
/// store its one thread, for a commit blocks, and a backup its reading of the disk, which it waits for; `health.rs` its
/// probes, `health/` what a probe waits for: the system's resolver, certificates on the disk, a program.
pub const SPAWNERS: &[&str] = &[
    "serve.rs",
    "serve/",
    "connections.rs",
    "dns/forward.rs",
    "dns/forward/upstreams.rs",
    "dns/quic.rs",
    "dns/udp.rs",
    "http.rs",
    "http/doh.rs",
    "socket.rs",
    "socket/stream.rs",
    "cli/",
    "client/registration.rs",
    "store/embedded.rs",
    "health.rs",
    "health/command.rs",
    "health/reach.rs",
    "health/tls.rs",
];

/// The server reads its clocks in one file; a client's deadlines are its own.
pub const CLOCKS: &[&str] = &["clock.rs", "cli/", "client.rs", "client/"];

/// What the core never names.
pub const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "tracing",
    "getrandom",
    "nix",
    "socket2",
    "async fn",
    ".await",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "println!",
    "eprintln!",
];

/// What no source, test, bench or example holds.
pub const NOWHERE: &[(&str, &str)] = &[
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("dbg!", "take it out before the commit"),
    ("#[ignore", "a test that does not run is not a test"),
];

/// Words that name no thing. A file called so becomes the drawer for everything.
pub const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "type", "types", "util", "utils"];

/// Beginnings of function names that say nothing, and the one trait method that is not ours to name.
pub const EMPTY_VERBS: &[&str] = &["do_", "get_", "handle_"];
pub const FOREIGN_NAMES: &[&str] = &["handle_request"];

/// Folders of some developer's machine, in pieces so that this file passes its own test.
pub const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Hosts that a link in this repository may lead to. Anything else (a mirror, a private registry) is some
/// machine's own configuration and has no place here.
pub const HOSTS: &[&str] = &[
    "apache.org",
    "debian.org",
    "doc.rust-lang.org",
    "docs.rs",
    "example",
    "example.com",
    "example.net",
    "example.org",
    "github.com",
    "html.spec.whatwg.org",
    "iana.org",
    "ietf.org",
    "invalid",
    "keepachangelog.com",
    "local",
    "prometheus.io",
    "rfc-editor.org",
    "semver.org",
    "test",
    "www.w3.org",
];
