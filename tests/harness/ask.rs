//! HTTP from outside, one connection a request: what a test says is on the wire as it says it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::DEADLINE;

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// `X-Consul-Index`.
    pub fn index(&self) -> u64 {
        let index = self.header("x-consul-index").expect("a read with an index");
        index.parse().expect("an index is a number")
    }
}

/// One request; `None` where nobody listens.
pub fn try_request(address: SocketAddr, method: &str, target: &str, body: &str) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    // In one piece: Go's server resets a connection that it closes with a body on its way.
    let message = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(message.as_bytes()).ok()?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    if octets.is_empty() {
        return None;
    }
    Some(parse(&octets).unwrap_or_else(|| panic!("{method} {target}: {}", String::from_utf8_lossy(&octets))))
}

/// The same, to a server that is there.
pub fn request(address: SocketAddr, method: &str, target: &str, body: &str) -> Reply {
    try_request(address, method, target, body).unwrap_or_else(|| panic!("{method} {target}: no reply"))
}

pub fn get(address: SocketAddr, target: &str) -> Reply {
    request(address, "GET", target, "")
}

fn parse(octets: &[u8]) -> Option<Reply> {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&octets[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<(String, String)> = lines.filter_map(header).collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &octets[end + 4..];
    let body = if chunked { unchunked(rest)? } else { rest.to_vec() };
    Some(Reply { status, headers, body })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}
