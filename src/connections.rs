//! How many connections there may be, and which goes when there are too many.
//!
//! A limit that refuses the newest lets idle clients lock everyone out; so over the limit the
//! connection that has been quiet for longest is closed. One that holds a lease has nothing to say and is
//! alive by being open: it goes only where every connection holds one. Running out of descriptors is met the same
//! way, and never with a loop that spins.
//!
//! [`Streams`] is what DNS connections of every kind share: their number, and the turns in which they are worked on.
//! [`tls`] is what lies between some of them and their messages.

mod certificate;
pub mod mistakes;
pub mod tls;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, poll_fn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Identity;

/// Anything that octets come and go on.
pub trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

/// A connection that one edge hands over to another, and who is at its other end.
pub type Handed = (Box<dyn Octets>, Identity);

/// What is said of everything before the registry is loaded.
pub const NOT_LOADED: &str =
    "this server has not loaded the registry yet; ask another one, or say it again in a few seconds";
/// How long a client may leave unread what it asked for before it is given up: it keeps a place and memory.
pub const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long accepting rests after an error that would come again at once.
const REST: Duration = Duration::from_millis(50);

/// The connections that come to a TCP listener.
pub fn coming_to(listener: TcpListener) -> impl Stream<Item = io::Result<(TcpStream, SocketAddr)>> + Unpin {
    poll_fn(move |context| listener.poll_accept(context).map(Some))
}

/// The open connections of one kind.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    /// How many go at once where there are too many.
    go_at_once: usize,
    /// Counts up with every sign of life: the lowest is the quietest.
    ticks: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Life>>>,
}

#[derive(Debug)]
struct Life {
    tick: AtomicU64,
    /// Closing it would end something that lives.
    holds: AtomicBool,
    /// Whose that is, as a hash.
    whose: AtomicU64,
    close: CancellationToken,
    /// Of all connections.
    stop: CancellationToken,
}

/// One open connection; its place is free when this is dropped.
#[derive(Debug)]
pub struct Place {
    pub number: u64,
    life: Arc<Life>,
    connections: Arc<Connections>,
}

impl Connections {
    pub fn new(most: usize) -> Arc<Self> {
        Self::with(most, 1)
    }

    /// The same for clients who come in floods: where there are too many, one in sixty-four goes. To find the quietest costs a
    /// look at all of them, and not every newcomer shall cost that.
    pub fn in_floods(most: usize) -> Arc<Self> {
        Self::with(most, (most / 64).max(1))
    }

