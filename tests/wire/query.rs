//! A row of the table: how its query is spelt into octets, and what its reply has to be.
//!
//! The grammar is told at the head of `rows.txt`. Nothing of the server is used here: what builds the
//! queries must not share its mistakes.

use callsign::answer::Over;

/// One row of `rows.txt`.
pub struct Row {
    /// `A-01`, or `A-20 b` where a rule has several rows.
    pub id: String,
    pub line: usize,
    /// Where the row applies; both where it does not say.
    pub over: &'static [Over],
    /// Asked before the registry is loaded.
    pub unready: bool,
    /// Asked of a server that has a name.
    pub named: bool,
    /// The whole message; its first two octets, the ID, are the sender's to set.
    pub query: Vec<u8>,
    pub expected: Expected,
}

pub enum Expected {
    Silence,
    /// TCP only: the server ends the connection.
    Closed,
    Reply(Box<Reply>),
}

#[derive(Default)]
pub struct Reply {
    pub rcode: String,
    /// Of `aa tc rd cd`, in this order.
    pub flags: Vec<String>,
    pub echo: Echo,
    /// The records of the answer come in the order of the row.
    pub ordered: bool,
    /// There is an OPT record, whatever the state of the query's.
    pub opt: bool,
    /// The size of the reply, where the row counts it.
    pub octets: Option<usize>,
    pub ede: Option<(u16, String)>,
    /// Other options by their names: nsid, cookie, keepalive.
    pub options: Vec<String>,
    /// Answer, authority, additional without OPT: one line a record, `*` at the end for any data.
    pub sections: [Vec<String>; 3],
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Echo {
    /// The question as it came.
    #[default]
    Exact,
    /// No question: none could be read.
    Absent,
    /// The question came compressed and is written out.
    WrittenOut,
}

/// The rows of a table, and the rules that are shown by tests of their own: rule, test.
pub fn read(table: &str) -> (Vec<Row>, Vec<(String, String)>) {
    let mut rows: Vec<Row> = Vec::new();
    let mut elsewhere = Vec::new();
    let lines: Vec<(usize, &str)> = table.lines().enumerate().map(|(at, line)| (at + 1, line)).collect();
    for block in lines.split(|(_, line)| line.trim().is_empty()) {
        let block: Vec<(usize, &str)> =
            block.iter().copied().filter(|(_, line)| !line.starts_with('#')).collect();
        let Some(((at, head), rest)) = block.split_first() else { continue };
        if let Some(pair) = head.strip_prefix("elsewhere ") {
            let pairs = std::iter::once(pair)
                .chain(rest.iter().map(|(_, line)| line.trim_start_matches("elsewhere ")));
            elsewhere.extend(pairs.map(|pair| {
                let (rule, test) = pair.split_once(' ').unwrap_or_else(|| panic!("line {at}: {pair}"));
                (rule.to_owned(), test.trim().to_owned())
            }));
            continue;
        }
        rows.push(row(*at, head, rest));
    }
    (rows, elsewhere)
}

fn row(line: usize, head: &str, rest: &[(usize, &str)]) -> Row {
    let over: &[Over] = match head {
        head if head.contains("[udp]") => &[Over::Udp],
        head if head.contains("[tcp]") => &[Over::Tcp],
        _ => &[Over::Udp, Over::Tcp],
    };
    let mut words = head.split(' ');
    let rule = words.next().unwrap_or_default();
    let id = match words.next() {
        Some(letter) if letter.len() == 1 => format!("{rule} {letter}"),
        _ => rule.to_owned(),
    };
    let [(at, asked), (expected_at, expected), records @ ..] = rest else {
        panic!("line {line}: a query and an expectation")
    };
    let asked = asked.strip_prefix("> ").unwrap_or_else(|| panic!("line {at}: a query starts with `> `"));
    Row {
        id,
        line,
        over,
        unready: head.contains("[not ready]"),
        named: head.contains("[named]"),
        query: query(*at, asked),
        expected: expectation(*expected_at, expected, records),
    }
}

// --- queries --------------------------------------------------------------------------------------

fn query(line: usize, text: &str) -> Vec<u8> {
    if let Some(octets) = text.strip_prefix("octets ") {
        return [vec![0, 0], octets_of(line, octets)].concat();
    }
    let mut words = text.split_whitespace();
    let (Some(name), Some(qtype)) = (words.next(), words.next()) else {
        panic!("line {line}: name and type");
    };
    let question = [wire_name(line, name), type_number(line, qtype).to_be_bytes().to_vec()].concat();
    let mut spelling = Spelling { question, ..Spelling::default() };
    for word in words {
        spelling.option(line, word);
    }
    spelling.octets(line)
}

/// A query that is mostly in order.
struct Spelling {
    question: Vec<u8>,
    class: u16,
    flags: u16,
    counts: [Option<u16>; 4],
    opt: Option<Opt>,
    opts: usize,
    tail: Vec<u8>,
    cut: Option<isize>,
}

impl Default for Spelling {
    fn default() -> Self {
        let (question, tail) = (Vec::new(), Vec::new());
        Self { question, class: 1, flags: 0, counts: [None; 4], opt: None, opts: 0, tail, cut: None }
    }
}

/// An OPT record (RFC 6891 section 6.1.2).
#[derive(Default)]
struct Opt {
    owner: Vec<u8>,
    size: u16,
    version: u8,
    flags: u16,
    options: Vec<u8>,
}

impl Spelling {
    fn option(&mut self, line: usize, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = |text: &str| -> u16 {
            let parsed = match text.strip_prefix("0x") {
                Some(digits) => u16::from_str_radix(digits, 16),
                None => text.parse(),
            };
            parsed.unwrap_or_else(|_| panic!("line {line}: `{word}` has no number"))
        };
        let bits = match key {
            "qr" => 0x8000,
            "aa" => 0x0400,
            "tc" => 0x0200,
            "rd" => 0x0100,
            "ra" => 0x0080,
            "z" => 0x0040,
            "ad" => 0x0020,
            "cd" => 0x0010,
            "opcode" => number(value) << 11,
            "rcode" => number(value),
            _ => 0,
        };
        self.flags |= bits;
        match key {
            "class" => self.class = class_number(line, value),
            "qd" => self.counts[0] = Some(number(value)),
            "an" => self.counts[1] = Some(number(value)),
            "ns" => self.counts[2] = Some(number(value)),
            "ar" => self.counts[3] = Some(number(value)),
            "tail" => self.tail = octets_of(line, value),
            "cut" => self.cut = Some(value.parse().unwrap_or_else(|_| panic!("line {line}: {word}"))),
            "edns" => self.opt().size = if value.is_empty() { 1232 } else { number(value) },
            "version" => self.opt().version = number(value) as u8,
            "do" => self.opt().flags |= 0x8000,
            "eflags" => self.opt().flags |= number(value),
            "owner" => self.opt().owner = octets_of(line, value),
            "twice" => self.opts = 2,
            "option" => {
                let (code, data) = value.split_once(':').unwrap_or((value, ""));
                let (code, data) = (number(code), octets_of(line, data));
                let opt = self.opt();
                opt.options.extend(code.to_be_bytes());
                opt.options.extend((data.len() as u16).to_be_bytes());
                opt.options.extend(data);
            }
            // The option data as they are, lengths and all.
            "options" => self.opt().options = octets_of(line, value),
            _ => assert_ne!((bits, key == "opcode" || key == "rcode"), (0, false), "line {line}: `{word}`"),
        }
    }

