//! HTTP/1.1 by hand: requests as octets, so that a test can say what no client would, and replies as they come.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{DEADLINE, Stream};

/// One connection, which may carry many requests.
pub struct Http {
    reader: BufReader<Stream>,
    /// What has come of a chunked body and is not yet a whole line.
    pending: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// `X-Consul-Index`.
    pub fn index(&self) -> u64 {
        let index = self.header("x-consul-index").unwrap_or_else(|| panic!("no index: {self:?}"));
        index.parse().expect("a number")
    }
}

impl Http {
    pub fn tcp(address: SocketAddr) -> Self {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        stream.set_nodelay(true).expect("an option of a socket of ours");
        Self::over(Stream::Tcp(stream))
    }

    pub fn unix(path: &Path) -> Self {
        Self::over(Stream::Unix(UnixStream::connect(path).expect("the registration socket")))
    }

    fn over(stream: Stream) -> Self {
        stream.set_deadline(DEADLINE);
        Self { reader: BufReader::with_capacity(2048, stream), pending: Vec::new() }
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    ///
    /// The server has closed the connection, which may be what the test wants to see.
    pub fn send_raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(octets)
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut octets = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            octets.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            octets.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            octets.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        octets.push_str("\r\n");
        self.send_raw(&[octets.as_bytes(), body].concat()).expect("sending a request");
    }

    /// The next whole reply.
    pub fn receive(&mut self) -> Response {
        self.next().expect("a reply, and not the end of the connection")
    }

    /// The next whole reply; `None` where the server has closed the connection.
    pub fn next(&mut self) -> Option<Response> {
        let mut response = self.head()?;
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                response.body.extend(chunk);
            }
        } else {
            let octets = response.header("content-length").map_or(0, |text| text.parse().expect("a length"));
            response.body = vec![0; octets];
            self.reader.read_exact(&mut response.body).expect("the body");
        }
        Some(response)
    }

    /// A reply whose head has been read, with its body.
    pub fn body_of(&mut self, mut head: Response) -> Response {
        let octets = head.header("content-length").map_or(0, |text| text.parse().expect("a length"));
        head.body = vec![0; octets];
        self.reader.read_exact(&mut head.body).expect("the body");
        head
    }

    /// The head of a reply, and nothing of its body.
    pub fn head(&mut self) -> Option<Response> {
        let first = self.head_line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no reply: {first}"));
        let mut headers = Vec::new();
        loop {
            let line = self.head_line()?;
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return Some(Response { status, headers, body: Vec::new() }),
            }
        }
    }

    fn head_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// The next chunk of a body; `None` at its end, or where the server has closed the connection.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = self.head_line()?;
        let length = usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("no chunk: {length}"));
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }

    /// The next line of a chunked body, without its end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|octet| *octet == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Some(String::from_utf8(line).expect("UTF-8"));
            }
            let chunk = self.chunk()?;
            self.pending.extend(chunk);
        }
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[], body.as_bytes());
        self.receive()
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.ask("GET", path, &Value::Null)
    }

    /// A change that must succeed.
    pub fn put(&mut self, path: &str, body: &Value) {
        let response = self.ask("PUT", path, body);
        assert_eq!(response.status, 200, "PUT {path} {body}: {response:?}");
    }

    /// True where nothing has come: for what must not be answered.
    pub fn is_silent(&self) -> bool {
        let Stream::Tcp(stream) = self.reader.get_ref() else { panic!("for TCP only") };
        stream.set_nonblocking(true).expect("an option of a socket of ours");
        let looked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("an option of a socket of ours");
        self.reader.buffer().is_empty()
            && looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
