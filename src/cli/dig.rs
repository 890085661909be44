//! `callsign dig`: asks over real UDP and TCP, and shows what came, octets, time and reasons included.
//!
//! The reader of messages is hickory's, not the one that answers, so that what the server gets wrong shows.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use callsign::config::DNS_PORT;
use clap::Args;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Done, FAILED, Failure, Format, NOT_FOUND, UNAVAILABLE, USAGE, duration, output, terminal};

/// Attempts over UDP within the timeout: a datagram may get lost.
const ATTEMPTS: u32 = 3;
/// The EDNS size that is asked for: what every path carries without fragments (RFC 9715).
const BUFSIZE: u16 = 1232;
/// Extended DNS Error (RFC 8914).
const EDE: u16 = 15;

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
    #[arg(long, value_name = "ADDR:PORT")]
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
                        shown.answer.len(),
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
        Ok(match heard.message.metadata.response_code {
            ResponseCode::NoError => ExitCode::SUCCESS,
            ResponseCode::NXDomain => ExitCode::from(NOT_FOUND),
            _ => ExitCode::from(FAILED),
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

fn record_type(word: &str) -> Option<RecordType> {
    let word = word.to_ascii_uppercase();
    match word.strip_prefix("TYPE").map(str::parse::<u16>) {
        Some(Ok(number)) => Some(RecordType::from(number)),
        _ => word.parse().ok(),
    }
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

/// A reply as it is shown, to people and programs.
#[derive(Serialize)]
struct Shown {
    rcode: String,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ExtendedError>,
    question: String,
    answer: Vec<ShownRecord>,
    authority: Vec<ShownRecord>,
    additional: Vec<ShownRecord>,
    /// The server's UDP size; left out where the reply has no OPT record.
    #[serde(skip_serializing_if = "Option::is_none")]
    edns_octets: Option<u16>,
    octets: usize,
    server: SocketAddr,
    transport: &'static str,
    took_us: u64,
}

#[derive(Serialize)]
struct ExtendedError {
    code: u16,
    name: &'static str,
    text: String,
}

#[derive(Serialize)]
struct ShownRecord {
    name: String,
    ttl: u32,
    class: String,
    #[serde(rename = "type")]
    rtype: String,
    data: String,
}

impl Shown {
    fn of(heard: &Heard, server: SocketAddr) -> Self {
        let (message, header) = (&heard.message, &heard.message.metadata);
        let flags = [
            ("qr", header.message_type == MessageType::Response),
            ("aa", header.authoritative),
            ("tc", header.truncation),
            ("rd", header.recursion_desired),
            ("ra", header.recursion_available),
            ("ad", header.authentic_data),
            ("cd", header.checking_disabled),
        ];
        let records = |records: &[Record]| records.iter().map(ShownRecord::of).collect();
        let question = message.queries.first().map(|query| {
            format!("{} {} {}", query.name(), query.query_class(), type_name(query.query_type()))
        });
        Self {
            rcode: rcode_name(header.response_code),
            flags: flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
            errors: message.edns.iter().flat_map(extended_errors).collect(),
            question: question.unwrap_or_default(),
            answer: records(&message.answers),
            authority: records(&message.authorities),
            additional: records(&message.additionals),
            edns_octets: message.edns.as_ref().map(Edns::max_payload),
            octets: heard.octets,
            server,
            transport: heard.transport,
            took_us: u64::try_from(heard.took.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{} {}", self.rcode, self.flags.join(" "))];
        for ExtendedError { code, name, text } in &self.errors {
            lines.push(format!("reason {code} ({name}): {text}"));
        }
        lines.push(format!("question: {}", self.question));
        for (name, records) in
            [("answer", &self.answer), ("authority", &self.authority), ("additional", &self.additional)]
        {
            if !records.is_empty() {
                lines.push(format!("; {name}"));
            }
            lines.extend(records.iter().map(ShownRecord::text));
        }
        let edns = self.edns_octets.map(|octets| format!(", EDNS {octets}")).unwrap_or_default();
        let took = Duration::from_micros(self.took_us);
        lines.push(format!(
            "; {} octets from {} over {} in {took:?}{edns}",
            self.octets, self.server, self.transport
        ));
        lines.iter().map(|line| format!("{}\n", terminal::escaped(line))).collect()
    }
}

impl ShownRecord {
    fn of(record: &Record) -> Self {
        Self {
            name: record.name.to_string(),
            ttl: record.ttl,
            class: record.dns_class.to_string(),
            rtype: type_name(record.record_type()),
            data: data_text(&record.data),
        }
    }

    fn text(&self) -> String {
        let Self { name, ttl, class, rtype, data } = self;
        format!("{name} {ttl} {class} {rtype} {data}").trim_end().to_owned()
    }
}

/// Types without a name are `TYPE65280` (RFC 3597 section 5).
fn type_name(rtype: RecordType) -> String {
    match rtype {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        named => named.to_string(),
    }
}

/// Presentation form; TXT with quotes and escapes, which hickory leaves out (RFC 1035 section 5.1), and data of types
/// without a name as their octets (RFC 3597 section 5).
fn data_text(data: &RData) -> String {
    let txt = match data {
        RData::TXT(txt) => txt,
        RData::SVCB(binding) | RData::HTTPS(HTTPS(binding)) => return binding_text(binding),
        RData::Unknown { rdata, .. } => {
            let octets = &rdata.anything;
            let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            return format!("\\# {} {digits}", octets.len()).trim_end().to_owned();
        }
        other => return other.to_string(),
    };
    let quoted = txt.txt_data.iter().map(|octets| {
        let mut text = String::from("\"");
        for &octet in octets.iter() {
            match octet {
                b'"' | b'\\' => text.extend(['\\', octet as char]),
                0x20..=0x7e => text.push(octet as char),
                _ => text.push_str(&format!("\\{octet:03}")),
            }
        }
        text + "\""
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A service binding without the commas that hickory puts behind a list (RFC 9460 appendix A.1).
fn binding_text(binding: &SVCB) -> String {
    let mut text = format!("{} {}", binding.svc_priority, binding.target_name);
    for (key, value) in &binding.svc_params {
        let value = value.to_string();
        match value.trim_end_matches(',') {
            "" => text.push_str(&format!(" {key}")),
            value => text.push_str(&format!(" {key}={value}")),
        }
    }
    text
}

fn extended_errors(edns: &Edns) -> Vec<ExtendedError> {
    let options: &[(_, EdnsOption)] = edns.options().as_ref();
    let errors = options.iter().filter_map(|(_, option)| match option {
        EdnsOption::Unknown(EDE, octets) if octets.len() >= 2 => {
            let code = u16::from_be_bytes([octets[0], octets[1]]);
            Some(ExtendedError {
                code,
                name: ede_name(code),
                text: String::from_utf8_lossy(&octets[2..]).into_owned(),
            })
        }
        _ => None,
    });
    errors.collect()
}

/// As every DNS tool spells them.
pub fn rcode_name(rcode: ResponseCode) -> String {
    match rcode {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        other => return format!("RCODE{}", u16::from(other)),
    }
    .to_owned()
}

/// The IANA registry's names of the codes that an authoritative server may send (RFC 8914 section 4).
fn ede_name(code: u16) -> &'static str {
    match code {
        0 => "Other",
        3 => "Stale Answer",
        4 => "Forged Answer",
        14 => "Not Ready",
        15 => "Blocked",
        16 => "Censored",
        17 => "Filtered",
        18 => "Prohibited",
        19 => "Stale NXDOMAIN Answer",
        20 => "Not Authoritative",
        21 => "Not Supported",
        22 => "No Reachable Authority",
        23 => "Network Error",
        24 => "Invalid Data",
        29 => "Synthesized",
        _ => "unnamed",
    }
}
