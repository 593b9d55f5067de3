//! `GET /openapi.json`: the API described for programs and for the page `/docs` (OpenAPI 3.1).
//!
//! Method, path, who may call and the summary come from the table of routes. What the table does not say stands in `openapi/*.json`, one file
//! a tag: by `METHOD path`, what comes in (`query`, `headers`, `body`), the good `answers` and the `problems` by status and code. What follows
//! from the table is added here and never written there: parameters of the path, security, the problems of signing in and of bodies, and a call
//! with curl. An object of an answer has all its members always, so `required` is filled in where it is not said. `"@vm"` in an example stands for
//! the one of that name in `components.json`. Tests hold all of it against the table and against a real server.

use super::assets::Asset;
use super::{Access, ROUTES, Req, Route, pages};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::http::{Method, response};
use crate::proto::problem::Problem;
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::rc::Rc;
use std::sync::LazyLock;

/// Tags in the order in which people need them: name, what it is about, operations.
const TAGS: [(&str, &str, &str); 10] = [
    ("account", "Sign up, sign in, and who one is.", include_str!("openapi/account.json")),
    ("machines", "Start, watch and stop VMs.", include_str!("openapi/machines.json")),
    ("consoles", "Screens and terminals, as websockets.", include_str!("openapi/consoles.json")),
    ("links", "Let somebody without an account look, or help.", include_str!("openapi/links.json")),
    ("snapshots", "Go back to where a VM was.", include_str!("openapi/snapshots.json")),
    ("disks", "What is kept when a VM ends.", include_str!("openapi/disks.json")),
    ("images", "What VMs start from, and how it gets here.", include_str!("openapi/images.json")),
    ("watching", "How the host is, for administrators.", include_str!("openapi/watching.json")),
    (
        "administration",
        "For administrators: people, invitations, many VMs at once.",
        include_str!("openapi/administration.json"),
    ),
    ("server", "For operators and their tools.", include_str!("openapi/server.json")),
];

const COMPONENTS: &str = include_str!("openapi/components.json");

const ABOUT: &str = "Hands out Linux desktops in the browser. Times are RFC 3339 in UTC; sizes in MB and GB are binary. \
    A program signs in once and sends `Authorization: Bearer TOKEN`; browsers have the same token in a cookie, and with it what changes \
    something must come from a page of this server. Errors are `application/problem+json` with a sentence in `detail` and a stable `code`. \
    What is somebody else's answers 404, as if it did not exist; administrators see all. \
    Beside what each operation names, any request may be answered by 400, 405, 408, 413, 414, 417, 431, 500, 501 or 505 when it is no good HTTP \
    or the server has a fault. GET answers HEAD too. What is sent as a file, as this description is, also answers `If-None-Match`, `If-Match` and `Range` with 206, 304, 412 or 416.";

/// The document, made when it is first asked for. It says much over and over: compressed it is a tenth.
static DOCUMENT: LazyLock<Result<Asset, String>> = LazyLock::new(|| {
    let identity = document()?.to_string().into_bytes().leak();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(identity).map_err(|e| e.to_string())?;
    let gzip = gzip.finish().map_err(|e| e.to_string())?.leak();
    let hash = HEXLOWER.encode(digest(&SHA256, identity).as_ref());
    let etag = hash[..20].to_owned().leak();
    let (path, content_type) = ("/openapi.json", "application/json");
    Ok(Asset { path, content_type, etag, immutable: false, identity, gzip: Some(gzip), brotli: None })
});

/// `GET /openapi.json`.
pub async fn serve(_: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    match &*DOCUMENT {
        Ok(asset) => pages::answer(asset, &req),
        Err(why) => Err(Problem::internal(format!("The description of the API cannot be read: {why}."))),
    }
}

/// What `openapi/*.json` say.
struct Sources {
    /// Operations by `METHOD path`, each with its tag.
    operations: Vec<(String, &'static str, Value)>,
    components: Value,
}

fn sources() -> Result<Sources, String> {
    let mut operations = Vec::new();
    for (tag, _, text) in TAGS {
        let file: Map<String, Value> = serde_json::from_str(text).map_err(|e| format!("{tag}.json: {e}"))?;
        operations.extend(file.into_iter().map(|(key, value)| (key, tag, value)));
    }
    let components = serde_json::from_str(COMPONENTS).map_err(|e| format!("components.json: {e}"))?;
    Ok(Sources { operations, components })
}

/// The whole description.
///
/// # Errors
/// What is wrong with the sources: a route that they do not describe, or a description without a route.
pub fn document() -> Result<Value, String> {
    assemble(sources()?)
}

fn assemble(Sources { operations, components }: Sources) -> Result<Value, String> {
    let key = |route: &Route| format!("{} {}", route.method, route.path);
    if let Some((stray, ..)) = operations.iter().find(|(name, ..)| !ROUTES.iter().any(|route| key(route) == *name)) {
        return Err(format!("{stray} is described and no route"));
    }
    let mut names: Vec<&String> = operations.iter().map(|(name, ..)| name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{} is described twice", twice[0]));
    }
    let mut paths = Map::new();
    for route in ROUTES {
        let name = key(route);
        let Some((_, tag, said)) = operations.iter().find(|(other, ..)| *other == name) else {
            return Err(format!("{name} is a route and not described"));
        };
        let operation = operation(route, tag, said, &components);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_string().to_lowercase()] = operation;
    }
    let tags: Vec<Value> = TAGS.iter().map(|(name, about, _)| json!({ "name": name, "description": about })).collect();
    let mut whole = json!({
        "openapi": "3.1.0",
        "info": { "title": "VM-share", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components["schemas"],
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "The token that signing in gives." },
                "cookie": {
                    "type": "apiKey", "in": "cookie", "name": "__Host-vmshare_session",
                    "description": "The same token, as browsers send it; without TLS the name is vmshare_session.",
                },
                "link": { "type": "apiKey", "in": "query", "name": "share", "description": "The token of a link to this VM." },
            },
        },
    });
    complete(&mut whole, &components["examples"]);
    Ok(whole)
}

