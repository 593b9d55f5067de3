//! `POST /run-iso` on real QEMU and PostgreSQL, and with a stand-in where the real one cannot be made to fail.

mod common;

use common::{Server, image, noise, stand_in, until};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::time::Duration;

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

#[test]
fn the_answer_is_the_contracts_and_the_screen_is_there_at_once() {
    let server = Server::start();
    let token = server.sign_up("alice");
    let answer = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!((answer.status, &answer.json["message"]), (200, &json!("VM started")), "{answer:?}");
    let vm = &answer.json["vm"];
    for field in [
        "vmid",
        "state",
        "user",
        "profile",
        "iso",
        "persistence",
        "memory_mb",
        "cpus",
        "vnc_port",
        "http_port",
        "pid",
        "accel",
        "created_at",
        "started_at",
        "expires_at",
        "idle_s",
        "connected",
        "disk",
        "exit",
    ] {
        assert!(vm.get(field).is_some(), "{field} is missing in {vm}");
    }
    assert_eq!(
        (&vm["state"], &vm["user"], &vm["persistence"]),
        (&json!("running"), &json!("alice"), &json!("ephemeral"))
    );
    assert_eq!(answer.json["redirect"], json!(format!("/novnc/?path=ws/{}", vm["http_port"])));
    let created = vm["created_at"].as_str().expect("time");
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    drop(server.screen(&token, vm));

    let again = server.call("POST", "/run-iso", &token, &json!({}));
    assert_eq!(again.json["message"], json!("VM already running for user alice"));
    assert_eq!((&again.json["vm"]["vmid"], &again.json["vm"]["pid"]), (&vm["vmid"], &vm["pid"]));

    let stopped = server.stop(&token, vm);
    assert_eq!(
        (&stopped["state"], &stopped["exit"], &stopped["pid"]),
        (&json!("stopped"), &json!("stopped by user"), &Value::Null)
    );
    server.assert_nothing_left();
    server.end();
}

#[test]
fn two_launches_at_once_give_one_vm_and_six_users_six() {
    let server = Server::start();
    let token = server.sign_up("twice");
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let clicks: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.call("POST", "/run-iso", &token, &Value::Null).json)).collect();
        clicks.into_iter().map(|click| click.join().expect("click")).collect()
    });
    let vmids: std::collections::HashSet<_> = answers.iter().map(|a| a["vm"]["vmid"].to_string()).collect();
    assert_eq!(vmids.len(), 1, "{answers:?}");
    assert_eq!(server.count("select count(*) from vms"), 1);
    assert_eq!(server.count("select count(*) from ports where vmid is not null"), 2);
    assert_eq!(starts(&server), (true, 1), "one launch, however many waited for it");

    let users: Vec<String> = (0..6).map(|n| server.sign_up(&format!("user{n}"))).collect();
    let vms: Vec<Value> = std::thread::scope(|scope| {
        let launches: Vec<_> = users.iter().map(|user| scope.spawn(|| server.launch(user))).collect();
        launches.into_iter().map(|launch| launch.join().expect("launch")).collect()
    });
    let distinct =
        |field: &str| vms.iter().map(|vm| vm[field].to_string()).collect::<std::collections::HashSet<_>>().len();
    assert_eq!(
        (distinct("vmid"), distinct("vnc_port"), distinct("http_port"), distinct("pid")),
        (6, 6, 6, 6),
        "{vms:?}"
    );
    for (user, vm) in users.iter().zip(&vms) {
        server.stop(user, vm);
    }
    server.end();
}

