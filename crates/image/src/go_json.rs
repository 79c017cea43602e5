//! JSON as Go's `encoding/json` reads it, which is what writes and reads image metadata elsewhere.
//!
//! The one place for these rules: `null` is an absent field or the empty value, keys match in any
//! case, the last of two equal keys counts, unknown keys are ignored, and text that is not UTF-8
//! has replacement characters. Types say what is optional with `#[serde(default)]` alone.
//! Invariant: every value is a slice of the input until its type is known, so that memory is
//! bounded by the input's size.
//! *Source:* Go encoding/json, documentation of `Unmarshal`.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, value::RawValue};

/// Reads a value of `bytes`.
///
/// # Errors
/// When it is no JSON, or not of the type.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let text = String::from_utf8_lossy(bytes);
    let raw: &RawValue = serde_json::from_str(&text)?;
    T::deserialize(Value(raw))
}

/// A value that is left out, not refused, when it is not of its type.
///
/// Only for values that [`from_slice`] reads: there each value stands apart, so that one that is
/// refused does not disturb what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lenient<T>(pub(crate) Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Lenient<T> {
    pub(crate) const fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Serialize> Serialize for Lenient<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(T::deserialize(from).ok()))
    }
}

/// A value of the input that nothing has looked into.
struct Value<'de>(&'de RawValue);

impl<'de> Value<'de> {
    fn is_null(&self) -> bool {
        self.0.get() == "null"
    }

    /// The entries of an object, in their order.
    fn entries(&self) -> Result<Vec<(Cow<'de, str>, &'de RawValue)>, Error> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        plain(self.0).deserialize_map(Entries)
    }
}

fn plain(raw: &RawValue) -> serde_json::Deserializer<serde_json::de::StrRead<'_>> {
    serde_json::Deserializer::from_str(raw.get())
}

/// Deserializes by the method of the same name; `null` is the empty value.
macro_rules! empty_when_null {
    ($($method:ident => $visit:ident($empty:expr)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.is_null() {
                return visitor.$visit($empty);
            }
            plain(self.0).$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    empty_when_null! {
        deserialize_bool => visit_bool(false),
        deserialize_i64 => visit_i64(0),
        deserialize_u64 => visit_u64(0),
        deserialize_i32 => visit_i32(0),
        deserialize_u32 => visit_u32(0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        plain(self.0).deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: Vec<&RawValue> = if self.is_null() {
            Vec::new()
        } else {
            Deserialize::deserialize(&mut plain(self.0))?
        };
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.entries()?;
        visitor.visit_map(Fields {
            entries: entries.into_iter(),
            value: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut known: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        for (key, value) in self.entries()? {
            let exact = fields.iter().find(|field| **field == key);
            let folded = || fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
            let Some(field) = exact.or_else(folded) else {
                continue;
            };
            if value.get() == "null" {
                continue;
            }
            match known.iter_mut().find(|(name, _)| name == field) {
                Some((_, old)) => *old = value,
                None => known.push((Cow::Borrowed(field), value)),
            }
        }
        visitor.visit_map(Fields {
            entries: known.into_iter(),
            value: None,
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier
    }
}

/// The elements of an array.
struct Items<'de>(std::vec::IntoIter<&'de RawValue>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let next = self.0.next();
        next.map(|raw| seed.deserialize(Value(raw))).transpose()
    }
}

/// The entries of an object.
struct Fields<'de> {
    entries: std::vec::IntoIter<(Cow<'de, str>, &'de RawValue)>,
    value: Option<&'de RawValue>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = self.value.take();
        seed.deserialize(Value(
            value.ok_or_else(|| Error::custom("a key is missing"))?,
        ))
    }
}

/// Collects an object's entries as slices of the input.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Key<'de>, _>()? {
            entries.push((key.0, value));
        }
        Ok(entries)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'text>(#[serde(borrow)] Cow<'text, str>);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Sample {
        media_type: Option<String>,
        size: u64,
        list: Vec<String>,
        map: BTreeMap<String, String>,
        inner: Option<Box<Sample>>,
        loose: Vec<Lenient<Sample>>,
        flag: bool,
    }

    fn read(text: &str) -> Sample {
        from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn null_is_absent_for_every_type() {
        let nulls = r#"{"mediaType":null,"size":null,"list":null,"map":null,"inner":null,
            "loose":null,"flag":null}"#;
        assert_eq!(read(nulls), Sample::default());
        let inside = read(r#"{"list":["a",null],"map":{"a":null},"loose":[null]}"#);
        assert_eq!(inside.list, ["a", ""]);
        assert_eq!(inside.map["a"], "");
        assert_eq!(inside.loose[0].0, Some(Sample::default()));
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_of_two_counts() {
        assert_eq!(read(r#"{"MEDIATYPE":"a"}"#).media_type.unwrap(), "a");
        assert_eq!(
            read(r#"{"mediaType":"a","mediatype":"b"}"#)
                .media_type
                .unwrap(),
            "b"
        );
        assert_eq!(read(r#"{"size":1,"size":2}"#).size, 2);
        assert_eq!(read(r#"{"other":{"deep":[1]}}"#), Sample::default());
        assert_eq!(read(r#"{"\u0073ize":3}"#).size, 3);
    }

    #[test]
    fn what_is_of_another_type_is_refused_or_left_out_where_that_is_allowed() {
        for text in [
            r#"{"size":"1"}"#,
            r#"{"size":1.0}"#,
            r#"{"list":{}}"#,
            "[]",
            "{",
            "",
            "{}x",
        ] {
            assert!(from_slice::<Sample>(text.as_bytes()).is_err(), "{text}");
        }
        let found = read(r#"{"loose":[{"size":"x"},5,{"size":7}],"inner":{"list":["b"]}}"#);
        let sizes: Vec<_> = found
            .loose
            .iter()
            .map(|s| s.0.as_ref().map(|s| s.size))
            .collect();
        assert_eq!(sizes, [None, None, Some(7)]);
        assert_eq!(found.inner.unwrap().list, ["b"]);
    }

    #[test]
    fn text_that_is_not_utf_8_is_read_with_replacement_characters() {
        let found: Sample = from_slice(b"{\"mediaType\":\"caf\xe9\"}").unwrap();
        assert_eq!(found.media_type.unwrap(), "caf\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = from_slice::<Sample>(&bytes);
        }
    }
}
