//! The host is watched: alerts reach people, launches wait, and the administrator's pages know it all.

mod common;

use common::bot_api::{Act, BotApi, CHAT, TOKEN};
use common::frozen::Frozen;
use common::{Server, until};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;

/// A server on which the alerts of `alerts` are raised at once.
fn server(api: &BotApi, alerts: &str) -> Server {
    let top = format!("tls = \"off\"\nstop_vms_on_exit = true\naccel = \"tcg\"\n{}", api.settings());
    Server::with(&top, &format!("[alerts]\nfor_seconds = 0\nsample_seconds = 1\n{alerts}"), "")
}

#[test]
fn an_alert_is_told_pauses_launches_and_is_kept() {
    let api = BotApi::start();
    // A host without any memory in use is none: this limit is always passed.
    let server = server(&api, "memory_percent = 1\ncpu_percent = 100\ndisk_percent = 100");
    let (admin, user) = (common::admin(&server), server.sign_up("alice"));
    let told = until("telegram was told", || api.asked().first().cloned());
    assert_eq!(told.path, format!("/bot{TOKEN}/sendMessage"));
    assert_eq!((&told.body["chat_id"], &told.body["parse_mode"]), (&json!(CHAT), &json!("HTML")));
    let text = told.body["text"].as_str().expect("a text");
    for part in [
        "🚨 <b>High memory on ",
        "\nTime: 20",
        "(limit 1% for 0 s)",
        "\nTop processes: ",
        "\nAction: new launches are paused",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let refused = server.call("POST", "/run-iso", &user, &Value::Null);
    assert_eq!((refused.status, refused.code()), (503, "launches_paused"), "{refused:?}");
    assert!(refused.header("retry-after").is_some() && refused.json["detail"].to_string().contains("memory is"));
    server.assert_nothing_left();
    let alert = until("the alert is in the database", || {
        let answer = server.call("GET", "/admin/alerts?limit=1", &admin, &Value::Null);
        answer.json["alerts"].get(0).cloned()
    });
    assert_eq!(
        (&alert["rule"], &alert["subject"], &alert["state"]),
        (&json!("memory"), &json!("host"), &json!("firing"))
    );
    assert_eq!((&alert["threshold"], &alert["ended"]), (&json!(1.0), &Value::Null));
    assert!(alert["value"].as_f64() > Some(1.0) && alert["text"].to_string().contains("High memory on"), "{alert}");
    let page = |query: &str| server.call("GET", &format!("/admin/alerts?{query}"), &admin, &Value::Null).json;
    assert_eq!(page("limit=1")["next"], alert["id"], "a full page has a next one");
    assert_eq!(page(&format!("before={}", alert["id"])), json!({"alerts": [], "next": null}));
    // What she keeps is found by the next server's first walk.
    let disk = server.call("POST", "/disks", &user, &json!({"name": "work", "size_gb": 1}));
    assert_eq!(disk.status, 201, "{disk:?}");
    // Told once, however often it is measured.
    let samples = |server: &Server| {
        let host = server.call("GET", "/admin/host", &admin, &Value::Null).json;
        host["history"]["at"].as_array().expect("times").len()
    };
    let before = samples(&server);
    until("the host was measured twice more", || (samples(&server) >= before + 2).then_some(()));
    assert_eq!(api.asked().len(), 1, "{:?}", api.texts());
    assert!(!server.said().contains(TOKEN), "the token is in the log");
    // Another server finds the alert open, and nobody who watched it.
    let mut server = server;
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let settings = std::fs::read_to_string(folder.path().join("vmshare.toml")).expect("settings");
    let calm = settings.replace("memory_percent = 1\n", "memory_percent = 100\n");
    std::fs::write(folder.path().join("vmshare.toml"), calm).expect("settings");
    let server = Server::run(folder);
    let ended = until("the alert of the former server is over", || {
        let answer = server.call("GET", "/admin/alerts", &admin, &Value::Null);
        answer.json["alerts"].get(0).filter(|alert| alert["state"] == "resolved").cloned()
    });
    assert_eq!((&ended["id"], ended["ended"].is_string()), (&alert["id"], true));
    let storage = || server.call("GET", "/admin/load", &admin, &Value::Null).json["storage"].clone();
    until("her storage is known by her name", || storage().get(0).filter(|one| one["user"] == "alice").cloned());
    server.launch(&user);
    server.end();
}

#[test]
fn whatever_the_api_does_the_newest_message_arrives_and_the_server_goes_on() {
    let api = BotApi::start();
    api.plan(&[Act::Close, Act::Status(502, "Bad Gateway"), Act::Garbage, Act::RetryAfter(2), Act::BadTags]);
    let server = server(&api, "memory_percent = 1\ncpu_percent = 100\ndisk_percent = 100\npause_launches = false");
    let asked = until("the message was taken", || Some(api.asked()).filter(|all| all.len() >= 6));
    // The tags were refused: the same again, without them.
    assert_eq!((&asked[4].body["parse_mode"], &asked[5].body["parse_mode"]), (&json!("HTML"), &Value::Null));
    assert!(!asked[5].body["text"].to_string().contains("<b>"), "{:?}", asked[5]);
    let paused = asked[4].at - asked[3].at;
    assert!(paused.as_millis() >= 1950, "retry_after of 2 s was {paused:?}");
    assert!(asked[1].at - asked[0].at >= std::time::Duration::from_millis(950));
    let said = server.said();
    assert_eq!(said.matches("telegram cannot be told").count(), 1, "trouble that goes on is one line: {said}");
    server.wait_for_log("telegram takes messages again");
    assert!(!server.said().contains(TOKEN));
    server.end();
}

#[test]
fn neither_an_api_that_hangs_nor_a_database_that_is_away_delays_a_sample_or_loses_an_alert() {
    let api = BotApi::start();
    api.plan(&[Act::Hang]);
    let top = format!("tls = \"off\"\nstop_vms_on_exit = true\n{}", api.settings());
    let rules = "db_seconds = 1\n[alerts]\nsample_seconds = 1\nfor_seconds = 3\nvm_memory_mb = 1\nmemory_percent = 100\n\
        cpu_percent = 100";
    let server = Server::with(&top, rules, "");
    let admin = common::admin(&server);
    let vm = server.launch(&admin);
    let frozen = Frozen::new(&server);
    assert_eq!(api.asked().len(), 0, "the alert came before the database went away");
    until("telegram hangs", || api.asked().first().cloned());
    let times = || -> Vec<i64> {
        let host = server.call("GET", "/admin/host", &admin, &Value::Null).json;
        host["history"]["at"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect()
    };
    let before = times().len();
    assert!(before > 0, "administrators who are signed in see the host all the same");
    let now = until("samples go on", || Some(times()).filter(|all| all.len() >= before + 3));
    assert_eq!(api.asked().len(), 1, "it still hangs: {now:?}");
    drop(frozen);
    // What was asked of it meanwhile, more than once, it does now.
    until("the alert is written down", || {
        let answer = server.call("GET", "/admin/alerts", &admin, &Value::Null);
        (answer.status == 200 && answer.json["alerts"] != json!([])).then_some(())
    });
    until("the writer is done", || (server.call("GET", "/readyz", "", &Value::Null).status == 200).then_some(()));
    assert_eq!(server.count("select count(*) from alerts"), 1);
    server.stop(&admin, &vm);
    server.end();
}

#[test]
fn a_test_message_is_sent_by_hand_over_tls_too_and_says_what_is_wrong() {
    let folder = common::folder();
    let check = |api: &BotApi, environment: &[(&str, &str)]| {
        let mut command = Command::new(common::BINARY);
        command
            .args(["check", "--telegram"])
            .current_dir(folder.path())
            .env("TG_BOT_TOKEN", TOKEN)
            .env("TG_CHAT_ID", CHAT);
        command.env("TG_API_BASE", api.base()).envs(environment.iter().copied()).env("VM_BASE_DIR", folder.path());
        let output = command.output().expect("it runs");
        let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!all.contains(TOKEN), "{all}");
        (output.status.success(), all)
    };
    let api = BotApi::start();
    let (good, said) = check(&api, &[]);
    assert!(good && said.contains("Telegram took a test message for chat -1001234567890"), "{said}");
    assert!(api.texts()[0].contains("<b>Test message from VM-share on "), "{:?}", api.texts());
    for (act, wanted) in [
        (Act::Status(400, "Bad Request: chat not found"), "refuses the message (400: Bad Request: chat not found)"),
        (Act::Status(401, "Unauthorized"), "(401: Unauthorized): look at TG_BOT_TOKEN"),
        (Act::RetryAfter(7), "try again in 7 seconds"),
        (Act::Status(500, "Internal"), "cannot be told: 500: Internal"),
        (Act::Garbage, "does not speak HTTP"),
        (Act::Close, "Telegram cannot be told"),
    ] {
        api.plan(&[act]);
        let (good, said) = check(&api, &[]);
        assert!(!good && said.contains(wanted), "{act:?}: {said}");
    }
    // An authority of the test's own; the host's are not believed then.
    let pair = rcgen::KeyPair::generate().expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .expect("name")
        .self_signed(&pair)
        .expect("certificate");
    let bundle = folder.path().join("authorities.pem");
    std::fs::write(&bundle, certificate.pem()).expect("bundle");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a good certificate");
    let api = BotApi::with(Some(Arc::new(tls)));
    let (good, said) = check(&api, &[("SSL_CERT_FILE", bundle.to_str().expect("a path"))]);
    assert!(good && api.asked().len() == 1, "{said}");
    let (good, said) = check(&api, &[]);
    assert!(!good && said.contains("certificate") && api.asked().len() == 1, "a stranger is believed: {said}");
    assert_eq!(said.lines().count(), 1, "it is told once: {said}");
    let output = Command::new(common::BINARY)
        .args(["check", "--telegram"])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("set TG_BOT_TOKEN and TG_CHAT_ID"), "{output:?}");
}

