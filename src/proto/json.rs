//! Typed access to a JSON body's fields; errors name the field.

use super::problem::Problem;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A body's fields.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// 400 when it is no JSON, 422 when it is no object.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::new(422, "invalid_body", "The body must be a JSON object.")),
            Err(e) => Err(Problem::bad_request("bad_json", format!("The body is not JSON: {e}."))),
        }
    }

    /// As [`Fields::parse`], but an empty body is an object without fields.
    ///
    /// # Errors
    /// As [`Fields::parse`].
    pub fn parse_or_empty(body: &[u8]) -> Result<Self, Problem> {
        if body.iter().all(u8::is_ascii_whitespace) { Ok(Self(Map::new())) } else { Self::parse(body) }
    }

    /// Refuses fields that nobody reads: a misspelt one must not be silently without effect.
    ///
    /// # Errors
    /// 422.
    pub fn deny_unknown(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                Err(Problem::unprocessable(name, format!("is not known here; known are: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// 422.
    pub fn str(&self, name: &str) -> Result<&str, Problem> {
        self.opt_str(name)?.ok_or_else(|| Problem::unprocessable(name, "is needed"))
    }

    /// A string that may be there; `null` is as if it were not.
    ///
    /// # Errors
    /// 422.
    pub fn opt_str(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::unprocessable(name, "must be a string")),
        }
    }

    /// A list of 1 to `most` strings that must be there.
    ///
    /// # Errors
    /// 422, naming the bound.
    pub fn strs(&self, name: &str, most: usize) -> Result<Vec<&str>, Problem> {
        let items = self.0.get(name).and_then(Value::as_array).filter(|items| (1..=most).contains(&items.len()));
        let texts: Option<Vec<&str>> = items.and_then(|items| items.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| Problem::unprocessable(name, format!("must be a list of 1 to {most} strings")))
    }

    /// A truth value that may be there.
    ///
    /// # Errors
    /// 422.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(Problem::unprocessable(name, "must be true or false")),
        }
    }

    /// A whole number within bounds that may be there.
    ///
    /// # Errors
    /// 422, naming the bounds.
    pub fn opt_u32_in(&self, name: &str, bounds: RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let value = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_u64().and_then(|value| u32::try_from(value).ok()),
        };
        match value {
            Some(value) if bounds.contains(&value) => Ok(Some(value)),
            _ => {
                let problem = format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
                Err(Problem::unprocessable(name, problem))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_names_its_field() {
        let fields = Fields::parse(br#"{"s":"x","n":3,"b":true,"z":null,"neg":-1,"f":1.5}"#).unwrap();
        assert_eq!(fields.str("s").unwrap(), "x");
        assert_eq!(fields.opt_str("z").unwrap(), None);
        assert_eq!(fields.opt_u32_in("n", 1..=3).unwrap(), Some(3));
        assert_eq!(fields.opt_bool("b").unwrap(), Some(true));
        let details = [
            fields.str("missing").unwrap_err(),
            fields.str("n").unwrap_err(),
            fields.opt_u32_in("n", 1..=2).unwrap_err(),
            fields.opt_u32_in("neg", 0..=2).unwrap_err(),
            fields.opt_u32_in("f", 0..=2).unwrap_err(),
            fields.opt_bool("s").unwrap_err(),
            fields.deny_unknown(&["s"]).unwrap_err(),
        ];
        for problem in details {
            let field = problem.field.clone().unwrap();
            assert!(problem.status == 422 && problem.detail.starts_with(&field), "{problem:?}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_told_from_one_that_is_no_json() {
        assert_eq!(Fields::parse(b"[]").unwrap_err().status, 422);
        assert_eq!(Fields::parse(b"{").unwrap_err().status, 400);
        assert_eq!(Fields::parse(b"").unwrap_err().status, 400);
        assert!(Fields::parse_or_empty(b" \r\n").is_ok());
        assert_eq!(Fields::parse(&b"[".repeat(10_000)).unwrap_err().status, 400);
    }
}
