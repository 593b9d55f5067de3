//! `/openapi.json`: complete, whole in itself, and true of a real server with real guests.

mod common;

use common::api::Api;
use common::{Answer, Server, image};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use vmshare::web::{Access, ROUTES};

#[test]
fn every_route_is_an_operation_and_every_operation_a_route() {
    let api = Api::new();
    let described: Vec<String> = api.operations().map(|(method, path, _)| format!("{method} {path}")).collect();
    let mut routes: Vec<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let mut sorted = described.clone();
    sorted.sort();
    routes.sort();
    assert_eq!(sorted, routes);
    for route in ROUTES {
        let operation = &api.document["paths"][route.path][route.method.to_string().to_lowercase()];
        assert_eq!(operation["summary"], route.summary);
        let open = operation["security"] == json!([]);
        assert_eq!(open, route.access == Access::Public, "{} {}", route.method, route.path);
        let by_link = operation["security"].to_string().contains("link");
        assert_eq!(by_link, route.access == Access::UserOrLink, "{} {}", route.method, route.path);
    }
}

#[test]
fn every_operation_has_examples_and_they_are_as_their_schemas_say() {
    let api = Api::new();
    let mut names = Vec::new();
    for (method, path, operation) in api.operations() {
        let what = format!("{method} {path}");
        names.push(operation["operationId"].as_str().expect("a name").to_owned());
        let call = operation["x-codeSamples"][0]["source"].as_str().expect("a call");
        assert!(call.starts_with("curl ") && !call.contains('{') | call.contains("-d '{"), "{what}: {call}");
        assert!(operation["tags"][0].is_string(), "{what}");
        for parameter in operation["parameters"].as_array().expect("parameters") {
            let told = parameter["in"] == "header" || parameter["description"].is_string();
            assert!(told && parameter["schema"]["type"].is_string(), "{what}: {parameter}");
            assert!(parameter["in"] == "query" || parameter["example"].is_string(), "{what}: {parameter}");
        }
        for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            assert_eq!(api.faults(&content["schema"], &content["example"]), [""; 0], "{what}: {kind}");
        }
        let responses = operation["responses"].as_object().expect("responses");
        let good = responses.keys().filter(|status| status.as_str() < "400").count();
        assert_eq!(good, 1, "{what} has one good answer");
        for (status, response) in responses {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {status}");
            for (kind, content) in response["content"].as_object().into_iter().flatten() {
                let schema = &content["schema"];
                let many = content["examples"].as_object().into_iter().flatten().map(|(_, one)| &one["value"]);
                let examples: Vec<&Value> = content.get("example").into_iter().chain(many).collect();
                assert!(!examples.is_empty(), "{what}: {status} {kind} has no example");
                for example in examples {
                    assert_eq!(api.faults(schema, example), [""; 0], "{what}: {status} {example}");
                }
            }
        }
    }
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "two operations have one name");
}

#[test]
fn every_reference_points_at_something() {
    let api = Api::new();
    let mut found = 0;
    let mut open = vec![&api.document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    assert!(api.resolve(reference).is_some(), "{reference} is nowhere");
                    found += 1;
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            Value::String(text) => assert!(!text.starts_with('@'), "{text} names no example"),
            _ => {}
        }
    }
    assert!(found > 50, "{found}");
}

/// Who asks a server, and holds every answer against the description.
struct Asker<'a> {
    server: &'a Server,
    api: Api,
    token: String,
}

impl Asker<'_> {
    /// `path` as the table has it; `names` come for its `{…}` in order.
    fn ask(&mut self, method: &str, path: &str, names: &[&str], body: &Value) -> Answer {
        let mut names = names.iter();
        let real: Vec<&str> = path
            .split('/')
            .map(|part| if part.starts_with('{') { names.next().expect("a name") } else { part })
            .collect();
        let answer = self.server.call(method, &real.join("/"), &self.token, body);
        self.api.hold(method, path, &answer);
        answer
    }

    fn good(&mut self, method: &str, path: &str, names: &[&str], body: &Value) -> Value {
        let answer = self.ask(method, path, names, body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer.json
    }

    /// A body that is no JSON.
    fn send(&mut self, method: &str, path: &str, real: &str, headers: &str, body: &[u8]) -> Answer {
        let (token, length) = (&self.token, body.len());
        let head = format!(
            "{method} {real} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let mut socket = self.server.connect();
        socket.write_all(head.as_bytes()).expect("head");
        socket.write_all(body).expect("body");
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).expect("an answer");
        let answer = Answer::parse(&bytes);
        self.api.hold(method, path, &answer);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    }
}

