//! One stream: what its client asked for, has and has confirmed, and so what is to be sent next.
//!
//! Both variants of the protocol, state of the world and delta, over one kind or all of them. Of each kind at most one
//! response is under way: the next waits until the client has said what became of it, and holds what is true then. So a
//! client that is slow gets fewer responses, one that never confirms gets one of each kind, and nothing piles up.
//!
//! Nobody gets half a state. Clusters go out before endpoints, listeners and routes. Where an Envoy takes all clusters, its
//! routes name a service only when the client has confirmed its endpoints, and a cluster goes only when no
//! route names it any more. After a reconnection the routes wait until everything before them is confirmed.
//!
//! A response that the client does not take is not sent again by itself: with the next change of its kind, for only
//! then it can be another one.

mod subscription;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use self::subscription::{Held, Subscription};
use super::request::Request;
use super::resources::{self, Setting};
use super::{ALL_SERVICES, Kind, WILDCARD};
use crate::name::ServiceName;
use crate::protobuf::{Malformed, any, put_octets};
use crate::view::View;

/// Names that a stream may ask for, of one kind. An Envoy asks for the endpoints of every cluster by name, so this is how many
/// services it can have.
pub const NAMES_MAX: usize = 20_000;
/// Octets of a name: no resource of ours has a longer one.
pub const NAME_OCTETS_MAX: usize = 255;
/// Octets of resources in a response that need not be whole; what is left goes into the next one. Clients of gRPC take
/// messages of 4 MiB.
const RESPONSE_OCTETS_MAX: usize = 1 << 20;

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{count} names of one kind are too many, {NAMES_MAX} are served; ask for `{WILDCARD}`, or by several streams"
    )]
    TooMany { count: usize },
    #[error("a resource's name has {octets} octets, and may have {NAME_OCTETS_MAX}")]
    TooLong { octets: usize },
}

/// What a client did not take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub kind: Kind,
    /// The names in the response.
    pub names: Vec<String>,
    pub error: String,
}

/// Whose changes concern a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    Everything,
    Services(BTreeSet<ServiceName>),
}

/// See the module's own words.
#[derive(Debug)]
pub struct Session {
    /// The one kind of the stream; `None`: all of them.
    own: Option<Kind>,
    delta: bool,
    setting: Setting,
    subscriptions: [Subscription; 4],
    /// Responses so far: the nonce of the next is one more.
    sent: u64,
    /// The services in the routes of all as they were made last; none before that.
    routed: Option<BTreeSet<String>>,
    /// Of clusters and endpoints that were made: the services that stand in for theirs. Their changes count too.
    stand_ins: HashMap<String, Vec<ServiceName>>,
    /// Of the first of these nobody knew when it was said whose changes concern the stream.
    stand_ins_anew: bool,
}

/// A resource to be sent; without octets it is gone.
struct Made {
    name: String,
    octets: Option<Vec<u8>>,
}

impl Session {
    pub fn new(own: Option<Kind>, delta: bool, setting: Setting) -> Self {
        Self {
            own,
            delta,
            setting,
            subscriptions: Default::default(),
            sent: 0,
            routed: None,
            stand_ins: HashMap::new(),
            stand_ins_anew: false,
        }
    }

    /// A request in the variant of this stream.
    pub fn read(&self, octets: &[u8]) -> Result<Request, Malformed> {
        if self.delta { Request::of_delta(octets) } else { Request::of_world(octets) }
    }

