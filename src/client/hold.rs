//! A registration held for as long as this process wants it: what the command line and `Registration` stand on.
//!
//! One connection, one loop: a heartbeat at every third of the lease, orders from the verb, replies as they
//! come. Whatever goes wrong with the server or the way to it ends the connection, and the same is said
//! again over the next one, to another server where there are several; what the caller did wrong ends the holding. A
//! connection-bound instance has 15 s after a restart of the server until it must have been said again, so the pauses stay
//! well below.
//!
//! A node that cannot reach the store says so when it is renewed. It may be the only one, and then the others are about to end
//! the lease: they are asked, and the connection is left only for one that has taken the registration.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::{Client, ClientError, Way};
use crate::protocol::{HolderForm, Problem, RegisterForm, RegisteredForm, Reply, Request, Several};
use crate::time::parse_duration;

/// Orders that may wait: there are two, and each is given once or twice.
pub const ORDERS_MAX: usize = 8;
/// How long a deregistration at the end may take: the caller wants to be gone.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between attempts: first, and longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Heartbeats per lease: two may be lost.
const HEARTBEATS_PER_LEASE: u32 = 3;
/// Heartbeats where the connection itself is the lease, and there are other servers: what they are told is whether this one is
/// cut off, well within the 15 s that its instances then have.
const LOOK_EVERY: Duration = Duration::from_secs(4);

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
    /// It was to leave, and no server has said that it did: the lease ends it.
    Unconfirmed(ClientError),
    /// Somebody else registered the instance since; it is theirs now.
    Superseded(Problem),
}

/// How it went with one connection.
enum Kept {
    Ended(Ended),
    /// Another server holds the registration, over this connection.
    Moved(Box<Client>, Box<RegisteredForm>),
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
    ///
    /// # Errors
    ///
    /// The first registration failed, unless it insists; what `shown` returned.
    pub async fn hold<E: From<ClientError>>(
        mut self,
        mut shown: impl FnMut(&RegisteredForm) -> Result<(), E>,
    ) -> Result<Ended, E> {
        let (mut pause, mut others) = (PAUSE_MIN, self.way.others());
        loop {
            let error = match self.connection(&mut shown, &mut pause).await {
                Ok(ended) => return ended,
                Err(error) => error,
            };
            if self.leaving {
                return Ok(Ended::Unconfirmed(error));
            }
            if self.held.is_none() && !self.insists {
                // The first word is said to each server once.
                if others == 0 || !error.may_be_otherwise_elsewhere() {
                    return Err(error.into());
                }
                others -= 1;
            }
            match error.may_be_otherwise_elsewhere() && self.way.has_others() {
                true => {
                    self.way.go_on(&error);
                    self.troubled = true;
                }
                false => self.complain(&error),
            }
            tokio::select! {
                () = sleep(pause) => {}
                order = self.orders.recv() => match order {
                    Some(Order::Drain) => self.draining = true,
                    Some(Order::Leave) | None => return Ok(Ended::Unconfirmed(error)),
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
                    self.way.say("the registration is gone; registering again")
                }
                error => {
                    self.way.say(&format!("{error}; trying until {} can be registered", self.form.service))
                }
            }
        }
        self.troubled = true;
    }

    /// From connecting to whatever ends the connection. The outer error is worth another attempt.
    async fn connection<E>(
        &mut self,
        shown: &mut impl FnMut(&RegisteredForm) -> Result<(), E>,
        pause: &mut Duration,
    ) -> Result<Result<Ended, E>, ClientError> {
        let mut client = self.way.connect(self.timeout).await?;
        let mut registered = self.register(&mut client).await?;
        self.way.worked();
        *pause = PAUSE_MIN;
        if self.held.is_none()
            && let Err(failure) = shown(&registered)
        {
            return Ok(Err(failure));
        }
        if std::mem::take(&mut self.troubled) {
            self.way.say(&format!("registered {} {}", registered.service, registered.id));
        }
        loop {
            let holder = self.holds(registered);
            if self.draining {
                client.send(&Request::Drain(holder.clone())).await?;
            }
            match self.keep(&mut client, holder).await? {
                Kept::Ended(ended) => return Ok(Ok(ended)),
                Kept::Moved(other, moved) => (client, registered) = (*other, *moved),
            }
        }
    }

    /// Puts down what was registered, so that the same instance is said again wherever that may be.
    fn holds(&mut self, registered: RegisteredForm) -> HolderForm<'static> {
        // The server's choice of id is kept: the same instance comes back after a restart.
        self.form.id = Some(registered.id.clone());
        if self.way.has_others() {
            // Another server would see us at another place, and take us for somebody else.
            self.form.host = Some(registered.host.clone());
            if self.form.address.is_none() && self.form.target.is_none() {
                self.form.address = Some(Several(registered.address.clone()));
            }
        }
        let holder = HolderForm {
            service: registered.service.clone().into(),
            id: registered.id.clone().into(),
            host: Some(registered.host.clone()),
            lease_id: Some(registered.lease_id.clone()),
        };
        self.held = Some(registered);
        holder
    }

    /// The registration at another server, where one takes it.
    async fn elsewhere(&mut self) -> Option<(Client, RegisteredForm)> {
        let left = self.way.server().clone();
        let request = Request::Register(Box::new(self.form.clone()));
        match self.way.ask_others(&request, self.timeout).await? {
            (client, Reply::Registered(registered)) => {
                self.way.say(&format!("{left} cannot reach its store; going on with {}", self.way.server()));
                Some((client, *registered))
            }
            _ => None,
        }
    }

    async fn register(&self, client: &mut Client) -> Result<RegisteredForm, ClientError> {
        match client.request(&Request::Register(Box::new(self.form.clone()))).await? {
            Reply::Registered(registered) => Ok(*registered),
            other => Err(client.unexpected(&other)),
        }
    }

    async fn keep(&mut self, client: &mut Client, holder: HolderForm<'_>) -> Result<Kept, ClientError> {
        let lease = self.held.as_ref().and_then(|held| parse_duration(&held.lease));
        let heartbeat = match lease {
            Some(lease) => Some(lease / HEARTBEATS_PER_LEASE),
            // The connection itself is the lease.
            None => self.way.has_others().then_some(LOOK_EVERY),
        };
        let period = heartbeat.unwrap_or(Duration::MAX / 4);
        let mut heartbeats = ticks(heartbeat.unwrap_or(PAUSE_MAX));
        let mut unanswered = false;
        loop {
            // Cancel-safe, each: `receive` keeps what it has, a tick or an order is taken or not.
            tokio::select! {
                reply = client.receive() => match reply {
                    Ok(Reply::Renewed(renewed)) => {
                        unanswered = false;
                        if renewed.cut_off && !self.leaving && let Some((other, moved)) = self.elsewhere().await {
                            return Ok(Kept::Moved(Box::new(other), Box::new(moved)));
                        }
                    }
                    Ok(Reply::Draining(_)) => {}
                    Ok(Reply::Deregistered(_)) => return Ok(Kept::Ended(Ended::Left)),
                    Ok(other) => return Err(client.unexpected(&other)),
                    Err(ClientError::Refused(problem)) if problem.code == "superseded" => {
                        return Ok(Kept::Ended(Ended::Superseded(problem)));
                    }
                    Err(error) => return Err(error),
                },
                _ = heartbeats.tick(), if heartbeat.is_some() => {
                    if unanswered {
                        return Err(ClientError::TimedOut { server: client.server().clone(), after: period });
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
