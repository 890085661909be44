//! Reading from a Consul: one request a connection, bounded in time and size.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callsign::connections::tls::Trust;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::{Failure, USAGE};

/// Where Consul is told to look for its token.
const TOKEN_VARIABLE: &str = "CONSUL_HTTP_TOKEN";
/// How long connecting and an answer at once may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets of one reply: a service of 50,000 instances has about as many.
const REPLY_OCTETS_MAX: usize = 64 << 20;
/// Octets of a complaint that are shown.
const COMPLAINT_OCTETS_MAX: usize = 200;

/// `http://HOST:PORT` or `https://HOST:PORT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
}

impl FromStr for Base {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "must be http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:8500".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (tls, usual) = match scheme {
            "http" => (false, 8500),
            "https" => (true, 8501),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: http::uri::Authority = rest.parse().map_err(|_| wrong())?;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || rest.contains('@') {
            return Err(wrong());
        }
        let port = match rest.strip_prefix(host).unwrap_or_default() {
            "" => usual,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(wrong)?,
        };
        Ok(Self { tls, host: bare.to_owned(), port })
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// A Consul, and who we are to it.
pub struct Consul {
    pub base: Base,
    /// The mark of what is from there.
    pub source: String,
    tls: Option<Arc<ClientConfig>>,
    token: Option<HeaderValue>,
}

impl Consul {
    /// With the token of the variable.
    pub fn new(base: Base, source: String, authority: Option<PathBuf>) -> Result<Self, Failure> {
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty());
        let header = |token: String| {
            let mut value = HeaderValue::from_str(token.trim())
                .map_err(|_| Failure::new(USAGE, format!("{TOKEN_VARIABLE} holds what is no token")))?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        };
        let token = token.map(header).transpose()?;
        let trust = Trust { authorities: authority, pair: None };
        let tls = match base.tls {
            true => Some(Arc::new(trust.config().map_err(|error| Failure::new(USAGE, error.to_string()))?)),
            false => None,
        };
        Ok(Self { base, source, tls, token })
    }

    /// What is at a path now, and its index.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<(u64, T), String> {
        self.ask(path, ANSWER_TIME_MAX).await
    }

    /// The same once the index is another one than `index`, or after `wait`.
    pub async fn wait<T: DeserializeOwned>(
        &self,
        path: &str,
        index: u64,
        wait: Duration,
    ) -> Result<(u64, T), String> {
        let path = format!("{path}?index={index}&wait={}ms", wait.as_millis());
        // Consul adds up to a sixteenth, so that not all who wait come back together.
        self.ask(&path, wait + wait / 16 + ANSWER_TIME_MAX).await
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<(u64, T), String> {
        let asking = async {
            let stream =
                timeout(ANSWER_TIME_MAX, TcpStream::connect((self.base.host.as_str(), self.base.port)));
            let stream = stream.await.map_err(|_| "connecting took too long".to_owned())?;
            let stream = stream.map_err(|error| cause(&error))?;
            match &self.tls {
                None => self.exchange(path, stream).await,
                Some(config) => {
                    let name =
                        ServerName::try_from(self.base.host.clone()).map_err(|error| error.to_string())?;
                    let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
                    self.exchange(path, stream.map_err(|error| format!("TLS: {error}"))?).await
                }
            }
        };
        let answer = timeout(time, asking).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (index, body) = answer.map_err(|what| format!("{}{path}: {what}", self.base))?;
        let read = serde_json::from_slice(&body).map_err(|error| format!("{}{path}: {error}", self.base))?;
        Ok((index, read))
    }

    async fn exchange(
        &self,
        path: &str,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(u64, Bytes), String> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let authority = self.base.to_string();
        let host = authority.split_once("://").map_or("", |(_, host)| host);
        let mut request =
            Request::get(path).header(HOST, host).header(CONNECTION, HeaderValue::from_static("close"));
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let asking = async move {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (status, index) = (response.status(), response.headers().get("x-consul-index").cloned());
            let body = Limited::new(response.into_body(), REPLY_OCTETS_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            if status != StatusCode::OK {
                let text =
                    String::from_utf8_lossy(&body[..body.len().min(COMPLAINT_OCTETS_MAX)]).into_owned();
                let hint = match status {
                    StatusCode::FORBIDDEN => format!("; {TOKEN_VARIABLE} has to hold a token that may read"),
                    _ => String::new(),
                };
                return Err(format!("{status}: {}{hint}", text.trim()));
            }
            let index = index.and_then(|index| index.to_str().ok()?.parse().ok()).filter(|index| *index > 0);
            Ok((index.ok_or("the reply has no X-Consul-Index, so it is no Consul's")?, body))
        };
        // The connection is a future that moves the octets: it is polled beside the question, and dropped with it.
        let (mut asking, mut connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
        let mut over = false;
        loop {
            // Both arms are polled on where they were.
            tokio::select! {
                answer = &mut asking => return answer,
                // Its error is the question's too, or comes after the answer.
                _ = &mut connection, if !over => over = true,
            }
        }
    }
}

/// The error's own words, as ours are written.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// A name as a part of a path.
pub fn escaped(name: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
    name.bytes().fold(String::new(), |mut text, octet| {
        match plain(octet) {
            true => text.push(octet as char),
            false => text.push_str(&format!("%{octet:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_read_and_written() {
        for (text, shown) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://consul.example/", "http://consul.example:8500"),
            ("https://consul.example", "https://consul.example:8501"),
            ("https://[2001:db8::1]:443", "https://[2001:db8::1]:443"),
        ] {
            assert_eq!(text.parse::<Base>().unwrap().to_string(), shown);
        }
        for text in [
            "127.0.0.1:8500",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://a/v1",
            "http://me@a",
            "http://a:99999",
        ] {
            assert!(text.parse::<Base>().unwrap_err().starts_with("must be http://"), "{text}");
        }
        assert_eq!(escaped("a b/ü"), "a%20b%2F%C3%BC");
    }
}
