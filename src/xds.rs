//! What Envoy and gRPC are told, by the protocol that both call xDS: clusters, endpoints, listeners and routes made from
//! the view, and what a stream of it says next.
//!
//! A service is a cluster, a virtual host with one route, and a listener without an address, all by its own name: that
//! is what a gRPC client asks for when it is given `xds:///web`. Envoy takes every cluster, and one listener,
//! `all_services`, whose routes tell the services apart by the `Host` of a request.
//!
//! Here nothing waits and nothing is sent: `resources` are functions of a view, a [`session::Session`] is told what came and
//! what changed, and says what is to be sent. The transports are in `http/`.
//!
//! Source: the protocol in Envoy's `xds_protocol.rst`, the messages in its `api/` (v3), and gRPC's proposals A27 and A28.

pub mod request;
pub mod resources;
pub mod session;

/// The listener, and the routes, that hold every service. No service can be called so: names have no `_`.
pub const ALL_SERVICES: &str = "all_services";
/// How a client says that it wants everything.
pub const WILDCARD: &str = "*";

/// The kinds of resources, in the order in which they are sent: what others refer to comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// In the path of a REST request: `/v3/discovery:clusters`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::Listener => "listeners",
            Self::Routes => "routes",
        }
    }

    /// A state of the world of this kind is whole: what is not in it does not exist. Of the others a response holds what
    /// changed.
    fn is_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

#[cfg(test)]
mod tests;
