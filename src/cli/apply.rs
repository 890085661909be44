//! `callsign apply`: lines of JSON on stdin become registrations; the other end of `feed`.

use std::process::ExitCode;

use callsign::client::{Client, ClientError};
use callsign::protocol::{
    self, ChangeForm, CheckForm, CheckShown, DeregisteredForm, FRAME_OCTETS_MAX, FilterForm, HolderForm,
    InstanceForm, Problem, RegisterForm, Reply, ReportForm, Request,
};
use clap::Args;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin, stdin};

use super::{Asking, Done, FAILED, Failure, Format, output};

/// A line of a feed: a change with an instance may be longer than a request.
const LINE_OCTETS_MAX: u64 = 8 * FRAME_OCTETS_MAX as u64;

/// Read requests or changes, a line of JSON each, and acknowledge each
///
/// Requests are those of the registration socket; changes are lines of `callsign feed`. Saying a line twice
/// does no harm. A registration from a change lasts until the feed says that it ended. All lines are one bulk:
/// from the second deregistration on, none takes the last live instance of a service, but with `--allow-empty`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign feed --since 0 --server unix:/run/a.sock | callsign apply --server unix:/run/b.sock\n  echo '{\"register\":{\"service\":\"db\",\"address\":\"10.0.0.7\",\"port\":5432,\"lease\":\"none\"}}' | callsign apply"
)]
pub struct Apply {
    /// Let lines take the last live instance of a service, as a copy of another registry has to
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    asking: Asking,
}

/// A line of a feed.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fed {
    Change(Box<ChangeForm>),
}

