//! Protocol buffers, as far as we speak them: a message as a tree that is written in octets or in JSON, and the fields
//! of a message that came.
//!
//! What Envoy reads goes out in both forms, so there is one tree of it, and neither form can say something else than
//! the other. A code generator would give a type for each of some forty messages, of which we fill a few fields; here a
//! message is written beside its meaning, with the numbers and names of its own `.proto` file.

use serde_json::{Map, Value as Json};

/// A message: its fields in order, each with its number and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<(u32, &'static str, Value)>);

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    /// One word of an enum: its number and its name.
    Word(u32, &'static str),
    Message(Message),
    /// `google.protobuf.UInt32Value`
    Wrapped(u32),
    /// `google.protobuf.Duration`
    Seconds(u64),
    /// `google.protobuf.Any`: the URL of the type, and the message.
    Any(&'static str, Message),
    /// One entry of a map with text keys.
    Entry(String, Box<Value>),
    /// A repeated field.
    List(Vec<Value>),
}

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    /// The message with one more field; what is left out has its default.
    #[must_use]
    pub fn with(mut self, number: u32, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((number, name, value.into()));
        self
    }

    /// The binary form.
    pub fn octets(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, _, value) in &self.0 {
            value.put(*number, &mut out);
        }
        out
    }

    /// The JSON form, with the names of the `.proto` file, which every reader takes.
    pub fn json(&self) -> Map<String, Json> {
        self.0.iter().map(|(_, name, value)| ((*name).to_owned(), value.json())).collect()
    }
}

impl Value {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => put_octets(number, text.as_bytes(), out),
            Self::Number(value) => put_number(number, *value, out),
            Self::Flag(value) => put_number(number, (*value).into(), out),
            Self::Word(value, _) => put_number(number, (*value).into(), out),
            Self::Message(message) => put_octets(number, &message.octets(), out),
            Self::Wrapped(value) => {
                let message = Message::new().with(1, "value", u64::from(*value));
                put_octets(number, &message.octets(), out);
            }
            Self::Seconds(seconds) => {
                put_octets(number, &Message::new().with(1, "seconds", *seconds).octets(), out);
            }
            Self::Any(url, message) => put_octets(number, &any(url, &message.octets()), out),
            Self::Entry(key, value) => {
                let mut entry = Vec::new();
                put_octets(1, key.as_bytes(), &mut entry);
                value.put(2, &mut entry);
                put_octets(number, &entry, out);
            }
            Self::List(values) => values.iter().for_each(|value| value.put(number, out)),
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(value) => (*value).into(),
            Self::Flag(value) => (*value).into(),
            Self::Word(_, name) => (*name).into(),
            Self::Message(message) => message.json().into(),
            Self::Wrapped(value) => (*value).into(),
            Self::Seconds(seconds) => format!("{seconds}s").into(),
            Self::Any(url, message) => {
                let mut fields = message.json();
                fields.insert("@type".to_owned(), (*url).into());
                fields.into()
            }
            Self::Entry(key, value) => Json::Object(Map::from_iter([(key.clone(), value.json())])),
            Self::List(values) => values.iter().map(Self::json).collect(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<Message> for Value {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// `google.protobuf.Any` of a message in octets.
pub fn any(url: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_octets(1, url.as_bytes(), &mut out);
    put_octets(2, message, &mut out);
    out
}

/// A field with a length: text, octets, a message.
pub fn put_octets(number: u32, octets: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(octets.len() as u64, out);
    out.extend_from_slice(octets);
}

/// A field that holds a number.
pub fn put_number(number: u32, value: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3, out);
    put_varint(value, out);
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The fields of a message that came, in their order; behind what is no field there is nothing more.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// A field as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Octets(&'a [u8]),
    /// Of a fixed width, which nothing that we read has.
    Fixed,
}

/// What came is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the octets are no protocol buffer")]
pub struct Malformed;

impl<'a> Fields<'a> {
    pub fn of(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    fn read(&mut self) -> Option<(u32, Field<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Octets(self.take(length)?)
            }
            5 => self.take(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((number, field))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let octet = self.take(1)?[0];
            number |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read().ok_or(Malformed);
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

impl<'a> Field<'a> {
    pub fn octets(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Octets(octets) => Ok(octets),
            Self::Number(_) | Self::Fixed => Err(Malformed),
        }
    }

    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.octets()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let inner = Message::new().with(1, "flag", Value::Flag(true));
        let message = Message::new()
            .with(1, "name", "web")
            .with(2, "type", Value::Word(3, "EDS"))
            .with(3, "parts", Value::from_iter([inner.clone(), Message::new()]))
            .with(4, "wait", Value::Seconds(300))
            .with(5, "weight", Value::Wrapped(7))
            .with(6, "config", Value::Any("a/b", inner.clone()))
            .with(36, "options", Value::Entry("k".to_owned(), Box::new("v".into())));
        let json = serde_json::json!({
            "name": "web", "type": "EDS", "parts": [{"flag": true}, {}], "wait": "300s", "weight": 7,
            "config": {"@type": "a/b", "flag": true}, "options": {"k": "v"}
        });
        assert_eq!(Json::from(message.json()), json);
        let octets = [
            &[0x0a, 3, b'w', b'e', b'b', 0x10, 3, 0x1a, 2, 8, 1, 0x1a, 0, 0x22, 3, 8, 0xac, 2][..],
            &[0x2a, 2, 8, 7, 0x32, 9, 0x0a, 3, b'a', b'/', b'b', 0x12, 2, 8, 1],
            &[0xa2, 2, 6, 0x0a, 1, b'k', 0x12, 1, b'v'],
        ];
        assert_eq!(message.octets(), octets.concat());
    }

    #[test]
    fn fields_are_read_and_what_is_none_is_said() {
        let read = |octets: &'static [u8]| Fields::of(octets).collect::<Result<Vec<_>, _>>();
        let fields = vec![
            (2, Field::Octets(&[8, 9][..])),
            (1, Field::Number(1)),
            (3, Field::Fixed),
            (4, Field::Fixed),
        ];
        let octets = [0x12, 2, 8, 9, 8, 1, 0x1d, 1, 2, 3, 4, 0x21, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Fields::of(&octets).collect::<Result<Vec<_>, _>>(), Ok(fields));
        assert_eq!(read(&[]), Ok(Vec::new()));
        for wrong in [
            &[8][..],
            &[8, 0x80],
            &[0x12, 9, 1],
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            &[0x0b, 1],
            &[0x1d, 1, 2],
        ] {
            assert_eq!(read(wrong), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(Field::Octets(&[0xff]).text(), Err(Malformed));
    }
}
