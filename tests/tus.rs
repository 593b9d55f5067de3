//! Uploads by tus, in pieces over lost connections and killed servers: never less than was told, and whole at the end.

mod common;

use common::store::{
    assert_no_leftovers, create, isos, leftovers, leftovers_in, offset, patch, server, sha256, tus, tus_head,
};
use common::{Answer, Server, SmallDisk, image, until};
use ring::digest;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;

#[test]
fn tus_says_what_it_speaks_and_refuses_what_it_does_not() {
    let server = server("");
    let token = server.sign_up("tus");
    let options = server.raw("OPTIONS /uploads/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(options.status, 204);
    assert_eq!(options.header("tus-version"), Some("1.0.0"));
    assert_eq!(options.header("tus-extension"), Some("creation,creation-with-upload,termination,checksum,expiration"));
    assert!(options.header("tus-checksum-algorithm").is_some_and(|names| names.split(',').any(|name| name == "sha1")));
    assert_eq!((options.header("tus-resumable"), options.header("tus-max-size")), (Some("1.0.0"), None));
    let deferred = tus(&server, &token, "POST", "/uploads/", &[("Upload-Defer-Length", "1")], b"");
    assert_eq!((deferred.status, deferred.code()), (400, "length_needed"), "{deferred:?}");
    // Each refusal says the version, whoever makes it.
    let ask = |method: &str, path: &str, extra: &str| {
        let answer = server.raw(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{extra}\r\n"));
        assert_eq!(answer.header("tus-resumable"), Some("1.0.0"), "{method} {path}: {answer:?}");
        answer.status
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let foreign = "Origin: https://elsewhere.example\r\n";
    assert_eq!(ask("POST", "/uploads/", ""), 401);
    assert_eq!(ask("POST", "/uploads/", foreign), 403);
    assert_eq!(
        ask("PATCH", "/uploads/0123456789abcdef0123456789abcdef", &format!("{bearer}{}", "Tus-Resumable: 1.0.0\r\n")),
        415
    );
    assert_eq!(ask("HEAD", "/uploads/no/such", &bearer), 404);
    assert_eq!(ask("PUT", "/uploads/", &bearer), 405);
    assert_eq!(ask("POST", "/uploads/", &bearer), 412);
    let without = server.call("POST", "/uploads/", &token, &Value::Null);
    assert_eq!((without.status, without.header("tus-version")), (412, Some("1.0.0")));
    let post = |headers: &[(&str, &str)]| tus(&server, &token, "POST", "/uploads/", headers, b"").status;
    assert_eq!(post(&[]), 400);
    assert_eq!(post(&[("Upload-Length", "-1")]), 400);
    assert_eq!(post(&[("Upload-Length", "20000000"), ("Upload-Metadata", "a ???")]), 400);
    assert_eq!(post(&[("Upload-Length", "999999999999999")]), 413, "the quota is looked at first");
    let path = create(&server, &token, 20_000_000, "a.iso");
    let wrong_type =
        tus(&server, &token, "PATCH", &path, &[("Upload-Offset", "0"), ("Content-Type", "text/plain")], b"x");
    assert_eq!(wrong_type.status, 415);
    assert_eq!(patch(&server, &token, &path, 5, b"x", &[]).status, 409);
    assert_eq!(patch(&server, &token, &path, 0, b"x", &[("Upload-Checksum", "md5 AAAA")]).status, 400);
    let other = server.sign_up("stranger");
    for method in ["HEAD", "DELETE"] {
        assert_eq!(tus(&server, &other, method, &path, &[], b"").status, 404, "{method}");
    }
    assert_eq!(patch(&server, &other, &path, 0, b"x", &[]).status, 404);
    assert_eq!(tus(&server, &token, "DELETE", &path, &[], b"").status, 204);
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn an_upload_in_pieces_with_checksums_becomes_the_image() {
    let server = server("");
    let token = server.sign_up("pieces");
    let iso = fs::read(image()).expect("image");
    let metadata = format!("filename {}", data_encoding::BASE64.encode(b"tiny.iso"));
    let size = iso.len().to_string();
    let (first, rest) = iso.split_at(1_000_001);
    // Creation with upload.
    let made = tus(
        &server,
        &token,
        "POST",
        "/uploads/",
        &[
            ("Upload-Length", &size),
            ("Upload-Metadata", &metadata),
            ("Content-Type", "application/offset+octet-stream"),
        ],
        first,
    );
    assert_eq!((made.status, made.header("upload-offset")), (201, Some("1000001")), "{made:?}");
    assert!(made.header("upload-expires").is_some_and(|date| date.ends_with("GMT")));
    let path = made.header("location").expect("location").to_owned();
    let status = tus(&server, &token, "HEAD", &path, &[], b"");
    assert_eq!(
        (status.header("upload-length"), status.header("upload-metadata"), status.header("cache-control")),
        (Some(size.as_str()), Some(metadata.as_str()), Some("no-store"))
    );
    let (second, third) = rest.split_at(2_000_000);
    let sha1 = |bytes: &[u8]| {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        format!("sha1 {}", data_encoding::BASE64.encode(digest.as_ref()))
    };
    let wrong = patch(&server, &token, &path, first.len(), second, &[("Upload-Checksum", &sha1(b"something else"))]);
    assert_eq!((wrong.status, &wrong.json["code"]), (460, &json!("checksum_mismatch")));
    assert_eq!(offset(&server, &token, &path), first.len());
    let right = patch(&server, &token, &path, first.len(), second, &[("Upload-Checksum", &sha1(second))]);
    assert_eq!((right.status, right.header("upload-offset")), (204, Some("3000001")), "{right:?}");
    let too_much = patch(&server, &token, &path, 3_000_001, &[third, b"more"].concat(), &[]);
    assert_eq!(too_much.status, 413);
    let last = patch(&server, &token, &path, 3_000_001, third, &[]);
    assert_eq!((last.status, last.header("upload-offset")), (204, Some(size.as_str())), "{last:?}");
    // Whoever missed that answer learns it.
    assert_eq!(offset(&server, &token, &path), iso.len());
    let listed = isos(&server, &token);
    assert_eq!((&listed[0]["name"], &listed[0]["sha256"]), (&json!("tiny.iso"), &json!(sha256(&iso))), "{listed:?}");
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_client_that_can_only_post_says_what_it_means() {
    let server = server("");
    let token = server.sign_up("poster");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [
        ("X-HTTP-Method-Override", "PATCH"),
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
    ];
    let done = tus(&server, &token, "POST", &path, &headers, &iso);
    assert_eq!((done.status, done.header("upload-offset")), (204, Some(iso.len().to_string().as_str())), "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    let other = create(&server, &token, iso.len(), "other.iso");
    let gone = tus(&server, &token, "POST", &other, &[("X-HTTP-Method-Override", "DELETE")], b"");
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_no_leftovers(&server);
    // Nothing else is meant by it, and nowhere else.
    assert_eq!(
        tus(&server, &token, "POST", "/isos/tiny.iso", &[("X-HTTP-Method-Override", "DELETE")], b"").status,
        405
    );
    assert_eq!(tus(&server, &token, "POST", &other, &[("X-HTTP-Method-Override", "GET")], b"").status, 405);
    server.end();
}

#[test]
fn first_bytes_that_come_with_the_creation_are_told_as_they_are() {
    let server = server("disk_reserve_mb = 0");
    let token = server.sign_up("eager");
    let iso = fs::read(image()).expect("image");
    let size = iso.len().to_string();
    let begin = |bytes: &[u8], checksum: &[(&str, &str)]| {
        let mut headers = vec![("Upload-Length", size.as_str()), ("Content-Type", "application/offset+octet-stream")];
        headers.extend(checksum);
        tus(&server, &token, "POST", "/uploads/", &headers, bytes)
    };
    let wrong = begin(&iso[..1000], &[("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")]);
    assert_eq!((wrong.status, wrong.code()), (460, "checksum_mismatch"), "{wrong:?}");
    assert_no_leftovers(&server);
    // The disk is full in the middle: what is there counts.
    let disk = SmallDisk::over(&server.base().join("users"), 8);
    let made = begin(&iso, &[]);
    assert_eq!(made.status, 201, "{made:?}");
    let path = made.header("location").expect("location");
    let told: usize = made.header("upload-offset").and_then(|n| n.parse().ok()).expect("offset");
    assert!(told > 1 << 20 && told == offset(&server, &token, path), "{told}");
    disk.grow(64);
    assert_eq!(patch(&server, &token, path, told, &iso[told..], &[]).status, 204);
    drop(disk);
    server.end();
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed_where_it_was_told_or_further() {
    let mut server = server("");
    let token = server.sign_up("killed");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    assert_eq!(patch(&server, &token, &path, 0, &iso[..3_000_000], &[]).status, 204);
    let told = 3_000_000;
    // The next piece is under way, and a piece with a checksum of another upload too.
    let headers = [("Upload-Offset", "3000000"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    let head = tus_head(&token, "PATCH", &path, &headers, iso.len() - told);
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&iso[told..9_000_000]).expect("a part");
    let checked = create(&server, &token, iso.len(), "checked.iso");
    let headers = [
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
    ];
    let mut other = server.connect();
    other.write_all(tus_head(&token, "PATCH", &checked, &headers, iso.len()).as_bytes()).expect("head");
    other.write_all(&iso[..5_000_000]).expect("a part");
    until("both are stored in part", || {
        let sizes: Vec<u64> =
            leftovers(&server).iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).collect();
        (sizes.len() == 2 && sizes.iter().all(|size| *size > 4_000_000)).then_some(())
    });
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let there = offset(&server, &token, &path);
    assert!(there >= told, "{there} bytes of {told} that were told");
    assert_eq!(offset(&server, &token, &checked), 0, "bytes that no checksum was compared with count");
    assert_eq!(patch(&server, &token, &path, there, &iso[there..], &[]).status, 204);
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    server.end();
}

#[test]
fn an_upload_that_was_whole_when_the_server_was_killed_comes_to_its_place_when_it_is_asked_for() {
    let mut server = server("");
    let token = server.sign_up("nearly");
    let iso = fs::read(image()).expect("image");
    let [asked, continued] = ["asked.iso", "continued.iso"].map(|name| create(&server, &token, iso.len(), name));
    for path in [&asked, &continued] {
        assert_eq!(patch(&server, &token, path, 0, &iso[..1_000_000], &[]).status, 204);
    }
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    // As if it had died between the last byte and what follows it.
    for staged in leftovers_in(&folder.path().join("b")) {
        fs::write(staged, &iso).expect("the last bytes");
    }
    let server = Server::run(folder);
    // Clients take an offset that is the whole length for success, so it must be one.
    assert_eq!(offset(&server, &token, &asked), iso.len());
    assert_eq!(patch(&server, &token, &continued, iso.len(), b"", &[]).status, 204);
    let listed = isos(&server, &token);
    for name in ["asked.iso", "continued.iso"] {
        let there = listed.iter().find(|iso| iso["name"] == name).unwrap_or_else(|| panic!("no {name}: {listed:?}"));
        assert_eq!(there["sha256"], json!(sha256(&iso)));
    }
    assert_eq!(leftovers(&server), Vec::<PathBuf>::new());
    server.end();
}

#[test]
fn a_second_connection_takes_an_upload_over_from_a_dead_one() {
    let server = server("");
    let token = server.sign_up("roamer");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut dead = server.connect();
    dead.write_all(tus_head(&token, "PATCH", &path, &headers, iso.len()).as_bytes()).expect("head");
    dead.write_all(&iso[..1_000_000]).expect("a part");
    until("a part is stored", || leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 0));
    // The old connection is open and says nothing, as after a lost network.
    let there = offset(&server, &token, &path);
    assert!(there > 0);
    let done = patch(&server, &token, &path, there, &iso[there..], &[]);
    assert_eq!(done.status, 204, "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    let _ = dead.shutdown(Shutdown::Both);
    server.end();
}

#[test]
fn a_tus_upload_that_is_no_image_is_refused_at_its_end_and_removed() {
    let server = server("");
    let token = server.sign_up("bogus");
    let path = create(&server, &token, 11_000_000, "a.iso");
    let answer = patch(&server, &token, &path, 0, &vec![7; 11_000_000], &[]);
    assert_eq!((answer.status, &answer.json["code"]), (422, &json!("bad_image")), "{answer:?}");
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    let headers = [("Upload-Length", "1000"), ("Content-Type", "application/offset+octet-stream")];
    let at_once = tus(&server, &token, "POST", "/uploads/", &headers, &[7; 1000]);
    assert_eq!((at_once.status, &at_once.json["code"]), (422, &json!("bad_image")), "{at_once:?}");
    assert_no_leftovers(&server);
    assert_eq!(isos(&server, &token).len(), 0);
    server.end();
}

#[test]
fn the_quota_counts_what_is_on_its_way_and_two_to_one_name_are_both_whole() {
    let server = server("upload_quota_mb = 40\nuploads_per_user = 3");
    let token = server.sign_up("quota");
    let iso = fs::read(image()).expect("image");
    assert!(iso.len() * 3 < 40 << 20 && iso.len() * 4 > 40 << 20, "the image's size changed");
    let (a, b) = (create(&server, &token, iso.len(), "a.iso"), create(&server, &token, iso.len(), "a.iso"));
    let quota = || server.call("GET", "/isos", &token, &Value::Null).json["quota"].clone();
    let limit = 40 << 20;
    let held = iso.len() * 2;
    assert_eq!(quota(), json!({"used": 0, "unfinished": held, "limit": limit, "left": limit - held}));
    let big = (20 << 20).to_string();
    let refused = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", &big)], b"");
    assert_eq!((refused.status, &refused.json["code"]), (413, &json!("quota_exceeded")), "{refused:?}");
    create(&server, &token, 1000, "c.iso");
    let fourth = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", "10")], b"");
    assert_eq!((fourth.status, &fourth.json["code"]), (429, &json!("too_many_uploads")));
    let mut other = iso.clone();
    *other.last_mut().expect("bytes") ^= 1;
    assert_eq!(patch(&server, &token, &a, 0, &iso, &[]).status, 204);
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    assert_eq!(patch(&server, &token, &b, 0, &other, &[]).status, 204);
    let (used, held) = (iso.len(), 1000);
    assert_eq!(quota(), json!({"used": used, "unfinished": held, "limit": limit, "left": limit - used - held}));
    let listed = isos(&server, &token);
    assert_eq!((listed.len(), &listed[0]["sha256"]), (1, &json!(sha256(&other))), "the later one replaces the earlier");
    server.end();
}

#[test]
fn an_upload_that_stalls_is_cut_off_and_what_came_counts() {
    let server = server("upload_stall_seconds = 1");
    let token = server.sign_up("staller");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    socket.write_all(tus_head(&token, "PATCH", &path, &headers, iso.len()).as_bytes()).expect("head");
    socket.write_all(&iso[..1_000_000]).expect("a part");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(Answer::parse(&answer).status, 408);
    assert_eq!(offset(&server, &token, &path), 1_000_000);
    server.end();
}

#[test]
fn an_upload_that_takes_longer_than_it_is_kept_is_kept_and_its_time_begins_anew_with_each_piece() {
    let server = server("upload_expire_hours = 1\nleftover_hours = 0");
    let token = server.sign_up("slow");
    let path = create(&server, &token, 20_000_000, "tiny.iso");
    let id = path.rsplit('/').next().expect("id").to_owned();
    let mut database = server.database();
    let mut backdate = || {
        let sql = format!("update uploads set expires_at = now() - interval '1 minute' where id = '{id}'");
        database.batch_execute(&sql).expect("time passes");
    };
    let is_kept = || server.count("select count(*) from uploads where expires_at > now() + interval '30 minutes'") == 1;
    let clean = || {
        let output = server.command(&["clean"], "");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    socket.write_all(tus_head(&token, "PATCH", &path, &headers, 20_000_000).as_bytes()).expect("head");
    socket.write_all(&[7; 100_000]).expect("some");
    until("some of it is stored", || {
        leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 0)
    });
    // An hour passes; bytes go on coming.
    backdate();
    until("its row hears of it", || {
        socket.write_all(&[7; 1000]).expect("some more");
        is_kept().then_some(())
    });
    assert_eq!(clean(), "0 leftovers, 0 KB\n");
    // The piece is broken off: what came is kept as long as ever.
    backdate();
    drop(socket);
    until("its time begins anew", || is_kept().then_some(()));
    let there = offset(&server, &token, &path);
    assert!(there > 100_000, "{there}");
    let sql = format!("update uploads set expires_at = now() + interval '1 minute' where id = '{id}'");
    server.database().batch_execute(&sql).expect("time passes");
    let more = patch(&server, &token, &path, there, &[7; 1000], &[]);
    let told = more.header("upload-expires").and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).expect("a date");
    let left = told.timestamp().as_second() - jiff::Timestamp::now().as_second();
    assert!(more.status == 204 && left > 1800, "{left} seconds: {more:?}");
    assert_eq!(clean(), "0 leftovers, 0 KB\n");
    server.end();
}
