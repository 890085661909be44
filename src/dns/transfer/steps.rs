//! What changed in static zones, edit by edit, as long as there is room for it.
//!
//! An edit that is read is one step: the records that went, those that came, and the serials around them (RFC 1995 section
//! 4). Where a serial stood for two versions of a zone, nobody can tell which of them a secondary has, so no step begins
//! there; and where one fell, those up to the highest may come to stand for another version. Nothing of this is stored: after a restart the first answer is the whole zone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::octets;
use crate::live::whole::records_of;
use crate::name::Name;
use crate::record::{Record, RrSet, Type};
use crate::zone::{Node, Zone};

/// Records that are kept of all steps of all zones, some 200 octets each.
const RECORDS_MAX: usize = 100_000;
/// Steps of all zones.
const STEPS_MAX: usize = 1000;

/// One edit of one zone.
#[derive(Debug)]
pub struct Step {
    apex: Name,
    /// The SOA before and after.
    old: Record,
    new: Record,
    /// But for the SOAs.
    gone: Vec<Record>,
    come: Vec<Record>,
    /// Of all these, without compression.
    octets: usize,
}

/// How a zone differs from the one before.
#[derive(Debug)]
pub enum Edit {
    Same,
    /// The serial did not rise from this one, so that no secondary asks for it; or there is none.
    Unseen {
        from: u32,
    },
    Step(Arc<Step>),
}

impl Edit {
    /// Costs a look at every record of both.
    pub fn between(old: &Zone, new: &Zone) -> Self {
        let (gone, come) = (beyond(old, new), beyond(new, old));
        match (soa(old), soa(new)) {
            (old, new) if old == new && gone.is_empty() && come.is_empty() => Self::Same,
            (Some(old_soa), Some(new_soa)) if is_later(serial(new), serial(old)) => {
                let octets = [&old_soa, &new_soa].into_iter().chain(&gone).chain(&come).map(octets).sum();
                let apex = new.apex.clone();
                Self::Step(Arc::new(Step { apex, old: old_soa, new: new_soa, gone, come, octets }))
            }
            _ => Self::Unseen { from: serial(old) },
        }
    }
}

/// RFC 1982 section 3.2.
pub fn is_later(one: u32, than: u32) -> bool {
    one != than && one.wrapping_sub(than) <= u32::MAX / 2
}

fn serial(zone: &Zone) -> u32 {
    zone.soa().map_or(0, |(soa, _)| soa.serial)
}

fn soa(zone: &Zone) -> Option<Record> {
    records_of(zone.node(&zone.apex)?, |rtype| rtype == Type::SOA).pop()
}

/// The records of `zone` that `other` does not have, its SOA aside.
fn beyond(zone: &Zone, other: &Zone) -> Vec<Record> {
    let mut beyond = Vec::new();
    for node in zone.nodes() {
        let there = other.node(&node.name);
        for set in node.sets.iter().filter(|set| set.rtype != Type::SOA) {
            match there.and_then(|there| there.set(set.rtype)) {
                Some(same) if same == set => {}
                other => of_set(node, set, other, &mut beyond),
            }
        }
    }
    beyond
}

fn of_set(node: &Node, set: &RrSet, other: Option<&RrSet>, beyond: &mut Vec<Record>) {
    // With another TTL every record of it is another one.
    let other = other.filter(|other| other.ttl == set.ttl);
    let known: HashSet<_> = other.iter().flat_map(|other| &other.data).collect();
    let new = set.data.iter().filter(|data| !known.contains(data));
    beyond.extend(new.map(|data| Record { owner: node.name.clone(), ttl: set.ttl, data: data.clone() }));
}

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Steps(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of all zones, oldest first.
    steps: VecDeque<Arc<Step>>,
    records: usize,
    /// The highest that a zone was served with, where its serial did not rise: up to there, one may have stood for two
    /// versions.
    doubtful: HashMap<Name, u32>,
}

impl Kept {
    fn forget(&mut self, apex: &Name) {
        let records = &mut self.records;
        self.steps.retain(|step| {
            let stays = step.apex != *apex;
            *records -= if stays { 0 } else { step.records() };
            stays
        });
    }
}

impl Step {
    /// Records that went and came, without the SOA.
    pub fn counts(&self) -> (usize, usize) {
        (self.gone.len(), self.come.len())
    }

    fn records(&self) -> usize {
        self.gone.len() + self.come.len() + 2
    }
}

