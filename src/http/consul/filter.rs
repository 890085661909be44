//! `?filter=`: the part of Consul's expression language that clients send. What is not understood is an error, for a
//! filter that is ignored answers too much.
//!
//! ```text
//! or    = and { "or" and }            and   = not { "and" not }          not = [ "not" ] ( "(" or ")" | match )
//! match = selector ("==" | "!=") value | value ["not"] "in" selector | selector ["not"] "contains" value
//!       | selector "is" ["not"] "empty"
//! ```

use serde::Serialize;
use serde_json::Value;

use crate::http::query::Query;
use crate::http::reply::Failure;

/// Octets of an expression, and brackets within brackets.
const OCTETS_MAX: usize = 4096;
const DEPTH_MAX: usize = 32;

/// A filter as it was asked for; the empty one lets everything through.
#[derive(Debug)]
pub struct Filter(Option<Expression>);

#[derive(Debug, PartialEq)]
enum Expression {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Equal(Vec<String>, String),
    /// The selector's list, map or text has the value.
    Contains(Vec<String>, String),
    Empty(Vec<String>),
}

impl Filter {
    pub fn of(query: &Query) -> Result<Self, Failure> {
        match query.get("filter").map(str::trim).filter(|text| !text.is_empty()) {
            None => Ok(Self(None)),
            Some(text) => Expression::parse(text).map(|expression| Self(Some(expression))).map_err(|what| {
                Failure::bad(format!("Failed to create boolean expression evaluator: {what}"))
            }),
        }
    }