/// Fills in what objects of answers leave out, and the examples that go by a name.
fn complete(value: &mut Value, examples: &Value) {
    match value {
        Value::String(name) => {
            if let Some(example) = name.strip_prefix('@').and_then(|name| examples.get(name)) {
                *value = example.clone();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| complete(item, examples)),
        Value::Object(members) => {
            let names =
                members.get("properties").and_then(Value::as_object).map(|all| json!(all.keys().collect::<Vec<_>>()));
            if let (Some(names), Some("object"), false) =
                (names, members.get("type").and_then(Value::as_str), members.contains_key("required"))
            {
                members.insert("required".into(), names);
            }
            members.values_mut().for_each(|member| complete(member, examples));
        }
        _ => {}
    }
}

fn operation(route: &Route, tag: &str, said: &Value, components: &Value) -> Value {
    let (who, security) = match route.access {
        Access::Public => ("everybody", json!([])),
        Access::User => ("who is signed in", json!([{ "bearer": [] }, { "cookie": [] }])),
        Access::UserOrLink => {
            ("who is signed in, or has a link", json!([{ "bearer": [] }, { "cookie": [] }, { "link": [] }]))
        }
        Access::Admin => ("administrators", json!([{ "bearer": [] }, { "cookie": [] }])),
    };
    let words: Vec<&str> =
        route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut whole = json!({
        "operationId": format!("{}_{}", route.method.to_string().to_lowercase(), words.join("_")),
        "tags": [tag],
        "summary": route.summary,
        "security": security,
        "x-who": who,
        "parameters": parameters(route, said, components),
        "responses": responses(route, said),
        "x-codeSamples": [{ "lang": "curl", "source": curl(route, said, components) }],
    });
    if let Some(text) = said.get("description") {
        whole["description"] = text.clone();
    }
    if let Some(body) = said.get("body") {
        let mut schema = body["schema"].clone();
        if schema["type"] == "object" && kind(body) == "application/json" {
            // A field that nobody reads is refused.
            schema["additionalProperties"] = json!(false);
        }
        let content = json!({ kind(body): { "schema": schema, "example": body["example"] } });
        whole["requestBody"] = json!({ "required": body["optional"] != true, "content": content });
    }
    whole
}

/// The media type of a body or an answer.
fn kind(about: &Value) -> &str {
    about["type"].as_str().unwrap_or("application/json")
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The path's `{…}`, each with the segment before it, which says what it names.
fn placeholders(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let segments = path.split('/');
    segments
        .clone()
        .zip(segments.skip(1))
        .filter_map(|(of, name)| name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).map(|name| (of, name)))
}

fn parameters(route: &Route, said: &Value, components: &Value) -> Vec<Value> {
    let path = placeholders(route.path).map(|(of, name)| {
        let about = &components["parameters"][of];
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" },
                "description": about["description"], "example": about["example"] })
    });
    let query = members(&said["query"]).map(|(name, about)| {
        json!({ "name": name, "in": "query", "schema": about["schema"], "description": about["description"] })
    });
    let headers = members(&said["headers"]).map(|(name, example)| {
        json!({ "name": name, "in": "header", "required": true, "schema": { "type": "string" }, "example": example })
    });
    path.chain(query).chain(headers).collect()
}

fn responses(route: &Route, said: &Value) -> Value {
    let mut all = Map::new();
    for (status, about) in members(&said["answers"]) {
        let mut answer = json!({ "description": about["description"] });
        if about.get("schema").is_some() {
            answer["content"] = json!({ kind(about): { "schema": about["schema"], "example": about["example"] } });
        }
        for (name, example) in members(&about["headers"]) {
            answer["headers"][name] = json!({ "schema": { "type": "string" }, "example": example });
        }
        all.insert(status.clone(), answer);
    }
    for (status, code, detail) in problems(route, said) {
        let title = response::reason(status.parse().unwrap_or(0));
        let entry = all.entry(status.clone()).or_insert_with(|| {
            json!({ "description": "", "content": { "application/problem+json": {
                "schema": { "$ref": "#/components/schemas/Problem" }, "examples": {} } } })
        });
        let before = entry["description"].as_str().unwrap_or_default();
        entry["description"] = json!(if before.is_empty() { code.clone() } else { format!("{before}, {code}") });
        entry["content"]["application/problem+json"]["examples"][&code] = json!({ "value": {
            "type": "about:blank", "title": title, "status": status.parse::<u16>().unwrap_or(0), "detail": detail, "code": code } });
    }
    Value::Object(all)
}