#[test]
fn the_load_of_a_vm_is_known_with_its_owner_until_it_ends_and_so_is_its_alert() {
    let api = BotApi::start();
    api.plan(&[Act::Take, Act::Status(401, "Unauthorized")]);
    let server = server(&api, "vm_memory_mb = 1\nmemory_percent = 100\ncpu_percent = 100\ndisk_percent = 100");
    let (admin, alice) = (common::admin(&server), server.sign_up("alice"));
    let vm = server.launch(&alice);
    let load = || server.call("GET", "/admin/load", &admin, &Value::Null).json["vms"].clone();
    let seen = until("the VM was measured twice", || {
        // QEMU is small in its first moment.
        let measured = |vm: &Value| vm["cpu_percent"].as_f64() > Some(0.0) && vm["rss_mb"].as_u64() > Some(20);
        load().get(0).cloned().filter(measured)
    });
    assert_eq!((&seen["vmid"], &seen["user"]), (&vm["vmid"], &json!("alice")));
    assert!(seen["threads"].as_u64() > Some(1), "{seen}");
    let vmid = vm["vmid"].as_str().expect("vmid");
    let text = until("its alert was told", || api.texts().first().cloned());
    assert!(text.starts_with(&format!("⚠️ <b>High memory of VM {vmid} of alice</b>\nHost: ")), "{text}");
    assert!(text.contains(&format!(", user alice, vmid=<code>{vmid}</code>)\nAction: none by the server")), "{text}");
    assert_eq!(server.call("POST", "/run-iso", &alice, &Value::Null).status, 200, "one VM's alert pauses nobody");
    let host = server.call("GET", "/admin/host?range=hour", &admin, &Value::Null).json;
    assert_eq!((&host["now"]["vms"], &host["history"]["step_s"]), (&json!(1), &json!(1)));
    assert_eq!(host["now"]["volumes"][0]["path"].as_str(), server.base().to_str());
    assert_eq!((&host["accel"], &vm["accel"]), (&json!("tcg"), &json!("tcg")));
    assert_eq!(host["accel_because"], json!("the settings ask for TCG"));
    let day = server.call("GET", "/admin/host?range=day", &admin, &Value::Null).json;
    assert_eq!(day["history"]["step_s"], json!(60));
    assert_eq!(server.call("GET", "/admin/host?range=week", &admin, &Value::Null).status, 422);
    server.stop(&alice, &vm);
    until("its load is forgotten", || (load() == json!([])).then_some(()));
    let text = until("the end of its alert was told", || api.texts().get(1).cloned());
    assert!(text.starts_with(&format!("✅ <b>Memory of VM {vmid} is normal again</b>")), "{text}");
    let alert = until("its end is written down", || {
        let alerts = server.call("GET", "/admin/alerts", &admin, &Value::Null).json["alerts"].clone();
        alerts.get(0).filter(|alert| alert["state"] == "resolved").cloned()
    });
    assert_eq!((&alert["rule"], &alert["subject"]), (&json!("vm_memory"), &json!(vmid)));
    // A refusal is final: the settings are wrong, and stay so.
    server.wait_for_log("telegram refuses an alert (401: Unauthorized)");
    let lost = "vmshare_telegram_messages_total{result=\"lost\"} 1\n";
    until("the lost message is counted", || {
        String::from_utf8_lossy(&server.call("GET", "/metrics", "", &Value::Null).body).contains(lost).then_some(())
    });
    assert_eq!(api.asked().len(), 2, "{:?}", api.texts());
    server.end();
}
