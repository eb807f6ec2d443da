//! The wanted fields of a lease's value. All else in it is checked to be JSON and skipped, so reading a lease allocates
//! hardly anything.

use std::{borrow::Cow, cmp::Reverse, fmt, str::FromStr};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};

use super::LeaseError;

/// The wanted fields, by the depth of their object.
const WANTED: [&[&str]; 2] =
    [&["PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data"], &["VNI", "VtepMAC"]];

/// A value in JSON, as far as a lease needs it.
#[derive(Debug)]
pub(super) enum Json<'de> {
    Null,
    Text(Cow<'de, str>),
    /// A number that is not negative and written without fraction and exponent.
    Whole(u64),
    Object(Fields<'de>),
    /// Any other number, true, false, or an array.
    Other,
}

/// The wanted fields of an object in the order and spelling in which they were written. Names match in any letter case,
/// as in Go; `null` counts as absent.
#[derive(Debug)]
pub(super) struct Fields<'de>(Vec<(Cow<'de, str>, Json<'de>)>);

impl<'de> Json<'de> {
    pub(super) fn from_slice(text: &'de [u8]) -> Result<Self, LeaseError> {
        let refuse = |error: serde_json::Error| LeaseError::Json(error.to_string());
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let json = AtDepth(0).deserialize(&mut deserializer).map_err(refuse)?;
        deserializer.end().map_err(refuse)?;
        Ok(json)
    }
}

impl Fields<'_> {
    /// The field of this name. Of several spellings, the exact one counts, then the first in the order of letters; of one
    /// spelling, the last.
    pub(super) fn find(&self, name: &str) -> Option<&Json<'_>> {
        let named = self.0.iter().filter(|(spelling, _)| spelling.eq_ignore_ascii_case(name));
        let (_, json) = named.max_by_key(|(spelling, _)| (spelling == name, Reverse(spelling)))?;
        (!matches!(json, Json::Null)).then_some(json)
    }

    pub(super) fn text(&self, field: &'static str) -> Result<Option<&str>, LeaseError> {
        match self.find(field) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(Json::Null | Json::Whole(_) | Json::Object(_) | Json::Other) => {
                Err(LeaseError::Field { field, rule: "is no text".to_owned() })
            }
        }
    }

    pub(super) fn address<A: FromStr>(&self, field: &'static str) -> Result<Option<A>, LeaseError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let rule = || format!("holds {text:?}, which is no such address");
        text.parse().map(Some).map_err(|_| LeaseError::Field { field, rule: rule() })
    }
}

/// Reads a value in an object of this depth; below the wanted ones, it is only checked.
#[derive(Clone, Copy)]
struct AtDepth(usize);

impl AtDepth {
    const SKIPPED: Self = Self(WANTED.len());

    fn wants(self, name: &str) -> bool {
        WANTED.get(self.0).is_some_and(|wanted| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)))
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

// As any value, since serde_json lets more pass in a value that is ignored, such as text that is not UTF-8.
impl<'de> DeserializeSeed<'de> for AtDepth {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AtDepth {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    /// Text with escapes.
    fn visit_str<E: Error>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        while items.next_element_seed(Self::SKIPPED)?.is_some() {}
        Ok(Json::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(Name(name)) = object.next_key()? {
            if self.wants(&name) {
                fields.push((name, object.next_value_seed(Self(self.0 + 1))?));
            } else {
                object.next_value_seed(Self::SKIPPED)?;
            }
        }
        Ok(Json::Object(Fields(fields)))
    }
}
