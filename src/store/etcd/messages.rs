//! What is said to etcd, with the numbers of its own `rpc.proto`, `kv.proto` and `auth.proto`: of some hundred messages
//! those ten that we use, and of them the fields that we set and read.

use crate::protobuf::{Field, Fields, Malformed, put_number, put_octets};

pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// A key and what is at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The revision that wrote it last.
    pub modified: u64,
    /// The revision that it is there since.
    pub created: u64,
    /// The etcd lease that it ends with; 0 for none.
    pub lease: u64,
}

/// What a range of keys holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranged {
    /// The store's revision when it answered; the pairs may be of an older one that was asked for.
    pub revision: u64,
    pub pairs: Vec<Pair>,
    /// There are more behind the last.
    pub more: bool,
}

/// One message of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    pub created: bool,
    pub canceled: bool,
    /// Where it is not 0: what was to be watched from is compacted, up to here.
    pub compacted: u64,
    pub reason: String,
    pub events: Vec<Event>,
}

/// A key that was written, or, without a value that means anything, deleted, at `pair.modified`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub deleted: bool,
    pub pair: Pair,
}

/// What must be so for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The key was written last at this revision; 0 where it is not there.
    ModifiedAt(Vec<u8>, u64),
    /// The key is there since this revision; 0 where it is not there.
    CreatedAt(Vec<u8>, u64),
    /// No key from the first on, up to the second, was written at or after this revision.
    NoneSince(Vec<u8>, Vec<u8>, u64),
}

impl Condition {
    /// What it speaks of: from the first key on, up to the second.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::ModifiedAt(key, _) | Self::CreatedAt(key, _) => (key.clone(), [key, &[0][..]].concat()),
            Self::NoneSince(from, to, _) => (from.clone(), to.clone()),
        }
    }
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// With the etcd lease that the key ends with; 0 for none.
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: u64,
    },
    Delete {
        key: Vec<u8>,
    },
    /// From the first key on, up to the second.
    DeleteAll {
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

/// The end of the keys that begin with `prefix`.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0] // etcd's word for: to the last key there is
}

/// What a range is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    pub from: &'a [u8],
    pub to: &'a [u8],
    pub most: u64,
    /// As it was at this revision; 0 for now.
    pub revision: u64,
    pub keys_only: bool,
}

pub fn range(range: Range<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_octets(1, range.from, &mut out);
    put_octets(2, range.to, &mut out);
    put_number(3, range.most, &mut out);
    put_number(4, range.revision, &mut out);
    put_number(8, range.keys_only.into(), &mut out);
    out
}

pub fn ranged(message: &[u8]) -> Result<Ranged, Malformed> {
    let mut ranged = Ranged::default();
    for field in Fields::of(message) {
        match field? {
            (1, header) => ranged.revision = revision_of(header.octets()?)?,
            (2, pair) => ranged.pairs.push(read_pair(pair.octets()?)?),
            (3, Field::Number(more)) => ranged.more = more != 0,
            _ => {}
        }
    }
    Ok(ranged)
}

pub fn transaction(conditions: &[Condition], operations: &[Operation]) -> Vec<u8> {
    const EQUAL: u64 = 0;
    const LESS: u64 = 2;
    const CREATE: u64 = 1;
    const MOD: u64 = 2;
    let mut out = Vec::new();
    for condition in conditions {
        let mut compare = Vec::new();
        let (result, target, key, number, revision, to) = match condition {
            Condition::ModifiedAt(key, revision) => (EQUAL, MOD, key, 6, *revision, None),
            Condition::CreatedAt(key, revision) => (EQUAL, CREATE, key, 5, *revision, None),
            Condition::NoneSince(from, to, revision) => (LESS, MOD, from, 6, *revision, Some(to)),
        };
        put_number(1, result, &mut compare);
        put_number(2, target, &mut compare);
        put_octets(3, key, &mut compare);
        put_number(number, revision, &mut compare);
        if let Some(to) = to {
            put_octets(64, to, &mut compare);
        }
        put_octets(1, &compare, &mut out);
    }
    for operation in operations {
        let (number, request) = match operation {
            Operation::Put { key, value, lease } => {
                let mut put = Vec::new();
                put_octets(1, key, &mut put);
                put_octets(2, value, &mut put);
                put_number(3, *lease, &mut put);
                (2, put)
            }
            Operation::Delete { key } => {
                let mut delete = Vec::new();
                put_octets(1, key, &mut delete);
                (3, delete)
            }
            Operation::DeleteAll { from, to } => {
                let mut delete = Vec::new();
                put_octets(1, from, &mut delete);
                put_octets(2, to, &mut delete);
                (3, delete)
            }
        };
        let mut one = Vec::new();
        put_octets(number, &request, &mut one);
        put_octets(2, &one, &mut out);
    }
    // A member of etcd looks at the conditions of what does nothing by itself, however far it is behind the others; to read,
    // it asks them first (`IsTxnSerializable` in etcd's server).
    if let (Some(condition), []) = (conditions.first(), operations) {
        let key = match condition {
            Condition::ModifiedAt(key, _) | Condition::CreatedAt(key, _) | Condition::NoneSince(key, ..) => {
                key
            }
        };
        let mut one = Vec::new();
        put_octets(1, &range(Range { from: key, to: &[], most: 1, revision: 0, keys_only: true }), &mut one);
        put_octets(2, &one, &mut out);
    }
    out
}

