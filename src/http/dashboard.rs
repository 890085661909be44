//! The dashboard: a page in the program itself, of a few files that ask for nothing elsewhere.
//!
//! The files tell nothing of what is registered, and whoever asks may have them; what the page shows it asks for
//! by the ways that everybody has, and what it may do is judged there. The page is made of texts that strangers chose (ids,
//! tags, outputs of checks), so its policy forbids every script, style and request that is not one of its own files,
//! and every way to make markup of a text.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use super::Office;
use super::reply::Failure;

/// Where the page is.
pub const PAGE: &str = "/ui/";
/// Where its other files are.
pub const FILE: &str = "/ui/{file}";

/// One file, as it is and compressed.
struct File {
    name: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

macro_rules! file {
    ($name:literal, $kind:literal) => {
        File {
            name: $name,
            kind: $kind,
            plain: include_bytes!(concat!(env!("OUT_DIR"), "/", $name)),
            gzip: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
        }
    };
}

const INDEX: File = file!("index.html", "text/html; charset=utf-8");
const FILES: [File; 10] = [
    file!("icon.svg", "image/svg+xml"),
    file!("app.js", "text/javascript; charset=utf-8"),
    file!("server.js", "text/javascript; charset=utf-8"),
    file!("registry.js", "text/javascript; charset=utf-8"),
    file!("elements.js", "text/javascript; charset=utf-8"),
    file!("services.js", "text/javascript; charset=utf-8"),
    file!("changes.js", "text/javascript; charset=utf-8"),
    file!("missing.js", "text/javascript; charset=utf-8"),
    file!("questions.js", "text/javascript; charset=utf-8"),
    file!("cluster.js", "text/javascript; charset=utf-8"),
];

/// What is between the page's `<style>` and its end, where build.rs puts it.
const STYLE: &str = include_str!("dashboard/style.css");

/// Of styles it allows this one alone, by its digest (CSP level 3, section 2.3.1). `trusted-types` without a policy takes the text setters of markup from
/// the page: there is no way left from a tag such as `<img onerror=…>` to an element.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'sha256-{style}'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    HeaderValue::try_from(text).expect("it is ASCII")
});

/// What every file carries besides.
///
/// No cross-origin-opener-policy: it would have the browser make a new process for the page, a third of the time until
/// something is seen. Who opened the page may leave it, and learns nothing: there is no frame in it and it hears no message.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"), // for browsers that do not know frame-ancestors
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Kept, and asked about each time: another version of the server may stand behind the same address.
    (header::CACHE_CONTROL, "no-cache"),
];

pub fn router() -> Router<Arc<Office>> {
    Router::new()
        .route("/ui", get(async || Redirect::permanent(PAGE)))
        .route(PAGE, get(async |headers: HeaderMap| INDEX.reply(&headers)))
        .route(FILE, get(file))
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    let file = FILES.iter().find(|file| file.name == name);
    let missing = || Failure::not_found(format!("the dashboard has no such file; it begins at {PAGE}"));
    Ok(file.ok_or_else(missing)?.reply(&headers))
}

impl File {
    fn reply(&self, asked: &HeaderMap) -> Response {
        let texts =
            |name| asked.get_all(name).into_iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        let compressed = texts(header::ACCEPT_ENCODING).any(accepts_gzip);
        let tag = self.tag(compressed);
        let known = texts(header::IF_NONE_MATCH).flat_map(|text| text.split(','));
        let unchanged = known.map(|known| known.trim().trim_start_matches("W/")).any(|known| known == tag);
        let body = if compressed { self.gzip } else { self.plain };
        let mut response = match unchanged {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => body.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        if compressed && !unchanged {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// The validator of a form of the file: the checksum and length of its text, which end what is compressed
    /// (RFC 1952 section 2.3.1).
    fn tag(&self, compressed: bool) -> String {
        let end: String = self.gzip.iter().rev().take(8).map(|octet| format!("{octet:02x}")).collect();
        format!("\"{end}{}\"", if compressed { "-gzip" } else { "" })
    }
}

/// True where gzip is among what is accepted, and not with a weight of zero (RFC 9110 section 12.5.3).
fn accepts_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        name.trim().eq_ignore_ascii_case("gzip") && weight.parse() != Ok(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_page_is_at_most_60_kb_compressed() {
        let octets: usize = FILES.iter().chain([&INDEX]).map(|file| file.gzip.len()).sum();
        assert!(octets <= 60_000, "{octets}");
    }

    #[test]
    fn gzip_is_for_who_takes_it() {
        for (accepted, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(accepted), takes, "{accepted}");
        }
    }
}
