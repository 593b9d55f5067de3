//! `/auth/…`, cookies, cross-site rules, throttling and the command line, on a real server.

mod common;

use common::{BINARY, Server, folder};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

fn login(server: &Server, name: &str, password: &str) -> common::Answer {
    server.call("POST", "/auth/login", "", &json!({"email": name, "password": password}))
}

#[test]
fn accounts_sessions_and_passwords_live_as_the_contract_says() {
    let server = Server::start();
    let token = server.sign_up("alice");
    let me = server.call("GET", "/auth/me", &token, &Value::Null);
    assert_eq!((me.status, &me.json["user"]["login"], &me.json["vm"]), (200, &json!("alice"), &Value::Null));

    for (body, status, code) in [
        (json!({"email": "ALICE@example.org", "password": "correct horse"}), 409, "email_taken"),
        (json!({"email": "b@example.org", "password": "correct horse", "login": "alice"}), 409, "login_taken"),
        (json!({"email": "b@example.org", "password": "short"}), 422, "invalid_field"),
        (json!({"email": "nobody", "password": "correct horse"}), 422, "invalid_field"),
        (json!({"email": "b@example.org"}), 422, "invalid_field"),
    ] {
        let answer = server.call("POST", "/auth/signup", "", &body);
        assert_eq!((answer.status, answer.code()), (status, code), "{body}");
    }
    let (wrong, unknown) =
        (login(&server, "alice", "wrong horse!"), login(&server, "nobody@example.org", "wrong horse!"));
    assert_eq!((wrong.status, wrong.code()), (401, "bad_credentials"));
    assert_eq!(wrong.json, unknown.json, "the same body whether the account exists");

    let other = login(&server, "alice", "correct horse").json["token"].as_str().expect("token").to_owned();
    let third = login(&server, "Alice@Example.org", "correct horse").json["token"].as_str().expect("token").to_owned();
    assert_eq!(server.call("POST", "/auth/logout", &third, &Value::Null).status, 204);
    assert_eq!(server.call("GET", "/auth/me", &third, &Value::Null).status, 401, "dead at once");
    let change = |current: &str| {
        server.call("POST", "/auth/password", &token, &json!({"current": current, "new": "battery staple"}))
    };
    assert_eq!(change("wrong horse!").code(), "bad_credentials");
    assert_eq!(change("correct horse").status, 204);
    assert_eq!(server.call("GET", "/auth/me", &other, &Value::Null).status, 401, "other sessions end");
    assert_eq!(server.call("GET", "/auth/me", &token, &Value::Null).status, 200);
    assert_eq!(login(&server, "alice", "correct horse").status, 401);
    assert_eq!(login(&server, "alice", "battery staple").status, 200);

    let mut database = server.database();
    let row = database.query_one("select password_phc from users", &[]).expect("row");
    assert!(row.get::<_, String>(0).starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    for row in database.query("select token_hash from sessions", &[]).expect("rows") {
        assert_eq!(row.get::<_, Vec<u8>>(0).len(), 32);
    }
    assert_eq!(server.count("select count(*) from audit where action = 'password'"), 1);
    assert!(!server.said().contains("battery") && !server.said().contains(&token), "secrets are not in the log");
    server.end();
}

#[test]
fn a_cookie_is_guarded_and_needs_proof_of_our_own_page() {
    let server = Server::start();
    let body = json!({"email": "c@example.org", "password": "correct horse"});
    let signed = server.call("POST", "/auth/signup", "", &body);
    let cookie = signed.header("set-cookie").expect("cookie").to_owned();
    for part in ["vmshare_session=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=7200"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(!cookie.contains("Secure"), "plain HTTP: {cookie}");
    let pair = cookie.split(';').next().expect("pair");
    let post = |extra: &str| {
        server
            .raw(&format!(
                "POST /auth/logout HTTP/1.1\r\nHost: {}\r\nCookie: {pair}\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n",
                server.address
            ))
            .status
    };
    assert_eq!(post("Origin: https://evil.example\r\n"), 403);
    assert_eq!(post("Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(post(""), 403);
    assert_eq!(post(&format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", server.address)), 204);
    let foreign = server.raw(&format!(
        "POST /auth/login HTTP/1.1\r\nHost: {}\r\nOrigin: https://evil.example\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        server.address
    ));
    assert_eq!(foreign.status, 403, "a log-in from elsewhere");
    let by_proxy = server.raw(&format!(
        "POST /auth/login HTTP/1.1\r\nHost: {0}\r\nOrigin: https://{0}\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        server.address
    ));
    assert_eq!(by_proxy.status, 422, "by a proxy in front that speaks TLS it comes to the fields");
    server.end();
}

#[test]
fn a_postgresql_of_ones_own_is_used_as_it_is() {
    let host = Server::start();
    host.database().batch_execute("create database own").expect("a database");
    let socket = host.base().join("postgres/run");
    // The address form of the FastAPI version.
    let url = format!("postgresql+psycopg2://vmshare@/own?host={}", socket.display());
    let server = Server::with(&format!("tls = \"off\"\ndatabase_url = {url:?}"), "", "");
    let token = server.sign_up("own");
    assert_eq!(server.call("GET", "/auth/me", &token, &Value::Null).status, 200);
    assert!(!server.base().join("postgres").exists(), "no private cluster is made");
    let mut config = postgres::Config::new();
    let mut own = config.host_path(socket).user("vmshare").dbname("own").connect(postgres::NoTls).expect("database");
    assert_eq!(own.query_one("select count(*) from users", &[]).expect("row").get::<_, i64>(0), 1);
    assert_eq!(host.count("select count(*) from users"), 0);
    drop(own);
    server.end();
    host.end();
}

#[test]
fn floods_are_told_when_to_come_back() {
    let server = Server::with(
        "tls = \"off\"",
        "signups_per_minute = 3\nlogin_failures_per_account = 2\nlogin_failures_per_ip = 4",
        "",
    );
    server.sign_up("one");
    for (name, expected) in [("one", 401), ("one", 401), ("one", 429), ("x", 401), ("y", 401), ("z", 429)] {
        let answer = login(&server, name, "wrong horse!");
        assert_eq!(answer.status, expected, "{name}: {answer:?}");
        assert_eq!(answer.header("retry-after").is_some(), expected == 429);
    }
    server.sign_up("two");
    server.sign_up("three");
    let body = json!({"email": "four@example.org", "password": "correct horse"});
    assert_eq!(server.call("POST", "/auth/signup", "", &body).status, 429);
    server.end();
}

#[test]
fn a_closed_server_takes_invitations_and_the_command_line() {
    let server = Server::with("tls = \"off\"\nsignup = \"invite\"", "", "");
    let sign_up = |name: &str, invite: Option<&str>| {
        let body = json!({"email": format!("{name}@example.org"), "password": "correct horse", "invite": invite});
        server.call("POST", "/auth/signup", "", &body)
    };
    assert_eq!(sign_up("a", None).code(), "invite_needed");
    assert_eq!(sign_up("a", Some("nonsense")).code(), "bad_invite");
    let made = server.command(&["user", "invite", "--uses", "1"], "");
    let code = String::from_utf8(made.stdout).expect("code");
    assert_eq!(sign_up("a", Some(code.trim())).status, 201);
    assert_eq!(sign_up("b", Some(code.trim())).code(), "bad_invite", "used up");

    let added = server.command(
        &["user", "add", "--email", "cli@example.org", "--role", "admin", "--password-stdin"],
        "from the shell\n",
    );
    assert!(added.status.success(), "{added:?}");
    let token = login(&server, "cli", "from the shell").json["token"].as_str().expect("token").to_owned();
    assert_eq!(server.call("GET", "/connections", &token, &Value::Null).status, 200, "an admin's page");
    let changed = server.command(&["user", "passwd", "cli", "--password-stdin"], "another word\n");
    assert!(changed.status.success(), "{changed:?}");
    assert_eq!(login(&server, "cli", "another word").status, 200);
    let listed = String::from_utf8(server.command(&["user", "list"], "").stdout).expect("list");
    assert!(listed.contains("cli@example.org") && listed.contains("admin"), "{listed}");
    let weak = server.command(&["user", "add", "--email", "w@example.org", "--password-stdin"], "short\n");
    assert!(!weak.status.success() && String::from_utf8_lossy(&weak.stderr).contains("8 characters"), "{weak:?}");
    server.end();
}

#[test]
fn the_command_line_works_without_a_server_and_settings_that_are_wrong_stop_the_start() {
    let folder = folder();
    let file = folder.path().join("vmshare.toml");
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"\naccel = \"tcg\"", "", "");
    fs::write(&file, &text).expect("settings");
    let run = |args: &[&str]| Command::new(BINARY).args(args).arg("--config").arg(&file).output().expect("ran");
    let added = Command::new(BINARY)
        .args(["user", "add", "--email", "early@example.org", "--config"])
        .arg(&file)
        .env("VMSHARE_PASSWORD", "before the start")
        .output()
        .expect("ran");
    assert!(added.status.success(), "{added:?}");
    assert!(String::from_utf8_lossy(&run(&["user", "list"]).stdout).contains("early@example.org"));
    let check = run(&["check"]);
    let said = "accelerator TCG: the settings ask for TCG; guests run slower, and QEMU's manual says that TCG is no security boundary\n";
    assert!(check.status.success() && String::from_utf8_lossy(&check.stdout).contains(said), "{check:?}");

    fs::write(&file, text.replace("default_cpus", "defualt_cpus")).expect("settings");
    let refused = String::from_utf8(run(&["serve"]).stderr).expect("words");
    assert!(refused.contains("vmshare.toml:") && refused.contains("default_cpus"), "{refused}");
    fs::write(&file, format!("secret_key = \"change-me\"\n{text}")).expect("settings");
    let refused = run(&["serve"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("vmshare.toml:1"),
        "{refused:?}"
    );

    let url = "postgresql+psycopg2://u:hunter2@127.0.0.1:1/d?sslmode=require";
    fs::write(&file, format!("database_url = \"{url}\"\n{text}")).expect("settings");
    let refused = run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && !said.contains("hunter2"), "{said}");
}
