//! The rules can fail: each finds what is planted for it.

use super::map::*;
use super::rules::*;
use super::source::*;

/// What `imports_go_downward` says of one planted file.
fn imports(path: &str, text: &str) -> usize {
    let modules = [
        "name", "view", "clock", "store", "writer", "dns", "socket", "http", "serve", "config", "cli",
        "metrics",
    ];
    let modules = modules.map(str::to_owned).into();
    wrong_imports(path, &split_tests(&code_of(text)).0, &modules).len()
}

#[test]
fn planted_imports_are_found() {
    assert_eq!(imports("src/view.rs", "use crate::name::ServiceName;"), 0);
    assert_eq!(imports("src/view.rs", "use crate::writer::Writer;"), 1);
    assert_eq!(imports("src/view.rs", "use crate::{name::Apex, store::{Store, Memory}, writer};"), 2);
    assert_eq!(imports("src/view.rs", "use super::store::Store;"), 1);
    assert_eq!(imports("src/view.rs", "fn f() { crate::serve::run() }"), 1);
    assert_eq!(imports("src/view.rs", "use crate::Store;"), 1, "a re-export hides the room");
    assert_eq!(imports("src/store/mod.rs", "use crate::view::View; use super::writer::Event;"), 0);
    assert_eq!(imports("src/store/embedded.rs", "use crate::dns::wire;"), 1);
    assert_eq!(imports("src/writer.rs", "use crate::config::Config;"), 1);
    assert_eq!(
        imports("src/dns/udp.rs", "use super::wire; use crate::dns::wire; use crate::writer::Writer;"),
        0
    );
    assert_eq!(imports("src/dns/udp.rs", "use crate::http::doh;"), 1);
    assert_eq!(imports("src/dns/udp.rs", "use super::super::socket;"), 1);
    assert_eq!(imports("src/socket.rs", "use crate::store::History;"), 0);
    assert_eq!(imports("src/socket.rs", "use crate::metrics::Metrics;"), 1);
    assert_eq!(imports("src/socket.rs", "use crate::clock::Clock;"), 0);
    assert_eq!(imports("src/view.rs", "use crate::clock::Clock;"), 1);
    assert_eq!(imports("src/clock.rs", "use crate::writer::Writer;"), 1);
    assert_eq!(imports("src/serve.rs", "use crate::{dns, http, socket, store, writer};"), 0);
}

