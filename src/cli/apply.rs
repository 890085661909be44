//! `callsign apply`: lines of JSON on stdin become registrations; the other end of `feed`.

use std::process::ExitCode;

use callsign::client::{Client, ClientError};
use callsign::protocol::{
    self, ChangeForm, CheckForm, CheckShown, FRAME_OCTETS_MAX, HolderForm, InstanceForm, Pairs, PortForm,
    Problem, RegisterForm, Reply, ReportForm, Request, Several,
};
use clap::Args;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

use super::{Asking, Done, FAILED, Failure, Format, output};

/// A line of a feed: a change with an instance may be longer than a request.
const LINE_OCTETS_MAX: u64 = 8 * FRAME_OCTETS_MAX as u64;

/// Read requests or changes, a line of JSON each, and acknowledge each
///
/// Requests are those of the registration socket; changes are lines of `callsign feed`. Saying a line twice
/// does no harm. A registration from a change lasts until the feed says that it ended.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign feed --since 0 --server unix:/run/a.sock | callsign apply --server unix:/run/b.sock\n  echo '{\"register\":{\"service\":\"db\",\"address\":\"10.0.0.7\",\"port\":5432,\"lease\":\"none\"}}' | callsign apply"
)]
pub struct Apply {
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
        let mut client = self.asking.connect().await?;
        let mut lines = BufReader::new(stdin());
        let (mut line, mut refused) = (String::new(), 0u64);
        loop {
            line.clear();
            let read = (&mut lines).take(LINE_OCTETS_MAX).read_line(&mut line).await;
            let octets = read.map_err(|error| Failure::new(FAILED, format!("reading stdin: {error}")))?;
            if octets == 0 {
                break;
            }
            if line.trim().is_empty() {
                continue;
            }
            let reply = match apply(&mut client, line.trim()).await {
                Ok(Some(reply)) => reply,
                Ok(None) => continue,
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
                Err(Failure::new(FAILED, format!("{refused} lines were refused; the errors above say why")))
            }
        }
    }
}

/// Does what one line says; nothing where it only says that something was forgotten.
async fn apply(client: &mut Client, line: &str) -> Result<Option<Reply>, ClientError> {
    let Ok(Fed::Change(change)) = serde_json::from_str(line) else {
        let request = protocol::decode(line.as_bytes()).map_err(ClientError::Refused)?;
        if matches!(request, Request::Watch(_) | Request::Feed(_) | Request::Backup(_)) {
            let text = "a stream cannot be applied; use the verb of that name";
            return Err(ClientError::Refused(Problem::new("invalid", text)));
        }
        return client.request(&request).await.map(Some);
    };
    let mut last = None;
    for request in requests(&change) {
        last = Some(client.request(&request).await?);
    }
    Ok(last)
}

/// What makes a change so: one request, or a few.
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
        // Forgetting follows leaving, by the clock of whoever forgets.
        (Some(_), Some(_)) if change.reason == "forgotten" => Vec::new(),
        (Some(service), Some(id)) => {
            let (service, id) = (service.as_str().into(), id.as_str().into());
            vec![Request::Deregister(HolderForm { service, id, host, lease_id: None })]
        }
        _ => change.checks.iter().flatten().map(|check| report(&change.host, check)).collect(),
    }
}

fn report<'a>(host: &str, check: &CheckShown) -> Request<'a> {
    Request::Report(Box::new(ReportForm {
        host: Some(host.to_owned()),
        check: Some(check.id.clone()),
        status: check.status.clone(),
        output: Some(check.output.clone()),
        ..ReportForm::default()
    }))
}

/// The registration that an instance came from; its end comes by the feed, so its lease has none.
fn registration(instance: &InstanceForm) -> RegisterForm {
    let named = instance.ports.iter().filter_map(|port| {
        let form = PortForm { port: port.port.into(), transport: Some(port.transport.clone()) };
        Some((port.name.clone()?, form))
    });
    let named: Vec<(String, PortForm)> = named.collect();
    let unnamed = instance.ports.iter().find(|port| port.name.is_none());
    let check = |check: &CheckShown| CheckForm { id: check.id.clone(), status: Some(check.status.clone()) };
    RegisterForm {
        service: instance.service.clone(),
        id: Some(instance.id.clone()),
        host: Some(instance.host.clone()),
        address: instance.target.is_none().then(|| Several(instance.address.clone())),
        target: instance.target.clone(),
        port: unnamed.map(|port| port.port.into()),
        ports: (!named.is_empty()).then_some(Pairs(named)),
        protocol: instance.protocol.clone(),
        tags: Some(instance.tags.clone()),
        meta: Some(Pairs(instance.meta.clone().into_iter().collect())),
        weight: Some(instance.weight.into()),
        priority: Some(instance.priority.into()),
        lease: Some("none".to_owned()),
        checks: Some(instance.checks.iter().map(check).collect()),
    }
}
