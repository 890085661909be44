//! A disk made of memory that crashes and fails as disks do.
//!
//! What was written is there for whoever reads it, and on the disk only after a sync. A crash keeps what
//! was synced, and of every later write whichever of its sectors: all, none, or some, in no order.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::harness::Draws;

/// What a disk writes at once, or not at all.
const SECTOR_OCTETS: usize = 512;

/// What was done to the disk.
#[derive(Clone, Debug)]
pub enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

/// What goes wrong, at which step from here on.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub steps: usize,
    /// Of the system call, as `io::Error::from_raw_os_error` takes it.
    pub code: i32,
    /// Each step from then on fails, or this one only.
    pub lasting: bool,
    /// Only this kind of step counts and fails.
    pub on: Kind,
    /// What fails is done all the same.
    pub done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes and changes of the length.
    Write,
    Sync,
    /// Writes, and only once a sync has succeeded.
    WriteAfterSync,
}

/// The disk; another handle is another descriptor of the same file.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What is read.
    now: Vec<u8>,
    /// What a crash leaves in any case.
    durable: Vec<u8>,
    /// What was done since the recording began; the part since the last sync is not durable.
    steps: Vec<Step>,
    fault: Option<Fault>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets, {} steps", self.now.len(), self.steps.len())
    }
}

/// What was done between two moments, and the disk at the first.
pub struct Recording {
    durable: Vec<u8>,
    pub steps: Vec<Step>,
}

impl Disk {
    pub fn new(image: Vec<u8>) -> Self {
        let state = State { durable: image.clone(), now: image, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn image(&self) -> Vec<u8> {
        self.with(|state| state.now.clone())
    }

    /// Begins a recording; the number of earlier steps in it, which are not durable yet.
    pub fn mark(&self) -> usize {
        self.with(|state| {
            if let Some(synced) = state.steps.iter().rposition(|step| matches!(step, Step::Sync)) {
                let State { durable, steps, .. } = state;
                steps.drain(..=synced).for_each(|step| apply(durable, &step));
            }
            state.steps.len()
        })
    }

    /// What was done since `mark`; what it returned are the first of the steps.
    pub fn recording(&self) -> Recording {
        self.with(|state| Recording { durable: state.durable.clone(), steps: state.steps.clone() })
    }

    pub fn fail(&self, fault: Option<Fault>) {
        self.with(|state| state.fault = fault);
    }

    fn step(&self, kind: Kind, step: Step) -> io::Result<()> {
        self.with(|state| {
            if kind == Kind::Sync
                && let Some(fault @ Fault { on: Kind::WriteAfterSync, .. }) = &mut state.fault
            {
                fault.on = Kind::Write;
            }
            if let Some(fault) = &mut state.fault
                && fault.on == kind
            {
                if fault.steps == 0 {
                    let (error, done) = (io::Error::from_raw_os_error(fault.code), fault.done);
                    if !fault.lasting {
                        state.fault = None;
                    }
                    if done {
                        apply(&mut state.now, &step);
                        state.steps.push(step);
                    }
                    return Err(error);
                }
                fault.steps -= 1;
            }
            apply(&mut state.now, &step);
            state.steps.push(step);
            Ok(())
        })
    }
}

impl Recording {
    /// What a disk holds that crashed after `steps` of the recorded ones.
    pub fn crashed(&self, steps: usize, draws: &mut Draws) -> Vec<u8> {
        let mut image = self.durable.clone();
        let synced = self.steps[..steps].iter().rposition(|step| matches!(step, Step::Sync));
        let (durable, open) = self.steps[..steps].split_at(synced.map_or(0, |synced| synced + 1));
        durable.iter().for_each(|step| apply(&mut image, step));
        // Most that was written reaches the disk, or little of it; all and nothing too.
        let luck = [0, 1, 4, 8, 12, 15, 16][draws.below(7)];
        let reached = |draws: &mut Draws| draws.below(16) < luck;
        for step in open {
            match step {
                Step::Write(offset, octets) => {
                    let torn = draws.below(2) == 0;
                    let whole = reached(draws);
                    let mut at = 0;
                    while at < octets.len() {
                        let end = ((offset + at) / SECTOR_OCTETS + 1) * SECTOR_OCTETS - offset;
                        let part = &octets[at..end.min(octets.len())];
                        if if torn { reached(draws) } else { whole } {
                            overwrite(&mut image, offset + at, part);
                        }
                        at += part.len();
                    }
                }
                Step::Length(octets) if reached(draws) => image.resize(*octets, 0),
                Step::Length(_) | Step::Sync => {}
            }
        }
        image
    }
}

fn apply(image: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, octets) => overwrite(image, *offset, octets),
        Step::Length(octets) => image.resize(*octets, 0),
        Step::Sync => {}
    }
}

/// What lies behind the end is not there: its length never reached the disk.
fn overwrite(image: &mut [u8], offset: usize, octets: &[u8]) {
    let end = (offset + octets.len()).min(image.len());
    if offset < end {
        image[offset..end].copy_from_slice(&octets[..end - offset]);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|state| state.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.with(|state| match state.now.get(offset..offset + out.len()) {
            Some(octets) => {
                out.copy_from_slice(octets);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        self.step(Kind::Write, Step::Length(octets as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(Kind::Sync, Step::Sync)
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.step(Kind::Write, Step::Write(offset as usize, octets.to_vec()))
    }
}
