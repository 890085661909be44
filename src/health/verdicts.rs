//! Verdicts: what the end of a probe makes of its check, what an alias finds, and how the writer hears of either.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::alias::Looks;
use super::probe::{Doubt, Ended, Outcome};
use super::{Scheduler, whose};
use crate::access::Identity;
use crate::check::{Check, Definition};
use crate::instance::Health;
use crate::lease::Leased;
use crate::name::ServiceName;
use crate::registry::{Command, Holder, Refusal, Report, ReportOf, Subject};
use crate::time::nanoseconds;
use crate::view::View;
use crate::writer::Handle;

/// Verdicts waiting for the writer, and as many that it has and did not answer. One that finds no room is said again by
/// the next probe.
pub(super) const REPORTS_MAX: usize = 1024;
/// Aliases looked at before the loop looks at what else there is: whoever registers many may not hold up the probes of
/// others.
const ALIASES_MAX: usize = 1024;
/// That we lack what probes need is said at most so often.
const LACK_AGAIN: Duration = Duration::from_secs(60);

/// A verdict, and the number of the check that it is of.
pub(super) type Told = (u64, Command);

/// Hands verdicts to the writer, one after the other, and says which were not taken: a writer that waits for its disk
/// keeps no probe from starting.
pub(super) async fn tell(writer: Handle, mut waiting: mpsc::Receiver<Told>, refuse: mpsc::Sender<u64>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        // Both arms are cancel-safe: neither loses what it does not return.
        tokio::select! {
            told = waiting.recv(), if under_way.len() < REPORTS_MAX => {
                let Some((number, report)) = told else { return };
                let Ok(verdict) = writer.command(report, Identity::server()).await else {
                    return; // the server is on its way down
                };
                under_way.push(async move { (number, verdict.await) });
            }
            Some((number, verdict)) = under_way.next() => {
                let refused = matches!(verdict, Ok(Err(Refusal::Unavailable(_) | Refusal::Unknown(_))));
                // Where nobody takes it, nothing is probed any more.
                if refused && refuse.send(number).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Scheduler {
    /// What a probe's end makes of its check.
    pub(super) fn finish(&mut self, ended: Result<Ended, JoinError>) {
        let ended = match ended {
            Ok(ended) => ended,
            // A fault of ours ends the server like that of any other task.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Its check went away.
            Err(_) => return,
        };
        self.counters.began(Duration::from_nanos(ended.began_ns.saturating_sub(ended.due_ns)));
        self.counters.duration.add(ended.took);
        let now_ns = self.clock.now().mono_ns;
        let Some(entry) = self.book.entry(ended.number) else { return };
        entry.took(ended.took);
        // A timeout that we missed is doubted once: a machine that is always short of time must still notice who is
        // gone.
        let doubt = ended.doubt.filter(|doubt| *doubt != Doubt::Late || !entry.late);
        entry.late = doubt == Some(Doubt::Late);
        if let Leased::Instance(key) = &entry.of {
            let known = |service: &ServiceName| self.view.service(service.as_str()).is_some();
            self.counters.took(&key.service, ended.took, known);
        }
        self.counters.outcome(&entry.definition.kind, doubt.is_none().then_some(ended.outcome.health));
        match doubt {
            None => {}
            Some(Doubt::Late) => return self.book.again_soon(ended.number, now_ns),
            Some(Doubt::Ours) => {
                if now_ns >= self.lack_again_ns {
                    self.lack_again_ns = now_ns + nanoseconds(LACK_AGAIN);
                    tracing::warn!(
                        why = ended.outcome.output,
                        "this server cannot probe; statuses stay as they are"
                    );
                }
                return self.book.again(ended.number, ended.began_ns, now_ns);
            }
        }
        if let Some(check) = check_of(&self.view, &entry.of, &entry.id)
            && check.status != Health::Maintenance
        {
            let before = check.status;
            let after = entry.streak.outcome(ended.outcome.health, before, &entry.definition);
            if ended.outcome.health == before {
                check.repeat(&ended.outcome.output, self.clock.now());
            }
            let (of, id, probed) = (entry.of.clone(), entry.id.clone(), entry.definition.clone());
            if after != before || explains(&check, &ended.outcome) {
                // One that finds no room is said again by the next probe.
                self.report(ended.number, of, id, probed, Outcome { health: after, ..ended.outcome });
            }
        }
        self.book.again(ended.number, ended.began_ns, now_ns);
    }

    pub(super) fn look_at_aliases(&mut self) {
        let behind = self.dirty.range(self.looked_at.saturating_add(1)..);
        let next: Vec<u64> =
            behind.chain(self.dirty.range(..=self.looked_at)).copied().take(ALIASES_MAX).collect();
        self.more_aliases = next.len() < self.dirty.len();
        let mut looks = Looks::default();
        for number in next {
            self.dirty.remove(&number);
            self.looked_at = number;
            let Some(entry) = self.book.entry(number) else { continue };
            let (of, id, definition) = (entry.of.clone(), entry.id.clone(), entry.definition.clone());
            let Some(check) = check_of(&self.view, &of, &id) else { continue };
            let before = check.status;
            let registered = whose(&self.view, &of).and_then(|whose| whose.instance);
            let owner = registered.as_ref().and_then(|instance| instance.owner.as_ref());
            let (health, output) = looks.look(&self.view, &of, owner, &definition.kind);
            let outcome = Outcome { health, output };
            self.counters.outcome(&definition.kind, Some(health));
            if before == health {
                check.repeat(&outcome.output, self.clock.now());
            }
            let wanted = explains(&check, &outcome) || before != health && before != Health::Maintenance;
            if wanted && !self.report(number, of, id, definition, outcome) {
                self.dirty.insert(number);
            }
        }
    }

    /// True where the verdict is on its way to the writer.
    fn report(
        &mut self,
        number: u64,
        of: Leased,
        check: Arc<str>,
        probed: Arc<Definition>,
        verdict: Outcome,
    ) -> bool {
        let on = match of {
            Leased::Instance(key) => Subject::Instance(Holder { key, lease_id: None }),
            Leased::Host(name) => Subject::Host(name),
        };
        let Outcome { health: status, output } = verdict;
        let report = Report { on, check, status, output: output.into(), of: ReportOf::Probed(probed) };
        let told = self.reports.try_send((number, Command::Report(report))).is_ok();
        if told {
            self.counters.transitions.add();
        }
        told
    }

    /// Probes anew whose verdicts were not taken; while none is taken, at their intervals alone.
    pub(super) fn look_at_unsaid(&mut self) {
        if !self.unsaid.is_empty() && self.view.store_trouble().is_none() {
            let now_ns = self.clock.now().mono_ns;
            for number in std::mem::take(&mut self.unsaid) {
                self.book.anew(number, now_ns);
            }
        }
    }
}

/// Whether the outcome is the first that says why its check is critical.
fn explains(check: &Check, outcome: &Outcome) -> bool {
    check.is_unexplained() && outcome.health == Health::Critical && !outcome.output.is_empty()
}

/// A check as the view has it.
fn check_of(view: &View, of: &Leased, id: &Arc<str>) -> Option<Check> {
    let find = |checks: &[Check]| checks.iter().find(|check| check.id == *id).cloned();
    let whose = whose(view, of)?;
    match (&whose.instance, &whose.host) {
        (Some(instance), _) => find(&instance.checks),
        (None, Some(host)) => find(&host.checks),
        (None, None) => None,
    }
}
