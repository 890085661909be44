//! Checks within a line of an export, with what they said and since when: of hosts and of instances alike.

use serde::{Deserialize, Serialize};

use super::time;
use crate::check::{CHECKS_MAX, Check};
use crate::lease::Leased;
use crate::protocol::{CheckForm, Problem};
use crate::time::Now;

/// A check, and what it said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckLine {
    pub check: CheckForm,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Since when the status is what it is; the moment of the import where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl CheckLine {
    pub(super) fn of(check: &Check) -> Self {
        Self {
            check: CheckForm::of(check),
            output: check.output.to_string(),
            since: Some(check.since.to_string()),
        }
    }
}

/// The checks of a host or an instance, as the registry keeps them.
pub(super) fn checks(lines: &[CheckLine], of: &Leased, now: Now) -> Result<Vec<Check>, Problem> {
    if lines.len() > CHECKS_MAX {
        let rule = format!("may list at most {CHECKS_MAX} checks, not {}", lines.len());
        return Err(Problem::invalid("checks", rule));
    }
    let mut checks: Vec<Check> = Vec::with_capacity(lines.len());
    for line in lines {
        let check = line.check.listed("checks")?;
        if checks.iter().any(|known| known.id == check.id) {
            return Err(Problem::invalid("checks", format!("name `{}` twice", check.id)));
        }
        let status = check.status.unwrap_or(crate::instance::Health::Critical);
        let output = crate::check::kept_output(&line.output).into();
        let since = line.since.as_deref().map(|text| time("checks.since", text, now)).transpose()?;
        let made = Check::new(of, check.id, status, output, check.definition, now);
        checks.push(Check { since: since.unwrap_or(now.wall), ..made });
    }
    Ok(checks)
}