fn account_and_server(asker: &mut Asker<'_>) {
    let new = json!({"email": "second@example.org", "password": "correct horse"});
    asker.good("POST", "/auth/signup", &[], &new);
    assert_eq!(asker.ask("POST", "/auth/signup", &[], &new).code(), "email_taken");
    asker.good("POST", "/auth/login", &[], &new);
    let wrong = json!({"email": "second", "password": "wrong horse"});
    assert_eq!(asker.ask("POST", "/auth/login", &[], &wrong).code(), "bad_credentials");
    asker.good("POST", "/auth/password", &[], &json!({"current": "correct horse", "new": "correct horse"}));
    for path in ["/auth/me", "/vms", "/profiles", "/healthz", "/readyz", "/version", "/metrics", "/openapi.json"] {
        asker.good("GET", path, &[], &Value::Null);
    }
    asker.good("OPTIONS", "/uploads/", &[], &Value::Null);
    assert_eq!(asker.good("GET", "/openapi.json", &[], &Value::Null), asker.api.document);
}

fn administration(asker: &mut Asker<'_>) {
    let found = asker.good("GET", "/admin/users", &[], &Value::Null);
    let second = found["users"].as_array().expect("a list").iter().find(|user| user["login"] == "second");
    let id = second.expect("who signed up above")["id"].as_str().expect("an id").to_owned();
    asker.good("POST", "/admin/users/{id}", &[&id], &json!({"role": "teacher", "disabled": false, "quota_gb": 5}));
    asker.good("POST", "/admin/users/{id}/password", &[&id], &Value::Null);
    assert_eq!(asker.ask("POST", "/admin/users/{id}", &["x"], &json!({"quota_gb": 1})).code(), "user_not_found");
    let made = asker.good("POST", "/admin/invites", &[], &json!({"uses": 3, "note": "class"}));
    asker.good("GET", "/admin/invites", &[], &Value::Null);
    let invite = made["invite"]["id"].as_str().expect("an id").to_owned();
    asker.good("DELETE", "/admin/invites/{id}", &[&invite], &Value::Null);
    assert_eq!(asker.ask("DELETE", "/admin/invites/{id}", &[&invite], &Value::Null).code(), "invite_not_found");
    asker.good("GET", "/admin/audit", &[], &Value::Null);
    for path in ["/admin/vms/stop", "/admin/vms/restart"] {
        asker.good("POST", path, &[], &json!({"vmids": ["000000000000"]}));
        assert_eq!(asker.ask("POST", path, &[], &json!({"vmids": []})).code(), "invalid_field");
    }
}

fn images(asker: &mut Asker<'_>) {
    let bytes = fs::read(image()).expect("image");
    let head = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"tiny.iso\"\r\n\r\n";
    let form = [head, bytes.as_slice(), b"\r\n--XX--\r\n"].concat();
    asker.send("POST", "/upload", "/upload", "Content-Type: multipart/form-data; boundary=XX\r\n", &form);
    let listed = asker.good("GET", "/isos", &[], &Value::Null);
    let name = listed["isos"][0]["name"].as_str().expect("an image").to_owned();
    // A file hears beforehand what it will be called, and so what it would replace.
    let told = asker.send("GET", "/isos", "/isos?filename=My%20tiny.ISO&format=iso", "", b"");
    assert_eq!((&told.json["name"], &listed["name"]), (&json!("My-tiny.iso"), &Value::Null), "{told:?}");
    let wrong = asker.server.call("GET", "/isos?format=exe", &asker.token, &Value::Null);
    asker.api.hold("GET", "/isos", &wrong);
    assert_eq!(wrong.code(), "invalid_field");
    asker.good("DELETE", "/isos/{name}", &[&name], &Value::Null);
    assert_eq!(asker.ask("DELETE", "/isos/{name}", &[&name], &Value::Null).code(), "iso_not_found");
    let tus = "Tus-Resumable: 1.0.0\r\n";
    let length = format!("{tus}Upload-Length: {}\r\nUpload-Metadata: filename dGlueS5pc28=\r\n", bytes.len());
    let begun = asker.send("POST", "/uploads/", "/uploads/", &length, b"");
    let place = begun.header("location").expect("its place").to_owned();
    asker.send("OPTIONS", "/uploads/{id}", &place, "", b"");
    let piece = format!("{tus}Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n");
    asker.send("PATCH", "/uploads/{id}", &place, &piece, &bytes[..4096]);
    asker.send("HEAD", "/uploads/{id}", &place, tus, b"");
    asker.send("DELETE", "/uploads/{id}", &place, tus, b"");
}

