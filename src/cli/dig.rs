//! `callsign dig`: asks over real UDP and TCP, and shows what came, octets, time and reasons included.
//!
//! The reader of messages is hickory's, not the one that answers, so that what the server gets wrong shows.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use callsign::answer::Ede;
use callsign::client::Client;
use callsign::config::{DNS_PORT, Surroundings};
use callsign::grammar;
use callsign::message::{self, ExtendedError, ShownRecord, record_type};
use callsign::protocol::{FilterForm, Reply, Request, StatusForm};
use clap::Args;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{
    Asking, Done, FAILED, Failure, Format, NOT_FOUND, UNAVAILABLE, USAGE, duration, output, setup, terminal,
};

/// Attempts over UDP within the timeout: a datagram may get lost.
const ATTEMPTS: u32 = 3;
/// The EDNS size that is asked for: what every path carries without fragments (RFC 9715).
const BUFSIZE: u16 = 1232;
/// How long the registration socket may take to tell of the server that was asked.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Ask over real DNS; show TTLs, reasons and glue
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is 0 for an answer and for NODATA, 3 for NXDOMAIN, 5 when nobody answers, else 1.

Example:
  callsign dig web.service.local SRV
  callsign dig web.service.local +tcp
  callsign dig web.service.local AAAA --dns [::1]:5300 -o json"
)]
pub struct Dig {
    /// The name to ask for
    name: String,
    /// The record type, and +tcp to ask over TCP [default: A]
    #[arg(value_name = "TYPE")]
    rest: Vec<String>,
    /// The server to ask [env: CALLSIGN_DNS] [default: 127.0.0.1:5300]
    #[arg(long, value_name = "ADDR:PORT", value_parser = setup::address)]
    dns: Option<SocketAddr>,
    /// Ask over TCP
    #[arg(long)]
    tcp: bool,
    /// Show a cut UDP answer as it is, instead of asking again over TCP
    #[arg(long)]
    ignore: bool,
    /// The UDP size to offer
    #[arg(long, value_name = "OCTETS", default_value_t = BUFSIZE)]
    bufsize: u16,
    /// Ask without EDNS: 512 octets, and no reasons
    #[arg(long)]
    noedns: bool,
    /// Text for people, or JSON for programs
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    timeout: Duration,
}

/// A reply with what is known of its way.
struct Heard {
    message: Message,
    octets: usize,
    transport: &'static str,
    took: Duration,
}

impl Dig {
    pub async fn run(self) -> Done {
        let server = self.server()?;
        let (rtype, tcp) = self.rest()?;
        let query = self.query(rtype)?;
        let heard = match tcp {
            true => self.over_tcp(server, &query).await?,
            false => match self.over_udp(server, &query).await? {
                cut if cut.message.metadata.truncation && !self.ignore => {
                    let shown = Shown::of(&cut, server);
                    eprintln!(
                        "callsign: {} of {} octets over udp were cut; asking over tcp",
                        shown.message.answer.len(),
                        cut.octets
                    );
                    self.over_tcp(server, &query).await?
                }
                whole => whole,
            },
        };
        let shown = Shown::of(&heard, server);
        match self.output {
            Format::Table => output::print(&shown.text())?,
            format => output::value(format, &shown)?,
        }
        if heard.message.metadata.response_code == ResponseCode::Refused && shown.is_of_elsewhere() {
            let hint = match timeout(self.timeout.min(KNOWN_WITHIN), self.elsewhere(server)).await {
                Ok(Some(hint)) => hint,
                _ => "names end in the server's domain, which `callsign status` shows".to_owned(),
            };
            super::message::hint(&hint);
        }
        Ok(match heard.message.metadata.response_code {
            ResponseCode::NoError => ExitCode::SUCCESS,
            ResponseCode::NXDomain => ExitCode::from(NOT_FOUND),
            _ => ExitCode::from(FAILED),
        })
    }

