//! The registry as it was found, on the disk or in etcd, made visible.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::bound::{Bound, own_node};
use super::{Server, random, secondaries};
use crate::access::Access;
use crate::clock::Clock;
use crate::config::Config;
use crate::name::ServiceName;
use crate::registry::Registry;
use crate::store::etcd::link::Link;
use crate::store::etcd::{self, Etcd};
use crate::store::record::{self, MemberForm};
use crate::store::{History, Limits, Store, embedded};
use crate::time::Now;
use crate::view::View;
use crate::writer::node::Node;
use crate::writer::{Handle, Writer, warn_of_taken};

/// The registry as it was found, and who changes it.
pub(super) enum Loaded {
    Alone(Store, Box<Registry>),
    OneOfSeveral(Box<Node>, Handle),
}

impl Loaded {
    /// Has the writer at work; returns the log, the store's name, and the way to the writer.
    pub(super) fn begin(
        self,
        writing: &mut JoinSet<()>,
        view: &Arc<View>,
        clock: Clock,
        access: &Arc<Access>,
    ) -> (History, &'static str, Handle) {
        match self {
            Self::Alone(store, registry) => {
                let (history, name) = (store.history(), store.name());
                let (writer, handle) = Writer::new(*registry, store, view.clone(), clock, access.clone());
                writing.spawn(writer.run());
                (history, name, handle)
            }
            Self::OneOfSeveral(node, handle) => {
                let history = node.history();
                writing.spawn(node.run());
                (history, "etcd", handle)
            }
        }
    }
}

/// This server as a node, whose link to etcd is there already.
pub(super) struct Linked {
    etcd: Etcd,
    name: String,
    prefix: String,
    run: u64,
    access: Arc<Access>,
    /// Words may wait in sockets that others hold open.
    backlog: bool,
}

impl Server {
    /// The link to etcd, where it is the store. It lasts as long as DNS does.
    pub(super) fn link(
        &mut self,
        config: &Config,
        bound: &Bound,
        access: &Arc<Access>,
    ) -> Result<Option<Linked>> {
        let Some(settings) = config.etcd.clone() else { return Ok(None) };
        let name = own_node(config, bound, &self.view).name.to_string();
        let (prefix, run) = (settings.prefix.clone(), random()?);
        let listener = self.view.settings.listener.clone();
        let http = bound.http.first().and_then(|listener| listener.local_addr().ok());
        let member = MemberForm {
            run,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.view.settings.ns_addresses.clone(),
            dns: bound.dns_ports.first().copied().unwrap_or(0),
            listen: listener.as_ref().map_or(0, |listener| listener.port),
            listen_addresses: listener.map(|listener| listener.addresses).unwrap_or_default(),
            http: http.map_or(0, |address| address.port()),
            started: self.clock.now().wall.unix_ms,
        };
        let (etcd, end) = etcd::way();
        let clock_and_seed = (self.clock, self.seeds.next_u64());
        let link = Link::new(settings, &name, record::write_member(&member), end, clock_and_seed)
            .map_err(|error| anyhow::anyhow!("reaching etcd: {error}"))?;
        self.tasks.spawn("etcd", link.run(self.stop_dns.clone()));
        let backlog = bound.unix_file.is_none();
        Ok(Some(Linked { etcd, name, prefix, run, access: access.clone(), backlog }))
    }
}

/// Opens the store and makes what it kept visible.
pub(super) async fn load(
    config: &Config,
    taken: HashMap<ServiceName, Box<str>>,
    clock: Clock,
    view: &Arc<View>,
    linked: Option<Linked>,
) -> Result<Loaded> {
    let mut registry = Registry::new(config.instances_max, config.known_for);
    registry.set_taken(taken);
    if let Some(Linked { etcd, name, prefix, run, access, backlog }) = linked {
        let (mut node, handle) =
            Node::new(registry, etcd, (&name, &prefix), run, view.clone(), clock, access);
        node.load().await.map_err(|error| anyhow::anyhow!("reading the registry from etcd: {error}"))?;
        if backlog {
            node.expect_backlog();
        }
        return Ok(Loaded::OneOfSeveral(Box::new(node), handle));
    }
    let Some(directory) = config.data.clone() else {
        let unix_ms = clock.now().wall.unix_ms;
        view.set_serial_base((unix_ms / 1000) as u32);
        view.set_index_base(unix_ms as u64 * 1000);
        return Ok(Loaded::Alone(Store::memory(), Box::new(registry)));
    };
    let limits = Limits { history_changes: config.history_changes, history_age: config.history_age };
    let view = view.clone();
    let loading = tokio::task::spawn_blocking(move || -> Result<Loaded> {
        let begun = clock.now();
        let (embedded, mut loaded) =
            embedded::open(&directory, limits, clock.now()).context("opening the store")?;
        for note in &loaded.notes {
            tracing::error!("{note}");
        }
        let read = clock.now();
        loaded.kept.revision = secondaries::settle(&directory, &view, loaded.kept.revision);
        registry.restore(loaded.kept, read);
        warn_of_taken(&registry, &view);
        view.set_serial_base(loaded.serial_base);
        view.publish_all(&registry);
        let since = |then: Now| Duration::from_nanos(clock.now().mono_ns - then.mono_ns);
        // Repair and loading took their time: a lease runs from here.
        registry.after_absence(since(begun), clock.now());
        tracing::debug!(instances = registry.instances(), reading = ?since(begun) - since(read), publishing = ?since(read), "loaded");
        Ok(Loaded::Alone(Store::Embedded(embedded), Box::new(registry)))
    });
    loading.await.context("loading the registry")?
}