impl Steps {
    /// Keeps an edit of a zone, whose serial is `serial` after it. This comes before the zone is served, so that who sees the
    /// new serial finds what leads to it; an edit that is not served after all is passed over.
    pub fn add(&self, apex: &Name, serial: u32, edit: &Edit) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match edit {
            Edit::Same => {}
            Edit::Unseen { from } => {
                kept.forget(apex);
                let highest = kept.doubtful.entry(apex.clone()).or_insert(*from);
                for serial in [*from, serial] {
                    *highest = if is_later(serial, *highest) { serial } else { *highest };
                }
            }
            Edit::Step(step) => {
                let is_sure = |highest: &u32| serial_of(&step.old).is_some_and(|old| is_later(old, *highest));
                if kept.doubtful.get(apex).is_some_and(|highest| !is_sure(highest))
                    || step.records() > RECORDS_MAX
                {
                    return kept.forget(apex);
                }
                kept.doubtful.remove(apex);
                kept.records += step.records();
                kept.steps.push_back(step.clone());
                while kept.records > RECORDS_MAX || kept.steps.len() > STEPS_MAX {
                    let Some(oldest) = kept.steps.pop_front() else { return };
                    kept.records -= oldest.records();
                }
            }
        }
    }

    /// The steps that lead from a serial to that of `zone`, as RFC 1995 section 4 sends them; none where some are not known,
    /// or where they are more than `octets_max`, without compression: then nothing is copied.
    pub fn since(&self, zone: &Zone, since: u32, octets_max: usize) -> Option<Vec<Record>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = soa(zone)?;
        // Backwards from the version that is served, each step to the one before it.
        let mut before = &last;
        let mut steps: Vec<Arc<Step>> = Vec::new();
        for step in kept.steps.iter().rev().filter(|step| step.apex == zone.apex) {
            if serial_of(before) == Some(since) {
                break;
            }
            if step.new == *before {
                steps.push(step.clone());
                before = &step.old;
            }
        }
        let octets = 2 * octets(&last) + steps.iter().map(|step| step.octets).sum::<usize>();
        if steps.is_empty() || serial_of(before) != Some(since) || octets > octets_max {
            return None;
        }
        drop(kept);
        let mut records = vec![last.clone()];
        for step in steps.iter().rev() {
            records.push(step.old.clone());
            records.extend(step.gone.iter().cloned());
            records.push(step.new.clone());
            records.extend(step.come.iter().cloned());
        }
        records.push(last);
        Some(records)
    }
}

