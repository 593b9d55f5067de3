//! Images on their way in, by form and by tus, against the real server: whole or not at all, and nothing left over.

mod common;

use common::store::{
    assert_no_leftovers, create, exchange, field, form, isos, leftovers, offset, patch, post_form, server, sha256, tus,
    uid,
};
use common::{Answer, Server, SmallDisk, image, until};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

#[test]
fn an_image_by_form_is_hashed_listed_and_boots() {
    let server = server("");
    let token = server.sign_up("form");
    let iso = fs::read(image()).expect("image");
    // Fields before and behind the file, a name with folders in it.
    let fields = field("format", "iso") + &field("unknown", "x");
    let answer = post_form(&server, &token, &form("C:\\\\isos\\\\My tiny.iso", &iso, &fields));
    let expected = json!({"iso": {"name": "My-tiny.iso", "size": iso.len(), "sha256": sha256(&iso)}});
    assert_eq!((answer.status, &answer.json), (201, &expected));
    let place = server.base().join("uploads").join(format!("{}.iso", uid(&server, &token)));
    assert!(fs::read(&place).expect("placed") == iso, "the file is another one");
    let listed = isos(&server, &token);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["default"], &listed[0]["sha256"]),
        (&json!("My-tiny.iso"), &json!(true), &json!(sha256(&iso)))
    );
    assert_no_leftovers(&server);
    let vm = server.launch(&token);
    let used = server.call("DELETE", "/isos/My-tiny.iso", &token, &Value::Null);
    assert_eq!((used.status, &used.json["code"]), (409, &json!("image_in_use")));
    server.stop(&token, &vm);
    let other = server.sign_up("other");
    assert_eq!(server.call("DELETE", "/isos/My-tiny.iso", &other, &Value::Null).status, 404);
    assert_eq!(server.call("DELETE", "/isos/My-tiny.iso", &token, &Value::Null).status, 204);
    assert!(!place.exists() && isos(&server, &token).is_empty(), "the image is still there");
    server.end();
}

#[test]
fn a_form_that_brings_no_good_image_says_why_and_leaves_nothing() {
    let server = server("upload_quota_mb = 32");
    let token = server.sign_up("wrong");
    let zeros = vec![0; 12 << 20];
    let cases: [(&str, Vec<u8>, u16, &str); 8] = [
        ("small", form("a.iso", &zeros[..10_485_759], ""), 422, "10 MB"),
        ("empty", form("a.iso", b"", ""), 422, "empty"),
        ("no image", form("a.iso", &zeros, ""), 422, "CD001"),
        ("no file", [field("format", "iso").as_bytes(), b"--XX--"].concat(), 422, "no file"),
        ("cut", form("a.iso", &zeros, "")[..5_000_000].to_vec(), 400, "last boundary"),
        ("format", form("a.iso", &zeros, &field("format", "vmdk")), 422, "iso, qcow2 or raw"),
        ("shared", form("a.iso", &zeros, &field("shared", "true")), 403, "administrators"),
        ("quota", form("a.iso", &vec![0; 33 << 20], ""), 413, "quota"),
    ];
    for (what, body, status, word) in cases {
        let answer = post_form(&server, &token, &body);
        let detail = answer.json["detail"].as_str().unwrap_or_default();
        assert!(answer.status == status && detail.contains(word), "{what}: {answer:?}");
        assert_no_leftovers(&server);
    }
    let two = [form("a.iso", b"x", ""), form("b.iso", b"y", "")].concat();
    let two = String::from_utf8_lossy(&two).replacen("--XX--\r\n--XX", "--XX", 1);
    assert_eq!(post_form(&server, &token, two.as_bytes()).json["code"], "two_files");
    assert_eq!(server.raw("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n").status, 401);
    assert!(isos(&server, &token).is_empty());
    server.end();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_form_leaves_nothing() {
    let server = server("");
    let token = server.sign_up("leaver");
    let body = form("a.iso", &vec![0; 8 << 20], "");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&body[..4 << 20]).expect("half");
    until("half of it is stored", || {
        leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 1 << 20)
    });
    drop(socket);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn an_early_refusal_arrives_although_the_client_goes_on_sending() {
    let server = server("upload_quota_mb = 1");
    let token = server.sign_up("sender");
    let mut socket = server.connect();
    let length = 256 << 20;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("head");
    // As browsers do: nothing is read before all is sent.
    let piece = vec![0; 1 << 20];
    for sent in 0..length >> 20 {
        socket.write_all(&piece).unwrap_or_else(|e| panic!("reset after {sent} MB: {e}"));
    }
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the answer, and no reset");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json["code"]), (413, &json!("quota_exceeded")));
    server.end();
}

