//! What a container's labels say of it, as a registration.

use callsign::protocol::{CheckForm, Pairs, RegisterForm, Several};

use super::engine::Container;

/// What stands before every label that is for us.
pub const OURS: &str = "callsign.";
/// A label of this kind is metadata: `callsign.meta.region=eu`.
const META: &str = "meta.";
/// The others, and what `docs/containers.md` says of them.
const KNOWN: &[&str] = &[
    "service",
    "id",
    "port",
    "tags",
    "protocol",
    "weight",
    "priority",
    "network",
    "check.http",
    "check.tcp",
    "check.grpc",
    "check.interval",
];
/// The check that holds what the engine says of a container's health.
pub const HEALTH: &str = "container";
/// Where the container came from, in the metadata.
const CONTAINER: &str = "container";
const IMAGE: &str = "image";
/// Letters of a container's id that its engine shows.
const ID_LETTERS: usize = 12;

/// Where a container is reached.
#[derive(Clone, Debug)]
pub enum At {
    /// At its own addresses, in this network where it is in several.
    Itself { network: Option<String> },
    /// At this address, on the ports that are published there.
    Published(String),
}

/// The registration of a container; `None` where it has no service. `lease` is what holds it.
///
/// # Errors
///
/// What is wrong with its labels, and what to do.
pub fn registration(
    container: &Container,
    at: &At,
    lease: &str,
    health: Option<&str>,
) -> Result<Option<RegisterForm>, String> {
    let Some(service) = container.label("callsign.service") else { return Ok(None) };
    let given = |name: &str| container.label(&format!("{OURS}{name}")).map(str::trim);
    let mut meta = Vec::new();
    for (label, value) in container.labels.iter().flatten() {
        let Some(name) = label.strip_prefix(OURS) else { continue };
        match name.strip_prefix(META) {
            Some(key) => meta.push((key.to_owned(), value.clone())),
            None if KNOWN.contains(&name) => {}
            None => return Err(unknown(name)),
        }
    }
    for (key, value) in [
        (CONTAINER, container.id.chars().take(ID_LETTERS).collect::<String>()),
        (IMAGE, container.image.clone()),
    ] {
        if !value.is_empty() && meta.iter().all(|(known, _)| known != key) {
            meta.push((key.to_owned(), value));
        }
    }
    let inner = port(container, given("port"))?;
    let (address, port) = match at {
        At::Itself { network } => (own(container, given("network").or(network.as_deref()))?, inner),
        At::Published(address) => (vec![address.clone()], published(container, inner)?),
    };
    let number = |name: &str| {
        let read = |text: &str| {
            text.parse::<i64>().map_err(|_| format!("{OURS}{name} must be a number, not `{text}`"))
        };
        given(name).map(read).transpose()
    };
    let mut checks: Vec<CheckForm> = checks(&given, &address, port)?.into_iter().collect();
    if let Some(status) = health {
        checks.push(CheckForm {
            id: HEALTH.to_owned(),
            status: Some(status.to_owned()),
            notes: Some("what the container engine says of its health".to_owned()),
            ..CheckForm::default()
        });
    }
    let tags = given("tags").into_iter().flat_map(|tags| tags.split(','));
    let tags: Vec<String> = tags.map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
    Ok(Some(RegisterForm {
        service: service.trim().to_owned(),
        id: Some(given("id").unwrap_or(container.name()).to_owned()),
        address: Some(Several(address)),
        port: Some(port.into()),
        protocol: given("protocol").map(str::to_owned),
        tags: Some(tags).filter(|tags| !tags.is_empty()),
        meta: Some(Pairs(meta)),
        weight: number("weight")?,
        priority: number("priority")?,
        lease: Some(lease.to_owned()),
        checks: Some(checks).filter(|checks| !checks.is_empty()),
        ..RegisterForm::default()
    }))
}

/// Service and id of a container, as it will be registered.
pub fn called(container: &Container) -> (String, String) {
    let given = |name: &str| container.label(&format!("{OURS}{name}")).map(str::trim);
    let id = given("id").unwrap_or(container.name()).to_owned();
    (given("service").unwrap_or_default().to_lowercase(), id)
}

fn unknown(name: &str) -> String {
    let near = KNOWN
        .iter()
        .max_by(|one, other| strsim::jaro_winkler(one, name).total_cmp(&strsim::jaro_winkler(other, name)));
    let near = near.map(|near| format!("; did you mean `{OURS}{near}`?")).unwrap_or_default();
    format!("`{OURS}{name}` is no label of ours{near}")
}

/// The port that the container accepts on: the one that it says, or the only one that it exposes.
fn port(container: &Container, given: Option<&str>) -> Result<u16, String> {
    if let Some(text) = given {
        let wrong = || format!("{OURS}port must be 1 to 65535, not `{text}`");
        return text.parse().ok().filter(|port| *port > 0).ok_or_else(wrong);
    }
    let tcp = container.ports.iter().flatten().filter(|port| port.transport == "tcp");
    let mut exposed: Vec<u16> = tcp.map(|port| port.private_port).collect();
    exposed.sort_unstable();
    exposed.dedup();
    match exposed[..] {
        [port] => Ok(port),
        [] => Err(format!("the engine tells of no port; say which with the label {OURS}port")),
        _ => Err(format!("it exposes {exposed:?}; say which with the label {OURS}port")),
    }
}

