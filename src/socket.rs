//! The registration socket: lines in, lines out, on a Unix or a TCP stream.
//!
//! Requests are pipelined: what is there is read at once, commands go to the writer together, and the
//! replies are written in order. Reads and heartbeats are answered from the published view, behind the
//! commands that came before them on the same connection.

mod lines;
mod past;
mod session;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::session::Session;
use crate::clock::Clock;
use crate::connections::{Connections, Place};
use crate::name::{HostName, InstanceId, ServiceName};
use crate::protocol::{
    FilterForm, HolderForm, InstanceForm, InstancesForm, LIST_MAX, LIST_OUTPUT_OCTETS_MAX, LookupForm, Peer,
    Problem, RenewedForm, Reply, ServerForm, SettingsReply, SettingsShown, lease_text,
};
use crate::registry::{Author, Command};
use crate::store::History;
use crate::view::{Member, View};
use crate::writer::Handle;

/// Connections at once, over all listeners; a holder of a connection-bound lease needs one for itself.
pub const CONNECTIONS_MAX: usize = 10_000;

/// What every connection shares.
pub struct Desk {
    pub view: Arc<View>,
    pub writer: Handle,
    pub clock: Clock,
    /// The machine we run on.
    pub host: HostName,
    /// For a registration over the Unix socket that names no address.
    pub addresses: Vec<IpAddr>,
    pub loopback_allowed: bool,
    /// The log of changes.
    pub history: History,
    /// One for all listeners: a connection's number is its name in leases.
    pub connections: Arc<Connections>,
    /// For `status`: what does not change.
    pub server: ServerForm,
}

/// A socket that registrations come in on.
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Either<UnixStream, TcpStream>, Author)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let author = Author::User(stream.peer_cred()?.uid());
                Ok((Either::Left(stream), author))
            }
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Either::Right(stream), Author::Address(address)))
            }
        }
    }
}

/// Accepts until `stop`, and then waits for every connection to end.
pub async fn run(listener: Listener, desk: Arc<Desk>, stop: CancellationToken) -> io::Result<()> {
    let tasks = TaskTracker::new();
    loop {
        // Both arms are cancel-safe.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, author)) => {
                let place = desk.connections.enter(&stop);
                tasks.spawn(connection(stream, desk.clone(), author, place, stop.clone()));
            }
            Err(error) => desk.connections.after_error(error).await?,
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite,
    desk: Arc<Desk>,
    author: Author,
    place: Place,
    stop: CancellationToken,
) {
    let peer = desk.peer(&author, place.number);
    let (reader, writer) = tokio::io::split(stream);
    let mut session = Session::new(&desk, author, peer, writer, place.closing().clone());
    let ended = session.run(&mut BufReader::new(reader), &place).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "registration socket");
    }
    // Our own stop is not the holder's end: what is bound to the connection stays registered.
    let keys = session.end().await;
    if !stop.is_cancelled() && !keys.is_empty() {
        let closed = Command::Closed { connection: place.number, keys };
        if let Err(stopped) = desk.writer.tell(closed, Author::Server).await {
            tracing::debug!(%stopped, "a connection ended");
        }
    }
}

impl Desk {
    fn peer(&self, author: &Author, connection: u64) -> Peer {
        let (host, addresses) = match author {
            Author::Address(SocketAddr::V4(v4)) if !v4.ip().is_loopback() => (None, vec![(*v4.ip()).into()]),
            Author::Address(address) if !address.ip().to_canonical().is_loopback() => {
                (None, vec![address.ip().to_canonical()])
            }
            Author::Address(address) => (Some(&self.host), vec![address.ip().to_canonical()]),
            Author::User(_) | Author::Server | Author::File(_) => (Some(&self.host), self.addresses.clone()),
        };
        let host = match host {
            Some(host) => host.clone(),
            // An address has no control characters and is short, so it is a host's name.
            None => HostName::parse(&addresses[0].to_string()).unwrap_or_else(|_| self.host.clone()),
        };
        Peer { host, addresses, loopback_allowed: self.loopback_allowed, connection }
    }

