//! `/openapi.json` held against what a server really answers.

use super::Answer;
use serde_json::Value;
use std::collections::BTreeSet;
use vmshare::web::openapi;

/// The description, and which operations were seen to keep it.
pub struct Api {
    pub document: Value,
    pub seen: BTreeSet<String>,
}

impl Api {
    pub fn new() -> Self {
        Self { document: openapi::document().expect("the description"), seen: BTreeSet::new() }
    }

    /// Every operation: method in capitals, path, description.
    pub fn operations(&self) -> impl Iterator<Item = (String, &String, &Value)> {
        let paths = self.document["paths"].as_object().expect("paths");
        paths.iter().flat_map(|(path, methods)| {
            methods.as_object().expect("methods").iter().map(move |(method, op)| (method.to_uppercase(), path, op))
        })
    }

    /// What is wrong with `value`, one line each. Members that the schema does not name are wrong.
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, value, "$", &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.resolve(reference).unwrap_or_else(|| panic!("{reference} is nowhere"));
            return self.check(target, value, at, faults);
        }
        if let Some(any) = schema["anyOf"].as_array() {
            if !any.iter().any(|one| self.faults(one, value).is_empty()) {
                faults.push(format!("{at}: {value} is none of {}", schema["anyOf"]));
            }
            return;
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
            _ => panic!("{at}: a schema without a type: {schema}"),
        };
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !types.contains(&is) {
            return faults.push(format!("{at}: {value} is {is} and not {types:?}"));
        }
        if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
            faults.push(format!("{at}: {value} is not one of {}", schema["enum"]));
        }
        if schema["format"] == "date-time" && value.as_str().is_some_and(|at| at.parse::<jiff::Timestamp>().is_err()) {
            faults.push(format!("{at}: {value} is no time"));
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{at}[{n}]"), faults);
        }
        let Some(members) = schema["properties"].as_object() else { return };
        let wanted = schema["required"].as_array().expect("an object says what is required");
        for name in wanted.iter().filter_map(Value::as_str).filter(|name| value.get(name).is_none()) {
            faults.push(format!("{at}.{name} is missing"));
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            match members.get(name) {
                Some(schema) => self.check(schema, member, &format!("{at}.{name}"), faults),
                None => faults.push(format!("{at}.{name} is not described")),
            }
        }
    }

    /// What `#/a/b` points at.
    pub fn resolve(&self, reference: &str) -> Option<&Value> {
        self.document.pointer(reference.strip_prefix('#')?)
    }

    /// Holds an answer against the operation: its status, its members and header fields, or its problem's code.
    pub fn hold(&mut self, method: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path}");
        let operation = &self.document["paths"][path][method.to_lowercase()];
        let said = &operation["responses"][answer.status.to_string()];
        assert!(said.is_object(), "{what} answers {}, which is not described: {answer:?}", answer.status);
        for (name, _) in said["headers"].as_object().into_iter().flatten() {
            assert!(answer.header(&name.to_lowercase()).is_some(), "{what}: no {name} in {answer:?}");
        }
        if answer.status >= 400 {
            // HEAD has no body to look at.
            if method != "HEAD" {
                let examples = &said["content"]["application/problem+json"]["examples"];
                assert!(examples.get(answer.code()).is_some(), "{what}: code not described: {answer:?}");
                let faults = self.faults(&self.document["components"]["schemas"]["Problem"], &answer.json);
                assert_eq!(faults, [""; 0], "{what}");
            }
            return;
        }
        if let Some(schema) = said["content"].get("application/json").map(|content| &content["schema"]) {
            assert_eq!(self.faults(schema, &answer.json), [""; 0], "{what}: {}", answer.json);
        } else if said.get("content").is_none() {
            assert!(answer.body.is_empty(), "{what} has a body, which is not described: {answer:?}");
        }
        self.seen.insert(what);
    }
}