/// Octets of [`transaction`], or a few more: numbers count as long as they can be.
pub fn transaction_octets(conditions: &[Condition], operations: &[Operation]) -> usize {
    /// Of one part of it: two numbers of 10 octets, and the tags and lengths of all its fields.
    const AROUND: usize = 64;
    let conditions = conditions.iter().map(|condition| match condition {
        Condition::ModifiedAt(key, _) | Condition::CreatedAt(key, _) => key.len(),
        Condition::NoneSince(from, to, _) => from.len() + to.len(),
    });
    let operations = operations.iter().map(|operation| match operation {
        Operation::Put { key, value, .. } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
        Operation::DeleteAll { from, to } => from.len() + to.len(),
    });
    conditions.chain(operations).map(|octets| octets + AROUND).sum()
}

/// The revision of a transaction whose conditions held, and which was carried out.
pub fn transacted(message: &[u8]) -> Result<Option<u64>, Malformed> {
    let (mut held, mut revision) = (false, 0);
    for field in Fields::of(message) {
        match field? {
            (1, header) => revision = revision_of(header.octets()?)?,
            (2, Field::Number(number)) => held = number != 0,
            _ => {}
        }
    }
    Ok(held.then_some(revision))
}

/// Watches what lies from `from` up to `to`, from a revision on.
pub fn watch(from: &[u8], to: &[u8], revision: u64) -> Vec<u8> {
    let mut create = Vec::new();
    put_octets(1, from, &mut create);
    put_octets(2, to, &mut create);
    put_number(3, revision, &mut create);
    let mut out = Vec::new();
    put_octets(1, &create, &mut out);
    out
}

pub fn watched(message: &[u8]) -> Result<Watched, Malformed> {
    let mut watched = Watched::default();
    for field in Fields::of(message) {
        match field? {
            (3, Field::Number(created)) => watched.created = created != 0,
            (4, Field::Number(canceled)) => watched.canceled = canceled != 0,
            (5, Field::Number(revision)) => watched.compacted = revision,
            (6, reason) => watched.reason = reason.text()?.to_owned(),
            (11, event) => watched.events.push(read_event(event.octets()?)?),
            _ => {}
        }
    }
    Ok(watched)
}

/// Asks for an etcd lease of so many seconds; etcd chooses its number.
pub fn grant(seconds: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(1, seconds, &mut out);
    out
}

/// Names an etcd lease, to keep it alive or to revoke it.
pub fn lease(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(1, number, &mut out);
    out
}

/// An etcd lease that was granted or kept alive: its number, and the seconds that it has; 0 where it is gone.
pub fn leased(message: &[u8]) -> Result<(u64, u64), Malformed> {
    let (mut number, mut seconds) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (2, Field::Number(id)) => number = id,
            // A signed number: below 0 is gone as well.
            (3, Field::Number(ttl)) => seconds = u64::try_from(ttl as i64).unwrap_or(0),
            _ => {}
        }
    }
    Ok((number, seconds))
}

pub fn authenticate(user: &str, password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_octets(1, user.as_bytes(), &mut out);
    put_octets(2, password.as_bytes(), &mut out);
    out
}

/// The token of a user who has shown the password.
pub fn authenticated(message: &[u8]) -> Result<String, Malformed> {
    let mut token = String::new();
    for field in Fields::of(message) {
        if let (2, field) = field? {
            token = field.text()?.to_owned();
        }
    }
    Ok(token)
}

fn revision_of(header: &[u8]) -> Result<u64, Malformed> {
    let mut revision = 0;
    for field in Fields::of(header) {
        if let (3, Field::Number(number)) = field? {
            revision = number;
        }
    }
    Ok(revision)
}

