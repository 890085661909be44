//! One HTTP request over one connection, and what its reply says.
//!
//! Nothing is followed and nothing reused: a redirect is an answer like any other, and a connection that was good
//! a moment ago says nothing of now.

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::{Outcome, READ_OCTETS_MAX, printable};
use crate::check::Http;
use crate::instance::Health;

/// Octets of a reply's head: the least that hyper can be held to. The body has a limit of its own.
const HEAD_OCTETS_MAX: usize = 8192;
/// What we say we are, to those who filter their logs.
const AGENT: &str = concat!("callsign/", env!("CARGO_PKG_VERSION"), " (health check)");
/// As Consul's probes say: what a person can read.
const ACCEPTED: &str = "text/plain, text/*, */*";

/// What the probe is, as Consul writes it in outputs.
pub fn title(http: &Http) -> String {
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    format!("HTTP {} {scheme}://{}{}", http.method, authority(http), http.path)
}

/// Host and port as a URL has them: without a port that goes without saying.
fn authority(http: &Http) -> String {
    let host =
        if http.at.host.contains(':') { format!("[{}]", http.at.host) } else { http.at.host.to_string() };
    let usual = if http.tls.is_some() { 443 } else { 80 };
    if http.at.port == usual { host } else { format!("{host}:{}", http.at.port) }
}

/// Asks over `stream`, which is connected; or in words, why nothing came of it.
pub async fn exchange(
    http: &Http,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Outcome, String> {
    let request = request(http)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_OCTETS_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    let asking = async move {
        let mut response = sender.send_request(request).await.map_err(|error| words(&error))?;
        let body = beginning(&mut response).await;
        Ok(verdict(http, response.status(), body))
    };
    // The connection is a future that moves the octets: it is polled beside the question, and dropped with it, which
    // closes the socket however much is still to come.
    let (mut asking, mut connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
    let mut over = false;
    loop {
        // Both arms are polled on where they were.
        tokio::select! {
            outcome = &mut asking => return outcome,
            // Its error is the question's too, or comes after the answer.
            _ = &mut connection, if !over => over = true,
        }
    }
}

fn request(http: &Http) -> Result<Request<Full<Bytes>>, String> {
    let path: Uri = http.path.parse().map_err(|_| format!("`{}` is no path of a request", http.path))?;
    let method = Method::from_bytes(http.method.as_bytes()).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    let unfit = |name: &str| format!("the header `{name}` cannot be sent");
    headers.insert(HOST, HeaderValue::from_str(&authority(http)).map_err(|_| unfit("host"))?);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    for (name, value) in &http.headers {
        let key: HeaderName = name.parse().map_err(|_| unfit(name))?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING].contains(&key) {
            continue; // how the body is framed is hyper's, who does it right
        }
        headers.insert(key, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unfit(name))?);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let body = Full::new(Bytes::copy_from_slice(http.body.as_bytes()));
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The first `READ_OCTETS_MAX` octets of the body. One that breaks off is as long as it is: the status was
/// the answer.
async fn beginning(response: &mut Response<Incoming>) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < READ_OCTETS_MAX
        && let Some(Ok(frame)) = response.frame().await
    {
        if let Some(data) = frame.data_ref() {
            body.extend_from_slice(&data[..data.len().min(READ_OCTETS_MAX - body.len())]);
        }
    }
    body
}

fn verdict(http: &Http, status: StatusCode, body: Vec<u8>) -> Outcome {
    let (from, to) = http.expected;
    let health = match status.as_u16() {
        code if (from..=to).contains(&code) => Health::Passing,
        // It lives, and has too much to do: Consul's reading.
        429 => Health::Warning,
        _ => Health::Critical,
    };
    let status = match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    Outcome { health, output: format!("{}: {status} Output: {}", title(http), printable(&body)) }
}

/// The error and what is behind it: hyper's own words stop at the first.
fn words(error: &hyper::Error) -> String {
    let behind =
        std::error::Error::source(error).map(|source| match source.downcast_ref::<std::io::Error>() {
            Some(error) => super::probe::cause(error),
            None => source.to_string(),
        });
    match behind {
        Some(behind) => format!("{error}: {behind}"),
        None => error.to_string(),
    }
}
