//! Lines of an import on their way to the server, many at a time; and what became of them, said and counted.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

use callsign::client::{Client, ClientError};
use callsign::protocol::moving::{HowForm, ImportForm, Line};
use callsign::protocol::{Reply, Request};
use serde::Serialize;

use super::super::{Done, FAILED, Failure, Format, UNAVAILABLE, message, output};

/// Lines sent whose answers are still to come: the server commits so many together.
const UNDER_WAY_MAX: usize = 256;

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// New, or another way than before.
    pub imported: u64,
    /// The same already.
    pub there: u64,
    /// Here otherwise, and left so.
    pub kept: u64,
    pub removed: u64,
    pub refused: u64,
    pub serial: u32,
}

impl Counts {
    pub(super) fn say(&self, form: Format) -> Result<(), Failure> {
        if form != Format::Table {
            return output::value(form, self);
        }
        let Self { imported, there, kept, removed, refused, serial } = self;
        output::line(&format!(
            "{imported} imported, {there} there already, {kept} otherwise here and kept, {removed} removed, {refused} refused; serial {serial}"
        ))
    }

    pub(super) fn end(&self, form: Format) -> Done {
        self.say(form)?;
        match self.refused {
            0 => Ok(ExitCode::SUCCESS),
            refused => Err(Failure::new(FAILED, format!("{refused} were refused; the lines above say why"))),
        }
    }
}

/// A line whose answer is still to come.
struct UnderWay {
    place: String,
    /// In the file, where it is from there.
    number: Option<u64>,
    how: HowForm,
    is_head: bool,
}

/// Lines on their way to the server.
pub(super) struct Putting {
    client: Client,
    timeout: Duration,
    under_way: VecDeque<UnderWay>,
    pub(super) counts: Counts,
    /// Lines of the file that were refused and are put in again, so many at most; and what was said of them.
    pub(super) again: BTreeMap<u64, Said>,
    pub(super) again_max: usize,
}

/// Why a line was not taken.
pub(super) struct Said {
    /// What is there is another, and may stay so.
    differs: bool,
    text: String,
}

impl Putting {
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        let (under_way, again) = (VecDeque::new(), BTreeMap::new());
        Self { client, timeout, under_way, counts: Counts::default(), again, again_max: 0 }
    }

    pub(super) async fn put(&mut self, place: String, line: Line, how: HowForm) -> Result<(), Failure> {
        self.send(place, None, line, how).await
    }

    pub(super) async fn remove(&mut self, line: Line) -> Result<(), Failure> {
        self.put("not in the file".to_owned(), line, HowForm::Remove).await
    }

    pub(super) async fn send(
        &mut self,
        place: String,
        number: Option<u64>,
        line: Line,
        how: HowForm,
    ) -> Result<(), Failure> {
        if self.under_way.len() == UNDER_WAY_MAX {
            self.answer().await?;
        }
        let is_head = matches!(line, Line::Callsign(_));
        self.client.send(&Request::Import(Box::new(ImportForm { line, how }))).await?;
        self.under_way.push_back(UnderWay { place, number, how, is_head });
        Ok(())
    }

    /// Takes the oldest answer.
    async fn answer(&mut self) -> Result<(), Failure> {
        let Some(UnderWay { place, number, how, is_head }) = self.under_way.pop_front() else {
            return Ok(());
        };
        let answer = tokio::time::timeout(self.timeout, self.client.receive()).await;
        let silent = || Failure {
            elsewhere: true,
            ..Failure::new(UNAVAILABLE, format!("{place}: no answer in time; say it again"))
        };
        let counts = &mut self.counts;
        match answer.map_err(|_| silent())? {
            Ok(Reply::Imported(form)) => {
                counts.serial = form.serial;
                match (form.changed, how) {
                    _ if is_head => {}
                    (true, HowForm::Remove) => counts.removed += 1,
                    (true, _) => counts.imported += 1,
                    (false, _) => counts.there += 1,
                }
            }
            Ok(other) => return Err(self.client.unexpected(&other).into()),
            // Nothing more would be taken either.
            Err(ClientError::Refused(problem))
                if is_head || matches!(&*problem.code, "unavailable" | "denied" | "not_ready") =>
            {
                let hint = "what was imported stays; say it again";
                let failure: Failure = ClientError::Refused(problem).into();
                return Err(
                    Failure { sentence: format!("{place}: {}", failure.sentence), ..failure }.hint(hint)
                );
            }
            Err(ClientError::Refused(problem)) => {
                let differs = problem.code == "differs";
                let said = Said { differs, text: format!("{place}: {}", problem.message) };
                match number.filter(|_| self.again.len() < self.again_max) {
                    Some(number) => drop(self.again.insert(number, said)),
                    None => self.say(&said),
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Says why a line was not taken, and counts it.
    fn say(&mut self, said: &Said) {
        match said.differs {
            true => self.counts.kept += 1,
            false => self.counts.refused += 1,
        }
        message::say(&said.text);
    }

    /// Takes what is still to come.
    pub(super) async fn settle(&mut self) -> Result<(), Failure> {
        while !self.under_way.is_empty() {
            self.answer().await?;
        }
        Ok(())
    }

    /// Says what is not put in again any more.
    pub(super) fn say_all(&mut self) {
        std::mem::take(&mut self.again).values().for_each(|said| self.say(said));
    }
}
