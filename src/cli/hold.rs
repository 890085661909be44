//! A registration held for as long as this process wants it.
//!
//! One connection, one loop: a heartbeat at every third of the lease, orders from the verb, replies as they
//! come. Whatever goes wrong with the server or the way to it ends the connection, and the same is said
//! again over the next one; what the caller did wrong ends the holding. A connection-bound instance has
//! 15 s after a restart of the server until it must have been said again, so the pauses stay well below.

use std::time::Duration;

use callsign::client::{Client, ClientError, Way};
use callsign::protocol::{HolderForm, Problem, RegisterForm, RegisteredForm, Reply, Request};
use callsign::time::parse_duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::{Failure, message};

/// Orders that may wait: there are two, and each is given once or twice.
pub const ORDERS_MAX: usize = 8;
/// How long a deregistration at the end may take: the caller wants to be gone.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between attempts: first, and longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Heartbeats per lease: two may be lost.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// What the verb wants of its holder.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Out of new answers.
    Drain,
    /// Out of the registry; the holding ends with the reply.
    Leave,
}

/// How a holding ended in good order.
#[derive(Debug)]
pub enum Ended {
    Left,
    /// Somebody else registered the instance since; it is theirs now.
    Superseded(Problem),
}

/// See the module's own words.
pub struct Holder {
    way: Way,
    timeout: Duration,
    form: RegisterForm,
    orders: mpsc::Receiver<Order>,
    /// Go on trying even where the first registration fails.
    insists: bool,
    draining: bool,
    leaving: bool,
    /// The last registration; `None` before the first.
    held: Option<RegisteredForm>,
    /// The present trouble was told; the end of it has to be told too.
    troubled: bool,
}

impl Holder {
    pub fn new(way: Way, timeout: Duration, form: RegisterForm, orders: mpsc::Receiver<Order>) -> Self {
        Self {
            way,
            timeout,
            form,
            orders,
            insists: false,
            draining: false,
            leaving: false,
            held: None,
            troubled: false,
        }
    }

    /// A server that is not there, or refuses, is waited for from the start.
    pub fn insist(self) -> Self {
        Self { insists: true, ..self }
    }

    /// Registers and holds until `Order::Leave`; `shown` is told the first registration.
    pub async fn hold(
        mut self,
        shown: impl Fn(&RegisteredForm) -> Result<(), Failure>,
    ) -> Result<Ended, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.connection(&shown, &mut pause).await {
                Ok(ended) => return ended,
                Err(error) => error,
            };
            if self.leaving {
                return Ok(Ended::Left);
            }
            if self.held.is_none() && !self.insists {
                return Err(error.into());
            }
            self.complain(&error);
            tokio::select! {
                () = sleep(pause) => {}
                order = self.orders.recv() => match order {
                    Some(Order::Drain) => self.draining = true,
                    // There is nobody to tell; the lease ends it.
                    Some(Order::Leave) | None => return Ok(Ended::Left),
                },
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One sentence per trouble, however many attempts it takes.
    fn complain(&mut self, error: &ClientError) {
        if !self.troubled {
            match error {
                ClientError::Refused(problem) if problem.code == "not_found" => {
                    message::say("the registration is gone; registering again")
                }
                error => {
                    message::say(&format!("{error}; trying until {} can be registered", self.form.service))
                }
            }
        }
        self.troubled = true;
    }

    /// From connecting to whatever ends the connection. The outer error is worth another attempt.
    async fn connection(
        &mut self,
        shown: &impl Fn(&RegisteredForm) -> Result<(), Failure>,
        pause: &mut Duration,
    ) -> Result<Result<Ended, Failure>, ClientError> {
        let mut client = self.way.connect(self.timeout).await?;
        let registered = self.register(&mut client).await?;
        *pause = PAUSE_MIN;
        if self.held.is_none()
            && let Err(failure) = shown(&registered)
        {
            return Ok(Err(failure));
        }
        if std::mem::take(&mut self.troubled) {
            message::say(&format!("registered {} {}", registered.service, registered.id));
        }
        // The server's choice of id is kept: the same instance comes back after a restart.
        self.form.id = Some(registered.id.clone());
        let heartbeat = parse_duration(&registered.lease).map(|lease| lease / HEARTBEATS_PER_LEASE);
        let holder = HolderForm {
            service: registered.service.clone().into(),
            id: registered.id.clone().into(),
            host: Some(registered.host.clone()),
            lease_id: Some(registered.lease_id.clone()),
        };
        self.held = Some(registered);
        if self.draining {
            client.send(&Request::Drain(holder.clone())).await?;
        }
        self.keep(&mut client, holder, heartbeat).await.map(Ok)
    }

    async fn register(&self, client: &mut Client) -> Result<RegisteredForm, ClientError> {
        match client.request(&Request::Register(Box::new(self.form.clone()))).await? {
            Reply::Registered(registered) => Ok(*registered),
            other => Err(client.unexpected(&other)),
        }
    }

    /// `heartbeat` is `None` where the connection itself is the lease.
    async fn keep(
        &mut self,
        client: &mut Client,
        holder: HolderForm<'_>,
        heartbeat: Option<Duration>,
    ) -> Result<Ended, ClientError> {
        let period = heartbeat.unwrap_or(Duration::MAX / 4);
        let mut heartbeats = ticks(heartbeat.unwrap_or(PAUSE_MAX));
        let mut unanswered = false;
        loop {
            // Cancel-safe, each: `receive` keeps what it has, a tick or an order is taken or not.
            tokio::select! {
                reply = client.receive() => match reply {
                    Ok(Reply::Renewed(_)) => unanswered = false,
                    Ok(Reply::Draining(_)) => {}
                    Ok(Reply::Deregistered(_)) => return Ok(Ended::Left),
                    Ok(other) => return Err(client.unexpected(&other)),
                    Err(ClientError::Refused(problem)) if problem.code == "superseded" => return Ok(Ended::Superseded(problem)),
                    Err(error) => return Err(error),
                },
                _ = heartbeats.tick(), if heartbeat.is_some() => {
                    if unanswered {
                        return Err(ClientError::TimedOut { server: self.way.server.clone(), after: period });
                    }
                    client.send(&Request::Heartbeat(holder.clone())).await?;
                    unanswered = true;
                }
                order = self.orders.recv(), if !self.leaving => match order {
                    Some(Order::Drain) => {
                        self.draining = true;
                        client.send(&Request::Drain(holder.clone())).await?;
                    }
                    Some(Order::Leave) | None => {
                        self.leaving = true;
                        client.send(&Request::Deregister(holder.clone())).await?;
                    }
                },
            }
        }
    }
}

/// Ticks from one period on; one that was missed is not made up for.
#[expect(clippy::disallowed_methods, reason = "an interval starts at a reading of the clock")]
fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