fn read_pair(octets: &[u8]) -> Result<Pair, Malformed> {
    let mut pair = Pair::default();
    for field in Fields::of(octets) {
        match field? {
            (1, key) => pair.key = key.octets()?.to_vec(),
            (2, Field::Number(revision)) => pair.created = revision,
            (3, Field::Number(revision)) => pair.modified = revision,
            (5, value) => pair.value = value.octets()?.to_vec(),
            (6, Field::Number(lease)) => pair.lease = lease,
            _ => {}
        }
    }
    Ok(pair)
}

fn read_event(octets: &[u8]) -> Result<Event, Malformed> {
    let mut event = Event::default();
    for field in Fields::of(octets) {
        match field? {
            (1, Field::Number(kind)) => event.deleted = kind == 1,
            (2, pair) => event.pair = read_pair(pair.octets()?)?,
            _ => {}
        }
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begins_with_it() {
        assert_eq!(behind(b"/a/"), b"/a0");
        assert_eq!(behind(b"a\xff"), b"b");
        assert_eq!(behind(b"\xff\xff"), [0]);
    }

    #[test]
    fn messages_have_the_numbers_of_the_protocol() {
        let conditions = [
            Condition::ModifiedAt(b"k".to_vec(), 7),
            Condition::CreatedAt(b"k".to_vec(), 0),
            Condition::NoneSince(b"k".to_vec(), b"l".to_vec(), 300),
        ];
        let operations = [
            Operation::Put { key: b"k".to_vec(), value: b"v".to_vec(), lease: 9 },
            Operation::Delete { key: b"k".to_vec() },
            Operation::DeleteAll { from: b"a".to_vec(), to: b"b".to_vec() },
        ];
        let octets = [
            &[0x0a, 9, 8, 0, 0x10, 2, 0x1a, 1, b'k', 0x30, 7][..],
            &[0x0a, 9, 8, 0, 0x10, 1, 0x1a, 1, b'k', 0x28, 0],
            &[0x0a, 14, 8, 2, 0x10, 2, 0x1a, 1, b'k', 0x30, 0xac, 2, 0x82, 4, 1, b'l'],
            &[0x12, 10, 0x12, 8, 0x0a, 1, b'k', 0x12, 1, b'v', 0x18, 9],
            &[0x12, 5, 0x1a, 3, 0x0a, 1, b'k'],
            &[0x12, 8, 0x1a, 6, 0x0a, 1, b'a', 0x12, 1, b'b'],
        ];
        assert_eq!(transaction(&conditions, &operations), octets.concat());
        let reads = [0x12, 13, 0x0a, 11, 0x0a, 1, b'k', 0x12, 0, 0x18, 1, 0x20, 0, 0x40, 1];
        assert_eq!(transaction(&conditions[1..2], &[]), [octets[1], &reads].concat());
        let asked = Range { from: b"a", to: b"b", most: 2, revision: 3, keys_only: true };
        assert_eq!(range(asked), [0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 2, 0x20, 3, 0x40, 1]);
    }

    #[test]
    fn what_etcd_says_is_read() {
        // Header with the revision 5, one pair, more.
        let pair = [0x0a, 1, b'k', 0x10, 2, 0x18, 4, 0x20, 9, 0x2a, 1, b'v', 0x30, 1];
        let read = Pair { key: b"k".to_vec(), value: b"v".to_vec(), modified: 4, created: 2, lease: 1 };
        let message = [&[0x0a, 4, 8, 1, 0x18, 5, 0x12, 14][..], &pair, &[0x18, 1, 0x20, 8]].concat();
        assert_eq!(ranged(&message), Ok(Ranged { revision: 5, pairs: vec![read.clone()], more: true }));
        let event = [&[0x5a, 18, 8, 1, 0x12, 14][..], &pair].concat();
        let message = [&[0x20, 1, 0x28, 7, 0x32, 2, b'n', b'o'][..], &event].concat();
        let reason = "no".to_owned();
        let events = vec![Event { deleted: true, pair: read }];
        let watch = Watched { created: false, canceled: true, compacted: 7, reason, events };
        assert_eq!(watched(&message), Ok(watch));
        assert_eq!(leased(&[0x10, 3, 0x18, 5]), Ok((3, 5)));
        assert_eq!(transacted(&[0x0a, 2, 0x18, 7, 0x10, 1]), Ok(Some(7)));
        assert_eq!(transacted(&[0x0a, 2, 0x18, 7]), Ok(None));
        assert_eq!(authenticated(&[0x12, 1, b't']), Ok("t".to_owned()));
        assert_eq!(ranged(&[0x12, 9, 1]), Err(Malformed));
    }
}
