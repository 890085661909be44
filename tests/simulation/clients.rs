//! The clients of a world: what they ask, and how their connections carry it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::Run;
use crate::expected::{Asked, Lease, Verb};
use crate::server::Server;
use crate::world::{IDS, SERVICES, Shared};

/// What a client has asked and not yet sent, in octets: who has more asks no more.
const OUTBOX_MAX: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Client {
    pub(super) connection: Option<Connection>,
    /// The lease of its own instance that it renews, if it does, and when it did so last.
    pub(super) keeps: Option<(Duration, u64)>,
}

pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) end: DuplexStream,
    /// Asked, and not delivered.
    pub(super) outbox: VecDeque<u8>,
    /// The requests in it, each with the octets before its end.
    marks: VecDeque<(usize, usize, Verb)>,
    /// Octets are delivered in pieces, now and then.
    pub(super) lags: bool,
    /// Nothing is read.
    pub(super) deaf: bool,
}

impl Run {
    pub(super) fn verb(&mut self) -> Verb {
        match self.draws.below(20) {
            0..8 => self.registration(),
            8..12 => Verb::Heartbeat,
            12..15 => Verb::Deregister,
            15..17 => Verb::Drain,
            which => Verb::Report { critical: which == 17 },
        }
    }

    pub(super) fn registration(&mut self) -> Verb {
        self.ports += 1;
        let lease = match self.draws.below(8) {
            0..2 => Lease::Connection,
            2 => Lease::None,
            which => Lease::Timed(Duration::from_millis([1000, 1500, 2000, 5000, 12_000][which - 3])),
        };
        Verb::Register { port: self.ports, lease }
    }

    /// Puts a request into a client's outbox, and connects it where it is not.
    pub(super) fn ask(&mut self, server: &Server, which: usize, key: usize, verb: Verb) {
        self.connect(server, which);
        if self.renew_what_is_over(server, which, key, verb) {
            return;
        }
        let now_ns = self.world.lock().now_ns();
        let keeps = self.draws.below(4) > 0;
        let client = &mut self.clients[which];
        let Some(connection) = client.connection.as_mut().filter(|it| it.outbox.len() < OUTBOX_MAX) else {
            return;
        };
        let (service, id) = (SERVICES[key / IDS.len()], IDS[key % IDS.len()]);
        let holder = format!(r#""service":"{service}","id":"{id}""#);
        let line = match verb {
            Verb::Register { port, lease } => {
                if key == which {
                    client.keeps = match lease {
                        Lease::Timed(duration) if keeps => Some((duration, now_ns)),
                        _ => None,
                    };
                }
                let lease = match lease {
                    Lease::Timed(duration) => format!("{}ms", duration.as_millis()),
                    Lease::Connection => "connection".to_owned(),
                    Lease::None => "none".to_owned(),
                };
                format!(r#"{{"register":{{{holder},"port":{port},"lease":"{lease}"}}}}"#)
            }
            Verb::Heartbeat => format!(r#"{{"heartbeat":{{{holder}}}}}"#),
            Verb::Deregister => format!(r#"{{"deregister":{{{holder}}}}}"#),
            Verb::Drain => format!(r#"{{"drain":{{{holder}}}}}"#),
            Verb::Report { critical } => {
                let status = if critical { "critical" } else { "passing" };
                format!(r#"{{"report":{{{holder},"status":"{status}"}}}}"#)
            }
        };
        connection.outbox.extend(line.bytes().chain([b'\n']));
        connection.marks.push_back((connection.outbox.len(), key, verb));
    }

    pub(super) fn connect(&mut self, server: &Server, which: usize) {
        if self.clients[which].connection.is_some() {
            return;
        }
        self.made += 1;
        let Some(end) = server.connect(&self.world, self.made) else { return };
        let (outbox, marks) = Default::default();
        let connection = Connection { number: self.made, end, outbox, marks, lags: false, deaf: false };
        self.clients[which].connection = Some(connection);
    }

    pub(super) fn with(&mut self, which: usize, change: impl FnOnce(&mut Connection)) {
        self.clients[which].connection.as_mut().map(change);
    }

    /// The client goes away, or its network does; part of what it sent may still arrive.
    pub(super) fn cut(&mut self, which: usize) {
        let octets = self.draws.below(400);
        let Some(mut connection) = self.clients[which].connection.take() else { return };
        if self.draws.below(2) == 0 {
            deliver(&self.world, &mut connection, octets);
        }
        let mut world = self.world.lock();
        let now_ns = world.now_ns();
        world.trace(format!("{}: cut", connection.number));
        world.expected.cut(connection.number, now_ns);
    }

    pub(super) fn deliver_some(&mut self, which: usize) {
        let octets = self.draws.below(120);
        if let Some(connection) = &mut self.clients[which].connection {
            deliver(&self.world, connection, octets);
        }
    }
}

/// Gives the server so many octets of what was sent, if it has room for them.
pub(super) fn deliver(world: &Shared, connection: &mut Connection, most: usize) {
    let mut octets: Vec<u8> = connection.outbox.iter().take(most).copied().collect();
    let mut delivered = 0;
    while !octets.is_empty() {
        match Pin::new(&mut connection.end).poll_write(&mut idle(), &octets) {
            Poll::Ready(Ok(written)) if written > 0 => {
                octets.drain(..written);
                delivered += written;
            }
            _ => break,
        }
    }
    connection.outbox.drain(..delivered);
    let mut world = world.lock();
    let at_ns = world.now_ns();
    while let Some((_, key, verb)) = connection.marks.pop_front_if(|(end, ..)| *end <= delivered) {
        world.delivered(connection.number, Asked { key, verb, at_ns });
    }
    connection.marks.iter_mut().for_each(|(end, ..)| *end -= delivered);
}

/// Nobody waits.
pub(super) fn idle() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Reads what is there; true where there will be no more.
pub(super) async fn has_ended(end: &mut DuplexStream) -> bool {
    let mut octets = [0; 1024];
    poll_fn(|context| {
        loop {
            let mut buffer = ReadBuf::new(&mut octets);
            match Pin::new(&mut *end).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(true),
                Poll::Pending => return Poll::Ready(false),
            }
        }
    })
    .await
}
