//! What administrators do to people, invitations and many VMs, and that it holds at once.

mod common;

use common::{Answer, Server, closed, until};
use serde_json::{Value, json};

/// A server where people need invitations, with an administrator's token.
fn school() -> (Server, String) {
    let server = Server::with("tls = \"off\"\nsignup = \"invite\"\nstop_vms_on_exit = true", "", "");
    let new = ["user", "add", "--email", "root@example.org", "--login", "root", "--role", "admin", "--password-stdin"];
    let added = server.command(&new, "correct horse\n");
    assert!(added.status.success(), "{added:?}");
    let token = log_in(&server, "root", "correct horse").json["token"].as_str().expect("token").to_owned();
    (server, token)
}

fn log_in(server: &Server, login: &str, password: &str) -> Answer {
    server.call("POST", "/auth/login", "", &json!({"email": login, "password": password}))
}

fn good(server: &Server, token: &str, method: &str, path: &str, body: &Value) -> Value {
    let answer = server.call(method, path, token, body);
    assert!(answer.status < 300, "{method} {path}: {answer:?}");
    answer.json
}

fn join(server: &Server, name: &str, code: &str) -> Answer {
    let body = json!({"email": format!("{name}@example.org"), "password": "correct horse", "invite": code});
    server.call("POST", "/auth/signup", "", &body)
}

/// The lines of the audit trail that have `words`, as `who action target detail`.
fn trail(server: &Server, token: &str, words: &str) -> Vec<String> {
    let found = good(server, token, "GET", &format!("/admin/audit?q={words}"), &Value::Null);
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let lines = found["audit"].as_array().expect("a list").iter();
    lines.map(|line| ["user", "action", "target", "detail"].map(|name| text(line, name)).join(" ")).collect()
}

/// Somebody with his id and token, and his row as administrators see it.
fn account(server: &Server, admin: &str, login: &str) -> Value {
    let found = good(server, admin, "GET", &format!("/admin/users?q={login}"), &Value::Null);
    let users = found["users"].as_array().expect("a list");
    users.iter().find(|user| user["login"] == login).unwrap_or_else(|| panic!("no {login} in {found}")).clone()
}