impl Apply {
    /// Goes on behind a line that was refused, and says so with its exit code in the end.
    pub async fn run(self) -> Done {
        let (mut way, timeout) = (self.asking.way()?, self.asking.timeout);
        let mut client = way.connect(timeout).await?;
        let mut lines = BufReader::new(stdin());
        let (mut line, mut refused) = (Vec::new(), 0u64);
        let mut bulk = Bulk { allow_empty: self.allow_empty, taken: false };
        loop {
            let read = next_line(&mut lines, &mut line).await;
            let more = read.map_err(|error| Failure::new(FAILED, format!("reading stdin: {error}")))?;
            if !more {
                break;
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let mut others = way.others();
            let applied = loop {
                match apply(&mut client, &mut bulk, line).await {
                    // What was not acknowledged is said again, to the next server.
                    Err(error) if others > 0 && error.lets_ask_elsewhere(may_be_repeated(line)) => {
                        others -= 1;
                        way.go_on(&error);
                        client = way.connect(timeout).await?;
                    }
                    Ok(reply) => {
                        way.worked();
                        break Ok(reply);
                    }
                    refused => break refused,
                }
            };
            let reply = match applied {
                Ok(reply) => reply,
                Err(ClientError::Refused(problem)) => {
                    refused += 1;
                    Reply::Error(problem)
                }
                Err(error) => return Err(error.into()),
            };
            output::value(Format::Jsonl, &reply)?;
        }
        match refused {
            0 => Ok(ExitCode::SUCCESS),
            refused => {
                let were = if refused == 1 { "was" } else { "were" };
                let lines = output::counted(refused, "line");
                Err(Failure::new(FAILED, format!("{lines} {were} refused; the errors above say why")))
            }
        }
    }
}

/// Reads a line into `line`, of a long one only so much that it is seen to be too long; false at the end.
async fn next_line(lines: &mut BufReader<Stdin>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut octets = lines.take(LINE_OCTETS_MAX + 1).read_until(b'\n', line).await?;
    let whole = |line: &[u8]| line.ends_with(b"\n") || line.len() as u64 <= LINE_OCTETS_MAX;
    let mut rest = Vec::new();
    while octets > 0 && !whole(line) && !rest.ends_with(b"\n") {
        rest.clear();
        octets = lines.take(LINE_OCTETS_MAX).read_until(b'\n', &mut rest).await?;
    }
    Ok(!line.is_empty())
}

fn may_be_repeated(line: &[u8]) -> bool {
    protocol::decode(line).map_or(true, |request| request.may_be_repeated())
}

/// Does what one line says, and returns what acknowledges it.
async fn apply(client: &mut Client, bulk: &mut Bulk, line: &[u8]) -> Result<Reply, ClientError> {
    if line.len() as u64 > LINE_OCTETS_MAX {
        let text = format!("a line may have {LINE_OCTETS_MAX} octets; this one was skipped");
        return Err(ClientError::Refused(Problem::new("malformed", text)));
    }
    let Ok(Fed::Change(change)) = serde_json::from_slice(line) else {
        let request = protocol::decode(line).map_err(ClientError::Refused)?;
        if matches!(request, Request::Watch(_) | Request::Feed(_) | Request::Backup(_) | Request::Export(_)) {
            let text = "a stream cannot be applied; use the verb of that name";
            return Err(ClientError::Refused(Problem::new("invalid", text)));
        }
        return bulk.request(client, &request).await;
    };
    // A registration has no place for what a check said: that is reported first, where the instance is
    // there. Where it is not, or has other checks, the registration itself says all that matters.
    for request in change.instance.iter().flat_map(outputs) {
        match client.request(&request).await {
            Ok(_) | Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    // Forgetting follows leaving, by the clock of whoever forgets: there is nothing to do.
    let mut reply = Reply::Deregistered(DeregisteredForm {
        service: change.service.clone().unwrap_or_default(),
        id: change.id.clone().unwrap_or_default(),
        host: None,
        existed: false,
        revision: change.revision,
    });
    for request in requests(&change) {
        reply = bulk.request(client, &request).await?;
    }
    Ok(reply)
}

/// The deregistrations of one run.
struct Bulk {
    allow_empty: bool,
    /// There was one before: that one alone may have been meant so.
    taken: bool,
}

impl Bulk {
    async fn request(&mut self, client: &mut Client, request: &Request<'_>) -> Result<Reply, ClientError> {
        if let Request::Deregister(form) = request {
            if self.taken && !self.allow_empty && is_last(client, form).await? {
                let text = format!(
                    "{} would have no live instance left; use `callsign deregister` for {}, or apply with --allow-empty",
                    form.service, form.id
                );
                return Err(ClientError::Refused(Problem::new("last", text)));
            }
            let reply = client.request(request).await;
            // What is said again because nobody acknowledged it is not a second one.
            self.taken |= reply.as_ref().map_or_else(|error| !error.may_be_otherwise_elsewhere(), |_| true);
            return reply;
        }
        client.request(request).await
    }
}

/// True where an instance is in the answers, and no other one of its service is.
async fn is_last(client: &mut Client, form: &HolderForm<'_>) -> Result<bool, ClientError> {
    let mut filter = FilterForm { service: Some(form.service.to_string()), ..FilterForm::default() };
    let mut is_there = false;
    loop {
        let reply = client.request(&Request::List(Box::new(filter.clone()))).await?;
        let Reply::Instances(page) = reply else { return Err(client.unexpected(&reply)) };
        for instance in page.instances.iter().filter(|instance| instance.live || instance.held) {
            let is_it = instance.id == form.id
                && form.host.as_ref().is_none_or(|host| host.eq_ignore_ascii_case(&instance.host));
            if !is_it {
                return Ok(false);
            }
            is_there = true;
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(is_there),
        }
    }
}

/// What makes a change so: one request, or a few; none where it only says that something was forgotten.
fn requests(change: &ChangeForm) -> Vec<Request<'_>> {
    let host = Some(change.host.clone());
    if let Some(instance) = &change.instance {
        let mut requests = vec![Request::Register(Box::new(registration(instance)))];
        if instance.draining {
            let (service, id) = (instance.service.as_str().into(), instance.id.as_str().into());
            requests.push(Request::Drain(HolderForm { service, id, host, lease_id: None }));
        }
        return requests;
    }
    match (&change.service, &change.id) {
        (Some(_), Some(_)) if change.reason == "forgotten" => Vec::new(),
        (Some(service), Some(id)) => {
            let (service, id) = (service.as_str().into(), id.as_str().into());
            vec![Request::Deregister(HolderForm { service, id, host, lease_id: None })]
        }
        _ => change
            .checks
            .iter()
            .flatten()
            .map(|check| Request::Report(Box::new(report(&change.host, check))))
            .collect(),
    }
}

/// The verdicts of an instance's checks that said something.
fn outputs(instance: &InstanceForm) -> impl Iterator<Item = Request<'_>> {
    let said = instance.checks.iter().filter(|check| !check.output.is_empty());
    said.map(|check| {
        let (service, id) = (Some(instance.service.clone()), Some(instance.id.clone()));
        Request::Report(Box::new(ReportForm { service, id, ..report(&instance.host, check) }))
    })
}

fn report(host: &str, check: &CheckShown) -> ReportForm {
    ReportForm {
        host: Some(host.to_owned()),
        check: Some(check.id.clone()),
        status: check.status.clone(),
        output: Some(check.output.clone()),
        ..ReportForm::default()
    }
}

/// The registration that an instance came from; its end comes by the feed, so its lease has none.
fn registration(instance: &InstanceForm) -> RegisterForm {
    let check = |check: &CheckShown| match &check.definition {
        Some(definition) => CheckForm { status: Some(check.status.clone()), ..(**definition).clone() },
        None => {
            CheckForm { id: check.id.clone(), status: Some(check.status.clone()), ..CheckForm::default() }
        }
    };
    RegisterForm {
        lease: Some("none".to_owned()),
        checks: Some(instance.checks.iter().map(check).collect()),
        ..instance.registration()
    }
}
