//! Images: which are taken, replaced, shared and started, by whom.

mod common;

use common::store::{
    OWN, PLAIN, assert_no_leftovers, field, folder_of, form, isos, leftovers, offset, patch, post_form, run, server,
    sha256, tus, uid,
};
use common::{Server, SmallDisk, image};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn an_image_that_the_old_version_left_is_listed_counted_and_can_be_removed() {
    let server = server("");
    let (token, other) = (server.sign_up("settler"), server.sign_up("other"));
    let name = format!("{}.iso", uid(&server, &token));
    let place = server.base().join("uploads").join(&name);
    fs::create_dir_all(place.parent().expect("folder")).expect("folder");
    fs::copy(image(), &place).expect("image");
    assert_eq!(isos(&server, &token)[0]["name"], json!(name));
    let remove = |token: &str, name: &str| {
        let answer = server.call("DELETE", &format!("/isos/{name}"), token, &Value::Null);
        (answer.status, answer.code().to_owned())
    };
    assert_eq!(remove(&other, &name).0, 404);
    let vm = server.launch(&token);
    assert_eq!(remove(&token, &name), (409, "image_in_use".to_owned()));
    server.stop(&token, &vm);
    assert_eq!(remove(&token, &name).0, 204);
    assert!(!place.exists());
    assert_eq!(server.call("GET", "/isos", &token, &Value::Null).json["quota"]["used"], json!(0));
    // The second name of one in the library goes with that, and not by itself.
    assert_eq!(post_form(&server, &token, &form("a.iso", &fs::read(image()).expect("image"), "")).status, 201);
    assert_eq!(remove(&token, &name).0, 404);
    assert_eq!((remove(&token, "a.iso").0, place.exists()), (204, false));
    server.end();
}

/// A qcow2 image of so many GiB whose bytes are of this run alone.
fn qcow2(folder: &Path, gb: u32, extra: &[&str]) -> Vec<u8> {
    let path = folder.join(format!("{gb}.qcow2"));
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).args(extra).arg(&path).arg(format!("{gb}G"));
    assert!(make.status().expect("qemu-img").success());
    fs::read(path).expect("image")
}

#[test]
fn an_image_that_disks_are_overlays_of_is_not_replaced_and_its_disks_are_no_smaller() {
    let server = server("disk_quota_gb = 4");
    let token = server.sign_up("layerer");
    let folder = tempfile::tempdir().expect("folder");
    let bring = |bytes: &[u8]| post_form(&server, &token, &form("base.qcow2", bytes, &field("format", "qcow2")));
    let (first, second) = (qcow2(folder.path(), 3, &[]), qcow2(folder.path(), 1, &[]));
    assert_eq!(bring(&first).status, 201);
    let disk = |name: &str, size: Value| {
        let body = json!({"name": name, "image": "base.qcow2", "size_gb": size});
        server.call("POST", "/disks", &token, &body)
    };
    let small = disk("small", json!(2));
    assert_eq!((small.status, &small.json["field"]), (422, &json!("size_gb")), "{small:?}");
    let made = disk("work", Value::Null);
    assert_eq!((made.status, &made.json["disk"]["size_gb"]), (201, &json!(3)), "{made:?}");
    let more = disk("more", Value::Null);
    assert_eq!((more.status, more.code()), (413, "quota_exceeded"), "three and three are more than four: {more:?}");
    let refused = bring(&second);
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&first)));
    assert_no_leftovers(&server);
    assert_eq!(bring(&first).status, 409, "its bytes are not looked at");
    server.end();
}