fn serial_of(soa: &Record) -> Option<u32> {
    match &soa.data {
        crate::record::Data::Soa(soa) => Some(soa.serial),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Kind;
    use crate::zone_file::read;

    fn zone(serial: u32, rest: &str) -> Zone {
        let apex = Name::parse("corp.test").unwrap();
        let text = format!("@ 60 SOA ns1 h {serial} 3600 600 86400 60\n@ NS ns1\n{rest}");
        Zone::new(apex.clone(), Kind::Primary, read(text.as_bytes(), &apex).unwrap()).unwrap().0
    }

    fn add(steps: &Steps, old: &Zone, new: &Zone) {
        steps.add(&new.apex, serial(new), &Edit::between(old, new));
    }

    fn told(steps: &Steps, zone: &Zone, since: u32) -> Option<Vec<Record>> {
        steps.since(zone, since, usize::MAX)
    }

    fn shown(records: Option<Vec<Record>>) -> Option<Vec<String>> {
        let shown = |record: &Record| match serial_of(record) {
            Some(serial) => serial.to_string(),
            None => format!("{} {} {}", record.owner, record.ttl, record.data),
        };
        records.map(|records| records.iter().map(shown).collect())
    }

    #[test]
    fn steps_lead_from_one_serial_to_another() {
        let zones = [
            zone(1, "a A 10.0.0.1\na A 10.0.0.2\n"),
            zone(2, "a A 10.0.0.1\nb A 10.0.0.3\n"),
            zone(4, "a 30 A 10.0.0.1\nb 60 A 10.0.0.3\n"),
        ];
        let steps = Steps::default();
        add(&steps, &zones[0], &zones[1]);
        add(&steps, &zones[1], &zones[2]);
        let first = ["1", "a.corp.test. 60 10.0.0.2", "2", "b.corp.test. 60 10.0.0.3"];
        let second = ["2", "a.corp.test. 60 10.0.0.1", "4", "a.corp.test. 30 10.0.0.1"];
        let all = [&["4"][..], &first, &second, &["4"]].concat();
        let owned = |lines: &[&str]| Some(lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(told(&steps, &zones[2], 1)), owned(&all));
        assert_eq!(shown(told(&steps, &zones[2], 2)), owned(&[&["4"][..], &second, &["4"]].concat()));
        assert_eq!(shown(told(&steps, &zones[1], 1)), owned(&[&["2"][..], &first, &["2"]].concat()));
        // To the octet, and over both steps together.
        let octets: usize = told(&steps, &zones[2], 1).unwrap().iter().map(octets).sum();
        assert!(steps.since(&zones[2], 1, octets).is_some());
        assert!(steps.since(&zones[2], 1, octets - 1).is_none());
        for unknown in [0, 3, 4] {
            assert_eq!(shown(told(&steps, &zones[2], unknown)), None, "{unknown}");
        }
    }

    #[test]
    fn a_step_is_there_before_its_zone_and_one_that_was_not_served_is_passed_over() {
        let zones =
            [zone(1, ""), zone(2, "a A 10.0.0.1\n"), zone(2, "b A 10.0.0.1\n"), zone(3, "c A 10.0.0.1\n")];
        let steps = Steps::default();
        let count = |zone, since| told(&steps, zone, since).map(|records| records.len());
        add(&steps, &zones[0], &zones[1]);
        assert!(told(&steps, &zones[0], 1).is_none(), "who has what is served is not asked");
        // That was refused, and mended under its serial.
        add(&steps, &zones[0], &zones[2]);
        add(&steps, &zones[2], &zones[3]);
        assert_eq!(
            shown(told(&steps, &zones[2], 1)).map(|lines| lines[3].clone()),
            Some("b.corp.test. 60 10.0.0.1".into())
        );
        assert_eq!((count(&zones[3], 1), count(&zones[3], 2)), (Some(9), Some(6)));
    }

    #[test]
    fn no_step_begins_where_a_serial_stood_for_two() {
        let zones = [
            zone(1, ""),
            zone(2, "a A 10.0.0.1\n"),
            zone(2, "b A 10.0.0.1\n"),
            zone(3, ""),
            zone(4, "c A 10.0.0.1\n"),
        ];
        let steps = Steps::default();
        for pair in zones.windows(2) {
            add(&steps, &pair[0], &pair[1]);
        }
        assert!(told(&steps, &zones[4], 1).is_none() && told(&steps, &zones[4], 2).is_none());
        assert_eq!(told(&steps, &zones[4], 3).map(|records| records.len()), Some(5));
        assert!(matches!(Edit::between(&zones[1], &zones[1]), Edit::Same));
        assert!(
            matches!(Edit::between(&zones[4], &zones[1]), Edit::Unseen { from: 4 }),
            "a serial that falls"
        );
        assert!(is_later(0, u32::MAX) && !is_later(u32::MAX, 0) && !is_later(7, 7));
    }

    #[test]
    fn no_step_begins_before_a_serial_is_higher_than_it_ever_was() {
        let zones = [
            zone(5, "a A 10.0.0.1\n"),
            zone(3, "b A 10.0.0.1\n"),
            zone(4, "c A 10.0.0.1\n"),
            zone(2, "d A 10.0.0.1\n"),
            zone(5, "e A 10.0.0.1\n"),
            zone(6, "f A 10.0.0.1\n"),
            zone(7, "g A 10.0.0.1\n"),
        ];
        let steps = Steps::default();
        for pair in zones.windows(2) {
            add(&steps, &pair[0], &pair[1]);
            let since = |since| told(&steps, &pair[1], since).is_some();
            assert!(!(2..=5).any(since), "{}", serial(&pair[1]));
        }
        assert_eq!(told(&steps, &zones[6], 6).map(|records| records.len()), Some(6));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let steps = Steps::default();
        let many = |number: u32| {
            (0..1000).map(|n| format!("n{n} A 10.{number}.{}.{}\n", n / 256, n % 256)).collect::<String>()
        };
        let zones: Vec<Zone> = (0..60).map(|number| zone(number + 1, &many(number))).collect();
        for pair in zones.windows(2) {
            add(&steps, &pair[0], &pair[1]);
        }
        let records = |since| told(&steps, &zones[59], since).map(|records| records.len());
        assert_eq!(records(59), Some(2004));
        assert_eq!(records(12), Some(2 + 48 * 2002));
        assert_eq!(records(10), None, "the oldest went");
    }
}