    fn opt(&mut self) -> &mut Opt {
        self.opts = self.opts.max(1);
        self.opt.get_or_insert_with(|| Opt { size: 1232, owner: vec![0], ..Opt::default() })
    }

    fn octets(&self, line: usize) -> Vec<u8> {
        let [questions, answers, authorities, additionals] = self.counts;
        let mut out = vec![0, 0];
        for number in [
            self.flags,
            questions.unwrap_or(1),
            answers.unwrap_or(0),
            authorities.unwrap_or(0),
            additionals.unwrap_or(self.opts as u16),
        ] {
            out.extend(number.to_be_bytes());
        }
        if questions != Some(0) {
            out.extend(&self.question);
            out.extend(self.class.to_be_bytes());
        }
        for _ in 0..self.opts {
            let Some(opt) = &self.opt else { continue };
            out.extend(&opt.owner);
            out.extend(41u16.to_be_bytes());
            out.extend(opt.size.to_be_bytes());
            out.extend([0, opt.version]);
            out.extend(opt.flags.to_be_bytes());
            out.extend((opt.options.len() as u16).to_be_bytes());
            out.extend(&opt.options);
        }
        out.extend(&self.tail);
        match self.cut {
            None => {}
            Some(octets @ 0..) => out.truncate(octets as usize),
            Some(octets) => out.truncate(out.len().checked_add_signed(octets).unwrap_or(0)),
        }
        assert!(out.len() <= 65_535, "line {line}: longer than a message can be");
        out
    }
}

/// `web.service.local` as labels; `\DDD` is an octet, `{a*63}` sixty-three of them.
pub fn wire_name(line: usize, text: &str) -> Vec<u8> {
    let text = repeated(line, text);
    let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
    let mut rest = text.as_bytes();
    while let [octet, after @ ..] = rest {
        rest = after;
        match (octet, rest) {
            (b'\\', [a, b, c, after @ ..]) => {
                let number = [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u32::from(**digit - b'0'));
                labels.last_mut().unwrap().push(number as u8);
                rest = after;
            }
            (b'.', _) => labels.push(Vec::new()),
            _ => labels.last_mut().unwrap().push(*octet),
        }
    }
    let mut wire = Vec::new();
    for label in labels.iter().filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// Hexadecimal digits and quoted texts, blanks between them for the eye; `{00*12}` repeats.
pub fn octets_of(line: usize, text: &str) -> Vec<u8> {
    let text = repeated(line, text);
    let mut octets = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        if at % 2 == 1 {
            octets.extend(part.bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect();
        assert!(digits.len().is_multiple_of(2), "line {line}: half an octet in `{part}`");
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            octets
                .push(u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("line {line}: octet `{pair}`")));
        }
    }
    octets
}

/// `{text*n}` written out.
fn repeated(line: usize, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').unwrap_or_else(|| panic!("line {line}: `{{` stays open"));
        let (what, count) = inside.rsplit_once('*').unwrap_or_else(|| panic!("line {line}: `{inside}`"));
        out += before;
        out += &what.repeat(count.parse().unwrap_or_else(|_| panic!("line {line}: `{inside}`")));
        rest = after;
    }
    out + rest
}

