//! What is registered, and then every change.

use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::follow::{self, Shown};
use super::{Client, ClientError, Way};
use crate::protocol::{ChangeForm, FilterForm, InstancesForm, Reply, Request};

/// A word of a [`Watch`].
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// A page of what is registered; the last one has no `next`. Where it begins anew after trouble, what earlier pages and
    /// changes said is over.
    Snapshot { first: bool, page: InstancesForm },
    /// One change, each once.
    Change(Box<ChangeForm>),
}

/// Changes as they happen, after what is registered at the beginning.
pub struct Watch {
    way: Way,
    timeout: Duration,
    form: FilterForm,
    client: Client,
    /// Replies that are here already.
    first: Option<Reply>,
    shown: Shown,
    /// The last page had a next one, over this connection.
    within: bool,
}

impl Watch {
    /// Begins to watch what `form` lets through. `timeout` is how long a server may take to answer.
    ///
    /// # Errors
    ///
    /// No server is there, or it refuses.
    pub async fn begin(mut way: Way, form: FilterForm, timeout: Duration) -> Result<Self, ClientError> {
        let request = Request::Watch(Box::new(form.clone()));
        let (client, reply) = way.ask(&request, timeout).await?;
        Ok(Self { way, timeout, form, client, first: Some(reply), shown: Shown::default(), within: false })
    }

    /// The next word, however long it takes. Where a server is lost it goes on at another one. Cancel-safe: what was not
    /// returned comes with the next call.
    ///
    /// # Errors
    ///
    /// The last server is lost, or refuses; a new watch begins with what is registered then.
    pub async fn next(&mut self) -> Result<Watched, ClientError> {
        loop {
            let reply = match self.first.take() {
                Some(reply) => Ok(reply),
                None => self.client.receive().await,
            };
            match reply {
                Ok(Reply::Snapshot(snapshot)) => {
                    if snapshot.next.is_none() {
                        self.shown.all_to(snapshot.revision);
                    }
                    let first = !std::mem::replace(&mut self.within, snapshot.next.is_some());
                    return Ok(Watched::Snapshot { first, page: snapshot });
                }
                Ok(Reply::Change(change)) if self.shown.takes(&change) => return Ok(Watched::Change(change)),
                Ok(Reply::Change(_)) => {}
                Ok(other) => return Err(self.client.unexpected(&other)),
                Err(error) if error.is_of_the_server() && self.way.has_others() => {
                    let form = &self.form;
                    let request = |since| Request::Watch(Box::new(FilterForm { since, ..form.clone() }));
                    let gone_on =
                        follow::go_on(&mut self.way, self.timeout, &error, &self.shown, request).await;
                    (self.client, self.first) = gone_on?;
                    self.within = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Watched, ClientError>> {
        try_unfold(self, |mut watch| async move {
            let watched = watch.next().await?;
            Ok(Some((watched, watch)))
        })
    }
}