    /// What to say of a name that is in no zone of the server at `dns`: its domains, and the name that may be meant; none where no
    /// registration socket tells of the same server. Only DNS was asked, which does not say what it is.
    async fn elsewhere(&self, dns: SocketAddr) -> Option<String> {
        let servers = Asking::servers_of(&Surroundings::here()).ok()?;
        let mut client = Client::connect(servers.first()?, self.timeout).await.ok()?;
        let Ok(Reply::Status(server)) = client.request(&Request::Status(StatusForm {})).await else {
            return None;
        };
        if !setup::dns_listeners(&server).contains(&dns) {
            return None;
        }
        let domain = server.domains.first()?.trim_end_matches('.');
        let domains = format!("this server's domains are {}", server.domains.join(" "));
        let name = callsign::name::Name::parse(&self.name).ok()?.to_lowercase();
        let labels: Vec<&[u8]> = name.labels().collect();
        let first = String::from_utf8(labels.first()?.to_vec()).ok()?;
        // What spells something of a service is short for that, and else its first label may be a service.
        let spelt = grammar::parse(&labels).and_then(grammar::Owner::service).map(str::to_owned);
        let short = spelt.map(|service| (service, self.name.trim_end_matches('.').to_owned()));
        for (service, short) in short.into_iter().chain([(first.clone(), first)]) {
            let form = FilterForm { service: Some(service), most: Some(1), ..FilterForm::default() };
            let listed = client.request(&Request::List(Box::new(form))).await;
            if matches!(listed, Ok(Reply::Instances(page)) if !page.instances.is_empty()) {
                return Some(format!("{domains}; did you mean `{short}.{domain}`?"));
            }
        }
        Some(match labels.len() {
            1 => format!("{domains}; `callsign ls` lists the services"),
            _ => format!("{domains}; others' names are answered with `serve --forward`"),
        })
    }

    fn server(&self) -> Result<SocketAddr, Failure> {
        if let Some(server) = self.dns {
            return Ok(server);
        }
        let variable = std::env::var("CALLSIGN_DNS").unwrap_or_default();
        match variable.split(',').next().map(str::trim) {
            None | Some("") => Ok(SocketAddr::from(([127, 0, 0, 1], DNS_PORT))),
            Some(first) => first
                .parse()
                .map_err(|_| Failure::new(USAGE, format!("CALLSIGN_DNS must be ADDR:PORT, not `{first}`"))),
        }
    }

    /// The record type, and whether it is asked over TCP from the start.
    fn rest(&self) -> Result<(RecordType, bool), Failure> {
        let (mut rtype, mut tcp) = (None, self.tcp);
        for word in &self.rest {
            match (word.as_str(), record_type(word)) {
                ("+tcp", _) => tcp = true,
                (_, Some(given)) if rtype.is_none() => rtype = Some(given),
                (_, Some(_)) => {
                    return Err(Failure::new(USAGE, format!("one type is enough; `{word}` is the second")));
                }
                (_, None) => {
                    let hint =
                        "types are A, AAAA, SRV, TXT, … or TYPE65; the server is named with --dns ADDR:PORT";
                    return Err(Failure::new(USAGE, format!("`{word}` is no record type")).hint(hint));
                }
            }
        }
        Ok((rtype.unwrap_or(RecordType::A), tcp))
    }

    fn query(&self, rtype: RecordType) -> Result<Message, Failure> {
        let no_name =
            |error: String| Failure::new(USAGE, format!("`{}` is no domain name: {error}", self.name));
        let name = callsign::name::Name::parse(&self.name).map_err(|error| no_name(error.to_string()))?;
        // By its labels, which may be any octets (RFC 2181 section 11); hickory's text may not.
        let name = Name::from_labels(name.labels()).map_err(|error| no_name(error.to_string()))?;
        let id = getrandom::u32()
            .map_err(|error| Failure::new(FAILED, format!("drawing a random number: {error}")))?;
        let mut message = Message::new(id as u16, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, rtype));
        if !self.noedns {
            let mut edns = Edns::new();
            edns.set_max_payload(self.bufsize);
            message.set_edns(edns);
        }
        Ok(message)
    }

    async fn over_udp(&self, server: SocketAddr, query: &Message) -> Result<Heard, Failure> {
        let unavailable = |error| no_reply(server, "udp", &error);
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.map_err(unavailable)?;
        // Connected: the kernel drops what comes from elsewhere, and tells us that nobody listens.
        socket.connect(server).await.map_err(unavailable)?;
        let octets = query.to_vec().map_err(|error| Failure::new(USAGE, error.to_string()))?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        for _ in 0..ATTEMPTS {
            let started = now();
            socket.send(&octets).await.map_err(unavailable)?;
            let waited = timeout(self.timeout / ATTEMPTS, async {
                loop {
                    let length = socket.recv(&mut buffer).await.map_err(unavailable)?;
                    // Somebody else's reply, or one that is too late: the right one may still come.
                    if let Some(message) = reply_to(query, &buffer[..length])? {
                        return Ok(Heard {
                            message,
                            octets: length,
                            transport: "udp",
                            took: started.elapsed(),
                        });
                    }
                }
            });
            if let Ok(heard) = waited.await {
                return heard;
            }
        }
        Err(silent(server, "udp"))
    }

    async fn over_tcp(&self, server: SocketAddr, query: &Message) -> Result<Heard, Failure> {
        let unavailable = |error| no_reply(server, "tcp", &error);
        let octets = query.to_vec().map_err(|error| Failure::new(USAGE, error.to_string()))?;
        let asking = async {
            let started = now();
            let mut stream = TcpStream::connect(server).await.map_err(unavailable)?;
            let length = u16::try_from(octets.len()).expect("a query is short");
            stream
                .write_all(&[&length.to_be_bytes(), octets.as_slice()].concat())
                .await
                .map_err(unavailable)?;
            let length = stream.read_u16().await.map_err(unavailable)?;
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await.map_err(unavailable)?;
            match reply_to(query, &reply)? {
                Some(message) => {
                    Ok(Heard { message, octets: reply.len(), transport: "tcp", took: started.elapsed() })
                }
                None => Err(Failure::new(
                    FAILED,
                    format!("the reply of {server} over tcp is to another question"),
                )),
            }
        };
        timeout(self.timeout, asking).await.unwrap_or_else(|_| Err(silent(server, "tcp")))
    }
}

