//! Clusters, endpoints, listeners and routes, as functions of a view.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ALL_SERVICES, Kind};
use crate::instance::{Instance, Transport};
use crate::name::ServiceName;
use crate::protobuf::{Message, Value};
use crate::view::{Member, ServiceView, Standing, View};

/// The cluster by which an Envoy reaches us over gRPC: what `callsign setup envoy` calls it.
pub const GRPC_CLUSTER: &str = "callsign_xds";
/// The same over REST, where Envoy sends the cluster's name as `Host`: so it is one that we go by.
pub const REST_CLUSTER: &str = "localhost";
/// Where Envoy listens, if its node does not say.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_000);
/// How long a connection to an instance may take, in seconds: then another one is tried.
const CONNECT_TIMEOUT_S: u64 = 1;
/// How often a client that polls comes, in seconds.
const REFRESH_S: u64 = 1;
/// Priorities that Envoy tells apart; what is beyond is the last one.
const PRIORITIES_MAX: usize = 128;
/// A request is sent again where no instance has seen it, to others than before.
const RETRIES_MAX: u32 = 2;
/// How often Envoy looks for an instance that the request has not been to.
const OTHER_HOST_TRIES_MAX: u64 = 5;

/// What the resources of a client depend on beside the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub source: Source,
    /// Where its listener shall listen.
    pub listen: SocketAddr,
}

/// By which way one resource leads to the next: the one that the client came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One stream for all kinds.
    Aggregated,
    /// A stream for each kind.
    Separate {
        delta: bool,
    },
    Rest,
}

/// The resource of this kind by its name; `None` where there is none. `routed` says which services are in the routes of all.
pub fn resource(
    view: &View,
    kind: Kind,
    name: &str,
    setting: &Setting,
    routed: impl Fn(&ServiceName) -> bool,
) -> Option<Message> {
    match (kind, name) {
        (Kind::Listener, ALL_SERVICES) => return Some(listener_of_all(setting)),
        (Kind::Routes, ALL_SERVICES) => return Some(routes_of_all(view, routed)),
        _ => {}
    }
    let service = ServiceName::parse(name).ok().filter(|service| service.as_str() == name)?;
    let known = view.service(name);
    match kind {
        // Who knows the service from elsewhere hears that it has no instance: endpoints have no other end.
        Kind::Endpoints => Some(endpoints(&service, known.as_deref())),
        Kind::Cluster => known.map(|known| cluster(&known, setting)),
        Kind::Listener => known.map(|_| listener(&service, setting)),
        Kind::Routes => known.map(|_| routes(&service)),
    }
}

/// The names behind the wildcard.
pub fn names(view: &View, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Cluster | Kind::Endpoints => view.directory().names().map(ToString::to_string).collect(),
        Kind::Listener | Kind::Routes => vec![ALL_SERVICES.to_owned()],
    }
}

/// `envoy.config.cluster.v3.Cluster`
fn cluster(service: &ServiceView, setting: &Setting) -> Message {
    let message = Message::new()
        .with(1, "name", service.name.as_str())
        .with(2, "type", Value::Word(3, "EDS"))
        .with(3, "eds_cluster_config", Message::new().with(1, "eds_config", config_source(setting)))
        .with(4, "connect_timeout", Value::Seconds(CONNECT_TIMEOUT_S))
        // Not health but its absence is what Envoy would overrule below half: the registry has the last word.
        .with(27, "common_lb_config", Message::new().with(1, "healthy_panic_threshold", Message::new()));
    if !speaks_http2(service) {
        return message;
    }
    let http2 = Message::new().with(2, "http2_protocol_options", Message::new());
    let options = Value::Any(
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        Message::new().with(3, "explicit_http_config", http2),
    );
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    message.with(36, "typed_extension_protocol_options", Value::Entry(name, Box::new(options)))
}

/// True where every instance says so.
fn speaks_http2(service: &ServiceView) -> bool {
    let says = |member: &Member| matches!(member.instance.protocol.as_deref(), Some("h2c" | "grpc"));
    !service.members.is_empty() && service.members.iter().all(says)
}