/// Status, code and detail: what the table implies, then what is said of this operation; each code of a status once.
fn problems(route: &Route, said: &Value) -> Vec<(String, String, String)> {
    let mut all: Vec<(String, String, String)> = Vec::new();
    let mut add = |status: &str, code: &str, detail: &str| {
        if !all.iter().any(|(s, c, _)| s == status && c == code) {
            all.push((status.to_owned(), code.to_owned(), detail.to_owned()));
        }
    };
    for (status, codes) in members(&said["problems"]) {
        members(codes).for_each(|(code, detail)| add(status, code, detail.as_str().unwrap_or_default()));
    }
    if said.get("body").is_some_and(|body| kind(body) == "application/json") {
        add("400", "bad_json", "The body is not JSON: expected value at line 1 column 1.");
        add("422", "invalid_field", "memory_mb: must be a whole number from 64 to 8192");
    }
    if route.access != Access::Public {
        add("401", "not_signed_in", "Sign in first.");
        add("401", "session_ended", "Your session has ended. Sign in again.");
        add("503", "database_away", "The database does not answer right now. Try again in a moment.");
        add("503", "busy", "The server is busy. Try again in a moment.");
    }
    if route.access == Access::Admin {
        add("403", "admin_only", "Only administrators may do this.");
    }
    if !matches!(route.method, Method::Get | Method::Head | Method::Options) {
        add("403", "cross_site", "This request was not made by a page of this server.");
    }
    if route.path.contains("{vmid}") {
        add("404", "vm_not_found", "There is no such VM.");
    }
    all
}

/// The example as a command; `VMSHARE` is the server's address, `TOKEN` what signing in gave.
fn curl(route: &Route, said: &Value, components: &Value) -> String {
    let mut parts = vec!["curl".to_owned()];
    match route.method {
        Method::Get => {}
        Method::Head => parts.push("--head".into()),
        _ => parts.push(format!("-X {}", route.method)),
    }
    if route.access != Access::Public {
        parts.push("-H \"Authorization: Bearer $TOKEN\"".into());
    }
    parts.extend(
        members(&said["headers"]).map(|(name, value)| format!("-H '{name}: {}'", value.as_str().unwrap_or_default())),
    );
    if let Some(body) = said.get("body") {
        match body["curl"].as_str() {
            Some("") => {}
            Some(given) => {
                if kind(body) != "multipart/form-data" {
                    parts.push(format!("-H 'Content-Type: {}'", kind(body)));
                }
                parts.push(given.to_owned());
            }
            None => parts.push(format!("-H 'Content-Type: application/json' -d '{}'", body["example"])),
        }
    }
    let mut path = route.path.to_owned();
    for (of, name) in placeholders(route.path) {
        let example = components["parameters"][of]["example"].as_str().unwrap_or(name);
        path = path.replace(&format!("{{{name}}}"), example);
    }
    parts.push(format!("\"$VMSHARE{path}\""));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_description_and_a_description_without_a_route_are_refused() {
        assert!(document().is_ok(), "{:?}", document().err());
        let mut poor = sources().unwrap();
        poor.operations.retain(|(name, ..)| name != "GET /vms");
        assert_eq!(assemble(poor).unwrap_err(), "GET /vms is a route and not described");
        let mut rich = sources().unwrap();
        rich.operations.push(("GET /nowhere".into(), "server", json!({})));
        assert_eq!(assemble(rich).unwrap_err(), "GET /nowhere is described and no route");
        let mut twice = sources().unwrap();
        twice.operations.push(("GET /vms".into(), "server", json!({})));
        assert_eq!(assemble(twice).unwrap_err(), "GET /vms is described twice");
    }

    #[test]
    fn the_call_with_curl_has_what_the_operation_needs() {
        let document = document().unwrap();
        let call = |path: &str, method: &str| document["paths"][path][method]["x-codeSamples"][0]["source"].clone();
        assert_eq!(call("/healthz", "get"), r#"curl "$VMSHARE/healthz""#);
        let bearer = r#"-H "Authorization: Bearer $TOKEN""#;
        assert_eq!(call("/isos/{name}", "delete"), format!(r#"curl -X DELETE {bearer} "$VMSHARE/isos/debian.iso""#));
        let body = r#"-H 'Content-Type: application/json' -d '{"size_gb":32}'"#;
        assert_eq!(
            call("/disks/{name}/grow", "post"),
            format!(r#"curl -X POST {bearer} {body} "$VMSHARE/disks/work/grow""#)
        );
    }
}
