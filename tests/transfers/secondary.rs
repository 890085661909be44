//! A secondary of the plainest kind: it asks, reads strictly, and keeps a set of records.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::harness::dns::{connect, query, read, receive_framed, send_framed};

/// Owner in lower case, type, TTL and data as text, in which names are in lower case too.
pub type Line = (String, RecordType, u32, String);

/// The records of one transfer, as they came.
pub struct Came {
    pub records: Vec<Record>,
    pub messages: usize,
    /// AA is set in every message.
    pub authoritative: bool,
}

impl Default for Came {
    fn default() -> Self {
        Self { records: Vec::new(), messages: 0, authoritative: true }
    }
}

/// Asks for a zone, or for what changed since a serial; the error is what the server says instead.
pub fn transfer(server: SocketAddr, apex: &str, since: Option<u32>) -> Result<Came, Box<Message>> {
    let mut stream = connect(server);
    let asked = question(apex, since);
    send_framed(&mut stream, &asked.to_vec().expect("a query has a wire form")).expect("asking for a zone");
    let mut came = Came::default();
    loop {
        let reply = read(&receive_framed(&mut stream).expect("a message of a zone"));
        assert_eq!(reply.metadata.id, asked.metadata.id);
        if reply.metadata.response_code != ResponseCode::NoError {
            return Err(Box::new(reply));
        }
        came.add(reply);
        if came.is_whole(since.is_some()) {
            return Ok(came);
        }
    }
}

/// AXFR, or IXFR with the SOA that the client has (RFC 1995 section 3).
pub fn question(apex: &str, since: Option<u32>) -> Message {
    let Some(serial) = since else { return query(7, apex, RecordType::AXFR, None) };
    let mut asked = query(7, apex, RecordType::IXFR, None);
    let name = Name::from_ascii(apex).expect("a name");
    let soa = SOA::new(name.clone(), name.clone(), serial, 0, 0, 0, 0);
    asked.add_authority(Record::from_rdata(name, 0, RData::SOA(soa)));
    asked
}

pub fn serial(record: &Record) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(soa.serial),
        _ => None,
    }
}

impl Came {
    /// One more of its messages.
    pub fn add(&mut self, message: Message) {
        assert!(!message.answers.is_empty(), "a message of a zone has records");
        self.authoritative &= message.metadata.authoritative;
        self.messages += 1;
        self.records.extend(message.answers);
    }

    fn soas(&self) -> usize {
        self.records.iter().filter(|record| serial(record).is_some()).count()
    }

    /// RFC 1995 section 4: the second record tells a difference from a whole zone.
    pub fn is_difference(&self) -> bool {
        self.records.get(1).is_some_and(|record| serial(record).is_some())
    }

    /// `incremental`: where nothing has changed, the SOA is all.
    fn is_whole(&self, incremental: bool) -> bool {
        match self.records.len() {
            1 => incremental,
            _ if self.is_difference() => self.soas() == 4,
            _ => self.soas() == 2,
        }
    }

    pub fn serial(&self) -> u32 {
        serial(&self.records[0]).expect("a SOA comes first")
    }

    pub fn lines(&self) -> Vec<Line> {
        self.records.iter().map(line).collect()
    }
}

pub fn line(record: &Record) -> Line {
    let data = match record.data {
        // Names are the same in any case (RFC 4343), so a difference need not say that it has changed.
        RData::SRV(_) | RData::PTR(_) | RData::CNAME(_) | RData::MX(_) => {
            record.data.to_string().to_lowercase()
        }
        _ => record.data.to_string(),
    };
    (record.name.to_lowercase().to_string(), record.record_type(), record.ttl, data)
}

/// The zone as the secondary has it.
#[derive(Clone)]
pub struct Secondary {
    pub serial: u32,
    pub lines: BTreeSet<Line>,
}

impl Secondary {
    /// Takes the whole zone.
    pub fn new(came: &Came) -> Self {
        assert!(!came.is_difference());
        let (mut lines, last) = (came.lines(), came.records.len() - 1);
        assert_eq!(lines[0], lines[last], "a zone ends as it begins");
        lines.pop();
        let count = lines.len();
        let lines: BTreeSet<Line> = lines.into_iter().collect();
        assert_eq!(lines.len(), count, "no record comes twice");
        Self { serial: came.serial(), lines }
    }

    /// Takes a difference: what goes was there, and what comes was not; the error says what is wrong with it.
    pub fn apply(&mut self, came: &Came) -> Result<(), String> {
        let soas: Vec<usize> =
            (0..came.records.len()).filter(|at| serial(&came.records[*at]).is_some()).collect();
        let lines = came.lines();
        if soas.len() == 1 {
            let same = came.serial() == self.serial;
            return same
                .then_some(())
                .ok_or_else(|| format!("serial {} after {}", came.serial(), self.serial));
        }
        let [0, 1, comes, last] = soas[..] else { return Err(format!("not one difference: {soas:?}")) };
        if serial(&came.records[1]) != Some(self.serial) || last != lines.len() - 1 {
            return Err(format!("it does not lead from {} to its end: {lines:?}", self.serial));
        }
        if let Some(line) = lines[1..comes].iter().find(|line| !self.lines.remove(*line)) {
            return Err(format!("{line:?} goes, and was not there"));
        }
        if let Some(line) = lines[comes..last].iter().find(|line| !self.lines.insert(Line::clone(line))) {
            return Err(format!("{line:?} comes, and was there"));
        }
        self.serial = came.serial();
        Ok(())
    }
}
