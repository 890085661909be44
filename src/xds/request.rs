//! What a client asks: the requests of the protocol in octets and in JSON, as far as we use them.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Kind;
use crate::protobuf::{Field, Fields, Malformed};

/// Octets of an error's text that are kept.
const ERROR_OCTETS_MAX: usize = 512;

/// Octets of a region's name; a longer one is none of ours.
const REGION_OCTETS_MAX: usize = 255;

/// `DiscoveryRequest` or `DeltaDiscoveryRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Only the first request of a stream has to say it.
    pub node: Option<Node>,
    pub type_url: String,
    /// The response that this one is about; empty in the first.
    pub nonce: String,
    /// Why that response was not taken.
    pub error: Option<String>,
    /// What the client has: of a state of the world as one version.
    pub version: String,
    /// All that is wanted, or in a delta what is wanted besides.
    pub names: Vec<String>,
    /// No longer wanted; in a delta only.
    pub unsubscribed: Vec<String>,
    /// Names and versions of what the client has from an earlier stream; in a delta only.
    pub has: Vec<(String, String)>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// Its metadata `listen`: where its listener shall listen.
    pub listen: Option<SocketAddr>,
    /// The region of its locality, at most `REGION_OCTETS_MAX` octets.
    pub region: Option<Box<str>>,
}