    /// Takes a request in; what it rejects is for the log.
    ///
    /// # Errors
    ///
    /// The stream has to end.
    pub fn take(&mut self, request: Request, view: &View) -> Result<Option<Rejection>, Refusal> {
        if let Some(node) = &request.node {
            self.setting.listen = node.listen.unwrap_or(self.setting.listen);
            self.setting.region = node.region.clone();
        }
        // Of a kind that we do not have there is nothing, and no word for it.
        let Some(kind) = request.kind(self.own) else { return Ok(None) };
        if let Some(name) = request.names.iter().find(|name| name.len() > NAME_OCTETS_MAX) {
            return Err(Refusal::TooLong { octets: name.len() });
        }
        let subscription = &mut self.subscriptions[kind as usize];
        let is_last = request.nonce.parse() == Ok(subscription.nonce);
        // Written before our last response came there: the whole is asked for again when it has.
        if !self.delta && subscription.begun && !request.nonce.is_empty() && !is_last {
            return Ok(None);
        }
        let spoken_of = subscription.under_way.take_if(|_| is_last);
        let (mut rejection, mut confirmed) = (None, Vec::new());
        match (spoken_of, request.error.clone()) {
            (Some(names), Some(error)) => {
                subscription.reject(&names);
                rejection = Some(Rejection { kind, names, error });
            }
            (Some(names), None) if kind == Kind::Endpoints => confirmed = names,
            _ => {}
        }
        subscription.confirmed.extend(confirmed.iter().cloned());
        match self.delta {
            true => subscription.ask_besides(kind, request, view)?,
            false => subscription.ask_for(kind, request.names, view)?,
        }
        let [clusters, endpoints] = [Kind::Cluster, Kind::Endpoints].map(|kind| self.of(kind));
        let wanted =
            |name: &str| clusters.wants(Kind::Cluster, name) || endpoints.wants(Kind::Endpoints, name);
        let wanted: HashSet<String> = self.stand_ins.keys().filter(|name| wanted(name)).cloned().collect();
        self.stand_ins.retain(|name, _| wanted.contains(name));
        self.look_at_routes(confirmed.iter().map(String::as_str), view);
        Ok(rejection)
    }

    /// How many names it asks for.
    pub fn names(&self) -> usize {
        self.subscriptions.iter().map(|subscription| subscription.names.len()).sum()
    }

    /// Whose changes concern it from here on; `None` while that is what it was. To be asked after each request taken and
    /// each response made.
    pub fn concern(&mut self) -> Option<Concern> {
        let anew =
            self.subscriptions.iter_mut().map(|subscription| std::mem::take(&mut subscription.asked_anew));
        let anew = anew.fold(false, |any, anew| any | anew) | std::mem::take(&mut self.stand_ins_anew);
        if !anew {
            return None;
        }
        // Who stands in for whom changes too: whoever may have to know is asked of everything.
        if !self.stand_ins.is_empty() {
            return Some(Concern::Everything);
        }
        let mut services = BTreeSet::new();
        for (kind, subscription) in Kind::ALL.into_iter().zip(&self.subscriptions) {
            // The one listener behind the wildcard is the same whatever is registered.
            if kind != Kind::Listener && (subscription.wildcard || subscription.names.contains(ALL_SERVICES))
            {
                return Some(Concern::Everything);
            }
            services.extend(subscription.names.iter().filter_map(|name| ServiceName::parse(name).ok()));
        }
        Some(Concern::Services(services))
    }