fn machine(asker: &mut Asker<'_>) {
    asker.good("POST", "/disks", &[], &json!({"name": "spare", "size_gb": 1}));
    asker.good("POST", "/disks/{name}/grow", &["spare"], &json!({"size_gb": 2}));
    asker.good("DELETE", "/disks/{name}", &["spare"], &Value::Null);
    let started = asker.good("POST", "/run-iso", &[], &json!({"disk": "work", "data_disk_gb": 1}));
    let vm = started["vm"].clone();
    let id = vm["vmid"].as_str().expect("vmid").to_owned();
    asker.good("POST", "/run-iso", &[], &Value::Null);
    drop(asker.server.screen(&asker.token, &vm));
    let watched = ["/admin/host", "/admin/load", "/admin/alerts"];
    let lists = ["/vms/{vmid}", "/connections/{vmid}", "/connections", "/vms", "/auth/me", "/disks"];
    for path in lists.into_iter().chain(watched) {
        asker.good("GET", path, &[&id], &Value::Null);
    }
    asker.good("GET", "/vms/{vmid}/screen.png", &[&id], &Value::Null);
    let plain = asker.ask("GET", "/ws/{http_port}", &[&vm["http_port"].to_string()], &Value::Null);
    assert_eq!(plain.code(), "websocket_expected");
    asker.good("POST", "/vms/{vmid}/snapshots", &[&id], &json!({"name": "now"}));
    asker.good("GET", "/vms/{vmid}/snapshots", &[&id], &Value::Null);
    asker.good("POST", "/vms/{vmid}/snapshots/{name}/restore", &[&id, "now"], &Value::Null);
    asker.good("DELETE", "/vms/{vmid}/snapshots/{name}", &[&id, "now"], &Value::Null);
    let made = asker.good("POST", "/vms/{vmid}/shares", &[&id], &json!({"minutes": 5}));
    asker.good("GET", "/vms/{vmid}/shares", &[&id], &Value::Null);
    let screen = asker.server.screen(&asker.token, &vm);
    asker.good("GET", "/vms/{vmid}/events", &[&id], &Value::Null);
    let seen = asker.good("GET", "/connections/{vmid}", &[&id], &Value::Null);
    let viewer = seen["who"][0]["id"].to_string();
    asker.good("POST", "/vms/{vmid}/viewers/{id}", &[&id, &viewer], &json!({"control": true}));
    asker.good("DELETE", "/vms/{vmid}/viewers/{id}", &[&id, &viewer], &Value::Null);
    drop(screen);
    asker.good("DELETE", "/vms/{vmid}/shares/{id}", &[&id, made["share"]["id"].as_str().expect("id")], &Value::Null);
    asker.good("POST", "/vms/{vmid}/keep", &[&id], &Value::Null);
    asker.good("POST", "/vms/{vmid}/resume", &[&id], &Value::Null);
    asker.good("POST", "/vms/{vmid}/restart", &[&id], &json!({"mode": "reset"}));
    assert_eq!(asker.ask("POST", "/vms/{vmid}/restart", &[&id], &json!({"mode": "x"})).code(), "invalid_field");
    asker.good("POST", "/vms/{vmid}/stop", &[&id], &json!({"force": true}));
    assert_eq!(asker.ask("POST", "/vms/{vmid}/keep", &[&id], &Value::Null).code(), "vm_not_running");
    asker.good("GET", "/vms/{vmid}", &[&id], &Value::Null);
    asker.good("GET", "/vms", &[], &Value::Null);
}

#[test]
fn a_real_server_answers_as_it_is_described() {
    let server = Server::start_living();
    let token = common::admin(&server);
    let mut asker = Asker { server: &server, api: Api::new(), token };
    account_and_server(&mut asker);
    administration(&mut asker);
    images(&mut asker);
    machine(&mut asker);
    asker.good("POST", "/auth/logout", &[], &Value::Null);
    let api = asker.api;
    // A stream without an end and a websocket; tests/vms.rs and tests/screens.rs read those.
    let elsewhere = ["GET /events", "GET /ws/{http_port}", "GET /ws/{http_port}/events", "GET /ws/{http_port}/serial"];
    let unseen: Vec<String> = api
        .operations()
        .map(|(method, path, _)| format!("{method} {path}"))
        .filter(|name| !api.seen.contains(name))
        .collect();
    assert_eq!(unseen, elsewhere);
    server.end();
}
