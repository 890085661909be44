//! Reads `tests/clients/consul_requests.txt` and `tests/clients/consul_diff.txt`, whose first lines say what they are.

/// One line of the table of requests.
#[derive(Debug)]
pub enum Step {
    /// A new part begins: what is there from before goes.
    Part,
    Ask(Request),
    /// A blocking query, and what happens meanwhile.
    Watch(Request, Vec<Request>),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub body: String,
}

impl Request {
    pub fn parse(line: &str) -> Self {
        let mut words = line.trim().splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target, body) = (word(), word(), word());
        assert!(target.starts_with('/'), "no request: {line}");
        Self { method, target, body }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        if self.body.is_empty() { Ok(()) } else { write!(f, " {}", self.body) }
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

pub fn steps(text: &str) -> Vec<Step> {
    let step = |line: &str| {
        if line.starts_with("== ") {
            return Step::Part;
        }
        if let Some(watch) = line.strip_prefix("WATCH ") {
            let mut parts = watch.split(" <- ");
            let asked = Request::parse(parts.next().unwrap_or_default());
            return Step::Watch(asked, parts.map(Request::parse).collect());
        }
        Step::Ask(Request::parse(line))
    };
    lines(text).map(step).collect()
}

/// A difference that is meant, or that has to be.
#[derive(Debug)]
pub struct Listed {
    pub line: String,
    request: String,
    field: String,
    theirs: String,
    ours: String,
}

/// A difference that was met.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub request: String,
    pub field: String,
    pub theirs: String,
    pub ours: String,
}

impl Listed {
    pub fn covers(&self, met: &Difference) -> bool {
        let request = met.request == self.request || fits(&self.request, &met.request);
        request
            && fits(&self.field, &met.field)
            && fits(&self.theirs, &met.theirs)
            && fits(&self.ours, &met.ours)
    }
}

pub fn listed(text: &str) -> Vec<Listed> {
    let listed = |line: &str| {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let &[request, field, theirs, ours, reason] = columns.as_slice() else {
            panic!("a listed difference has five columns: {line}");
        };
        assert!(reason.len() > 10, "a listed difference has a reason: {line}");
        let [request, field, theirs, ours] = [request, field, theirs, ours].map(str::to_owned);
        Listed { line: line.to_owned(), request, field, theirs, ours }
    };
    lines(text).map(listed).collect()
}

/// True where `text` is like `pattern`, in which `*` stands for anything.
pub fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn stars_stand_for_anything() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abde", false),
        ("a*a", "a", false),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
}
