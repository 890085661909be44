//! A stream of changes that goes on at another server where one is lost.
//!
//! Revisions are the store's, so they mean the same at every node of a cluster. What was shown last says where to go on;
//! changes of one revision that were shown already are not shown again.

use std::time::Duration;

use tokio::time::sleep;

use super::{Client, ClientError, Way};
use crate::protocol::{ChangeForm, Reply, Request};

/// How often another node is asked again that is behind what was shown, or whose log begins later, and the pause between:
/// nodes are milliseconds apart.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What was shown of a stream.
#[derive(Debug, Default)]
pub struct Shown {
    /// The last revision of which something was shown, or up to which everything was.
    revision: Option<u64>,
    /// What was shown of that revision: others of it may be still to come.
    of_it: Vec<Which>,
}

/// A change, among those of one revision.
#[derive(Debug, PartialEq)]
struct Which {
    service: Option<String>,
    id: Option<String>,
    host: String,
    reason: String,
}

impl Which {
    fn of(change: &ChangeForm) -> Self {
        let ChangeForm { service, id, host, reason, .. } = change.clone();
        Self { service, id, host, reason }
    }
}

impl Shown {
    /// Everything up to `revision` was shown.
    pub fn all_to(&mut self, revision: u64) {
        (self.revision, self.of_it) = (Some(revision), Vec::new());
    }

    /// True where the change is to be shown, which it counts as from here on; false where it was.
    pub fn takes(&mut self, change: &ChangeForm) -> bool {
        let which = Which::of(change);
        match self.revision {
            Some(revision) if change.revision < revision => return false,
            Some(revision) if change.revision == revision => {
                // Up to it, everything was shown where nothing is put down of it.
                if self.of_it.is_empty() || self.of_it.contains(&which) {
                    return false;
                }
                self.of_it.push(which);
            }
            _ => (self.revision, self.of_it) = (Some(change.revision), vec![which]),
        }
        true
    }

    /// What to go on after: the last revision, or where more of it may come, the one before.
    fn since(&self) -> Option<u64> {
        self.revision.map(|revision| revision - u64::from(!self.of_it.is_empty()))
    }
}

/// How long a server that goes on from a revision has to say that it cannot: it does so at once.
const REFUSES_WITHIN: Duration = Duration::from_millis(500);

/// Goes on at the next server, which is asked by `request` for what came after a revision. Returns its first reply too,
/// where it has said something already.
///
/// # Errors
///
/// No server is there; or none goes on from where we are, and what it says then is the error.
pub async fn go_on(
    way: &mut Way,
    timeout: Duration,
    lost: &ClientError,
    shown: &Shown,
    request: impl Fn(Option<u64>) -> Request<'static>,
) -> Result<(Client, Option<Reply>), ClientError> {
    way.go_on(lost);
    let mut tries = 0;
    loop {
        let mut client = way.connect(timeout).await?;
        // The one before the last may be older than the server's log: what is left to lose then is the rest of one revision.
        let since = if tries % 2 == 0 { shown.since() } else { shown.revision };
        client.send(&request(since)).await?;
        let first = tokio::time::timeout(REFUSES_WITHIN, client.receive()).await.ok();
        tries += 1;
        // Who goes on from the revision before says the last one again; where it does not, it never had that, and is asked for it.
        let says_it_again = match &first {
            Some(Ok(Reply::Change(change))) => Some(change.revision) == shown.revision,
            Some(Ok(Reply::Snapshot(_)) | Err(_)) => true,
            _ => since == shown.revision,
        };
        if !says_it_again && tries < TRIES_MAX {
            continue;
        }
        let Some(first) = first else {
            way.worked();
            return Ok((client, None));
        };
        let is_behind = match &first {
            Ok(Reply::Snapshot(snapshot)) => Some(snapshot.revision) < shown.revision,
            Err(ClientError::Refused(problem)) => problem.code == "compacted",
            _ => false,
        };
        match first {
            _ if is_behind && tries < TRIES_MAX => sleep(PAUSE).await,
            Err(error) if error.may_be_otherwise_elsewhere() && tries < TRIES_MAX => {
                way.go_on(&error);
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
            Ok(first) => {
                way.worked();
                return Ok((client, Some(first)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, id: &str) -> ChangeForm {
        ChangeForm {
            revision,
            at: String::new(),
            reason: "registered".to_owned(),
            author: String::new(),
            service: Some("web".to_owned()),
            id: Some(id.to_owned()),
            host: "m1".to_owned(),
            instance: None,
            checks: None,
            explained: Vec::new(),
            settings: None,
            records: None,
            token: None,
        }
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_the_rest_of_its_revision_is() {
        let mut shown = Shown::default();
        assert_eq!(shown.since(), None);
        shown.all_to(40);
        assert_eq!(shown.since(), Some(40));
        assert!(!shown.takes(&change(40, "a")), "of the snapshot");
        assert!(shown.takes(&change(42, "a")));
        assert_eq!(shown.since(), Some(41), "there may be more of 42");
        assert!(!shown.takes(&change(42, "a")));
        assert!(shown.takes(&change(42, "b")));
        assert!(!shown.takes(&change(41, "z")));
        assert!(shown.takes(&change(43, "a")));
        assert_eq!(shown.since(), Some(42));
    }
}