    pub fn matches(&self, row: &impl Serialize) -> Result<bool, Failure> {
        let Some(expression) = &self.0 else { return Ok(true) };
        let row = serde_json::to_value(row).unwrap_or_default();
        expression
            .holds(&row)
            .map_err(|what| Failure::bad(format!("Failed to evaluate boolean expression: {what}")))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    if text.len() > OCTETS_MAX {
        return Err(format!("longer than {OCTETS_MAX} octets"));
    }
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '[' | ']' | '.' => {
                tokens.push(Token::Sign(match first {
                    '(' => "(",
                    ')' => ")",
                    '[' => "[",
                    ']' => "]",
                    _ => ".",
                }));
                1
            }
            '=' | '!' if rest[1..].starts_with('=') => {
                tokens.push(Token::Sign(if first == '=' { "==" } else { "!=" }));
                2
            }
            '"' | '`' => {
                let (value, length) = quoted(rest, first)?;
                tokens.push(Token::Quoted(value));
                length
            }
            c if c.is_alphanumeric() || c == '_' || c == '-' || c == '/' => {
                let end =
                    rest.find(|c: char| !(c.is_alphanumeric() || "_-/:".contains(c))).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
            other => return Err(format!("`{}` is not understood", other.escape_debug())),
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A quoted text with its escapes undone, and its octets with the quotes.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            c if c == quote => return Ok((value, at + 1)),
            '\\' if quote == '"' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Err("a quote is not closed".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Expression {
    /// The same of another selector.
    fn on(&self, path: Vec<String>) -> Self {
        match self {
            Self::Equal(_, wanted) => Self::Equal(path, wanted.clone()),
            Self::Contains(_, wanted) => Self::Contains(path, wanted.clone()),
            _ => Self::Empty(path),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let expression = parser.or()?;
        match parser.tokens.get(parser.at) {
            None => Ok(expression),
            Some(token) => Err(format!("{token:?} stands where the expression should end")),
        }
    }

    fn holds(&self, row: &Value) -> Result<bool, String> {
        // A list of rows on the way stands for any of them: `Checks.Status == critical`.
        if let Self::Equal(path, _) | Self::Contains(path, _) | Self::Empty(path) = self
            && let Some((list, rest)) = rows(row, path)
        {
            let inner = self.on(rest.to_vec());
            return list.iter().try_fold(false, |any, row| Ok(any || inner.holds(row)?));
        }
        Ok(match self {
            Self::And(left, right) => left.holds(row)? && right.holds(row)?,
            Self::Or(left, right) => left.holds(row)? || right.holds(row)?,
            Self::Not(inner) => !inner.holds(row)?,
            Self::Equal(path, wanted) => match find(row, path)? {
                Some(found) => text_of(found).ok_or_else(|| not_comparable(path))? == *wanted,
                None => false,
            },
            Self::Contains(path, wanted) => match find(row, path)? {
                Some(Value::Array(list)) => list.iter().any(|value| text_of(value).as_ref() == Some(wanted)),
                Some(Value::Object(map)) => map.contains_key(wanted),
                Some(Value::String(text)) => text.contains(wanted.as_str()),
                Some(_) => return Err(not_comparable(path)),
                None => false,
            },
            Self::Empty(path) => match find(row, path)? {
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::String(text)) => text.is_empty(),
                Some(_) => return Err(not_comparable(path)),
                None => true,
            },
        })
    }
}

/// The list of rows that a selector goes through first, and what it says of each.
fn rows<'a, 'b>(row: &'a Value, path: &'b [String]) -> Option<(&'a Vec<Value>, &'b [String])> {
    let mut value = row;
    for (at, part) in path.iter().enumerate() {
        match value {
            Value::Array(list) => return Some((list, &path[at..])),
            value_ => value = value_.get(part)?,
        }
    }
    None
}

fn not_comparable(path: &[String]) -> String {
    format!("{} cannot be compared so", path.join("."))
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// What a selector names: a member of a fixed part has to exist, a key of free ones need not. It does not go into
/// lists; `rows` has done that.
fn find<'a>(row: &'a Value, path: &[String]) -> Result<Option<&'a Value>, String> {
    let mut value = row;
    let mut free = false;
    for part in path {
        let Value::Object(map) = value else {
            return Err(format!(
                "the selector {} goes through a list, which is not supported",
                path.join(".")
            ));
        };
        match map.get(part) {
            Some(found) => value = found,
            None if free => return Ok(None),
            // Left out where it is empty.
            None if part == "TaggedAddresses" || part == "ServiceTaggedAddresses" => return Ok(None),
            None => return Err(format!("Selector \"{}\" is not valid", path.join("."))),
        }
        free = matches!(
            part.as_str(),
            "Meta" | "NodeMeta" | "ServiceMeta" | "TaggedAddresses" | "ServiceTaggedAddresses"
        );
    }
    Ok(Some(value))
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn word(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word == wanted);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(found);
        found
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut left = self.and()?;
        while self.word("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut left = self.not()?;
        while self.word("and") {
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} brackets within each other"));
        }
        let expression = if self.word("not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.sign("(") {
            let inner = self.or()?;
            if !self.sign(")") {
                return Err("a bracket is not closed".to_owned());
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        // `"value" in Selector` begins with the value, everything else with the selector.
        let begun = self.at;
        if let Ok(value) = self.value() {
            let not = self.word("not");
            if self.word("in") {
                let contains = Expression::Contains(self.selector()?, value);
                return Ok(if not { Expression::Not(Box::new(contains)) } else { contains });
            }
        }
        self.at = begun;
        let selector = self.selector()?;
        if self.sign("==") {
            return Ok(Expression::Equal(selector, self.value()?));
        }
        if self.sign("!=") {
            return Ok(Expression::Not(Box::new(Expression::Equal(selector, self.value()?))));
        }
        if self.word("is") {
            let not = self.word("not");
            let empty = Expression::Empty(selector);
            return match self.word("empty") {
                true if not => Ok(Expression::Not(Box::new(empty))),
                true => Ok(empty),
                false => Err("`is` is followed by `empty` or `not empty`".to_owned()),
            };
        }
        let not = self.word("not");
        if self.word("contains") {
            let contains = Expression::Contains(selector, self.value()?);
            return Ok(if not { Expression::Not(Box::new(contains)) } else { contains });
        }
        Err(format!(
            "after {} no match found, expected ==, !=, is empty, contains or in; `matches` is not supported",
            selector.join(".")
        ))
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek().cloned() {
            Some(Token::Word(text) | Token::Quoted(text)) => {
                self.at += 1;
                Ok(text)
            }
            other => Err(format!("a value is expected, not {other:?}")),
        }
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let Some(Token::Word(first)) = self.peek().cloned() else {
            return Err("a selector is expected, such as Service.Meta.version".to_owned());
        };
        self.at += 1;
        let mut path = vec![first];
        loop {
            if self.sign(".") {
                path.push(self.value()?);
            } else if self.sign("[") {
                path.push(self.value()?);
                if !self.sign("]") {
                    return Err("a bracket is not closed".to_owned());
                }
            } else {
                return Ok(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_hold_as_in_consul() {
        let row = json!({
            "Node": {"Node": "n1", "Meta": {"rack": "7"}},
            "Service": {"ID": "web-1", "Tags": ["v2", "blue"], "Port": 80, "Meta": {"version": "1.2", "a b": "c"}},
        });
        for (text, holds) in [
            (r#"Service.ID == "web-1""#, true),
            ("Service.ID==web-1", true),
            (r#"Service.ID != "web-1""#, false),
            ("Service.Port == 80", true),
            (r#""v2" in Service.Tags"#, true),
            ("v3 in Service.Tags", false),
            ("v3 not in Service.Tags", true),
            (r#"Service.Tags contains "blue""#, true),
            ("Service.Tags not contains blue", false),
            ("Service.Tags is empty", false),
            ("Service.Tags is not empty", true),
            (r#"Service.Meta.version == "1.2""#, true),
            (r#"Service.Meta["a b"] == c"#, true),
            ("Service.Meta.none == c", false),
            ("Service.Meta contains version", true),
            (r#"Node.Meta.rack == "7" and not (Service.ID == x or Service.ID == y)"#, true),
            ("Service.ID == x or Node.Node == n1", true),
        ] {
            let expression = Expression::parse(text).unwrap();
            assert_eq!(expression.holds(&row), Ok(holds), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let row = json!({"Service": {"ID": "web-1", "Meta": {}}, "Checks": [{"Status": "passing"}]});
        for text in [
            "bad",
            "Service.ID ==",
            "Service.ID = x",
            r#"Service.ID == "x"#,
            "(Service.ID == x",
            "Service.ID matches \"^x\"",
            "Service.Id == x",
            "Service.ID == x y",
            "a b c",
            &"(".repeat(5000),
            &"(".repeat(100),
        ] {
            let outcome = Expression::parse(text).and_then(|expression| expression.holds(&row));
            assert!(outcome.is_err(), "{text}: {outcome:?}");
        }
    }
}