    /// These services are other ones than before.
    pub fn services_changed<'a>(
        &mut self,
        services: impl Iterator<Item = &'a ServiceName> + Clone,
        view: &View,
    ) {
        let leaning = self.leaning_on(services.clone());
        for (kind, subscription) in Kind::ALL.into_iter().zip(&mut self.subscriptions) {
            if matches!(kind, Kind::Cluster | Kind::Endpoints) {
                let wanted = leaning.iter().filter(|service| subscription.wants(kind, service));
                let wanted: Vec<String> = wanted.cloned().collect();
                subscription.changed.extend(wanted);
            }
            for service in services.clone() {
                if subscription.wants(kind, service.as_str()) {
                    subscription.changed.insert(service.to_string());
                }
            }
            subscription.try_rejected();
        }
        self.look_at_routes(services.map(ServiceName::as_str), view);
    }

    /// Those for which one of these services stands in.
    fn leaning_on<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<String> {
        if self.stand_ins.is_empty() {
            return Vec::new();
        }
        let services: HashSet<&ServiceName> = services.collect();
        let leaning = self.stand_ins.iter();
        let leaning = leaning.filter(|(_, others)| others.iter().any(|other| services.contains(other)));
        leaning.map(|(service, _)| service.clone()).collect()
    }

    /// Notes who stands in for a service whose cluster or endpoints are made.
    fn note_stand_ins(&mut self, kind: Kind, name: &str, view: &View) {
        if !matches!(kind, Kind::Cluster | Kind::Endpoints) {
            return;
        }
        let others = ServiceName::parse(name).map(|service| resources::stand_ins(view, &service));
        match others.unwrap_or_default() {
            others if others.is_empty() => drop(self.stand_ins.remove(name)),
            others => {
                self.stand_ins_anew |= self.stand_ins.is_empty();
                self.stand_ins.insert(name.to_owned(), others);
            }
        }
    }

    /// Anything may be another one than before.
    pub fn everything_changed(&mut self, view: &View) {
        for (kind, subscription) in Kind::ALL.into_iter().zip(&mut self.subscriptions) {
            subscription.everything_changed(kind, view);
        }
    }

    /// The next response, in octets; `None` until something comes or changes.
    pub fn next(&mut self, view: &View) -> Option<Vec<u8>> {
        // Not sure is no response: the client keeps what it has.
        if !view.is_ready() {
            return None;
        }
        Kind::ALL.into_iter().find_map(|kind| self.next_of(kind, view))
    }

    fn next_of(&mut self, kind: Kind, view: &View) -> Option<Vec<u8>> {
        let subscription = self.of(kind);
        if !subscription.begun
            || subscription.under_way.is_some()
            || (subscription.changed.is_empty() && !subscription.owed)
            || self.is_held_back(kind, view)
        {
            return None;
        }
        // Before the resources: a version is never newer than what it stands for.
        let version = view.revision();
        let whole = kind.is_whole() && !self.delta;
        let mut octets = 0;
        let mut made = Vec::new();
        let subscription = &mut self.subscriptions[kind as usize];
        let owed = std::mem::take(&mut subscription.owed);
        let mut changed = std::mem::take(&mut subscription.changed);
        if kind == Kind::Routes && changed.contains(ALL_SERVICES) {
            // Before the routes, which are made from it: what comes or goes meanwhile differs from it, and is looked at then.
            let directory = view.directory();
            let routed = directory.names().filter(|service| self.is_routed(service.as_str(), view));
            self.routed = Some(routed.map(ToString::to_string).collect());
        }
        while let Some(name) = changed.pop_first() {
            self.note_stand_ins(kind, &name, view);
            let new = Made { octets: self.resource(kind, &name, view), name };
            if !self.differs(kind, &new) {
                continue;
            }
            octets += new.octets.as_ref().map_or(0, Vec::len);
            made.push(new);
            if octets > RESPONSE_OCTETS_MAX && !whole {
                break;
            }
        }
        self.subscriptions[kind as usize].changed = changed;
        if made.is_empty() && !owed {
            return None;
        }
        self.renew_endpoints_of(kind, &made);
        if whole {
            let subscription = self.of(kind);
            let mut names = subscription.names.clone();
            if subscription.wildcard {
                names.extend(resources::names(view, kind));
            }
            made = names
                .into_iter()
                .map(|name| Made { octets: self.resource(kind, &name, view), name })
                .collect();
            self.subscriptions[kind as usize].held.clear();
        }
        self.sent += 1;
        let response = match self.delta {
            true => delta_response(kind, version, self.sent, &made),
            false => world_response(kind, version, self.sent, &made),
        };
        let (nonce, delta) = (self.sent, self.delta);
        let subscription = &mut self.subscriptions[kind as usize];
        subscription.nonce = nonce;
        subscription.note_sent(made, delta);
        Some(response)
    }

    fn of(&self, kind: Kind) -> &Subscription {
        &self.subscriptions[kind as usize]
    }

    fn resource(&self, kind: Kind, name: &str, view: &View) -> Option<Vec<u8>> {
        let routed = |service: &ServiceName| {
            self.routed.as_ref().is_some_and(|routed| routed.contains(service.as_str()))
        };
        resources::resource(view, kind, name, &self.setting, routed).map(|message| message.octets())
    }

    fn differs(&self, kind: Kind, made: &Made) -> bool {
        let subscription = self.of(kind);
        let held = subscription.held.get(&made.name);
        match (&made.octets, held) {
            (Some(octets), Some(Held::Resource(held))) => fingerprint(octets) != *held,
            (Some(_), _) => true,
            (None, Some(Held::Absent)) => false,
            (None, Some(_)) => true,
            // Who asks for one by its name is told that there is none; a state of the world has no word for it.
            (None, None) => self.delta && subscription.names.contains(&made.name),
        }
    }

    /// An Envoy waits for the endpoints of a cluster that is another one now, and it may not ask for them again.
    fn renew_endpoints_of(&mut self, kind: Kind, made: &[Made]) {
        if kind != Kind::Cluster || self.own.is_some() {
            return;
        }
        let clusters = &self.subscriptions[Kind::Cluster as usize].held;
        let altered: Vec<String> = made
            .iter()
            .filter(|made| made.octets.is_some() && clusters.contains_key(&made.name))
            .map(|made| made.name.clone())
            .collect();
        let endpoints = &mut self.subscriptions[Kind::Endpoints as usize];
        for name in altered {
            if let Some(held) = endpoints.held.get_mut(&name) {
                *held = Held::Unknown;
                endpoints.changed.insert(name);
            }
        }
    }

    /// True on a stream that gives an Envoy everything in its order.
    fn is_staged(&self) -> bool {
        self.own.is_none() && self.of(Kind::Cluster).wildcard
    }

    /// Does the service belong into the routes of all?
    fn is_routed(&self, service: &str, view: &View) -> bool {
        view.service(service).is_some()
            && (!self.is_staged() || self.of(Kind::Endpoints).confirmed.contains(service))
    }

    /// Marks the routes of all where one of these services comes into them, or goes.
    fn look_at_routes<'a>(&mut self, mut services: impl Iterator<Item = &'a str>, view: &View) {
        let Some(routed) = &self.routed else { return };
        let moves = |service: &str| self.is_routed(service, view) != routed.contains(service);
        if self.of(Kind::Routes).wants(Kind::Routes, ALL_SERVICES) && services.any(moves) {
            self.subscriptions[Kind::Routes as usize].changed.insert(ALL_SERVICES.to_owned());
        }
    }

    /// What is before it in the order has to be done first.
    fn is_held_back(&self, kind: Kind, view: &View) -> bool {
        let (clusters, routes) = (self.of(Kind::Cluster), self.of(Kind::Routes));
        match (kind, &self.routed) {
            _ if !self.is_staged() => false,
            // A cluster would go, and routes that do not name it are still to come there.
            (Kind::Cluster, Some(_)) => {
                let moving = routes.under_way.is_some() || routes.changed.contains(ALL_SERVICES);
                let goes = |name: &String| clusters.held.contains_key(name) && view.service(name).is_none();
                moving && clusters.changed.iter().any(goes)
            }
            // The first routes of a stream may replace those of an earlier one, in use.
            (Kind::Routes, None) => {
                let confirmed = &self.of(Kind::Endpoints).confirmed;
                clusters.owed
                    || clusters.under_way.is_some()
                    || !clusters.changed.is_empty()
                    || !clusters.held.keys().all(|name| confirmed.contains(name))
            }
            _ => false,
        }
    }
}

