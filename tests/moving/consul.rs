//! A Consul that says what it is told to, also what none in order would say.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::harness::DEADLINE;

/// What it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Says {
    pub index: u64,
    /// Each has one instance on the one node.
    pub services: &'static [&'static str],
}

/// What it answers to whoever reads, and to whoever waits.
struct State {
    read: Says,
    waited: Says,
}

/// See the module's own words. Its threads end with the test.
pub struct Consul {
    pub url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Consul {
    pub fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::new((Mutex::new(State { read: says.clone(), waited: says }), Condvar::new()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // Who goes before the answer has no need of it.
                std::thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Self { url, state }
    }

    pub fn says(&self, read: Says, waited: Says) {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) = State { read, waited };
        self.state.1.notify_all();
    }
}

fn answer(mut stream: TcpStream, state: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let target = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let waits_from: Option<u64> =
        query.split('&').find_map(|part| part.strip_prefix("index=")).and_then(|text| text.parse().ok());
    let says = {
        let locked = state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = waits_from else { return reply(&mut stream, path, &locked.read) };
        let same = |state: &mut State| state.waited.index == index;
        let waited = state.1.wait_timeout_while(locked, DEADLINE, same);
        waited.unwrap_or_else(PoisonError::into_inner).0.waited.clone()
    };
    reply(&mut stream, path, &says)
}

fn reply(stream: &mut TcpStream, path: &str, says: &Says) -> std::io::Result<()> {
    let node = json!({"Node": "m", "Address": "10.0.0.7"});
    let body: Value = match path.strip_prefix("/v1/health/service/") {
        Some(name) if says.services.contains(&name) => {
            let service =
                json!({"ID": format!("{name}-1"), "Service": name, "Port": 80, "Address": "10.0.0.7"});
            json!([{"Node": node, "Service": service, "Checks": []}])
        }
        Some(_) => json!([]),
        None if path == "/v1/catalog/nodes" => json!([node]),
        None => says
            .services
            .iter()
            .map(|name| ((*name).to_owned(), json!([])))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    };
    let (body, index) = (body.to_string(), says.index);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