#[expect(clippy::disallowed_methods, reason = "the time that a query takes is what is shown")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn no_reply(server: SocketAddr, transport: &str, error: &std::io::Error) -> Failure {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    Failure::new(UNAVAILABLE, format!("no DNS server at {server} over {transport}: {text}"))
        .hint("start one with `callsign serve`, or say where it is with --dns ADDR:PORT")
}

fn silent(server: SocketAddr, transport: &str) -> Failure {
    Failure::new(UNAVAILABLE, format!("{server} did not answer over {transport} in time"))
}

/// The message, where it is a reply to `query`; the question must have come back octet for octet.
fn reply_to(query: &Message, octets: &[u8]) -> Result<Option<Message>, Failure> {
    if octets.get(..2) != Some(&query.metadata.id.to_be_bytes()) {
        return Ok(None);
    }
    let message = Message::from_vec(octets).map_err(|error| {
        Failure::new(FAILED, format!("the reply of {} octets is malformed: {error}", octets.len()))
    })?;
    let same = message.metadata.message_type == MessageType::Response
        && match message.queries.as_slice() {
            // Who could not read the question cannot repeat it.
            [] => message.metadata.response_code != ResponseCode::NoError,
            queries => {
                queries.len() == 1
                    && queries[0].name().eq_case(query.queries[0].name())
                    && queries == query.queries
            }
        };
    Ok(same.then_some(message))
}

/// A reply as it is shown, with where it came from.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    message: message::Shown,
    server: SocketAddr,
    transport: &'static str,
    took_us: u64,
}

impl Shown {
    fn of(heard: &Heard, server: SocketAddr) -> Self {
        Self {
            message: message::Shown::of(&heard.message, heard.octets),
            server,
            transport: heard.transport,
            took_us: u64::try_from(heard.took.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// True of a refusal for being in no zone of the server, and for nothing else.
    fn is_of_elsewhere(&self) -> bool {
        self.message.errors.iter().all(|error: &ExtendedError| error.code == Ede::NOT_AUTHORITATIVE)
    }

    fn text(&self) -> String {
        let message = &self.message;
        let mut lines = vec![format!("{} {}", message.rcode, message.flags.join(" "))];
        for ExtendedError { code, name, text } in &message.errors {
            lines.push(format!("reason {code} ({name}): {text}"));
        }
        lines.push(format!("question: {}", message.question));
        for (name, records) in [
            ("answer", &message.answer),
            ("authority", &message.authority),
            ("additional", &message.additional),
        ] {
            if !records.is_empty() {
                lines.push(format!("; {name}"));
            }
            lines.extend(records.iter().map(ShownRecord::text));
        }
        let edns = message.edns_octets.map(|octets| format!(", EDNS {octets}")).unwrap_or_default();
        let took = Duration::from_micros(self.took_us);
        lines.push(format!(
            "; {} octets from {} over {} in {took:?}{edns}",
            message.octets, self.server, self.transport
        ));
        lines.iter().map(|line| format!("{}\n", terminal::escaped(line))).collect()
    }
}