fn own(container: &Container, network: Option<&str>) -> Result<Vec<String>, String> {
    let mut addresses = container.addresses();
    let names = addresses.keys().copied().collect::<Vec<_>>().join(", ");
    match network {
        Some(network) => addresses.remove(network).ok_or_else(|| match names.is_empty() {
            true => format!("it has no address in the network `{network}`, nor in another"),
            false => format!("it has no address in the network `{network}`, but in {names}"),
        }),
        None if addresses.len() > 1 => {
            Err(format!("it is in several networks ({names}); say which with the label {OURS}network"))
        }
        None => addresses.pop_first().map(|(_, addresses)| addresses).ok_or_else(|| {
            "it has no address of its own, as with the network of its host; register it there, or use --published ADDR"
                .to_owned()
        }),
    }
}

fn published(container: &Container, inner: u16) -> Result<u16, String> {
    let mut ports = container.ports.iter().flatten();
    let found = ports
        .find(|port| port.private_port == inner && port.transport == "tcp" && port.public_port.is_some());
    found
        .and_then(|port| port.public_port)
        .ok_or_else(|| format!("port {inner} is not published (-p {inner})"))
}

/// The check that the labels ask for.
fn checks<'a>(
    given: &impl Fn(&str) -> Option<&'a str>,
    address: &[String],
    port: u16,
) -> Result<Option<CheckForm>, String> {
    let host = match address.first() {
        Some(address) if address.contains(':') => format!("[{address}]:{port}"),
        address => format!("{}:{port}", address.map_or("", String::as_str)),
    };
    let mut form = CheckForm {
        id: "labels".to_owned(),
        interval: given("check.interval").map(str::to_owned),
        ..CheckForm::default()
    };
    match (given("check.http"), given("check.tcp"), given("check.grpc")) {
        (None, None, None) if form.interval.is_some() => {
            return Err(format!("{OURS}check.interval is of no use without {OURS}check.http, .tcp or .grpc"));
        }
        (None, None, None) => return Ok(None),
        (Some(path), None, None) if path.starts_with('/') => form.http = Some(format!("http://{host}{path}")),
        (Some(path), None, None) => {
            return Err(format!("{OURS}check.http must be a path such as /health, not `{path}`"));
        }
        (None, Some("true"), None) => form.tcp = Some(host),
        (None, None, Some("true")) => form.grpc = Some(host),
        (None, Some(text), None) | (None, None, Some(text)) => {
            return Err(format!("{OURS}check.tcp and {OURS}check.grpc must be `true`, not `{text}`"));
        }
        _ => return Err(format!("only one of {OURS}check.http, .tcp and .grpc can be given")),
    }
    Ok(Some(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(labels: &[(&str, &str)]) -> Container {
        let labels =
            labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>();
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.into_iter().map(|(name, value)| (format!("callsign.{name}"), value.into())).collect();
        serde_json::from_value(serde_json::json!({
            "Id": "8dfafdbc3a4012345", "Names": ["/web-1"], "Image": "nginx", "State": "running", "Labels": labels,
            "Ports": [
                {"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "::"},
                {"PrivatePort": 53, "Type": "udp"},
            ],
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        }))
        .unwrap()
    }

    fn itself() -> At {
        At::Itself { network: None }
    }

    #[test]
    fn labels_are_a_registration() {
        let labels = [
            ("service", "web"),
            ("tags", "v2, canary"),
            ("protocol", "http"),
            ("weight", "3"),
            ("check.http", "/health"),
            ("check.interval", "2s"),
            ("meta.region", "eu"),
        ];
        let form = registration(&container(&labels), &itself(), "30s", Some("critical")).unwrap().unwrap();
        let expected = serde_json::json!({
            "service": "web", "id": "web-1", "address": ["172.17.0.2"], "port": 80, "protocol": "http",
            "tags": ["v2", "canary"], "weight": 3, "lease": "30s",
            "meta": {"region": "eu", "container": "8dfafdbc3a40", "image": "nginx"},
            "checks": [
                {"id": "labels", "http": "http://172.17.0.2:80/health", "interval": "2s"},
                {"id": "container", "notes": "what the container engine says of its health", "status": "critical"},
            ],
        });
        assert_eq!(serde_json::to_value(form).unwrap(), expected);
        let published = At::Published("192.0.2.7".to_owned());
        let form = registration(&container(&[("service", "web")]), &published, "30s", None).unwrap().unwrap();
        assert_eq!((form.address, form.port), (Some(Several(vec!["192.0.2.7".to_owned()])), Some(8080)));
        assert_eq!(registration(&container(&[]), &itself(), "30s", None), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (labels, complaint) in [
            (vec![("ports", "80")], "`callsign.ports` is no label of ours; did you mean `callsign.port`?"),
            (vec![("port", "http")], "callsign.port must be 1 to 65535, not `http`"),
            (vec![("weight", "much")], "callsign.weight must be a number, not `much`"),
            (vec![("network", "blue")], "it has no address in the network `blue`, but in bridge"),
            (
                vec![("check.http", "health")],
                "callsign.check.http must be a path such as /health, not `health`",
            ),
            (
                vec![("check.tcp", "yes")],
                "callsign.check.tcp and callsign.check.grpc must be `true`, not `yes`",
            ),
            (
                vec![("check.interval", "1s")],
                "callsign.check.interval is of no use without callsign.check.http, .tcp or .grpc",
            ),
            (
                vec![("check.tcp", "true"), ("check.http", "/")],
                "only one of callsign.check.http, .tcp and .grpc can be given",
            ),
        ] {
            let labels = [labels, vec![("service", "web")]].concat();
            assert_eq!(registration(&container(&labels), &itself(), "30s", None).unwrap_err(), complaint);
        }
    }
}
