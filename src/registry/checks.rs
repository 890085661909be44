//! What becomes of checks: where they are listed anew, reported on, or their deadlines pass.

use std::sync::Arc;

use super::apply::become_;
use super::{ListedCheck, Refusal, Report, ReportOf, Unlisted, What};
use crate::check::{CHECKS_MAX, Check, Definition, kept_output, worst};
use crate::instance::{Extras, Health, Instance};
use crate::lease::Leased;
use crate::time::Now;

/// The instance with other checks; its health may be another one since now.
pub(super) fn with_checks(before: &Arc<Instance>, checks: Vec<Check>, now: Now) -> What {
    let since = if worst(&checks) == before.health() { before.since } else { now.wall };
    let extras = Extras { checks, ..(***before).clone() }.kept();
    become_(before, Instance { extras, since, ..(**before).clone() })
}

/// The checks that are listed, then those of `known` that are not and stay. A status that is not given is kept, or
/// critical where the check is new; and a verdict is kept where the check is what it was: who registers again does not know better.
pub(super) fn merge_checks(
    known: &[Check],
    listed: &[ListedCheck],
    unlisted: &Unlisted,
    of: &Leased,
    now: Now,
) -> Vec<Check> {
    let merged = listed.iter().map(|listed| {
        let old = known.iter().find(|check| check.id == listed.id);
        let is_judged = |old: &&Check| listed.is_of(old) && old.is_judged();
        let given = listed.status.filter(|_| old.filter(is_judged).is_none());
        let status = given.or(old.map(|old| old.status)).unwrap_or(Health::Critical);
        match old {
            Some(old) if old.status == status && old.definition == listed.definition => old.clone(),
            Some(old) if old.status == status => Check {
                since: old.since,
                output: old.output.clone(),
                ..Check::new(of, listed.id.clone(), status, "".into(), listed.definition.clone(), now)
            },
            _ => {
                let output = kept_output(&listed.output).into();
                Check::new(of, listed.id.clone(), status, output, listed.definition.clone(), now)
            }
        }
    });
    let mut merged: Vec<Check> = merged.collect();
    let stays = |old: &&Check| match unlisted {
        Unlisted::Stay => true,
        Unlisted::Go => false,
        Unlisted::TheseGo(ids) => !ids.contains(&old.id),
    };
    let others = known.iter().filter(|old| !listed.iter().any(|listed| listed.id == old.id));
    merged.extend(others.filter(stays).cloned());
    merged
}

/// `checks` with the report in it; `None` where it changes nothing: the same verdict again is no change, whatever its
/// output, which is kept in memory, and neither is one on a check as it was before. Why a check is critical that was never anything
/// else is one.
pub(super) fn with_report(
    checks: &[Check],
    report: &Report,
    of: &Leased,
    now: Now,
) -> Result<Option<Vec<Check>>, Refusal> {
    let verdict = |definition: Arc<Definition>| {
        Check::new(
            of,
            report.check.clone(),
            report.status,
            kept_output(&report.output).into(),
            definition,
            now,
        )
    };
    let mut checks = checks.to_vec();
    match checks.iter().position(|check| check.id == report.check) {
        Some(at) if matches!(&report.of, ReportOf::Probed(probed) if *probed != checks[at].definition) => {
            return Ok(None);
        }
        Some(at)
            if checks[at].status == report.status
                && checks[at].is_unexplained()
                && !report.output.is_empty() =>
        {
            checks[at] = checks[at].explained(&report.output);
        }
        Some(at) if checks[at].status == report.status => {
            checks[at].repeat(&report.output, now);
            return Ok(None);
        }
        Some(at) => checks[at] = verdict(checks[at].definition.clone()),
        None if !matches!(report.of, ReportOf::Any) => {
            let of = match of {
                Leased::Instance(key) => key.to_string(),
                Leased::Host(name) => format!("the host {name}"),
            };
            return Err(Refusal::NoCheck(report.check.clone(), of));
        }
        None if checks.len() >= CHECKS_MAX => return Err(Refusal::TooManyChecks),
        None => checks.push(verdict(Definition::reported())),
    }
    Ok(Some(checks))
}
