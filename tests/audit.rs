//! Who did what: every change leaves a line in the audit trail, and the log says of each line who and which VM.

mod common;

use common::{Server, image, stand_in, until};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// For the stand-in's script; see there.
#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

/// Every action of [`changes`], and by the command line.
const ACTIONS: [&str; 25] = [
    "add user",
    "begin upload",
    "clean",
    "create disk",
    "delete disk",
    "delete image",
    "grow disk",
    "invite",
    "keep vm",
    "login",
    "logout",
    "password",
    "password by hand",
    "promote",
    "restart vm",
    "restart vm by admin",
    "resume vm",
    "revoke",
    "share",
    "signup",
    "start vm",
    "stop vm",
    "stop vm by admin",
    "throw upload away",
    "upload",
];

fn server() -> Server {
    let folder = common::folder();
    let qemu = stand_in::install(folder.path(), "disk-full");
    let top =
        format!("tls = \"off\"\nlog_format = \"json\"\nstop_vms_on_exit = true\naccel = \"tcg\"\nqemu_bin = {qemu:?}");
    fs::write(folder.path().join("vmshare.toml"), common::settings(&folder.path().join("b"), &top, "", ""))
        .expect("settings");
    Server::run(folder)
}

fn send(server: &Server, token: &str, head: &str, body: &[u8]) -> common::Answer {
    let mut socket = server.connect();
    let length = body.len();
    write!(
        socket,
        "{head}Authorization: Bearer {token}\r\nHost: h\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .expect("head");
    socket.write_all(body).expect("body");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    common::Answer::parse(&answer)
}

/// Changes everything there is to change, as `alice`; her VM's id.
fn changes(server: &Server, admin: &str) -> String {
    let alice = server.sign_up("alice");
    let good = |method: &str, path: &str, body: Value| {
        let answer = server.call(method, path, &alice, &body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer.json
    };
    let vm = server.launch(&alice);
    let vmid = vm["vmid"].as_str().expect("vmid").to_owned();
    until("its disk is full", || {
        (server.call("GET", &format!("/vms/{vmid}"), &alice, &Value::Null).json["paused"] == "disk full").then_some(())
    });
    good("POST", &format!("/vms/{vmid}/resume"), Value::Null);
    good("POST", &format!("/vms/{vmid}/keep"), Value::Null);
    good("POST", &format!("/vms/{vmid}/restart"), json!({"mode": "reset"}));
    let share = good("POST", &format!("/vms/{vmid}/shares"), Value::Null)["share"]["id"].clone();
    good("DELETE", &format!("/vms/{vmid}/shares/{}", share.as_str().expect("id")), Value::Null);
    good("POST", &format!("/vms/{vmid}/stop"), json!({"force": true}));
    let second = server.launch(&alice);
    // Many at once; what has ended already is left as it is, and so is the audit trail.
    let many = json!({"vmids": [second["vmid"]], "force": true});
    let again = server.call("POST", "/admin/vms/restart", admin, &json!({"vmids": [second["vmid"]]}));
    assert_eq!(again.json["results"][0]["ok"], true, "{again:?}");
    for _ in 0..2 {
        let stopped = server.call("POST", "/admin/vms/stop", admin, &many);
        assert_eq!(stopped.json["results"][0]["state"], "stopped", "{stopped:?}");
    }
    let stops = format!(
        "select count(*) from audit where action = 'stop vm' and target = '{}'",
        second["vmid"].as_str().expect("vmid")
    );
    assert_eq!(server.count(&stops), 1);
    good("POST", "/disks", json!({"name": "work", "size_gb": 1}));
    good("POST", "/disks/work/grow", json!({"size_gb": 2}));
    good("DELETE", "/disks/work", Value::Null);
    let head = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.iso\"\r\n\r\n";
    let form = [head, fs::read(image()).expect("image").as_slice(), b"\r\n--XX--\r\n"].concat();
    let answer =
        send(server, &alice, "POST /upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=XX\r\n", &form);
    assert_eq!(answer.status, 201, "{answer:?}");
    good("DELETE", "/isos/a.iso", Value::Null);
    let tus = "Tus-Resumable: 1.0.0\r\n";
    let make = format!(
        "POST /uploads/ HTTP/1.1\r\n{tus}Upload-Length: 20000000\r\nUpload-Metadata: filename dGlueS5pc28=\r\n"
    );
    let place = send(server, &alice, &make, b"").header("location").expect("its place").to_owned();
    assert_eq!(send(server, &alice, &format!("DELETE {place} HTTP/1.1\r\n{tus}"), b"").status, 204);
    good("POST", "/auth/password", json!({"current": "correct horse", "new": "another horse"}));
    good("POST", "/auth/logout", Value::Null);
    vmid
}

#[test]
fn every_change_is_in_the_audit_trail_with_who_from_where_and_what() {
    let server = server();
    let admin = common::admin(&server);
    changes(&server, &admin);
    for (args, input) in [
        (&["user", "add", "--email", "bob@example.org", "--password-stdin"][..], "correct horse\n"),
        (&["user", "passwd", "bob", "--password-stdin"], "another horse\n"),
        (&["user", "invite", "--uses", "3"], ""),
    ] {
        let output = server.command(args, input);
        assert!(output.status.success(), "{output:?}");
    }
    let leftover = server.base().join("runs/0123456789ab");
    fs::create_dir(&leftover).expect("a leftover");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90_000_000);
    fs::File::open(&leftover).and_then(|folder| folder.set_modified(old)).expect("an old one");
    for (args, lines) in [(&["clean", "--dry-run"][..], 0), (&["clean"], 1)] {
        let output = server.command(args, "");
        assert!(output.status.success() && output.stdout.starts_with(b"would") == (lines == 0), "{output:?}");
        assert_eq!(server.count("select count(*) from audit where action = 'clean'"), lines);
    }
    let mut database = server.database();
    let rows = database
        .query(
            "select a.action, u.login, a.ip, a.target, a.detail from audit a left join users u on u.id = a.user_id",
            &[],
        )
        .expect("rows");
    let mut seen: Vec<String> = rows
        .iter()
        .map(|row| {
            let (action, login): (String, Option<String>) = (row.get(0), row.get(1));
            let (ip, target): (String, String) = (row.get(2), row.get(3));
            assert!(!target.is_empty(), "{action} has no target");
            match (action.as_str(), login.as_deref(), ip.as_str()) {
                ("password", None, "command line") => "password by hand".to_owned(),
                ("add user" | "promote" | "invite" | "clean", None, "command line") => action,
                ("stop vm" | "restart vm", Some("root"), "127.0.0.1") => format!("{action} by admin"),
                (_, Some(_), "127.0.0.1") => action,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ACTIONS);
    server.end();
}

/// A change and its line are one transaction: where the line cannot be written there is no change.
#[test]
fn what_cannot_be_written_into_the_audit_trail_is_not_done() {
    let server = Server::start();
    let (admin, alice) = (common::admin(&server), server.sign_up("alice"));
    let vm = server.launch(&alice);
    let me = |token: &str| server.call("GET", "/auth/me", token, &Value::Null);
    let id = me(&alice).json["user"]["id"].as_str().expect("id").to_owned();
    let share = format!("/vms/{}/shares", vm["vmid"].as_str().expect("vmid"));
    let link = server.call("POST", &share, &alice, &Value::Null).json["share"]["id"].as_str().expect("id").to_owned();
    let invite = server.call("POST", "/admin/invites", &admin, &Value::Null).json["invite"]["id"].clone();
    let state = || {
        [
            "select count(*) from users where role = 'user' and not disabled and quota_gb is null",
            "select count(*) from shares",
            "select count(*) from invites",
            "select count(*) from sessions",
            "select count(distinct password_phc) from users",
        ]
        .map(|sql| server.count(sql))
    };
    let hashes = "select string_agg(password_phc, ' ' order by id) from users";
    let read = |sql: &str| -> String { server.database().query_one(sql, &[]).expect("a row").get(0) };
    let (before, words) = (state(), read(hashes));
    server
        .database()
        .batch_execute(
            "create function no_audit() returns trigger language plpgsql as $$ begin raise 'no audit'; end $$;
             create trigger no_audit before insert on audit for each row execute function no_audit()",
        )
        .expect("a trigger");
    for (method, path, token, body) in [
        ("POST", format!("/admin/users/{id}"), &admin, json!({"role": "teacher", "disabled": true, "quota_gb": 5})),
        ("POST", format!("/admin/users/{id}/password"), &admin, Value::Null),
        ("POST", "/admin/invites".into(), &admin, Value::Null),
        ("DELETE", format!("/admin/invites/{}", invite.as_str().expect("id")), &admin, Value::Null),
        ("POST", share.clone(), &alice, Value::Null),
        ("DELETE", format!("{share}/{link}"), &alice, Value::Null),
        ("POST", "/auth/password".into(), &alice, json!({"current": "correct horse", "new": "another horse"})),
        ("POST", "/auth/logout".into(), &alice, Value::Null),
        ("POST", "/auth/signup".into(), &admin, json!({"email": "bob@example.org", "password": "correct horse"})),
    ] {
        let answer = server.call(method, &path, token, &body);
        assert_eq!(answer.status, 500, "{method} {path}: {answer:?}");
    }
    assert_eq!((state(), read(hashes)), (before, words));
    assert_eq!(me(&alice).status, 200);
    server.database().batch_execute("drop trigger no_audit on audit").expect("without it");
    server.stop(&alice, &vm);
    server.end();
}

#[test]
fn each_line_of_the_log_says_who_and_which_vm_and_holds_no_secret() {
    let server = server();
    let admin = common::admin(&server);
    let vmid = changes(&server, &admin);
    let token = fs::read_to_string(server.folder.as_ref().expect("it runs").path().join("token-alice")).expect("token");
    server.wait_for_log("/auth/logout");
    let said = server.said();
    for secret in [token.as_str(), &admin, "correct horse", "another horse"] {
        assert!(!said.contains(secret), "{secret:?} is in the log");
    }
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let has = |line: &Value, key: &str, wanted: &str| line[key].as_str() == Some(wanted);
    for (message, keys) in [
        ("POST /run-iso 200", &["vmid", "user", "req"][..]),
        (&*format!("POST /vms/{vmid}/stop 200"), &["vmid", "user", "req"]),
        ("POST /disks 201", &["user", "req"]),
        ("POST /auth/signup 201", &["req"]),
        ("vm running pid=", &["vmid", "user"]),
        ("vm stopped: stopped by user", &["vmid", "user"]),
        ("qemu: running 1 test", &["vmid", "user"]),
        ("vm restarted: reset", &["vmid", "user", "req"]),
        ("image a.iso of ", &["user", "req"]),
    ] {
        let line = lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message)));
        let line = line.unwrap_or_else(|| panic!("nobody said {message:?} in {said}"));
        assert!(has(line, "level", "info") && line["time"].is_string(), "{line}");
        for key in keys {
            let good = match *key {
                "user" => has(line, "user", "alice"),
                "vmid" => line["vmid"].as_str().is_some_and(|id| id.len() == 12),
                _ => line[key].as_str().is_some_and(|id| id.len() == 8),
            };
            assert!(good, "{key} is not right in {line}");
        }
    }
    // Who is not signed in is nobody, and what is no VM is none.
    let health =
        lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains("GET /readyz 200")));
    assert!(health.is_some_and(|line| line["user"].is_null() && line["vmid"].is_null()), "{health:?}");
    server.end();
}