#[test]
fn an_image_that_is_none_is_refused_in_words_and_leaves_nothing() {
    let server = Server::with("tls = \"off\"", "", "base_image = \"{VM_BASE_DIR}/uploads\"\nprefix = \"{uid}.iso\"");
    let token = server.sign_up("bob");
    let me = server.call("GET", "/auth/me", &token, &Value::Null).json;
    let uid = me["user"]["id"].as_str().expect("uid").to_owned();
    let upload = server.base().join("uploads").join(format!("{uid}.iso"));
    let launch = || server.call("POST", "/run-iso", &token, &Value::Null);
    let missing = launch();
    assert_eq!((missing.status, missing.code()), (404, "iso_not_found"), "{missing:?}");
    let real = fs::read(image()).expect("image");
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("empty", Vec::new(), "empty"),
        ("9 MB", vec![0; 9_000_000], "10 MB"),
        ("truncated", real[..10_500_000].to_vec(), "cut off"),
        ("another file", b"PK\x03\x04".iter().copied().cycle().take(11_000_000).collect(), "CD001"),
        (
            "damaged",
            {
                let mut bytes = real.clone();
                bytes[17 * 2048 + 7] = b'x';
                bytes
            },
            "El Torito",
        ),
    ];
    for (what, bytes, words) in cases {
        fs::write(&upload, bytes).expect("upload");
        let answer = launch();
        assert_eq!((answer.status, &answer.json["field"]), (422, &json!("iso")), "{what}: {answer:?}");
        assert!(answer.json["detail"].as_str().expect("detail").contains(words), "{what}: {answer:?}");
        server.assert_nothing_left();
        assert_eq!(server.count("select count(*) from vms"), 0, "{what}");
    }
    noise(&upload, 11_000_000);
    assert_eq!(launch().status, 422);

    // Somebody else's image, and ways out of the folder.
    let stranger = server.base().join("uploads/0123456789ab.iso");
    fs::copy(image(), &stranger).expect("copy");
    let ask = |body: Value| server.call("POST", "/run-iso", &token, &body);
    assert_eq!(ask(json!({"iso_path": stranger})).code(), "iso_not_found");
    assert_eq!(ask(json!({"iso": "0123456789ab.iso"})).code(), "iso_not_found");
    assert_eq!(ask(json!({"iso_path": "/etc/passwd"})).code(), "iso_not_found");
    assert_eq!(ask(json!({"iso_path": format!("{}/../secret", server.base().join("uploads").display())})).status, 422);
    assert_eq!(ask(json!({"iso": "../secret"})).status, 422);
    fs::remove_file(&upload).expect("remove");
    std::os::unix::fs::symlink("/etc/passwd", &upload).expect("link");
    assert_eq!(launch().code(), "iso_not_found", "a link out of the folder");
    fs::remove_file(&upload).expect("remove");
    fs::copy(image(), &upload).expect("copy");
    let vm = ask(json!({"iso_path": upload}));
    assert_eq!(vm.status, 200, "{vm:?}");
    server.stop(&token, &vm.json["vm"]);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn each_image_of_a_folder_that_is_the_same_for_all_may_be_asked_for() {
    let folder = common::folder();
    let [all, own] = ["all", "own"].map(|name| folder.path().join(name));
    for (folder, name) in [(&all, "usual.iso"), (&all, "other.iso"), (&own, "0123456789ab.iso"), (&own, "usual.iso")] {
        fs::create_dir_all(folder).expect("folder");
        fs::copy(image(), folder.join(name)).expect("image");
    }
    fs::copy(image(), folder.path().join("secret.iso")).expect("image");
    std::os::unix::fs::symlink(folder.path().join("secret.iso"), all.join("way-out.iso")).expect("link");
    // One folder for all; one in which another profile has users' own images.
    let profiles = format!(
        "base_image = {all:?}\nprefix = \"usual.iso\"\n[profiles.mixed]\nbase_image = {own:?}\nprefix = \"usual.iso\"\n\
         [profiles.each]\nbase_image = {own:?}\n[profiles.one]\nbase_image = {:?}\n",
        all.join("usual.iso")
    );
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"\nstop_vms_on_exit = true", "", &profiles);
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("chooser");
    let ask = |body: Value| server.call("POST", "/run-iso", &token, &body);
    for body in [json!({"iso": "other.iso"}), json!({"iso_path": all.join("other.iso")})] {
        let vm = ask(body.clone());
        assert_eq!((vm.status, &vm.json["vm"]["iso"]), (200, &json!("other.iso")), "{body}: {vm:?}");
        server.stop(&token, &vm.json["vm"]);
    }
    for body in [
        json!({"iso": "way-out.iso"}),
        json!({"iso_path": all.join("way-out.iso")}),
        json!({"iso": "nothing.iso"}),
        json!({"iso": "0123456789ab.iso", "profile": "mixed"}),
        json!({"iso_path": own.join("0123456789ab.iso"), "profile": "mixed"}),
        json!({"iso_path": own.join("0123456789ab.iso"), "profile": "each"}),
    ] {
        assert_eq!(ask(body.clone()).code(), "iso_not_found", "{body}");
    }
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_wish_that_is_wrong_names_its_field() {
    let server = Server::start();
    let token = server.sign_up("wrong");
    for (body, status, field) in [
        (json!({"memory_mb": 99_999_999}), 422, "memory_mb"),
        (json!({"cpus": 0}), 422, "cpus"),
        (json!({"cpus": "two"}), 422, "cpus"),
        (json!({"profile": "nope"}), 422, "profile"),
        (json!({"persistence": "sometimes"}), 422, "persistence"),
        (json!({"disk": "a/b"}), 422, "disk"),
        (json!({"disk": "a", "persistence": "ephemeral"}), 422, "persistence"),
        (json!({"data_disk_gb": 100_000}), 422, "data_disk_gb"),
        (json!({"memory": 1}), 422, "memory"),
    ] {
        let answer = server.call("POST", "/run-iso", &token, &body);
        assert_eq!((answer.status, &answer.json["field"]), (status, &json!(field)), "{body}: {answer:?}");
    }
    let broken = server.raw(&format!(
        "POST /run-iso HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: 1\r\nConnection: close\r\n\r\n{{"
    ));
    assert_eq!(broken.status, 400);
    assert_eq!(server.call("POST", "/run-iso", "", &Value::Null).status, 401);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_scratch_disk_lives_as_long_as_its_vm() {
    let server = Server::start();
    let token = server.sign_up("disk");
    let vm =
        server.call("POST", "/run-iso", &token, &json!({"data_disk_gb": 1, "persistence": "ephemeral"})).json["vm"]
            .clone();
    let disk = server.base().join("runs").join(vm["vmid"].as_str().expect("vmid")).join("scratch.qcow2");
    assert!(disk.exists(), "{vm}");
    server.stop(&token, &vm);
    until("it is gone with its VM", || (!disk.exists()).then_some(()));
    server.end();
}

#[test]
fn a_disk_that_is_asked_for_without_a_word_more_is_kept() {
    let server = Server::start();
    let token = server.sign_up("keeper");
    let run = |gb: u32| server.call("POST", "/run-iso", &token, &json!({"data_disk_gb": gb}));
    let first = run(1).json["vm"].clone();
    assert_eq!((&first["persistence"], &first["disk"]), (&json!("persistent"), &json!("default")), "{first}");
    server.stop(&token, &first);
    let disks = server.call("GET", "/disks", &token, &Value::Null);
    assert_eq!(disks.json["disks"][0]["name"], json!("default"), "{disks:?}");
    let larger = run(2);
    assert_eq!((larger.status, larger.code()), (409, "disk_smaller"), "{larger:?}");
    let again = run(1).json["vm"].clone();
    assert_eq!((&again["disk"], &again["disk_gb"]), (&json!("default"), &json!(1)), "{again}");
    server.stop(&token, &again);
    server.end();
}

#[test]
fn a_qemu_that_fails_to_start_is_told_in_its_own_words_and_leaves_nothing() {
    let server = stand_in::server("refuse", "");
    let token = server.sign_up("poor");
    let answer = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!((answer.status, answer.code()), (500, "qemu_failed"), "{answer:?}");
    let detail = answer.json["detail"].as_str().expect("detail");
    assert!(detail.contains("qemu exited 1") && detail.ends_with("Cannot allocate memory"), "{detail}");
    server.assert_nothing_left();
    assert_eq!(server.count("select count(*) from vms"), 0);
    server.end();
}

#[test]
fn a_qemu_that_hangs_is_given_up_and_leaves_nothing() {
    let server = stand_in::server("hang", "boot_seconds = 1");
    let token = server.sign_up("patient");
    let answer = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.json["detail"].as_str().expect("detail").contains("not ready after 1 seconds"), "{answer:?}");
    server.assert_nothing_left();
    server.end();
}

