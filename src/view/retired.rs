//! Zones that are served no more, until nobody reads them.
//!
//! To free 100,000 records takes longer than 10,000 answers, and whoever lets go of them last does it. So that this is
//! never a query, they are kept here until this holds them alone, and freed by whoever reads the files.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::Zones;
use super::file_replies::FileReplies;
use crate::zone::Zone;

/// See the module's own words. What is here is bounded by who reads it: queries, which are over at once, and transfers, of
/// which there are few.
#[derive(Debug, Default)]
pub(super) struct Retired(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    replies: Vec<Arc<FileReplies>>,
    zones: Vec<Arc<Zone>>,
}

impl Retired {
    /// Takes what is not served any more: these replies, and the zones of `old` that are not in `new`.
    pub fn take(&self, replies: Arc<FileReplies>, old: &Zones, new: &Zones) {
        let served: HashSet<*const Zone> = new.all().map(Arc::as_ptr).collect();
        let gone = old.all().filter(|zone| !served.contains(&Arc::as_ptr(zone)));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.zones.extend(gone.cloned());
        kept.replies.push(replies);
    }

    /// The same of replies that a query found to be of other zones, before `take` came to them.
    pub fn take_replies(&self, replies: Arc<FileReplies>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replies.push(replies);
    }

    /// Frees what nobody reads any more; nobody can begin to.
    pub fn free(&self) {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind the lock, which a query may want. Replies hold their zones.
        let replies: Vec<_> = kept().replies.extract_if(.., |one| Arc::strong_count(one) == 1).collect();
        drop(replies);
        let zones: Vec<_> = kept().zones.extract_if(.., |one| Arc::strong_count(one) == 1).collect();
        drop(zones);
    }
}

#[cfg(test)]
mod tests {
    use crate::name::Name;
    use crate::registry::{FORGET_AFTER, INSTANCES_MAX, Registry};
    use crate::view::{Settings, View};
    use crate::zone::Kind;
    use crate::zone_file::read;

    use super::*;

    #[test]
    fn no_query_frees_a_zone() {
        let zone = |apex: &str| {
            let apex = Name::parse(apex).unwrap();
            let records = read(b"@ SOA a b 1 2 3 4 5\n@ NS a\na A 10.0.0.1\n", &apex).unwrap();
            Arc::new(Zone::new(apex, Kind::Primary, records).unwrap().0)
        };
        let stays = zone("b.test");
        let zones = || Zones { primary: vec![zone("a.test"), stays.clone()], trees: Vec::new() };
        let view = View::new(Settings::new(Vec::new()), zones());
        let registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
        let old = Arc::downgrade(&view.zones().primary[0]);
        let replies = Arc::downgrade(&view.file_replies());
        let query = view.zones();
        view.set_zones(&registry, zones());
        drop(view.file_replies());
        view.free_zones();
        assert!(old.upgrade().is_some() && replies.upgrade().is_none(), "it is read still");
        drop(query);
        assert!(old.upgrade().is_some(), "who reads it last does not free it");
        view.free_zones();
        assert!(old.upgrade().is_none());
        // A query may come to other zones before the replies of the old ones are replaced.
        let replies = Arc::downgrade(&view.file_replies());
        view.zones.store(Arc::new(zones()));
        drop(view.file_replies());
        assert!(replies.upgrade().is_some(), "the query does not free them");
        view.free_zones();
        assert!(replies.upgrade().is_none());
        // One that is served again and again is kept once.
        for _ in 0..3 {
            view.set_zones(&registry, zones());
            view.free_zones();
        }
        let served = view.zones();
        let counts = served.primary.iter().map(Arc::strong_count).collect::<Vec<_>>();
        assert_eq!(counts, [1, 2]);
    }
}
