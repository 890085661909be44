//! Clusters, endpoints, listeners and routes, as functions of a view.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::{ALL_SERVICES, Kind};
use crate::balance::{Policy, region_of};
use crate::instance::{Fallback, Instance, Transport};
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
/// Services whose instances are looked at for one cluster besides its own: as many as for an answer in DNS.
const STAND_INS_MAX: usize = 32;
/// Percent: a priority has all requests for as long as one in 10,000 of its instances is live. By itself Envoy begins with
/// the next one when less than five of seven are.
const OVERPROVISIONING: u32 = 100 * 10_000;
/// How often Envoy looks for an instance that the request has not been to.
const OTHER_HOST_TRIES_MAX: u64 = 5;

/// What the resources of a client depend on beside the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub source: Source,
    /// Where its listener shall listen.
    pub listen: SocketAddr,
    /// Where the client is, if it says so.
    pub region: Option<Box<str>>,
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
        Kind::Endpoints => Some(endpoints(view, &service, known, setting)),
        Kind::Cluster => known.map(|known| cluster(view, &known, setting)),
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

/// The services that a cluster is made from besides its own, known or not: who answers while nothing of it is live, in this
/// order and each of them once. Names elsewhere are not among them, for endpoints are addresses.
pub fn stand_ins(view: &View, service: &ServiceName) -> Vec<ServiceName> {
    fn add(view: &View, of: &ServiceName, first: &ServiceName, found: &mut Vec<ServiceName>) {
        for fallback in view.settings_of(of).fallbacks() {
            let Fallback::Service(next) = fallback else { continue };
            if found.len() < STAND_INS_MAX && next != first && !found.contains(next) {
                found.push(next.clone());
                add(view, next, first, found);
            }
        }
    }
    let mut found = Vec::new();
    add(view, service, service, &mut found);
    found
}

fn known_stand_ins(view: &View, service: &ServiceName) -> impl Iterator<Item = Arc<ServiceView>> {
    stand_ins(view, service).into_iter().filter_map(|name| view.service(name.as_str()))
}

fn policy(service: &ServiceView) -> Policy {
    service.settings.balance.unwrap_or_default().policy
}

