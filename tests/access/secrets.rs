//! Secrets are where they have to be and nowhere else: canaries are planted, and everything that the server wrote is searched.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use super::{hello, over_http, token};
use crate::harness::tls::Pair;
use crate::harness::{Http, Server, callsign};

const COOKIE_SECRET: &str = "c0ffee5ec4e7c0ffee5ec4e7c0ffee99";

/// Everything in a folder and those below it.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => files(&path, found),
            kind if kind.is_file() => {
                found.push((path.display().to_string(), fs::read(&path).expect("a file")))
            }
            _ => {}
        }
    }
}

fn holds(octets: &[u8], canary: &[u8]) -> bool {
    octets.windows(canary.len()).any(|window| window == canary)
}

#[test]
fn no_secret_is_in_anything_that_the_server_wrote() {
    let keys = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(keys.path());
    let config = keys.path().join("callsign.toml");
    let text = format!(
        "cookie-secret = [\"{COOKIE_SECRET}\"]\ntls-certificate = {:?}\ntls-key = {:?}\n",
        pair.certificate.display().to_string(),
        pair.key.display().to_string()
    );
    fs::write(&config, text).expect("a file");
    let config = config.display().to_string();
    let flags = [
        "--config",
        &config,
        "--log",
        "trace",
        "--listen",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
        "--access",
        "allow anyone read:nothing",
    ];
    let server = Server::start(&flags);
    let right = token(&server, "ci", &["*"], &[]);
    let revoked = token(&server, "gone", &["*"], &[]);
    server.client().done("revoked", &json!({"token": {"revoke": {"name": "gone"}}}));
    let secret = |text: &str| text.rsplit_once('_').expect("a secret").1.to_owned();
    let wrong = format!("{}{}", &right[..right.len() - 64], "a5".repeat(32));
    // Every way in, with what is right, what is wrong and what is no token at all.
    for text in [&right, &revoked, &wrong, &"canary-in-no-form-of-ours".to_owned()] {
        for mut client in [server.client(), server.tcp_client()] {
            client.send(&json!({"hello": {"token": text}}));
            client.receive();
            client.send(&json!({"hello": {"tokken": text}}));
            client.next();
        }
        for path in ["/v1/catalog/services", "/v1/none", "/v1/agent/self"] {
            over_http(Http::unix(&server.socket), "GET", path, Some(text), &Value::Null);
            over_http(server.http(), "GET", &format!("{path}?token={text}"), None, &Value::Null);
            let mut http = server.http();
            http.send("GET", path, &[("Authorization", &format!("Bearer {text}"))], b"");
            http.receive();
        }
        let file = keys.path().join("token");
        fs::write(&file, text).expect("a file");
        let tcp = server.listen[0].to_string();
        let said = callsign(&["ls", "--server", &tcp, "--token-file", &file.display().to_string()]);
        assert!(!said.stderr.contains(&text[..]) && !said.stdout.contains(&text[..]), "{said:?}");
    }
    let mut holder = hello(server.tcp_client(), &right);
    holder.done("registered", &json!({"register": {"service": "web", "address": "10.0.0.7", "port": 80}}));

    let mut written = Vec::new();
    files(server.directory(), &mut written);
    written.push((
        "the command line".to_owned(),
        fs::read(format!("/proc/{}/cmdline", server.pid())).expect("ours"),
    ));
    let backup = keys.path().join("backup").display().to_string();
    let unix = format!("unix:{}", server.socket.display());
    assert_eq!(callsign(&["store", "backup", &backup, "--server", &unix]).code, Some(0));
    written.push(("the backup".to_owned(), fs::read(&backup).expect("a backup")));
    for path in ["/metrics", "/v1/agent/self", "/v1/catalog/services", "/v1/health/service/web"] {
        let response = over_http(Http::unix(&server.socket), "GET", path, None, &Value::Null);
        written.push((path.to_owned(), response.body));
    }
    for request in [
        json!({"token": {"list": {}}}),
        json!({"log": {}}),
        json!({"explain": {"name": "web"}}),
        json!({"status": {}}),
        json!({"list": {}}),
    ] {
        written.push((request.to_string(), server.client().ask(&request).to_string().into_bytes()));
    }
    let key = fs::read_to_string(&pair.key).expect("the key");
    let key_line = key.lines().nth(1).expect("a line of the key").to_owned();
    let canaries = [
        secret(&right),
        secret(&revoked),
        secret(&wrong),
        "canary-in-no-form".to_owned(),
        COOKIE_SECRET.to_owned(),
        key_line,
    ];
    let log = server.stderr();
    assert!(log.contains("DEBUG"), "the log says all that it can");
    let (mut searched, mut octets_of) = (0, Vec::new());
    for canary in &canaries {
        let octets: Vec<u8> = canary
            .as_bytes()
            .chunks(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        octets_of.push(octets);
    }
    for (place, octets) in &written {
        for (canary, raw) in canaries.iter().zip(&octets_of) {
            assert!(!holds(octets, canary.as_bytes()), "{place} has {canary}");
            assert!(raw.len() < 16 || !holds(octets, raw), "{place} has the octets of {canary}");
            searched += 1;
        }
    }
    assert!(written.iter().any(|(_, octets)| holds(octets, b"web")), "what is searched is what was written");
    println!("{searched} searches in {} places", written.len());
}

/// The kernel writes no memory of ours to a disk, and lets no other process of our user read it.
#[test]
fn the_server_leaves_no_core() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let socket = place.path().join("s").display().to_string();
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let server = Server::start_under(&as_nobody, &["--store", "memory", "--socket", &socket]);
    // The files of a process that may be dumped are its user's, of any other root's (proc(5)).
    let owner = fs::metadata(format!("/proc/{}/environ", server.pid())).expect("a process").uid();
    assert_eq!(owner, 0);
}
