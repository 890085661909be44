//! JSON that may be written in more than one way, or whose keys are free.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::printable;
use crate::instance::META_MAX;

/// Members of an object with free keys: the larger of what metadata and ports may have, so that the
/// search for duplicates stays short.
const PAIRS_MAX: usize = META_MAX;

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Several(pub Vec<String>);

/// The members of an object in the order given; a key that stands twice is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs<T>(pub Vec<(String, T)>);

/// A port by number, or with its transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortForm {
    pub port: i64,
    pub transport: Option<String>,
}

impl<'de> Deserialize<'de> for Several {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Several;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Several, E> {
                Ok(Several(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Several, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Several(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl<'de> Deserialize<'de> for PortForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            port: i64,
            #[serde(default)]
            transport: Option<String>,
        }
        struct PortVisitor;
        impl<'de> Visitor<'de> for PortVisitor {
            type Value = PortForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number, or an object with port and transport")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<PortForm, E> {
                Ok(PortForm { port, transport: None })
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<PortForm, E> {
                self.visit_i64(i64::try_from(port).unwrap_or(i64::MAX))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PortForm, A::Error> {
                let Full { port, transport } =
                    Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(PortForm { port, transport })
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs: Vec<(String, T)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if pairs.len() == PAIRS_MAX {
                        return Err(de::Error::custom(format!("more than {PAIRS_MAX} members")));
                    }
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!(
                            "the key `{}` is given twice",
                            printable(&key)
                        )));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

impl<T: Serialize> Serialize for Pairs<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