/// The same for the same octets, on any server and at any time: what a client has from an earlier stream is not sent again.
pub fn fingerprint(octets: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write(octets);
    hasher.finish128().as_u128()
}

/// `DiscoveryResponse`
fn world_response(kind: Kind, version: u64, nonce: u64, made: &[Made]) -> Vec<u8> {
    let mut out = Vec::new();
    put_octets(1, version.to_string().as_bytes(), &mut out);
    for octets in made.iter().filter_map(|made| made.octets.as_deref()) {
        put_octets(2, &any(kind.type_url(), octets), &mut out);
    }
    put_octets(4, kind.type_url().as_bytes(), &mut out);
    put_octets(5, nonce.to_string().as_bytes(), &mut out);
    out
}

/// `DeltaDiscoveryResponse`
fn delta_response(kind: Kind, version: u64, nonce: u64, made: &[Made]) -> Vec<u8> {
    let mut out = Vec::new();
    put_octets(1, version.to_string().as_bytes(), &mut out);
    for made in made {
        match &made.octets {
            Some(octets) => {
                let mut resource = Vec::new();
                put_octets(1, format!("{:x}", fingerprint(octets)).as_bytes(), &mut resource);
                put_octets(2, &any(kind.type_url(), octets), &mut resource);
                put_octets(3, made.name.as_bytes(), &mut resource);
                put_octets(2, &resource, &mut out);
            }
            None => put_octets(6, made.name.as_bytes(), &mut out),
        }
    }
    put_octets(4, kind.type_url().as_bytes(), &mut out);
    put_octets(5, nonce.to_string().as_bytes(), &mut out);
    out
}