#[test]
fn what_an_administrator_changes_of_an_account_holds_at_once() {
    let (server, root) = school();
    // An invitation for two, and one that is taken back; their codes are nowhere but in the answer.
    let made =
        good(&server, &root, "POST", "/admin/invites", &json!({"uses": 2, "role": "teacher", "note": "<b>Class</b>"}));
    let code = made["invite"]["code"].as_str().expect("a code").to_owned();
    let alice = join(&server, "alice", &code).json["token"].as_str().expect("token").to_owned();
    let listed = good(&server, &root, "GET", "/admin/invites", &Value::Null)["invites"][0].clone();
    assert_eq!(
        (&listed["uses"], &listed["uses_left"], &listed["note"]),
        (&json!(2), &json!(1), &json!("<b>Class</b>"))
    );
    assert_eq!((&listed["created_by"], listed.get("code")), (&json!("root"), None));
    let path = format!("/admin/invites/{}", listed["id"].as_str().expect("id"));
    good(&server, &root, "DELETE", &path, &Value::Null);
    assert_eq!(join(&server, "late", &code).code(), "bad_invite");
    let seen = account(&server, &root, "alice");
    assert_eq!((&seen["role"], &seen["disabled"], &seen["vmid"]), (&json!("teacher"), &json!(false), &Value::Null));
    assert!(seen["last_seen"].is_string() && seen["quota_gb"].is_null(), "{seen}");
    let of_alice = format!("/admin/users/{}", seen["id"].as_str().expect("id"));

    // A quota of her own, and back to the settings'.
    good(&server, &root, "POST", &of_alice, &json!({"quota_gb": 1}));
    let disk = json!({"name": "big", "size_gb": 2});
    assert_eq!(server.call("POST", "/disks", &alice, &disk).code(), "quota_exceeded");
    assert_eq!(good(&server, &alice, "GET", "/isos", &Value::Null)["quota"]["limit"], json!(1_u64 << 30));
    good(&server, &root, "POST", &of_alice, &json!({"quota_gb": 0}));
    good(&server, &alice, "POST", "/disks", &disk);

    // Disabled: her screen closes, and one opened with her link; she is signed out and cannot come back.
    let vm = server.launch(&alice);
    let shares = format!("/vms/{}/shares", vm["vmid"].as_str().expect("vmid"));
    let share = good(&server, &alice, "POST", &shares, &Value::Null)["share"]["token"].clone();
    let linked = format!("/ws/{}?share={}", vm["http_port"], share.as_str().expect("token"));
    let mut screens = [server.screen(&alice, &vm), server.websocket(&linked, &[]).expect("by the link")];
    assert_eq!(account(&server, &root, "alice")["vmid"], vm["vmid"]);
    good(&server, &root, "POST", &of_alice, &json!({"disabled": true}));
    for screen in &mut screens {
        assert_eq!(closed(screen).0, 1008);
    }
    assert_eq!(server.call("GET", "/auth/me", &alice, &Value::Null).status, 401);
    assert_eq!(log_in(&server, "alice", "correct horse").code(), "bad_credentials");
    assert_eq!(server.websocket(&linked, &[]).err(), Some(404));
    good(&server, &root, "POST", &of_alice, &json!({"disabled": false, "role": "admin"}));
    // The server still believes a role that is gone; the transaction looks again, so two at once cannot take each other's away.
    let role = |role: &str| {
        server.count(&format!(
            "with u as (update users set role = '{role}' where login = 'root' returning 1) select count(*) from u"
        ))
    };
    assert_eq!(role("user"), 1);
    assert_eq!(server.call("POST", &of_alice, &root, &json!({"disabled": true})).code(), "admin_only");
    assert_eq!(server.call("POST", &format!("{of_alice}/password"), &root, &Value::Null).code(), "admin_only");
    assert_eq!(role("admin"), 1);

    // Another password, told once.
    let alice = log_in(&server, "alice", "correct horse").json["token"].as_str().expect("token").to_owned();
    let reset = good(&server, &root, "POST", &format!("{of_alice}/password"), &Value::Null);
    assert_eq!(server.call("GET", "/auth/me", &alice, &Value::Null).status, 401);
    assert_eq!(log_in(&server, "alice", "correct horse").code(), "bad_credentials");
    let alice = log_in(&server, "alice", reset["password"].as_str().expect("a password")).json["token"].clone();
    let alice = alice.as_str().expect("token").to_owned();

    // Nobody takes his own rights away, so somebody is left; whose are taken away has none from then on.
    let of_root = format!("/admin/users/{}", account(&server, &alice, "root")["id"].as_str().expect("id"));
    for body in [json!({"role": "user"}), json!({"disabled": true})] {
        assert_eq!(server.call("POST", &of_root, &root, &body).code(), "own_account", "{body}");
    }
    good(&server, &alice, "POST", &of_root, &json!({"role": "user"}));
    assert_eq!(server.call("GET", "/admin/users", &root, &Value::Null).status, 401);
    let root = log_in(&server, "root", "correct horse").json["token"].as_str().expect("token").to_owned();
    assert_eq!(server.call("POST", &of_alice, &root, &json!({"disabled": true})).code(), "admin_only");

    let lines = trail(&server, &alice, "account");
    let wanted = [
        "alice change account root role user",
        "root change account alice role admin, enabled",
        "root change account alice disabled",
        "root change account alice default quota",
        "root change account alice quota 1 GB",
    ];
    assert_eq!(lines, wanted);
    assert!(trail(&server, &alice, "reset").contains(&"root reset password alice ".to_owned()));
    assert!(trail(&server, &alice, "invitation").iter().any(|line| line.ends_with("role teacher <b>Class</b>")));
    let said = server.said() + &trail(&server, &alice, "").join("\n");
    for secret in [code.as_str(), reset["password"].as_str().expect("a password")] {
        assert!(!said.contains(secret), "{secret} is in the log or the trail");
    }
    // Pages: each line once, in order.
    let page = |before: &str| good(&server, &alice, "GET", &format!("/admin/audit?limit=3{before}"), &Value::Null);
    let (first, all) = (page(""), good(&server, &alice, "GET", "/admin/audit", &Value::Null));
    let second = page(&format!("&before={}", first["next"]));
    let ids = |page: &Value| {
        page["audit"].as_array().expect("a list").iter().map(|line| line["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!([ids(&first), ids(&second)].concat(), ids(&all)[..6]);
    let people = good(&server, &alice, "GET", "/admin/users?limit=1", &Value::Null);
    let next = format!("/admin/users?limit=1&before={}", people["next"].as_str().expect("an id"));
    let older = good(&server, &alice, "GET", &next, &Value::Null);
    assert_eq!((&people["users"][0]["login"], &older["users"][0]["login"]), (&json!("alice"), &json!("root")));
    server.end();
}

#[test]
fn many_machines_are_restarted_and_stopped_each_with_its_own_result() {
    let (server, root) = school();
    let made = good(&server, &root, "POST", "/admin/invites", &json!({"uses": 2}));
    let code = made["invite"]["code"].as_str().expect("a code").to_owned();
    let vms: Vec<Value> = ["one", "two"]
        .map(|name| server.launch(join(&server, name, &code).json["token"].as_str().expect("token")))
        .to_vec();
    let ids: Vec<&str> = vms.iter().map(|vm| vm["vmid"].as_str().expect("vmid")).collect();
    let asked = json!({"vmids": [ids[0], "000000000000", ids[1], ids[0]], "mode": "reset"});
    let results = good(&server, &root, "POST", "/admin/vms/restart", &asked)["results"].clone();
    let short = |results: &Value| -> Vec<(Value, Value)> {
        let each = results.as_array().expect("a list").iter();
        each.map(|one| {
            (one["vmid"].clone(), if one["ok"] == true { one["state"].clone() } else { one["code"].clone() })
        })
        .collect()
    };
    let (one, two, none) = (json!(ids[0]), json!(ids[1]), json!("000000000000"));
    let missing = (none.clone(), json!("vm_not_found"));
    let wanted = [(one.clone(), json!("running")), missing.clone(), (two.clone(), json!("running"))];
    assert_eq!(short(&results), wanted, "{results}");
    for id in &ids {
        until("the restart is written down", || {
            let sql = format!("select count(*) from vm_events where vmid = '{id}' and kind = 'restart'");
            (server.count(&sql) == 1).then_some(())
        });
    }
    let stop = json!({"vmids": [ids[1], none, ids[0]], "force": true});
    let results = good(&server, &root, "POST", "/admin/vms/stop", &stop)["results"].clone();
    let wanted = [(two, json!("stopped")), missing, (one, json!("stopped"))];
    assert_eq!(short(&results), wanted, "{results}");
    let past = good(&server, &root, "GET", "/vms?all=1", &Value::Null)["vms"].clone();
    for vm in past.as_array().expect("a list") {
        assert_eq!((&vm["state"], &vm["exit"]), (&json!("stopped"), &json!("stopped by an administrator")));
    }
    assert_eq!(trail(&server, &root, "stop").len(), 2);
    let again = server.call("POST", "/admin/vms/restart", &root, &json!({"vmids": ids}));
    assert_eq!(again.json["results"][0]["code"], json!("vm_not_running"));
    for bad in [json!({}), json!({"vmids": []}), json!({"vmids": [3]}), json!({"vmids": vec!["x"; 201]})] {
        assert_eq!(server.call("POST", "/admin/vms/stop", &root, &bad).status, 422, "{bad}");
    }
    server.assert_nothing_left();
    server.end();
}
