//! An instance that is registered for as long as a value lives.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::hold::{Ended, Holder, LEAVE_WITHIN, ORDERS_MAX, Order};
use super::{ClientError, Server, Way};
use crate::protocol::{RegisterForm, RegisteredForm};

/// How long the server may take for one reply.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// A registration: renewed while it lives, said again after the server was away, taken back when it is dropped.
///
/// Where the form names no `lease` the connection is the lease: the instance is gone as soon as this process is, however it
/// ends. It is held by a task of the runtime that it was made in.
#[derive(Debug)]
pub struct Registration {
    registered: RegisteredForm,
    server: Server,
    orders: mpsc::Sender<Order>,
    holding: JoinHandle<Result<Ended, ClientError>>,
}

impl Registration {
    /// Registers, and holds it from then on.
    ///
    /// # Errors
    ///
    /// The first attempt failed: no server is there, or it refuses. Later troubles are waited for.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time and I/O.
    pub async fn register(way: Way, form: RegisterForm) -> Result<Self, ClientError> {
        let server = way.server().clone();
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let (tell, told) = oneshot::channel();
        let form = RegisterForm { lease: form.lease.or_else(|| Some("connection".to_owned())), ..form };
        let holder = Holder::new(way, REPLY_MAX, form, received);
        #[expect(clippy::disallowed_methods, reason = "the value owns it, and it ends with the value")]
        let holding = tokio::spawn(async move {
            let mut tell = Some(tell);
            let shown = |registered: &RegisteredForm| {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(registered.clone()); // nobody waits any more, and the orders are at an end
                }
                Ok(())
            };
            holder.hold(shown).await
        });
        match told.await {
            Ok(registered) => Ok(Self { registered, server, orders, holding }),
            Err(_) => match holding.await {
                Ok(Err(error)) => Err(error),
                // It ended without a word: the runtime is on its way down.
                _ => Err(ClientError::Protocol { server, what: "the registration was cut off".to_owned() }),
            },
        }
    }

    /// What the server made of it at first: its id, its name in DNS.
    pub fn registered(&self) -> &RegisteredForm {
        &self.registered
    }

    /// Takes it out of new answers; what is connected goes on.
    pub async fn drain(&self) {
        // Where it is held no more there is nothing to drain.
        let _ = self.orders.send(Order::Drain).await;
    }

    /// Deregisters, and waits until the server has.
    ///
    /// # Errors
    ///
    /// The server did not say so, or not in time, and the lease ends it; or somebody else had registered the instance since.
    pub async fn leave(self) -> Result<(), ClientError> {
        let _ = self.orders.send(Order::Leave).await;
        let late = || ClientError::TimedOut { server: self.server.clone(), after: LEAVE_WITHIN };
        match timeout(LEAVE_WITHIN, self.holding).await {
            Ok(Ok(Ok(Ended::Left))) => Ok(()),
            Ok(Ok(Ok(Ended::Unconfirmed(error)))) => Err(error),
            Ok(Ok(Ok(Ended::Superseded(problem)))) => Err(ClientError::Refused(problem)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }
}
