//! A DNS message as it is shown, to people and to programs.
//!
//! The reader is hickory's, not the one that answers, so that what the server gets wrong shows.

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};
use serde::Serialize;

/// Extended DNS Error (RFC 8914).
const EDE: u16 = 15;

/// What a reply says.
#[derive(Serialize)]
pub struct Shown {
    pub rcode: String,
    pub flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ExtendedError>,
    pub question: String,
    pub answer: Vec<ShownRecord>,
    pub authority: Vec<ShownRecord>,
    pub additional: Vec<ShownRecord>,
    /// The server's UDP size; left out where the reply has no OPT record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edns_octets: Option<u16>,
    pub octets: usize,
}

#[derive(Serialize)]
pub struct ExtendedError {
    pub code: u16,
    pub name: &'static str,
    pub text: String,
}

#[derive(Serialize)]
pub struct ShownRecord {
    pub name: String,
    pub ttl: u32,
    pub class: String,
    #[serde(rename = "type")]
    pub rtype: String,
    pub data: String,
}

impl Shown {
    /// A message that came in so many octets.
    pub fn of(message: &Message, octets: usize) -> Self {
        let header = &message.metadata;
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
            octets,
        }
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

    pub fn text(&self) -> String {
        let Self { name, ttl, class, rtype, data } = self;
        format!("{name} {ttl} {class} {rtype} {data}").trim_end().to_owned()
    }
}

/// `A`, or `TYPE1` (RFC 3597 section 5); none where it is neither.
pub fn record_type(word: &str) -> Option<RecordType> {
    let word = word.to_ascii_uppercase();
    match word.strip_prefix("TYPE").map(str::parse::<u16>) {
        Some(Ok(number)) => Some(RecordType::from(number)),
        _ => word.parse().ok(),
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
        RData::Unknown { code, rdata } => {
            let octets = &rdata.anything;
            let hexadecimal =
                |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
            match (code, octets.as_slice()) {
                (RecordType::DNAME, _) if let Ok(target) = crate::name::Name::from_wire(octets) => {
                    return target.to_string();
                }
                (RecordType::DS, [high, low, algorithm, kind, digest @ ..]) => {
                    let tag = u16::from_be_bytes([*high, *low]);
                    return format!("{tag} {algorithm} {kind} {}", hexadecimal(digest));
                }
                _ => {}
            }
            return format!("\\# {} {}", octets.len(), hexadecimal(octets)).trim_end().to_owned();
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
        ResponseCode::YXDomain => "YXDOMAIN",
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