impl Request {
    /// `envoy.service.discovery.v3.DiscoveryRequest`
    pub fn of_world(octets: &[u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(octets) {
            match field? {
                (1, field) => request.version = field.text()?.to_owned(),
                (2, field) => request.node = Some(node(field.octets()?)?),
                (3, field) => request.names.push(field.text()?.to_owned()),
                (4, field) => request.type_url = field.text()?.to_owned(),
                (5, field) => request.nonce = field.text()?.to_owned(),
                (6, field) => request.error = Some(status(field.octets()?)?),
                _ => {}
            }
        }
        Ok(request)
    }

    /// `envoy.service.discovery.v3.DeltaDiscoveryRequest`
    pub fn of_delta(octets: &[u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for field in Fields::of(octets) {
            match field? {
                (1, field) => request.node = Some(node(field.octets()?)?),
                (2, field) => request.type_url = field.text()?.to_owned(),
                (3, field) => request.names.push(field.text()?.to_owned()),
                (4, field) => request.unsubscribed.push(field.text()?.to_owned()),
                (5, field) => {
                    let (name, version) = entry(field.octets()?)?;
                    request.has.push((name.to_owned(), version.text()?.to_owned()));
                }
                (6, field) => request.nonce = field.text()?.to_owned(),
                (7, field) => request.error = Some(status(field.octets()?)?),
                _ => {}
            }
        }
        Ok(request)
    }

    /// A `DiscoveryRequest` in JSON, whose keys may be spelt in two ways.
    ///
    /// # Errors
    ///
    /// It is no JSON, or a field has another type; the text names it.
    pub fn of_json(octets: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Form {
            #[serde(alias = "versionInfo")]
            version_info: String,
            node: NodeForm,
            #[serde(alias = "resourceNames")]
            resource_names: Vec<String>,
            #[serde(alias = "typeUrl")]
            type_url: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct NodeForm {
            id: String,
            metadata: serde_json::Map<String, serde_json::Value>,
            locality: LocalityForm,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct LocalityForm {
            region: String,
        }
        let form: Form = serde_json::from_slice(octets)?;
        let listen = form.node.metadata.get("listen").and_then(|value| value.as_str()?.parse().ok());
        Ok(Self {
            node: Some(Node { id: form.node.id, listen, region: region(&form.node.locality.region) }),
            type_url: form.type_url,
            version: form.version_info,
            names: form.resource_names,
            ..Self::default()
        })
    }

    /// The kind that is meant: the stream's own, where it has one.
    pub fn kind(&self, own: Option<Kind>) -> Option<Kind> {
        own.or_else(|| Kind::of_type_url(&self.type_url))
    }
}

/// `envoy.config.core.v3.Node`
fn node(octets: &[u8]) -> Result<Node, Malformed> {
    let mut node = Node::default();
    for field in Fields::of(octets) {
        match field? {
            (1, field) => node.id = field.text()?.to_owned(),
            (3, field) => {
                node.listen = text_in_struct(field.octets()?, "listen")?.and_then(|at| at.parse().ok())
            }
            // Locality { region = 1 }
            (4, field) => {
                for field in Fields::of(field.octets()?) {
                    if let (1, name) = field? {
                        node.region = region(name.text()?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(node)
}

fn region(name: &str) -> Option<Box<str>> {
    (1..=REGION_OCTETS_MAX).contains(&name.len()).then(|| name.into())
}

/// The text under a key of a `google.protobuf.Struct`.
fn text_in_struct<'a>(octets: &'a [u8], key: &str) -> Result<Option<&'a str>, Malformed> {
    for field in Fields::of(octets) {
        if let (1, field) = field?
            && let (name, value) = entry(field.octets()?)?
            && name == key
        {
            // Value { string_value = 3 }
            for field in Fields::of(value.octets()?) {
                if let (3, text) = field? {
                    return text.text().map(Some);
                }
            }
        }
    }
    Ok(None)
}

/// One entry of a map with text keys.
fn entry(octets: &[u8]) -> Result<(&str, Field<'_>), Malformed> {
    let (mut key, mut value) = ("", Field::Octets(&[]));
    for field in Fields::of(octets) {
        match field? {
            (1, field) => key = field.text()?,
            (2, field) => value = field,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The message of a `google.rpc.Status`, in one line.
fn status(octets: &[u8]) -> Result<String, Malformed> {
    let mut message = "";
    for field in Fields::of(octets) {
        if let (2, field) = field? {
            message = field.text()?;
        }
    }
    let whole: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok(whole
        .chars()
        .scan(0, |octets, c| {
            *octets += c.len_utf8();
            (*octets <= ERROR_OCTETS_MAX).then_some(c)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{Message, Value};

    #[test]
    fn requests_are_read_in_every_form() {
        let listen = Message::new().with(3, "string_value", "127.0.0.1:8000");
        let metadata =
            Message::new().with(1, "fields", Value::Entry("listen".to_owned(), Box::new(listen.into())));
        let place = Message::new().with(1, "region", "eu").with(2, "zone", "a");
        let node =
            Message::new().with(1, "id", "n1").with(3, "metadata", metadata).with(4, "locality", place);
        let asked =
            Node { id: "n1".to_owned(), listen: "127.0.0.1:8000".parse().ok(), region: Some("eu".into()) };
        let error = Message::new().with(1, "code", 3).with(2, "message", "no\nthanks");
        let world = Message::new()
            .with(1, "version_info", "7")
            .with(2, "node", node.clone())
            .with(3, "resource_names", Value::from_iter(["web", "db"]))
            .with(4, "type_url", Kind::Endpoints.type_url())
            .with(5, "response_nonce", "2")
            .with(6, "error_detail", error);
        let read = Request::of_world(&world.octets()).unwrap();
        assert_eq!(read.kind(None), Some(Kind::Endpoints));
        assert_eq!((read.node.as_ref(), read.error.as_deref()), (Some(&asked), Some("no thanks")));
        assert_eq!((read.version.as_str(), read.nonce.as_str()), ("7", "2"));
        assert_eq!(read.names, ["web", "db"]);
        let delta = Message::new()
            .with(1, "node", node)
            .with(3, "resource_names_subscribe", Value::from_iter(["web"]))
            .with(4, "resource_names_unsubscribe", Value::from_iter(["db"]))
            .with(5, "initial_resource_versions", Value::Entry("x".to_owned(), Box::new("1a".into())))
            .with(6, "response_nonce", "3");
        let read = Request::of_delta(&delta.octets()).unwrap();
        assert_eq!(read.kind(Some(Kind::Routes)), Some(Kind::Routes));
        assert_eq!((read.names, read.unsubscribed), (vec!["web".to_owned()], vec!["db".to_owned()]));
        assert_eq!(read.has, [("x".to_owned(), "1a".to_owned())]);
        for text in [
            r#"{"versionInfo":"9","node":{"id":"n1","metadata":{"listen":"127.0.0.1:8000","x":1},"locality":{"region":"eu"}},"resourceNames":["web"]}"#,
            r#"{"version_info":"9","node":{"id":"n1","cluster":"c","metadata":{"listen":"127.0.0.1:8000"},"locality":{"region":"eu","zone":"a"}},"resource_names":["web"]}"#,
        ] {
            let read = Request::of_json(text.as_bytes()).unwrap();
            assert_eq!((read.node.as_ref(), read.version.as_str()), (Some(&asked), "9"));
            assert_eq!(read.names, ["web"]);
        }
        assert!(Request::of_json(br#"{"resource_names":"web"}"#).is_err());
        assert_eq!(Request::of_world(&[0x1a, 9, 1]), Err(Malformed));
        assert_eq!(Request::of_delta(&[0x28, 9]), Err(Malformed));
    }
}