/// Asks for a VM; the socket on which the answer comes when it runs.
fn begin(server: &Server, token: &str) -> std::net::TcpStream {
    let mut socket = server.connect();
    write!(socket, "POST /run-iso HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
        .expect("send");
    let live = "select count(*) from vms where state = 'starting'";
    until("the launch is under way", || (server.count(live) == 1).then_some(()));
    socket
}

/// How many launches `/metrics` and the audit trail know of.
fn starts(server: &Server) -> (bool, i64) {
    let page = server.call("GET", "/metrics", "", &Value::Null).body;
    let counted = String::from_utf8_lossy(&page).contains("\nvmshare_launches_total{result=\"started\"} 1\n");
    (counted, server.count("select count(*) from audit where action = 'start vm'"))
}

#[test]
fn a_launch_whose_browser_left_is_counted_and_audited_once_as_its_askers() {
    let server = stand_in::server("slow", "launch_grace_seconds = 60");
    let token = server.sign_up("leaver");
    drop(begin(&server, &token));
    until("the VM runs", || (server.count("select count(*) from vms where state = 'running'") == 1).then_some(()));
    until("it is told", || (starts(&server) == (true, 1)).then_some(()));
    let whose = "select count(*) from audit a join users u on u.id = a.user_id join vms v on v.vmid = a.target \
        where a.action = 'start vm' and u.login = 'leaver' and a.ip = '127.0.0.1' and a.detail like 'profile=custom %'";
    assert_eq!(server.count(whose), 1);
    let said = server.said();
    let line = said.lines().find(|line| line.contains("vm running")).expect("a line");
    assert!(line.contains("user=leaver") && line.contains("req=") && line.contains("vmid="), "{line}");
    let stopped = server.call("GET", "/vms", &token, &Value::Null).json["vms"][0].clone();
    server.stop(&token, &stopped);
    server.end();
}

#[test]
fn a_reload_neither_starts_a_second_vm_nor_kills_the_first_and_who_leaves_for_good_leaves_nothing() {
    let server = stand_in::server("slow", "launch_grace_seconds = 1");
    let reloader = server.sign_up("reloader");
    drop(begin(&server, &reloader));
    let vm = server.launch(&reloader);
    assert_eq!(server.count("select count(*) from vms"), 1, "one VM");
    assert_eq!(vm["state"], json!("running"));
    server.stop(&reloader, &vm);

    let leaver = server.sign_up("leaver");
    drop(begin(&server, &leaver));
    until("nothing is left of it", || {
        (server.count("select count(*) from vms where state = 'starting'") == 0
            && fs::read_dir(server.base().join("runs")).expect("runs").count() == 0)
            .then_some(())
    });
    server.assert_nothing_left();
    assert_eq!(server.count("select count(*) from vms"), 1, "its row is gone, the other's is history");
    server.end();
}

#[test]
fn a_vm_whose_kvm_dies_goes_on_under_tcg_once_and_the_host_is_remembered() {
    let server = stand_in::server("kvm-dies", "");
    let token = server.sign_up("kvm");
    let vm = server.launch(&token);
    assert_eq!(vm["accel"], json!("kvm"));
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let moved = until("it runs under TCG", || {
        let now = server.call("GET", &path, &token, &Value::Null).json;
        (now["accel"] == json!("tcg")).then_some(now)
    });
    assert_eq!((&moved["state"], &moved["http_port"]), (&json!("running"), &vm["http_port"]));
    assert_ne!(moved["pid"], vm["pid"]);
    drop(server.screen(&token, &moved));
    let kept = fs::read_to_string(server.base().join("accel.json")).expect("remembered");
    assert!(kept.contains("\"works\": false"), "{kept}");
    let said = server.said();
    assert_eq!(said.matches("started again under TCG").count(), 1, "{said}");
    server.stop(&token, &moved);
    assert_eq!(server.launch(&token)["accel"], json!("tcg"), "the next one starts under TCG");
    server.end();
}

#[test]
fn a_kvm_that_qemu_itself_refuses_ends_in_tcg_within_the_same_launch() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true\naccel = \"kvm\"", "", "");
    let token = server.sign_up("realkvm");
    let vm = server.launch(&token);
    let said = server.said();
    // Where KVM really works it is used; where it does not, the log says so and the VM runs all the same.
    let fell_back = said.contains("KVM does not work on this host");
    assert_eq!(vm["accel"], json!(if fell_back { "tcg" } else { "kvm" }), "{said}");
    drop(server.screen(&token, &vm));
    server.end();
}