#[test]
fn who_expects_100_is_refused_without_sending_a_byte_or_asked_to_go_on() {
    let server = server("");
    let token = server.sign_up("curl");
    let iso = fs::read(image()).expect("image");
    let body = form("a.iso", &iso, "");
    let head = |token: &str| {
        format!(
            "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
    };
    assert_eq!(exchange(server.connect(), head("nobody").as_bytes(), b"").status, 401);
    let mut socket = server.connect();
    socket.write_all(head(&token).as_bytes()).expect("head");
    let mut go_on = [0; 25];
    socket.read_exact(&mut go_on).expect("100");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(exchange(socket, b"", &body).status, 201);
    server.end();
}

#[test]
fn a_full_disk_refuses_before_a_byte_came() {
    let server = server("disk_reserve_mb = 1073741824");
    let token = server.sign_up("full");
    let answer = post_form(&server, &token, &form("a.iso", &vec![0; 1 << 20], ""));
    assert_eq!((answer.status, &answer.json["code"]), (507, &json!("disk_full")));
    let made = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", "20000000")], b"");
    assert_eq!(made.status, 507);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn leftovers_are_told_by_a_dry_run_and_removed_by_the_next() {
    let server = server("leftover_hours = 0");
    let token = server.sign_up("untidy");
    let path = create(&server, &token, 20_000_000, "a.iso");
    assert_eq!(patch(&server, &token, &path, 0, &[7; 1000], &[]).status, 204);
    let expired = leftovers(&server).remove(0);
    let kept = create(&server, &token, 20_000_000, "b.iso");
    let id = path.rsplit('/').next().expect("id");
    let sql = format!("update uploads set expires_at = now() - interval '1 minute' where id = '{id}'");
    server.database().batch_execute(&sql).expect("time passes");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let stray = expired.with_file_name("0".repeat(32));
    let run = server.base().join("runs/0123456789ab");
    fs::write(&stray, b"bytes").expect("file");
    fs::create_dir(&run).expect("folder");
    for path in [&stray, &run] {
        fs::File::open(path).and_then(|file| file.set_modified(old)).expect("old");
    }
    let clean = |args: &[&str]| {
        let output = server.command(args, "");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 410, "its time is over");
    let told = clean(&["clean", "--dry-run"]);
    for path in [&expired, &stray, &run] {
        assert!(told.contains(&format!("would remove {}", path.display())) && path.exists(), "{told}");
    }
    let told = clean(&["clean"]);
    assert!(told.ends_with("3 leftovers, 1 KB\n"), "{told}");
    assert!(![&expired, &stray, &run].into_iter().any(|path| path.exists()), "{told}");
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    assert_eq!(offset(&server, &token, &kept), 0);
    assert_eq!(clean(&["clean"]), "0 leftovers, 0 KB\n");
    server.end();
}

#[test]
fn a_server_that_starts_removes_what_is_left_over_and_says_so() {
    let mut server = server("");
    let token = server.sign_up("absent");
    let path = create(&server, &token, 20_000_000, "a.iso");
    assert_eq!(patch(&server, &token, &path, 0, &[7; 1000], &[]).status, 204);
    let expired = leftovers(&server).remove(0);
    let (stray, young) = (expired.with_file_name("0".repeat(32)), expired.with_file_name("1".repeat(32)));
    for path in [&stray, &young] {
        fs::write(path, b"bytes").expect("file");
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    fs::File::open(&stray).and_then(|file| file.set_modified(old)).expect("old");
    server
        .database()
        .batch_execute("update uploads set expires_at = now() - interval '1 minute'")
        .expect("time passes");
    server.kill("-TERM");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    for path in [&expired, &stray] {
        server.wait_for_log(&format!("janitor: removed {}", path.display()));
        assert!(!path.exists(), "{}", path.display());
    }
    until("its row is gone", || (server.count("select count(*) from uploads") == 0).then_some(()));
    assert!(young.exists(), "it may be on its way to its row");
    server.end();
}

#[test]
fn a_disk_that_fills_up_in_the_middle_keeps_what_is_whole_and_takes_the_rest_later() {
    let server = server("disk_reserve_mb = 0");
    let token = server.sign_up("filler");
    let iso = fs::read(image()).expect("image");
    let disk = SmallDisk::over(&server.base().join("users"), 8);
    let answer = post_form(&server, &token, &form("a.iso", &iso, ""));
    assert_eq!((answer.status, &answer.json["code"]), (507, &json!("disk_full")), "{answer:?}");
    assert_no_leftovers(&server);
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let full = patch(&server, &token, &path, 0, &iso, &[]);
    assert_eq!((full.status, &full.json["code"]), (507, &json!("disk_full")), "{full:?}");
    let there = offset(&server, &token, &path);
    assert!(there > 1 << 20 && there < 8 << 20, "{there} bytes are there");
    disk.grow(64);
    let done = patch(&server, &token, &path, there, &iso[there..], &[]);
    assert_eq!(done.status, 204, "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    drop(disk);
    server.end();
}

#[test]
fn a_form_of_unknown_length_is_cut_off_where_the_quota_ends() {
    let server = server("upload_quota_mb = 4");
    let token = server.sign_up("endless");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("head");
    let mut chunk = |bytes: &[u8]| {
        let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        socket.write_all(&framed).expect("what is over is read and dropped");
    };
    let beginning = form("a.iso", b"", "");
    chunk(&beginning[..beginning.len() - "\r\n--XX--\r\n".len()]);
    for _ in 0..16 {
        chunk(&vec![7; 1 << 20]);
    }
    chunk(b"");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the answer, and no reset");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json["code"]), (413, &json!("quota_exceeded")), "{answer:?}");
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_form_that_cannot_even_be_begun_is_not_counted_for_ever() {
    let server = server("");
    let token = server.sign_up("barred");
    // A file where the folder should be.
    let folder = server.base().join("users").join(uid(&server, &token));
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("uploads"), "").expect("file");
    let refused = post_form(&server, &token, &form("a.iso", b"x", ""));
    assert_eq!((refused.status, refused.code()), (507, "not_stored"), "{refused:?}");
    let metrics = server.raw("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let page = String::from_utf8_lossy(&metrics.body);
    assert!(page.contains("\nvmshare_uploads_active 0\n"), "{page}");
    server.end();
}

#[test]
fn a_form_whose_server_was_killed_leaves_nothing_and_its_removal_is_told() {
    let mut server = server("");
    let token = server.sign_up("unlucky");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 50000000\r\n\r\n"
    );
    let begin = form("half.iso", &vec![7; 4 << 20], "");
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&begin[..4 << 20]).expect("some of it");
    until("some of it is stored", || {
        leftovers(&server).iter().any(|file| fs::metadata(file).is_ok_and(|f| f.len() > 1 << 20)).then_some(())
    });
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    server.wait_for_log("form of a former server");
    assert_no_leftovers(&server);
    server.end();
}

/// What the server asked of the system while `act` was done, in order. Takes the right to trace, as root has it.
fn traced(server: &Server, act: impl FnOnce()) -> Vec<String> {
    let file = server.base().join("trace");
    let calls = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,write,writev,sendto,sendmsg";
    let pid = server.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "64", "-e", calls, "-p", &pid, "-o"]).arg(&file);
    let mut strace = strace.stderr(std::process::Stdio::piped()).spawn().expect("strace: tests/run installs it");
    let mut said = BufReader::new(strace.stderr.take().expect("piped")).lines();
    let first = said.next().expect("a word").expect("a line");
    assert!(first.contains("attached"), "{first}");
    act();
    assert!(Command::new("kill").args(["-INT", &strace.id().to_string()]).status().expect("kill").success());
    strace.wait().expect("strace");
    fs::read_to_string(file).expect("trace").lines().map(str::to_owned).collect()
}

#[test]
fn what_a_client_is_told_is_on_the_disk_before() {
    let server = server("");
    let token = server.sign_up("careful");
    let iso = fs::read(image()).expect("image");
    let mut begun = String::new();
    let calls = traced(&server, || begun = create(&server, &token, iso.len(), "tiny.iso"));
    let path = begun;
    let told = calls.iter().position(|call| call.contains("HTTP/1.1 201")).expect("the answer");
    // The file's folder, and those that were made on the way to it.
    for folder in ["/uploads>", &format!("/users/{}>", uid(&server, &token)), "/users>"] {
        let synced = calls[..told].iter().any(|call| call.contains("fsync(") && call.contains(folder));
        assert!(synced, "{folder} is not on the disk\n{}", calls.join("\n"));
    }
    let made = traced(&server, || {
        let made = server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1}));
        assert_eq!(made.status, 201, "{made:?}");
    });
    let told = made.iter().position(|call| call.contains("HTTP/1.1 201")).expect("the answer");
    for what in ["/disks/work.qcow2>", "/disks>"] {
        let synced = made[..told].iter().any(|call| call.contains("fsync(") && call.contains(what));
        assert!(synced, "{what} is not on the disk\n{}", made.join("\n"));
    }
    let half = iso.len() / 2;
    let staged = path.rsplit('/').next().expect("id").to_owned();
    let calls = traced(&server, || assert_eq!(patch(&server, &token, &path, 0, &iso[..half], &[]).status, 204));
    let at = |calls: &[String], what: &[&str]| {
        let found = calls.iter().position(|call| what.iter().all(|part| call.contains(part)));
        found.unwrap_or_else(|| panic!("no {what:?} in\n{}", calls.join("\n")))
    };
    assert!(
        at(&calls, &["fsync(", &staged]) < at(&calls, &["HTTP/1.1 204"]),
        "an offset was told before it was on the disk"
    );
    let calls = traced(&server, || assert_eq!(patch(&server, &token, &path, half, &iso[half..], &[]).status, 204));
    let told = at(&calls, &["HTTP/1.1 204"]);
    let (file, named) = (at(&calls, &["fsync(", &staged]), at(&calls, &["rename", "/images/tiny.iso\""]));
    let folder =
        calls.iter().rposition(|call| call.contains("fsync(") && call.contains("/images>")).expect("the folder");
    assert!(file < named && named < folder && folder < told, "{file} {named} {folder} {told}\n{}", calls.join("\n"));
    server.end();
}