#[test]
fn an_image_that_must_stay_is_told_before_a_byte_comes_and_what_came_already_waits() {
    let server = server("");
    let token = server.sign_up("waiter");
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (qcow2(folder.path(), 1, &[]), qcow2(folder.path(), 2, &[]));
    let in_place = || isos(&server, &token)[0]["sha256"].clone();
    assert_eq!(post_form(&server, &token, &form("base.qcow2", &first, &field("format", "qcow2"))).status, 201);
    let disk = |method: &str, path: &str, body: &Value| server.call(method, path, &token, body).status;
    let overlay = json!({"name": "work", "image": "base.qcow2"});
    let encoded = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let metadata = format!("filename {},format {}", encoded("base.qcow2"), encoded("qcow2"));
    let size = second.len().to_string();
    let begin = || {
        let headers = [("Upload-Length", size.as_str()), ("Upload-Metadata", metadata.as_str())];
        tus(&server, &token, "POST", "/uploads/", &headers, b"")
    };
    let [empty, whole] = [(); 2].map(|()| begin().header("location").expect("location").to_owned());
    assert_eq!(disk("POST", "/disks", &overlay), 201);
    let refused = begin();
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "its name is known: {refused:?}");
    let refused = patch(&server, &token, &empty, 0, &second, &[]);
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(refused.header("tus-resumable"), Some("1.0.0"), "{refused:?}");
    assert_eq!(offset(&server, &token, &empty), 0, "nothing was taken of it");
    // As if the disk had been made while the last bytes came.
    let staged =
        leftovers(&server).into_iter().find(|path| whole.ends_with(&*path.file_name().expect("id").to_string_lossy()));
    fs::write(staged.expect("staged"), &second).expect("the bytes");
    // A client takes the whole length for success and a refusal for a reason to begin anew: it is neither.
    assert_eq!(offset(&server, &token, &whole), second.len() - 1);
    let last = || patch(&server, &token, &whole, second.len() - 1, &second[second.len() - 1..], &[]);
    let refused = last();
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(in_place(), json!(sha256(&first)));
    assert_eq!(disk("DELETE", "/disks/work", &Value::Null), 204);
    assert_eq!(last().status, 204);
    assert_eq!(in_place(), json!(sha256(&second)));
    assert_eq!(tus(&server, &token, "DELETE", &empty, &[], b"").status, 204);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_disk_image_that_names_another_file_is_refused_when_it_comes() {
    let server = server("");
    let token = server.sign_up("reader");
    let folder = tempfile::tempdir().expect("folder");
    for extra in [["-F", "raw", "-b", "/etc/passwd", "-u"].as_slice(), &["-o", "data_file=/dev/null,data_file_raw=on"]]
    {
        let image = if extra.contains(&"-b") {
            qcow2(folder.path(), 1, extra)
        } else {
            // qemu-img would open the data file: the bit in the header is what counts.
            let mut image = qcow2(folder.path(), 2, &[]);
            image[79] |= 4;
            image
        };
        let answer = post_form(&server, &token, &form("x.qcow2", &image, &field("format", "qcow2")));
        assert_eq!((answer.status, answer.code()), (422, "bad_image"), "{extra:?}: {answer:?}");
    }
    assert!(isos(&server, &token).is_empty());
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_disk_image_that_is_not_whole_is_refused_and_one_with_leaks_is_not() {
    let server = server("");
    let token = server.sign_up("halver");
    let folder = tempfile::tempdir().expect("folder");
    let mut whole = qcow2(folder.path(), 1, &[]);
    let path = folder.path().join("1.qcow2");
    let written = Command::new("qemu-io").args(["-c", "write -P 7 0 8M"]).arg(&path).output().expect("qemu-io");
    assert!(written.status.success(), "{written:?}");
    let filled = fs::read(&path).expect("image");
    let mut damaged = filled.clone();
    // The first block of reference counts, behind its table.
    damaged[2 << 16..][..4096].fill(0);
    let bring = |bytes: &[u8]| post_form(&server, &token, &form("a.qcow2", bytes, &field("format", "qcow2")));
    for (what, bytes) in [
        ("half of it", &filled[..filled.len() / 2]),
        ("damaged", &damaged),
        ("not even its tables", &filled[..100_000]),
    ] {
        let answer = bring(bytes);
        let why = answer.json["detail"].as_str().unwrap_or_default();
        assert_eq!((answer.status, answer.code()), (422, "bad_image"), "{what}: {answer:?}");
        assert!(why.contains("cut off") && !why.contains("/users/"), "{what}: {why}");
        assert_no_leftovers(&server);
    }
    assert_eq!(bring(&filled).status, 201);
    // A cluster that is counted and that nothing refers to.
    whole.resize(8 << 16, 0);
    whole[(2 << 16) + 2 * 7 + 1] = 1;
    let leaks = bring(&whole);
    assert_eq!(leaks.status, 201, "{leaks:?}");
    server.end();
}

#[test]
fn an_image_that_an_administrator_brings_for_all_is_seen_and_started_by_others() {
    let server = server("");
    let (admin, user) = (common::admin(&server), server.sign_up("pupil"));
    let iso = fs::read(image()).expect("image");
    let body = form("lesson.iso", &iso, &field("shared", "true"));
    assert_eq!(post_form(&server, &user, &body).code(), "admin_only");
    assert_eq!(post_form(&server, &admin, &body).status, 201);
    let seen = isos(&server, &user);
    assert_eq!((&seen[0]["name"], &seen[0]["shared"]), (&json!("lesson.iso"), &json!(true)), "{seen:?}");
    let answer = server.call("POST", "/run-iso", &user, &json!({"iso_path": "lesson.iso"}));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    server.serial(&answer.json["vm"]).wait_for("tiny: up");
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &user, &Value::Null).status, 404);
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &admin, &Value::Null).code(), "image_in_use");
    server.stop(&user, &answer.json["vm"]);
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &admin, &Value::Null).status, 204);
    server.end();
}