/// `envoy.config.cluster.v3.Cluster`
fn cluster(view: &View, service: &ServiceView, setting: &Setting) -> Message {
    let message = Message::new()
        .with(1, "name", service.name.as_str())
        .with(2, "type", Value::Word(3, "EDS"))
        .with(3, "eds_cluster_config", Message::new().with(1, "eds_config", config_source(setting)))
        .with(4, "connect_timeout", Value::Seconds(CONNECT_TIMEOUT_S))
        // In turn, by weight: of the others only this one goes by the client.
        .with(
            6,
            "lb_policy",
            match policy(service) {
                Policy::Affinity => Value::Word(2, "RING_HASH"),
                Policy::Weighted | Policy::Rotate | Policy::First | Policy::Nearest => {
                    Value::Word(0, "ROUND_ROBIN")
                }
            },
        )
        // Not health but its absence is what Envoy would overrule below half: the registry has the last word.
        .with(27, "common_lb_config", Message::new().with(1, "healthy_panic_threshold", Message::new()));
    if !speaks_http2(service, known_stand_ins(view, &service.name)) {
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

/// True where every instance says so, those of stand-ins too: a cluster has one protocol.
fn speaks_http2(service: &ServiceView, stand_ins: impl Iterator<Item = Arc<ServiceView>>) -> bool {
    let says = |member: &Member| matches!(member.instance.protocol.as_deref(), Some("h2c" | "grpc"));
    let mut any = !service.members.is_empty();
    service.members.iter().all(says)
        && stand_ins.fold(true, |all, service| {
            any |= !service.members.is_empty();
            all && service.members.iter().all(says)
        })
        && any
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
/// Behind those of the service come those of its stand-ins, as further priorities.
fn endpoints(
    view: &View,
    name: &ServiceName,
    service: Option<Arc<ServiceView>>,
    setting: &Setting,
) -> Message {
    let services: Vec<Arc<ServiceView>> = service.into_iter().chain(known_stand_ins(view, name)).collect();
    let mut reached: BTreeMap<SocketAddr, Endpoint<'_>> = BTreeMap::new();
    for (turn, service) in services.iter().enumerate() {
        let policy = policy(service);
        for member in &service.answered {
            let Some(at) = address(&member.instance) else { continue };
            let home = setting.region.as_deref().filter(|_| policy == Policy::Nearest);
            let away = home.is_some_and(|home| !is_in(view, &member.instance, home));
            let weight = if policy == Policy::Rotate { 1 } else { u32::from(member.weight()).max(1) };
            let endpoint = Endpoint { member, weight, comes: (turn, member.instance.priority, away) };
            // gRPC refuses a list that has an address twice: the better one counts.
            let best = reached.entry(at).or_insert(endpoint);
            if endpoint.rank() < best.rank() {
                *best = endpoint;
            }
        }
    }
    // Priorities without gaps, which gRPC refuses too.
    let mut priorities: Vec<_> = reached.values().map(|endpoint| endpoint.comes).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut groups: BTreeMap<(usize, Place<'_>), Vec<(SocketAddr, Endpoint<'_>)>> = BTreeMap::new();
    for (at, endpoint) in reached {
        let priority = priorities.partition_point(|comes| *comes < endpoint.comes);
        let place = Place::of(&endpoint.member.instance);
        groups.entry((priority.min(PRIORITIES_MAX - 1), place)).or_default().push((at, endpoint));
    }
    let groups = groups.into_iter().map(|((priority, place), members)| locality(priority, &place, &members));
    let strict = Message::new().with(3, "overprovisioning_factor", Value::Wrapped(OVERPROVISIONING));
    Message::new()
        .with(1, "cluster_name", name.as_str())
        .with(2, "endpoints", groups.collect::<Value>())
        .with(4, "policy", strict)
}

/// An instance as one cluster has it.
#[derive(Clone, Copy)]
struct Endpoint<'a> {
    member: &'a Member,
    /// At least 1: none of it may be 0 there.
    weight: u32,
    /// Before whom it comes: the turn of its service, its priority, whether it is in another region than a client
    /// that is to have the nearest.
    comes: (usize, u16, bool),
}

impl Endpoint<'_> {
    /// Which of two instances at one address is meant.
    fn rank(&self) -> (bool, bool, (usize, u16, bool)) {
        (!self.member.is_answered(), self.member.standing == Standing::Draining, self.comes)
    }
}

/// By its metadata, or by the network of one of its addresses.
fn is_in(view: &View, instance: &Instance, region: &str) -> bool {
    let said = instance.meta.get("region").is_some_and(|said| &**said == region);
    let regions = &view.settings.regions;
    said || instance.addresses().iter().any(|address| region_of(regions, *address) == Some(region))
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
fn locality(priority: usize, place: &Place<'_>, endpoints: &[(SocketAddr, Endpoint<'_>)]) -> Message {
    let live = endpoints.iter().filter(|(_, endpoint)| endpoint.member.is_answered());
    let weight: u32 = live.map(|(_, endpoint)| endpoint.weight).sum();
    let Place([region, zone, sub_zone]) = place;
    let place =
        Message::new().with(1, "region", *region).with(2, "zone", *zone).with(3, "sub_zone", *sub_zone);
    let endpoints = endpoints.iter().map(|(at, endpoint)| lb_endpoint(*at, endpoint));
    Message::new()
        .with(1, "locality", place)
        .with(2, "lb_endpoints", endpoints.collect::<Value>())
        .with(3, "load_balancing_weight", Value::Wrapped(weight.max(1)))
        .with(5, "priority", priority as u64)
}

/// `LbEndpoint`: the first address, and the others for who tries several.
fn lb_endpoint(at: SocketAddr, endpoint: &Endpoint<'_>) -> Message {
    let Endpoint { member, weight, .. } = *endpoint;
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
        Value::Wrapped(weight),
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
    // Of clusters that go by the client, which the others do not look at: Envoy by its address, gRPC by its channel.
    let address = Message::new().with(1, "source_ip", Value::Flag(true));
    let channel = Message::new().with(1, "key", "io.grpc.channel_id");
    let client = [
        Message::new().with(3, "connection_properties", address),
        Message::new().with(6, "filter_state", channel),
    ];
    let action = Message::new()
        .with(1, "cluster", service.as_str())
        .with(8, "timeout", Value::Seconds(0))
        .with(9, "retry_policy", again)
        .with(15, "hash_policy", Value::from_iter(client));
    let route =
        Message::new().with(1, "match", Message::new().with(1, "prefix", "/")).with(2, "route", action);
    Message::new().with(1, "name", service.as_str()).with(2, "domains", domains).with(
        3,
        "routes",
        Value::from_iter([route]),
    )
}
