//! Reads the fields of a JSON object by type. An error names the field.

use serde_json::{Map, Value};

use super::ConfigError;

#[derive(Clone, Copy)]
pub(super) struct ConfigFields<'a> {
    pub(super) object: Fields<'a>,
    pub(super) path: &'static str,
}

impl ConfigFields<'_> {
    pub(super) fn refuse(self, field: &str, value: &Value, rule: &str) -> ConfigError {
        let value = value.to_string().chars().take(128).collect();
        ConfigError::Value { field: format!("{}{field}", self.path), value, rule: rule.to_owned() }
    }

    pub(super) fn flag(self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.object.find(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.refuse(field, other, "it must be true or false")),
        }
    }

    pub(super) fn text(self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.object.find(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.refuse(field, other, "it must be a text in quotes")),
        }
    }

    pub(super) fn number<N: TryFrom<u64>>(
        self,
        field: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<N>, ConfigError> {
        let Some(value) = self.object.find(field) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok());
        let rule = || format!("it must be a whole number from {} to {}, without quotes", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.refuse(field, value, &rule()))
    }

    pub(super) fn unknown(self, known: &[&str]) -> Vec<String> {
        let is_known = |key: &str| known.iter().any(|name| name.eq_ignore_ascii_case(key));
        self.object.0.keys().filter(|key| !is_known(key)).cloned().collect()
    }
}

/// The fields of a JSON object. Names match in any letter case, as in Go; `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn find(self, name: &str) -> Option<&'a Value> {
        let any_case = || self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        self.0.get(name).or_else(any_case).filter(|value| !value.is_null())
    }
}