#[test]
fn comments_strings_and_tests_are_not_imports() {
    assert_eq!(
        imports("src/view.rs", "// use crate::writer::Writer;\n/* crate::store /* nested */ crate::dns */"),
        0
    );
    assert_eq!(
        imports("src/view.rs", r##"const S: &str = "crate::dns"; const R: &str = r#"crate::"dns"#;"##),
        0
    );
    assert_eq!(
        imports("src/view.rs", "#[cfg(test)]\nmod tests { use crate::writer::Writer; fn f() { {} } }"),
        0
    );
    assert_eq!(
        imports("src/view.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::writer::Writer;"),
        1
    );
    assert_eq!(imports("src/view.rs", "#[cfg(test)]\nmod tests;\nuse crate::writer::Writer;"), 1);
    assert_eq!(
        imports("src/view.rs", "const C: char = '\"'; use crate::writer::W; const D: char = '\\'';"),
        1
    );
    assert_eq!(imports("src/view.rs", "fn f<'a>(x: &'a str) { crate::dns::g(x, 'x') }"), 1);
    assert_eq!(
        imports("src/view.rs", "pub(crate) fn f() {} macro_rules! m { () => { $crate::dns::f() } }"),
        0
    );
}

#[test]
fn planted_names_in_the_wrong_place_are_found() {
    let found = |path: &str, text: &str| named_elsewhere(path, &code_of(text)).len();
    assert_eq!(found("src/dns/handler.rs", "use hickory_server::server::Request;"), 0);
    assert_eq!(found("src/dns/udp.rs", "use hickory_server::server::Request;"), 1);
    assert_eq!(found("src/dns/udp.rs", "let hickory_servers = 1;"), 0);
    assert_eq!(found("src/store/mod.rs", "use redb::Database;"), 1);
    assert_eq!(found("src/config.rs", "use clap::Parser;"), 1);
    assert_eq!(found("src/cli/serve.rs", "use clap::Parser; use anyhow::Result;"), 0);
    assert_eq!(found("src/socket.rs", "use axum::Router; use anyhow::Result;"), 2);
    assert_eq!(found("src/dns/wire.rs", "tokio::spawn(async {});"), 1);
    assert_eq!(found("src/writer.rs", "tasks.spawn(async {}); task::spawn_blocking(f);"), 2);
    assert_eq!(found("src/dns/quic.rs", "connections.spawn(async {});"), 0);
    assert_eq!(found("src/serve.rs", "mpsc::unbounded_channel(); std::thread::sleep(d);"), 2);
    assert_eq!(found("src/writer.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/dns/udp.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/clock.rs", "let now = Instant::now();"), 0);
}

#[test]
fn planted_impurities_are_found() {
    let found = |path: &str, text: &str| impurities(path, &split_tests(&code_of(text)).0).len();
    assert_eq!(found("src/lease.rs", "use std::net::IpAddr; use std::time::Duration;"), 0);
    assert_eq!(found("src/lease.rs", "use tokio::time::sleep;"), 1);
    assert_eq!(found("src/lease.rs", "tracing::info!(x); std::fs::read(p);"), 2);
    assert_eq!(found("src/zone.rs", "use std::net::UdpSocket;"), 1);
    assert_eq!(found("src/zone.rs", "/// Not tokio, not std::fs.\nfn f() {}"), 0);
    assert_eq!(found("src/zone.rs", "#[cfg(test)]\nmod tests { use std::fs; }"), 0);
    assert_eq!(found("src/serve.rs", "use tokio::time::sleep;"), 0);
}

#[test]
fn planted_unfinished_code_is_found() {
    let found = |text: &str| unfinished("src/view.rs", &code_of(text)).len();
    assert_eq!(found("fn f() { todo!() }"), 1);
    assert_eq!(found("fn f() { unimplemented!(\"later\") } fn g() { dbg!(1); }"), 2);
    assert_eq!(found("#[test]\n#[ignore = \"slow\"]\nfn f() {}"), 1);
    assert_eq!(found("/// todo! is not used here\nfn f() {}"), 0);
}

#[test]
fn planted_sleeps_are_found() {
    let found = |text: &str| sleeps("tests/server.rs", text, &code_of(text)).len();
    assert_eq!(found("fn f() {\n    std::thread::sleep(ONE);\n}"), 1);
    assert_eq!(found("tokio::time::sleep(ONE).await;"), 1);
    assert_eq!(found("sleep(ONE).await;"), 1);
    assert_eq!(found("sleep(ONE).await; // tidy: may sleep: the lease itself is the subject"), 0);
    assert_eq!(found("// tidy: may sleep: dig has no event to wait for\nsleep(ONE).await;"), 0);
    assert_eq!(found("// tidy: may sleep: yes\nsleep(ONE).await;"), 1, "that is no reason");
    assert_eq!(found("// no sleep(ONE) here\nlet sleeping = 1;"), 0);
}

#[test]
fn planted_empty_names_are_found() {
    assert!(empty_file_name("src/util.rs").is_some());
    assert!(empty_file_name("tests/common/mod.rs").is_some());
    assert!(empty_file_name("src/dns/types.rs").is_some());
    assert!(empty_file_name("src/utility_bill.rs").is_none());
    let found = |text: &str| empty_verbs("src/view.rs", &code_of(text)).len();
    assert_eq!(found("fn handle_query() {} pub async fn do_it() {} fn get_name() {}"), 3);
    assert_eq!(found("async fn handle_request() {} fn getaddrinfo() {} fn donate() {} fn handles() {}"), 0);
}

#[test]
fn a_planted_bare_dependency_is_found() {
    let found = |text: &str| uncommented_dependencies(text).len();
    assert_eq!(found("[dependencies]\n# what for\nserde = \"1\"\n"), 0);
    assert_eq!(found("[dependencies]\n# what for\nserde = \"1\"\ntracing = \"1\"\n"), 1);
    assert_eq!(found("[dev-dependencies]\ninsta = \"1\"\n"), 1);
    assert_eq!(
        found("[dev-dependencies]\n# what for\nnix = { version = \"1\", features = [\n  \"fs\",\n] }\n"),
        0
    );
    assert_eq!(found("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n"), 1);
    assert_eq!(found("[package]\nname = \"callsign\"\n"), 0);
}

#[test]
fn planted_foreign_places_are_found() {
    let found = |text: &str| foreign_places("README.md", text).len();
    assert_eq!(found(&format!("see {}notes", MACHINE_PATHS[0])), 1);
    assert_eq!(found(&format!("cd {}x && ls {}y", MACHINE_PATHS[1], MACHINE_PATHS[2])), 2);
    assert_eq!(
        found("https://www.rfc-editor.org/rfc/rfc2782 and http://127.0.0.1:8080, http://web.service.local/"),
        0
    );
    assert_eq!(found(concat!("deb htt", "p://mirror.somewhere.net/debian bookworm main")), 1);
    assert_eq!(found(concat!("htt", "ps://notgithub.com/")), 1);
    assert_eq!(found("http://[::1]:5380 http://{address}:{port} unix://run/callsign.sock"), 0);
}

#[test]
fn rooms_are_found_by_file_and_by_folder() {
    assert_eq!(room("answer.rs"), Some(Core));
    assert_eq!(room("dns/udp.rs"), Some(Edge));
    assert_eq!(room("cli/ls.rs"), Some(Wiring));
    assert_eq!(room("store/mod.rs"), Some(State));
    assert_eq!(room("new_thing.rs"), None);
    assert_eq!(room("dns.rs"), None, "dns is a folder");
}