const TYPES: [(&str, u16); 25] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("DNAME", 39),
    ("OPT", 41),
    ("DS", 43),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("NXNAME", 128),
    ("TKEY", 249),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", 252),
    ("MAILB", 253),
    ("MAILA", 254),
    ("ANY", 255),
];

fn type_number(line: usize, text: &str) -> u16 {
    let known = TYPES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    known
        .or_else(|| text.strip_prefix("TYPE")?.parse().ok())
        .unwrap_or_else(|| panic!("line {line}: type `{text}`"))
}

/// The type's name, `TYPE65280` where it has none here.
pub fn type_name(number: u16) -> String {
    match TYPES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("TYPE{number}"),
    }
}

fn class_number(line: usize, text: &str) -> u16 {
    match text {
        "IN" => 1,
        "CH" => 3,
        "HS" => 4,
        "NONE" => 254,
        "ANY" => 255,
        _ => text.parse().unwrap_or_else(|_| panic!("line {line}: class `{text}`")),
    }
}

// --- expectations ---------------------------------------------------------------------------------

fn expectation(line: usize, head: &str, records: &[(usize, &str)]) -> Expected {
    match head {
        "no reply" => return Expected::Silence,
        "closed" => return Expected::Closed,
        _ => {}
    }
    let mut reply = Reply::default();
    let (head, ede) = match head.split_once(" ede ") {
        Some((head, ede)) => (head, Some(ede)),
        None => (head, None),
    };
    reply.ede = ede.map(|ede| {
        let (code, text) = ede.split_once(' ').unwrap_or_else(|| panic!("line {line}: ede CODE \"TEXT\""));
        (code.parse().unwrap(), repeated(line, text.trim_matches('"')))
    });
    let mut words = head.split_whitespace();
    reply.rcode = words.next().unwrap_or_default().to_owned();
    for word in words {
        match word.split_once('=') {
            Some(("octets", number)) => reply.octets = Some(number.parse().unwrap()),
            _ => match word {
                "ordered" => reply.ordered = true,
                "opt" => reply.opt = true,
                "no-question" => reply.echo = Echo::Absent,
                "written-out" => reply.echo = Echo::WrittenOut,
                "aa" | "tc" | "rd" | "cd" => reply.flags.push(word.to_owned()),
                "nsid" | "cookie" | "keepalive" => reply.options.push(word.to_owned()),
                _ => panic!("line {line}: `{word}`"),
            },
        }
    }
    let mut section = 0;
    for (at, record) in records {
        match *record {
            "; authority" => section = 1,
            "; additional" => section = 2,
            _ => match record.split_once(" x ") {
                Some((count, record)) => {
                    let record = &repeated(*at, record);
                    let count = count.parse().unwrap_or_else(|_| panic!("line {at}: a count"));
                    reply.sections[section].extend(std::iter::repeat_n(record.clone(), count));
                }
                None => reply.sections[section].push(repeated(*at, record)),
            },
        }
    }
    Expected::Reply(Box::new(reply))
}