/// What systemd gives a service: a socket as standard error, and its name in the environment.
#[test]
fn under_the_journal_each_line_has_a_priority_and_no_time_of_its_own() {
    let folder = common::folder();
    let settings = common::settings(&folder.path().join("b"), "tls = \"off\"\ntg_chat_id = 5", "", "");
    fs::write(folder.path().join("vmshare.toml"), settings).expect("settings");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let about = fs::metadata(format!("/proc/self/fd/{}", theirs.as_raw_fd())).expect("a socket");
    let mut server = std::process::Command::new(common::BINARY)
        .args(["serve", "--config"])
        .arg(folder.path().join("vmshare.toml"))
        .env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino()))
        .stderr(OwnedFd::from(theirs))
        .spawn()
        .expect("the server starts");
    ours.set_read_timeout(Some(common::PATIENT)).expect("a deadline");
    let mut said = Vec::new();
    for line in BufReader::new(ours).lines() {
        let Ok(line) = line else {
            let _ = server.kill();
            panic!("it says no more: {said:?}");
        };
        said.push(line);
        if said.last().is_some_and(|line| line.contains("database ready")) {
            let told = std::process::Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
            assert!(told.expect("kill").success());
        }
    }
    assert!(server.wait().expect("its end").success(), "{said:?}");
    let has = |wanted: &str| assert!(said.iter().any(|line| line.starts_with(wanted)), "{wanted:?}: {said:?}");
    has("<6>listening on http://127.0.0.1:");
    has("<4>");
    has("<6>ended");
    let is_plain = |line: &String| ["<3>", "<4>", "<6>"].iter().any(|p| line.starts_with(p)) && !line.contains("INFO");
    assert!(said.iter().all(is_plain) && !said.iter().any(|line| line.get(3..6) == Some("202")), "{said:?}");
}