/// `envoy.config.core.v3.ConfigSource`
fn config_source(setting: &Setting) -> Message {
    let v3 = || Value::Word(2, "V3");
    let api = |word: u32, name: &'static str| {
        Message::new().with(1, "api_type", Value::Word(word, name)).with(8, "transport_api_version", v3())
    };
    let envoy_grpc = || {
        let cluster = Message::new().with(1, "cluster_name", GRPC_CLUSTER);
        Value::from_iter([Message::new().with(1, "envoy_grpc", cluster)])
    };
    let message = match setting.source {
        Source::Aggregated => Message::new().with(3, "ads", Message::new()),
        Source::Separate { delta } => {
            let api = if delta { api(3, "DELTA_GRPC") } else { api(2, "GRPC") };
            Message::new().with(2, "api_config_source", api.with(4, "grpc_services", envoy_grpc()))
        }
        Source::Rest => {
            let api = api(1, "REST").with(2, "cluster_names", Value::from_iter([REST_CLUSTER])).with(
                3,
                "refresh_delay",
                Value::Seconds(REFRESH_S),
            );
            Message::new().with(2, "api_config_source", api)
        }
    };
    message.with(6, "resource_api_version", v3())
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`: the instances with an address and a TCP port, by priority and place.
fn endpoints(name: &ServiceName, service: Option<&ServiceView>) -> Message {
    let members = service.into_iter().flat_map(|service| service.answered.iter());
    let mut reached: BTreeMap<SocketAddr, &Member> = BTreeMap::new();
    for member in members {
        let Some(at) = address(&member.instance) else { continue };
        // gRPC refuses a list that has an address twice: the better one counts.
        let best = reached.entry(at).or_insert(member);
        if rank(member) < rank(best) {
            *best = member;
        }
    }
    // Priorities without gaps, which gRPC refuses too.
    let mut priorities: Vec<u16> = reached.values().map(|member| member.instance.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut groups: BTreeMap<(usize, Place<'_>), Vec<(SocketAddr, &Member)>> = BTreeMap::new();
    for (at, member) in reached {
        let priority = priorities.partition_point(|priority| *priority < member.instance.priority);
        let place = Place::of(&member.instance);
        groups.entry((priority.min(PRIORITIES_MAX - 1), place)).or_default().push((at, member));
    }
    let groups = groups.into_iter().map(|((priority, place), members)| locality(priority, &place, &members));
    Message::new().with(1, "cluster_name", name.as_str()).with(2, "endpoints", groups.collect::<Value>())
}

/// Which of two instances at one address is meant.
fn rank(member: &Member) -> (bool, bool, u16) {
    let draining = member.standing == Standing::Draining;
    (!member.is_answered(), draining, member.instance.priority)
}

/// Where an instance is, by its metadata: `region`, `zone` and `sub-zone`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a>([&'a str; 3]);

impl<'a> Place<'a> {
    fn of(instance: &'a Instance) -> Self {
        let word = |key: &str| instance.meta.get(key).map(AsRef::as_ref).unwrap_or_default();
        Self([word("region"), word("zone"), word("sub-zone")])
    }
}

/// `LocalityLbEndpoints`. Its weight is that of its live instances together, so that each of them is met as often as by its own weight.
fn locality(priority: usize, place: &Place<'_>, members: &[(SocketAddr, &Member)]) -> Message {
    let live = members.iter().filter(|(_, member)| member.is_answered());
    let weight: u32 = live.map(|(_, member)| weight(member)).sum();
    let Place([region, zone, sub_zone]) = place;
    let place =
        Message::new().with(1, "region", *region).with(2, "zone", *zone).with(3, "sub_zone", *sub_zone);
    let endpoints = members.iter().map(|(at, member)| endpoint(*at, member));
    Message::new()
        .with(1, "locality", place)
        .with(2, "lb_endpoints", endpoints.collect::<Value>())
        .with(3, "load_balancing_weight", Value::Wrapped(weight.max(1)))
        .with(5, "priority", priority as u64)
}

/// None of it may be 0 there.
fn weight(member: &Member) -> u32 {
    u32::from(member.weight()).max(1)
}

/// `LbEndpoint`: the first address, and the others for who tries several.
fn endpoint(at: SocketAddr, member: &Member) -> Message {
    let others = member.instance.addresses().iter().skip(1);
    let others = others
        .map(|other| Message::new().with(1, "address", socket_address(SocketAddr::new(*other, at.port()))));
    let endpoint = Message::new().with(1, "address", socket_address(at)).with(
        4,
        "additional_addresses",
        others.collect::<Value>(),
    );
    let health = match member.standing {
        _ if member.held => Value::Word(1, "HEALTHY"),
        Standing::Live => Value::Word(1, "HEALTHY"),
        Standing::Unhealthy { .. } => Value::Word(2, "UNHEALTHY"),
        Standing::Draining => Value::Word(3, "DRAINING"),
    };
    Message::new().with(1, "endpoint", endpoint).with(2, "health_status", health).with(
        4,
        "load_balancing_weight",
        Value::Wrapped(weight(member)),
    )
}

/// What is connected to: the first address and the first TCP port. One that is known by a host name has none, and
/// endpoints are addresses.
fn address(instance: &Instance) -> Option<SocketAddr> {
    let port = instance.ports.iter().find(|port| port.transport == Transport::Tcp)?;
    Some(SocketAddr::new(*instance.addresses().first()?, port.number))
}

/// `envoy.config.core.v3.Address`
fn socket_address(at: SocketAddr) -> Message {
    let socket =
        Message::new().with(2, "address", at.ip().to_string()).with(3, "port_value", u64::from(at.port()));
    Message::new().with(1, "socket_address", socket)
}

/// `envoy.config.listener.v3.Listener` of one service, for gRPC: no address, and routes to that service alone.
fn listener(service: &ServiceName, setting: &Setting) -> Message {
    let manager = connection_manager(service.as_str(), setting);
    Message::new().with(1, "name", service.as_str()).with(
        19,
        "api_listener",
        Message::new().with(1, "api_listener", manager),
    )
}

/// The same for Envoy, which accepts connections there.
fn listener_of_all(setting: &Setting) -> Message {
    let filter = Message::new().with(1, "name", "envoy.filters.network.http_connection_manager").with(
        4,
        "typed_config",
        connection_manager(ALL_SERVICES, setting),
    );
    let chain = Message::new().with(3, "filters", Value::from_iter([filter]));
    Message::new().with(1, "name", ALL_SERVICES).with(2, "address", socket_address(setting.listen)).with(
        3,
        "filter_chains",
        Value::from_iter([chain]),
    )
}

/// `HttpConnectionManager` with these routes.
fn connection_manager(routes: &str, setting: &Setting) -> Value {
    let rds =
        Message::new().with(1, "config_source", config_source(setting)).with(2, "route_config_name", routes);
    let router =
        Value::Any("type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", Message::new());
    let filter = Message::new().with(1, "name", "envoy.filters.http.router").with(4, "typed_config", router);
    Value::Any(
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        Message::new().with(2, "stat_prefix", routes).with(3, "rds", rds).with(
            5,
            "http_filters",
            Value::from_iter([filter]),
        ),
    )
}

/// `envoy.config.route.v3.RouteConfiguration` of one service, whatever it is called by.
fn routes(service: &ServiceName) -> Message {
    let host = virtual_host(service, Value::from_iter(["*"]));
    Message::new().with(1, "name", service.as_str()).with(2, "virtual_hosts", Value::from_iter([host]))
}

/// The same of all of them, by `web` and `web.<apex>`, with any port.
fn routes_of_all(view: &View, routed: impl Fn(&ServiceName) -> bool) -> Message {
    let directory = view.directory();
    let host = |service: &ServiceName| {
        let apexes = view.settings.apexes.iter().map(|apex| apex.owner(&[service.as_str()]).to_string());
        let long = apexes.map(|name| name.trim_end_matches('.').to_owned());
        virtual_host(service, std::iter::once(service.to_string()).chain(long).collect())
    };
    let hosts = directory.names().filter(|service| routed(service)).map(host);
    Message::new().with(1, "name", ALL_SERVICES).with(2, "virtual_hosts", hosts.collect::<Value>()).with(
        14,
        "ignore_port_in_host_matching",
        Value::Flag(true),
    )
}

/// `VirtualHost` with one route. A request may take as long as it takes, and is sent again only where nobody has had it.
fn virtual_host(service: &ServiceName, domains: Value) -> Message {
    let others = Value::Any(
        "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        Message::new(),
    );
    let predicate = Message::new().with(1, "name", "envoy.retry_host_predicates.previous_hosts").with(
        3,
        "typed_config",
        others,
    );
    let again = Message::new()
        .with(1, "retry_on", "connect-failure,refused-stream,reset-before-request")
        .with(2, "num_retries", Value::Wrapped(RETRIES_MAX))
        .with(5, "retry_host_predicate", Value::from_iter([predicate]))
        .with(6, "host_selection_retry_max_attempts", OTHER_HOST_TRIES_MAX);
    let action = Message::new()
        .with(1, "cluster", service.as_str())
        .with(8, "timeout", Value::Seconds(0))
        .with(9, "retry_policy", again);
    let route =
        Message::new().with(1, "match", Message::new().with(1, "prefix", "/")).with(2, "route", action);
    Message::new().with(1, "name", service.as_str()).with(2, "domains", domains).with(
        3,
        "routes",
        Value::from_iter([route]),
    )
}
