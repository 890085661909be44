//! Who comes before the registry is loaded.
//!
//! Health is told at once. All else waits, as in the queues of the listeners. At a node of several nobody waits for long:
//! another one may take the same word meanwhile, and a registration that is carried out here long after its process has gone
//! elsewhere, or ended, would be untrue.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::bound::Bound;
use crate::clock::Clock;
use crate::connections::{Connections, Handed, coming_to};
use crate::http;
use crate::socket;
use crate::view::View;

/// How long a node of several keeps somebody waiting: less than a client's patience.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What answers probes while the registry is loaded, and whoever else has come meanwhile.
pub(super) struct Early {
    pub(super) hand_over: mpsc::Sender<Handed>,
    pub(super) handed: mpsc::Receiver<Handed>,
    pub(super) loaded: CancellationToken,
}

impl Early {
    /// Every task ends when `loaded` is said, or a slow client of its own has gone.
    pub(super) fn begin(
        tasks: &mut JoinSet<io::Result<()>>,
        bound: &Bound,
        (view, clock): (Arc<View>, Clock),
        of_several: bool,
    ) -> Result<Self> {
        let (hand_over, handed) = mpsc::channel(http::HANDED_MAX);
        let loaded = CancellationToken::new();
        let patience = of_several.then_some(WAIT_MAX);
        for listener in &bound.http {
            let (view, hand_over, loaded) = (view.clone(), hand_over.clone(), loaded.clone());
            let waiting =
                http::health::until_loaded(tcp(listener)?, (view, clock), patience, hand_over, loaded);
            tasks.spawn(waiting);
        }
        if !of_several {
            return Ok(Self { hand_over, handed, loaded });
        }
        let unix = tokio::net::UnixListener::from_std(bound.unix.try_clone()?)?;
        let mut plain = vec![socket::Listener::Unix(unix)];
        for listener in &bound.listen {
            plain.push(socket::Listener::Tcp(tcp(listener)?));
        }
        for listener in plain {
            tasks.spawn(after_a_while(loaded.clone(), socket::turn_away(listener, loaded.clone())));
        }
        for listener in bound.listen_tls.iter().chain(&bound.https) {
            tasks.spawn(after_a_while(loaded.clone(), close_all(tcp(listener)?, loaded.clone())));
        }
        Ok(Self { hand_over, handed, loaded })
    }
}

/// The same listener once more.
fn tcp(listener: &std::net::TcpListener) -> Result<TcpListener> {
    Ok(TcpListener::from_std(listener.try_clone()?)?)
}

/// Runs a task if loading takes long.
async fn after_a_while(
    loaded: CancellationToken,
    task: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        () = sleep(WAIT_MAX) => task.await,
        () = loaded.cancelled() => Ok(()),
    }
}

/// Closes what comes: a refusal in words would want a handshake first.
async fn close_all(listener: TcpListener, loaded: CancellationToken) -> io::Result<()> {
    let close = |_, _| std::future::ready(());
    Connections::new(1).serve(loaded, coming_to(listener), close).await
}