    fn with(most: usize, go_at_once: usize) -> Arc<Self> {
        Arc::new(Self { most, go_at_once, ticks: AtomicU64::new(0), open: Mutex::default() })
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A place for a new connection; the quietest is told to close where there are too many.
    pub fn enter(self: &Arc<Self>, stop: &CancellationToken) -> Place {
        let number = self.ticks.fetch_add(1, Ordering::Relaxed);
        let life = Arc::new(Life {
            tick: AtomicU64::new(number),
            holds: AtomicBool::new(false),
            whose: AtomicU64::new(0),
            close: stop.child_token(),
            stop: stop.clone(),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            close_quietest(&mut open, self.go_at_once);
        }
        open.insert(number, life.clone());
        Place { number, life, connections: self.clone() }
    }

    /// Takes what is coming until `stop`, or until there is no more of it, a task for each; then waits for all of them to
    /// end.
    ///
    /// # Errors
    ///
    /// The listener itself is broken.
    pub async fn serve<T, F>(
        self: &Arc<Self>,
        stop: CancellationToken,
        mut coming: impl Stream<Item = io::Result<T>> + Unpin,
        mut serve: impl FnMut(T, Place) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        loop {
            // Both arms are cancel-safe.
            let came = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                came = coming.next() => came,
            };
            match came {
                Some(Ok(connection)) => drop(tasks.spawn(serve(connection, self.enter(&stop)))),
                Some(Err(error)) => self.after_error(error).await?,
                None => break,
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    /// Closes the quietest that holds nothing. It is others' connections too that there are too many of, so nothing that lives
    /// ends for a descriptor.
    fn make_room(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().any(|life| !life.holds.load(Ordering::Relaxed)) {
            close_quietest(&mut open, 1);
        }
    }

    /// What to do after `accept` failed: `Ok` to go on, after a rest where the error would come again.
    ///
    /// # Errors
    ///
    /// The listener itself is broken.
    async fn after_error(&self, error: io::Error) -> io::Result<()> {
        use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
        match error.raw_os_error() {
            Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) => {
                tracing::warn!(%error, "no descriptor or memory for a connection; closing the quietest");
                self.make_room();
                tokio::time::sleep(REST).await;
                Ok(())
            }
            Some(nix::libc::EBADF | nix::libc::EINVAL | nix::libc::ENOTSOCK | nix::libc::EOPNOTSUPP) => {
                Err(error)
            }
            // The peer gave up in the queue (ECONNABORTED), or its network did: the next one may be fine.
            _ => {
                tracing::debug!(%error, "accepting a connection");
                Ok(())
            }
        }
    }
}

/// Closes so many at most, the quietest first; of those that hold something one, and only where there is no other: one of
/// whoever has most of them, for who takes up all room shall not have others put out.
fn close_quietest(open: &mut HashMap<u64, Arc<Life>>, count: usize) {
    if open.values().all(|life| life.holds.load(Ordering::Relaxed)) {
        let whose = |life: &Life| life.whose.load(Ordering::Relaxed);
        let mut counts = HashMap::<u64, usize>::new();
        open.values().for_each(|life| *counts.entry(whose(life)).or_default() += 1);
        let Some((most, _)) = counts.into_iter().max_by_key(|(whose, count)| (*count, *whose)) else {
            return;
        };
        let of_most = open.iter().filter(|(_, life)| whose(life) == most);
        let quietest = of_most.min_by_key(|(_, life)| life.tick.load(Ordering::Relaxed));
        if let Some(number) = quietest.map(|(number, _)| *number)
            && let Some(life) = open.remove(&number)
        {
            life.close.cancel();
        }
        return;
    }
    let worth = |(number, life): (&u64, &Arc<Life>)| {
        (life.holds.load(Ordering::Relaxed), life.tick.load(Ordering::Relaxed), *number)
    };
    let mut all: Vec<(bool, u64, u64)> = open.iter().map(worth).collect();
    let count = count.min(all.len());
    if count == 0 {
        return;
    }
    all.select_nth_unstable(count - 1);
    all.truncate(count);
    all.sort_unstable();
    for (place, (holds, _, number)) in all.into_iter().enumerate() {
        if (place == 0 || !holds)
            && let Some(life) = open.remove(&number)
        {
            life.close.cancel();
        }
    }
}

/// What DNS connections share, whatever carries them.
#[derive(Debug)]
pub struct Streams {
    pub connections: Arc<Connections>,
    pub turns: Turns,
}

impl Streams {
    /// `most` connections of all kinds together.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { connections: Connections::in_floods(most), turns: Turns::default() })
    }
}

/// Who works at the moment, of the connections that have something to work on.
///
/// A message or a handshake is one turn, and turns are had in order. Who has sent more than one message at once waits for
/// those after the first in a line of its own, of which one at a time stands among the others: a thousand connections that
/// ask without end are one message ahead of somebody new, all together. There is a turn less at once than there are
/// processors, so that one is always left for what is no connection: UDP.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    /// The line of those who have more.
    more: Semaphore,
}

/// A turn; it lasts until it is dropped, which is not across a wait for anybody.
#[derive(Debug)]
pub struct Turn<'a> {
    _of_all: Option<SemaphorePermit<'a>>,
    _of_more: Option<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { all: Semaphore::new(processors.saturating_sub(1).max(1)), more: Semaphore::new(1) }
    }
}

impl Turns {
    /// Waits for a turn; `more` where this message came together with one before it on the same connection.
    pub async fn take(&self, more: bool) -> Turn<'_> {
        // Neither is ever closed.
        let of_more = if more { self.more.acquire().await.ok() } else { None };
        Turn { _of_all: self.all.acquire().await.ok(), _of_more: of_more }
    }
}

impl Place {
    /// A sign of life: a whole message came.
    pub fn touch(&self) {
        self.life.tick.store(self.connections.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Says whether something lives by this connection being open, and whose that is, as a hash.
    pub fn hold(&self, whose: Option<u64>) {
        self.life.whose.store(whose.unwrap_or_default(), Ordering::Relaxed);
        self.life.holds.store(whose.is_some(), Ordering::Relaxed);
    }

    /// Cancelled when this connection has to close.
    pub fn closing(&self) -> &CancellationToken {
        &self.life.close
    }

    /// True where it has to close because all have to.
    pub fn server_stops(&self) -> bool {
        self.life.stop.is_cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quietest_go_and_who_holds_something_stays() {
        let stop = CancellationToken::new();
        let connections = Connections::in_floods(128);
        let places: Vec<Place> = (0..128).map(|_| connections.enter(&stop)).collect();
        places[0].touch();
        places[1].hold(Some(1));
        let newcomer = connections.enter(&stop);
        let closed = |place: &&Place| place.closing().is_cancelled();
        let gone: Vec<u64> = places.iter().filter(closed).map(|place| place.number).collect();
        assert_eq!(gone, [2, 3], "one in sixty-four, and neither who spoke last nor who holds");
        assert_eq!(connections.open(), 127);
        // Where all hold something one goes, and only one.
        let another = connections.enter(&stop);
        places.iter().chain([&newcomer, &another]).for_each(|place| place.hold(Some(1)));
        places[127].hold(Some(2));
        places[0].hold(Some(2));
        let open: Vec<bool> = places.iter().map(|place| closed(&place)).collect();
        let _last = connections.enter(&stop);
        let newly = (0..128).filter(|place| closed(&&places[*place]) && !open[*place]);
        assert_eq!(newly.collect::<Vec<_>>(), [1], "the quietest of whoever has most");
    }
}
