//! `grpc.health.v1.Health/Check` over HTTP/2: one call, whose two messages have one field each.
//!
//! The messages need no code generator: they are three octets. The call is that of [`crate::grpc`].

use bytes::Bytes;
use h2::client;
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::{Outcome, READ_OCTETS_MAX, printable};
use crate::check::Place;
use crate::grpc::{self, Failure};
use crate::instance::Health;
use crate::protobuf::{Field, Fields, put_octets};

/// What we let the other side send before it has to wait for us: no more than we read.
const WINDOW_OCTETS: u32 = READ_OCTETS_MAX as u32;
/// Octets of the reply's headers and trailers each.
const HEADERS_OCTETS_MAX: u32 = 8192;
/// HealthCheckResponse.ServingStatus.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// What is asked.
const METHOD: &str = "/grpc.health.v1.Health/Check";

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
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| broken(&error))?;
    let asking = async move {
        let scheme = if tls { "https" } else { "http" };
        let request =
            grpc::request(scheme, &authority(at), METHOD, &[]).map_err(|error| error.to_string())?;
        let question = question(service);
        let call = grpc::call(&sender, request, &question, true, READ_OCTETS_MAX);
        let (_, answer) = call.await.map_err(words)?;
        let message = answer.only().await.map_err(words)?;
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

/// HealthCheckRequest { service = 1 }
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        put_octets(1, service.as_bytes(), &mut message);
    }
    message
}

/// The status of HealthCheckResponse { status = 1 }, and 0 where the field is left out; `None` where it is none.
fn serving(message: &[u8]) -> Option<u64> {
    let mut status = 0;
    for field in Fields::of(message) {
        if let (1, Field::Number(number)) = field.ok()? {
            status = number;
        }
    }
    Some(status)
}

fn words(failure: Failure) -> String {
    match failure {
        Failure::Refused(status) => match printable(&status.message) {
            message if message.is_empty() => status.name().to_owned(),
            message => format!("{}: {message}", status.name()),
        },
        Failure::Broken(error) => broken(&error),
        other => other.to_string(),
    }
}

fn broken(error: &h2::Error) -> String {
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
        assert!(question("").is_empty());
        assert_eq!(question("a.B")[..], [0x0a, 3, b'a', b'.', b'B']);
        let long = "x".repeat(300);
        assert_eq!(question(&long)[..3], [0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_read_and_anything_else_is_none() {
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
            assert_eq!(serving(message), status, "{message:?}");
        }
    }
}