#[test]
fn an_image_for_all_is_not_held_to_the_quota_of_the_administrator_who_brings_it() {
    let server = server("upload_quota_mb = 1");
    let admin = common::admin(&server);
    let iso = fs::read(image()).expect("image");
    let encoded = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let size = iso.len().to_string();
    let begin = |shared: &str| {
        let metadata = format!("filename {},shared {}", encoded("lesson.iso"), encoded(shared));
        let headers = [("Upload-Length", size.as_str()), ("Upload-Metadata", metadata.as_str())];
        tus(&server, &admin, "POST", "/uploads/", &headers, b"")
    };
    assert_eq!(begin("false").code(), "quota_exceeded");
    let made = begin("true");
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(patch(&server, &admin, made.header("location").expect("location"), 0, &iso, &[]).status, 204);
    assert_eq!(isos(&server, &admin)[0]["shared"], json!(true));
    server.end();
}

#[test]
fn an_image_for_all_whose_library_is_another_disk_is_refused_and_not_lost_in_between() {
    let server = server("");
    let admin = common::admin(&server);
    let library = server.base().join("images");
    fs::create_dir_all(&library).expect("library");
    let disk = SmallDisk::over(&library, 64);
    let iso = fs::read(image()).expect("image");
    let answer = post_form(&server, &admin, &form("lesson.iso", &iso, &field("shared", "true")));
    assert_eq!((answer.status, answer.code()), (507, "not_stored"), "{answer:?}");
    assert!(isos(&server, &admin).is_empty());
    let left: Vec<_> = fs::read_dir(&library).expect("library").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_no_leftovers(&server);
    drop(disk);
    server.end();
}

#[test]
fn hostile_and_broken_disk_images_are_refused() {
    let server = Server::with(PLAIN, "", OWN);
    let token = server.sign_up("hostile");
    let images = folder_of(&server, &token).join("images");
    fs::create_dir_all(&images).expect("folder");
    let qcow2 = images.join("evil.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"])
        .arg(&qcow2)
        .arg("1G")
        .status();
    assert!(made.expect("qemu-img").success());
    let refused = server.call("POST", "/run-iso", &token, &json!({"iso": "evil.qcow2"}));
    assert!(
        refused.status == 422 && refused.json["detail"].as_str().is_some_and(|d| d.contains("overlay")),
        "{refused:?}"
    );
    fs::write(images.join("noise.qcow2"), vec![7; 20_000_000]).expect("noise");
    assert_eq!(server.call("POST", "/run-iso", &token, &json!({"iso": "noise.qcow2"})).status, 422);
    // A disk that is none any more.
    fs::create_dir_all(folder_of(&server, &token).join("disks")).expect("folder");
    fs::write(folder_of(&server, &token).join("disks/bad.qcow2"), b"x").expect("disk");
    let bad = server.call("POST", "/run-iso", &token, &json!({"disk": "bad"}));
    assert_eq!((bad.status, &bad.json["field"]), (422, &json!("disk")), "{bad:?}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn an_image_that_claims_more_than_a_vm_may_write_to_is_not_started_but_the_operators_is() {
    let folder = common::folder();
    let big = folder.path().join("class.qcow2");
    let make = |path: &std::path::Path| {
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg("3G").status();
        assert!(made.expect("qemu-img").success());
    };
    make(&big);
    let profile = format!("base_disk = {big:?}\n{OWN}");
    let text = common::settings(&folder.path().join("b"), PLAIN, "max_data_disk_gb = 2", &profile);
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("filler");
    let images = folder_of(&server, &token).join("images");
    fs::create_dir_all(&images).expect("folder");
    make(&images.join("huge.qcow2"));
    let refused = server.call("POST", "/run-iso", &token, &json!({"iso": "huge.qcow2"}));
    assert_eq!((refused.status, &refused.json["field"]), (422, &json!("iso")), "{refused:?}");
    assert!(refused.json["detail"].as_str().is_some_and(|why| why.contains("3 GiB")), "{refused:?}");
    server.assert_nothing_left();
    let vm = run(&server, &token, &Value::Null);
    assert_eq!(vm["iso"], json!("class.qcow2"));
    server.stop(&token, &vm);
    server.end();
}