#[test]
fn ports_run_out_with_a_word_when_to_come_back_and_come_back() {
    let ranges = format!("base_image = {:?}\nvnc_port_range = [5901, 5901]\nhttp_port_range = [6101, 6101]", image());
    let folder = common::folder();
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"\nstop_vms_on_exit = true", "", &ranges);
    let cooling = text.replace("port_cooldown_seconds = 0", "port_cooldown_seconds = 2");
    std::fs::write(folder.path().join("vmshare.toml"), cooling).expect("settings");
    let server = Server::run(folder);
    let (first, second) = (server.sign_up("first"), server.sign_up("second"));
    let vm = server.launch(&first);
    let refuse = || {
        let refused = server.call("POST", "/run-iso", &second, &Value::Null);
        assert_eq!((refused.status, refused.code()), (503, "ports_exhausted"), "{refused:?}");
        let seconds = refused.header("retry-after").expect("a time").to_owned();
        (seconds, refused.json["detail"].as_str().expect("why").to_owned())
    };
    assert_eq!(refuse().0, "30");
    server.stop(&first, &vm);
    // They cool down first, and it is told how long.
    let (seconds, why) = refuse();
    assert!(["1", "2"].contains(&seconds.as_str()), "{seconds}");
    assert!(why.contains(&format!("One is free in {seconds} s")), "{why}");
    let metrics = server.call("GET", "/metrics", &common::admin(&server), &Value::Null);
    let metrics = String::from_utf8(metrics.body).expect("text");
    for line in [
        "vmshare_ports{profile=\"custom\",kind=\"http\",state=\"cooling\"} 1",
        "vmshare_launches_total{result=\"refused\",why=\"ports_exhausted\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let vm = until("the ports are free again", || {
        let answer = server.call("POST", "/run-iso", &second, &Value::Null);
        (answer.status == 200).then_some(answer.json["vm"].clone())
    });
    assert_eq!(vm["http_port"], json!(6101));
    server.end();
}

#[test]
fn a_start_right_after_a_stop_waits_for_the_end_and_works() {
    let server = Server::start();
    let token = server.sign_up("hasty");
    let vm = server.launch(&token);
    let path = format!("/vms/{}/stop", vm["vmid"].as_str().expect("vmid"));
    let (stopped, started) = std::thread::scope(|scope| {
        let stop = scope.spawn(|| server.call("POST", &path, &token, &json!({"force": true})));
        until("it is stopping", || {
            let state = server.call("GET", "/vms", &token, &Value::Null).json["vms"][0]["state"].clone();
            (state != json!("running")).then_some(())
        });
        let start = scope.spawn(|| server.launch(&token));
        (stop.join().expect("stop"), start.join().expect("start"))
    });
    assert_eq!(stopped.status, 200);
    assert_ne!(started["vmid"], vm["vmid"]);
    std::thread::park_timeout(Duration::ZERO);
    server.end();
}
