//! gRPC from the caller's side, over a connection that somebody else made and polls: a request with one message, a
//! call, and the messages of its answer one by one.
//!
//! What is asked is written by hand ([`crate::protobuf`]): probes ask one question, the store ten. h2 and not hyper's client
//! over it: a connection is one future that its user polls, where hyper wants an executor to start tasks on.

use std::fmt;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, StatusCode};

use crate::protobuf::Malformed;

/// Octets in front of every message: whether it is compressed, and its length.
const FRAME_OCTETS: usize = 5;
/// The names of gRPC's status codes, by their number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How a call ended that did not end well: its code, and the server's words as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: String,
    pub message: Vec<u8>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server says so.
    #[error("{0}")]
    Refused(Status),
    /// The connection, or the stream of this call.
    #[error("{0}")]
    Broken(#[from] h2::Error),
    /// What came is no gRPC, or not what was asked for.
    #[error("{0}")]
    Malformed(String),
    #[error("the reply is longer than {0} octets")]
    TooLong(usize),
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.to_string())
    }
}

impl Status {
    /// The name of the code; the code itself where it has none.
    pub fn name(&self) -> &str {
        let number: Option<usize> = self.code.parse().ok();
        number.and_then(|number| CODES.get(number)).copied().unwrap_or(&self.code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match String::from_utf8_lossy(&self.message) {
            message if message.is_empty() => f.write_str(self.name()),
            message => write!(f, "{}: {}", self.name(), message.escape_debug()),
        }
    }
}

/// A request to `path`, which is `/package.Service/Method`, with these headers besides.
pub fn request(
    scheme: &str,
    authority: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{authority}{path}"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("callsign/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(())
}

/// A message behind gRPC's five octets: not compressed, and the length.
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(FRAME_OCTETS + message.len());
    framed.push(0);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// Sends a request with its first message. The sending half is for more of them; where `last`, there are none.
pub async fn call(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    message: &[u8],
    last: bool,
    message_octets_max: usize,
) -> Result<(SendStream<Bytes>, Answer), Failure> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut sending) = sender.send_request(request, false)?;
    sending.send_data(framed(message), last)?;
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(Failure::Malformed(format!("HTTP status {}", response.status().as_u16())));
    }
    // A failure at once has its status in the headers, and no message.
    if let Some(status) = status(response.headers()) {
        status.map_err(Failure::Refused)?;
    }
    Ok((sending, Answer { body: response.into_body(), read: BytesMut::new(), message_octets_max }))
}

/// The messages of an answer, as they come.
#[derive(Debug)]
pub struct Answer {
    body: RecvStream,
    read: BytesMut,
    message_octets_max: usize,
}

impl Answer {
    /// The next message, or `None` behind the last; cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else { break };
            let data = data?;
            self.read.extend_from_slice(&data);
            // What was read is ours now: the window opens again. It can only fail with the stream.
            let _ = self.body.flow_control().release_capacity(data.len());
        }
        if !self.read.is_empty() {
            return Err(Failure::Malformed("the reply ends within a message".to_owned()));
        }
        match self.body.trailers().await?.as_ref().and_then(status) {
            Some(Ok(())) => Ok(None),
            Some(Err(status)) => Err(Failure::Refused(status)),
            None => Err(Failure::Malformed("the reply ended without a grpc-status".to_owned())),
        }
    }

    /// The one message of an answer that has one.
    pub async fn only(mut self) -> Result<Bytes, Failure> {
        let none = || Failure::Malformed("the reply has no message".to_owned());
        let message = self.next().await?.ok_or_else(none)?;
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(Failure::Malformed("the reply has more than one message".to_owned())),
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(head) = self.read.first_chunk::<FRAME_OCTETS>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err(Failure::Malformed("the reply is compressed, which we did not offer".to_owned()));
        }
        if length > self.message_octets_max {
            return Err(Failure::TooLong(self.message_octets_max));
        }
        if self.read.len() - FRAME_OCTETS < length {
            return Ok(None);
        }
        let _ = self.read.split_to(FRAME_OCTETS);
        Ok(Some(self.read.split_to(length).freeze()))
    }
}

/// What `grpc-status` says, where it is there.
fn status(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers.get("grpc-status")?.to_str().unwrap_or_default();
    if code == "0" {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(|message| message.as_bytes().to_vec()).unwrap_or_default();
    Some(Err(Status { code: code.to_owned(), message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stands_behind_its_length() {
        assert_eq!(framed(b"")[..], [0, 0, 0, 0, 0]);
        assert_eq!(framed(b"a.B")[..], [0, 0, 0, 0, 3, b'a', b'.', b'B']);
        assert_eq!(framed(&[7; 300])[..6], [0, 0, 0, 1, 44, 7]);
    }

    #[test]
    fn a_status_is_told_by_name() {
        let headers = |fields: &[(&'static str, &str)]| -> HeaderMap {
            fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect()
        };
        assert_eq!(status(&headers(&[])), None);
        assert_eq!(status(&headers(&[("grpc-status", "0")])), Some(Ok(())));
        for (fields, text) in [
            (&[("grpc-status", "14")][..], "UNAVAILABLE"),
            (&[("grpc-status", "5"), ("grpc-message", "no key")], "NOT_FOUND: no key"),
            (&[("grpc-status", "99"), ("grpc-message", "")], "99"),
        ] {
            assert_eq!(status(&headers(fields)).unwrap().unwrap_err().to_string(), text);
        }
    }
}
