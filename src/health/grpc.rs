//! `grpc.health.v1.Health/Check` over HTTP/2: one call, whose two messages have one field each.
//!
//! The messages need no code generator: they are three octets. h2 and not hyper's client over it: the connection is
//! one future that the probe polls, where hyper wants an executor to start tasks on.

use bytes::Bytes;
use h2::client;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::{Outcome, READ_OCTETS_MAX, printable};
use crate::check::Place;
use crate::instance::Health;
use crate::protobuf::{Field, Fields, put_octets};

/// What we let the other side send before it has to wait for us: no more than we read.
const WINDOW_OCTETS: u32 = READ_OCTETS_MAX as u32;
/// Octets of the reply's headers and trailers each.
const HEADERS_OCTETS_MAX: u32 = 8192;
/// HealthCheckResponse.ServingStatus.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// The names of gRPC's status codes.
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

/// What the probe is, as Consul writes it in outputs.
pub fn title(at: &Place, service: &str) -> String {
    let slash = if service.is_empty() { "" } else { "/" };
    format!("gRPC check {}{slash}{service}", authority(at))
}

fn authority(at: &Place) -> String {
    if at.host.contains(':') {
        format!("[{}]:{}", at.host, at.port)
    } else {
        format!("{}:{}", at.host, at.port)
    }
}

/// Asks over `stream`, which is connected; or in words, why nothing came of it.
pub async fn exchange(
    at: &Place,
    service: &str,
    tls: bool,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<Outcome, String> {
    let mut builder = client::Builder::new();
    builder.initial_window_size(WINDOW_OCTETS).max_header_list_size(HEADERS_OCTETS_MAX).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| words(&error))?;
    let asking = async move {
        let mut sender = sender.ready().await.map_err(|error| words(&error))?;
        let (response, mut sending) =
            sender.send_request(request(at, tls)?, false).map_err(|error| words(&error))?;
        sending.send_data(question(service), true).map_err(|error| words(&error))?;
        let response = response.await.map_err(|error| words(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        // A failure at once has its status in the headers, and no message.
        if let Some(status) = status(response.headers()) {
            status?;
        }
        let mut body = response.into_body();
        let mut message = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| words(&error))?;
            message.extend_from_slice(&data);
            if message.len() > READ_OCTETS_MAX {
                return Err(format!("the reply is longer than {READ_OCTETS_MAX} octets"));
            }
            // What was read is gone from here: the window opens again. It can only fail with the stream.
            let _ = body.flow_control().release_capacity(data.len());
        }
        let trailers = body.trailers().await.map_err(|error| words(&error))?;
        match trailers.as_ref().and_then(status) {
            Some(status) => status?,
            None => return Err("the reply ended without a grpc-status".to_owned()),
        }
        serving(&message).ok_or_else(|| "the reply is no HealthCheckResponse".to_owned())
    };
    // As over HTTP/1.1: polled beside the question, dropped with it.
    let (mut asking, mut connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
    let mut over = false;
    let serving = loop {
        // Both arms are polled on where they were.
        tokio::select! {
            serving = &mut asking => break serving?,
            _ = &mut connection, if !over => over = true,
        }
    };
    let title = title(at, service);
    Ok(match SERVING.get(usize::try_from(serving).unwrap_or(usize::MAX)) {
        Some(&"SERVING") => Outcome { health: Health::Passing, output: format!("{title}: success") },
        Some(word) => Outcome { health: Health::Critical, output: format!("{title}: {word}") },
        None => Outcome { health: Health::Critical, output: format!("{title}: serving status {serving}") },
    })
}

fn request(at: &Place, tls: bool) -> Result<Request<()>, String> {
    let scheme = if tls { "https" } else { "http" };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{}/grpc.health.v1.Health/Check", authority(at)))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("callsign/", env!("CARGO_PKG_VERSION"))));
    request.body(()).map_err(|error| error.to_string())
}

/// HealthCheckRequest { service = 1 } behind gRPC's five octets: not compressed, and the length.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        put_octets(1, service.as_bytes(), &mut message);
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The status of HealthCheckResponse { status = 1 }, and 0 where the field is left out; `None` where it is none.
fn serving(framed: &[u8]) -> Option<u64> {
    let (head, rest) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || rest.len() as u64 != u64::from(length) {
        return None;
    }
    let mut status = 0;
    for field in Fields::of(rest) {
        if let (1, Field::Number(number)) = field.ok()? {
            status = number;
        }
    }
    Some(status)
}

/// What `grpc-status` says, where it is there: all is well, or the code's name and its message.
fn status(headers: &HeaderMap) -> Option<Result<(), String>> {
    let code = headers.get("grpc-status")?.to_str().unwrap_or_default();
    if code == "0" {
        return Some(Ok(()));
    }
    let name = code.parse().ok().and_then(|code: usize| CODES.get(code)).copied().unwrap_or(code);
    let message = headers.get("grpc-message").map(|message| printable(message.as_bytes()));
    Some(Err(match message {
        Some(message) if !message.is_empty() => format!("{name}: {message}"),
        _ => name.to_owned(),
    }))
}

fn words(error: &h2::Error) -> String {
    match error.get_io() {
        Some(error) => super::probe::cause(error),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = "x".repeat(300);
        assert_eq!(question(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_read_and_anything_else_is_none() {
        let framed = |message: &[u8]| {
            let length = (message.len() as u32).to_be_bytes();
            [&[0], &length[..], message].concat()
        };
        for (message, status) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 2], Some(2)),
            (&[8, 1, 8, 2], Some(2)),
            (&[0x12, 2, 8, 9, 8, 1, 0x1d, 1, 2, 3, 4], Some(1)),
            (&[8, 0x80, 0x80, 1], Some(1 << 14)),
            (&[8], None),
            (&[8, 0x80], None),
            (&[0x12, 9, 1], None),
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], None),
            (&[0x0b, 1], None),
        ] {
            assert_eq!(serving(&framed(message)), status, "{message:?}");
        }
        assert_eq!(serving(b""), None);
        assert_eq!(serving(&[0, 0, 0, 0, 3, 8, 1]), None, "shorter than it says");
        assert_eq!(serving(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed, which we did not offer");
    }
}