    fn shown(&self, member: &Member) -> InstanceForm {
        InstanceForm::of(&member.instance, member.health, member.is_live(), self.clock.now())
    }

    fn settings(&self, service: &ServiceName, revision: u64) -> Reply {
        let settings = SettingsShown::of(&self.view.settings_of(service));
        Reply::Settings(SettingsReply { service: service.to_string(), settings, revision })
    }

    fn lookup(&self, form: &LookupForm) -> Result<Reply, Problem> {
        let id = InstanceId::parse(&form.id).map_err(|unfit| Problem::invalid("id", unfit))?;
        let mut members = self.view.by_id(&id);
        members.retain(|member| {
            let key = &member.instance.key;
            form.service.as_deref().is_none_or(|service| key.service.as_str().eq_ignore_ascii_case(service))
                && form.host.as_deref().is_none_or(|host| key.host.as_str().eq_ignore_ascii_case(host))
        });
        if members.is_empty() {
            let mut problem =
                Problem::new("not_found", format!("no instance has the id `{id}`; `callsign ls` lists them"));
            problem.field = Some("id".to_owned());
            return Err(problem);
        }
        let instances = page_of(&members).iter().map(|member| self.shown(member)).collect();
        Ok(Reply::Found(InstancesForm { instances, revision: self.view.revision(), next: None }))
    }

    fn list(&self, form: &FilterForm) -> Result<Reply, Problem> {
        let filter = form.filter()?;
        let after = match form.after.as_deref().map(|after| after.split_once('/')) {
            None => None,
            Some(Some(place)) => Some(place),
            Some(None) => return Err(Problem::invalid("after", "must be the `next` of the reply before")),
        };
        let revision = self.view.revision();
        let (members, more) = self.view.list(&filter, after, LIST_MAX);
        let page = page_of(&members);
        let next = page.last().filter(|_| more || page.len() < members.len()).map(place_of);
        let instances = page.iter().map(|member| self.shown(member)).collect();
        Ok(Reply::Instances(InstancesForm { instances, revision, next }))
    }

    fn status(&self) -> Reply {
        let now = self.clock.now();
        let directory = self.view.directory();
        let live = directory.names().filter_map(|name| self.view.service(name.as_str()));
        let live = live.map(|service| service.live().count() as u64).sum();
        Reply::Status(Box::new(ServerForm {
            ready: self.view.is_ready(),
            store_trouble: self.view.store_trouble().map(|trouble| trouble.to_string()),
            services: directory.len() as u64,
            instances: self.view.instances(),
            live,
            revision: self.view.revision(),
            serial: self.view.serial(),
            uptime_s: now.mono_ns / 1_000_000_000,
            ..self.server.clone()
        }))
    }

    fn renew(&self, form: &HolderForm<'_>, host: &HostName) -> Result<Reply, Problem> {
        let holder = form.holder(host)?;
        let lease = self.view.renew(&holder.key, holder.lease_id, self.clock.now())?;
        Ok(Reply::Renewed(RenewedForm {
            service: holder.key.service.to_string(),
            id: holder.key.id.to_string(),
            lease: lease_text(lease),
        }))
    }
}

/// As many of `members`, from the first on, as one reply holds; at least one where there is one.
fn page_of(members: &[Member]) -> &[Member] {
    let mut octets = 0;
    let fitting = members.iter().take(LIST_MAX).take_while(|member| {
        let first = octets == 0;
        octets += 1 + member.instance.checks.iter().map(|check| check.output.len()).sum::<usize>();
        first || octets <= LIST_OUTPUT_OCTETS_MAX
    });
    &members[..fitting.count()]
}

/// Where a member stands in the order of a list.
fn place_of(member: &Member) -> String {
    format!("{}/{}", member.instance.key.service, member.instance.label)
}
