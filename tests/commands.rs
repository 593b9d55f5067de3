//! `vmshare vm …` and `vmshare image …`, beside a running server and without one.

mod common;

use common::{BINARY, Server, closed, until};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use vmshare::sys::pidfd::PidFd;
use vmshare::sys::signal::Signal;

const STAYS: &str = "tls = \"off\"\nstop_vms_on_exit = false";
const WHY: &str = "stopped by the operator";

/// A command on the settings in a folder, whether a server runs there or not.
fn vmshare(folder: &Path, args: &[&str]) -> Output {
    let file = folder.join("vmshare.toml");
    Command::new(BINARY).args(args).arg("--config").arg(file).output().expect("it runs")
}

fn beside(server: &Server, args: &[&str]) -> Output {
    vmshare(server.config_file().parent().expect("folder"), args)
}

/// What it said; it must have done what was asked.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why it did not.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn vmid(vm: &Value) -> &str {
    vm["vmid"].as_str().expect("vmid")
}

fn qemu_of(vm: &Value) -> PidFd {
    PidFd::open(u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")).expect("qemu")
}

#[test]
fn an_operator_lists_shows_and_stops_vms_beside_the_server() {
    let server = Server::with(STAYS, "", "");
    let token = server.sign_up("ann");
    let vm = server.launch(&token);
    let listed = done(&beside(&server, &["vm", "list"]));
    for word in [vmid(&vm), "ann", "running", "custom", "128 MiB", &vm["pid"].to_string(), &vm["http_port"].to_string()]
    {
        assert!(listed.contains(word), "{word}: {listed}");
    }
    let line: Value = serde_json::from_str(&done(&beside(&server, &["vm", "list", "--json"]))).expect("one line");
    for same in ["vmid", "state", "pid", "vnc_port", "http_port", "memory_mb", "iso"] {
        assert_eq!(line[same], vm[same], "{same}");
    }
    let shown: Value =
        serde_json::from_str(&done(&beside(&server, &["vm", "show", vmid(&vm), "--json"]))).expect("json");
    assert_eq!((&shown, &shown["alive"]), (&line, &json!(true)));
    let shown = done(&beside(&server, &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("image     tiny.iso") && shown.contains("user      ann ("), "{shown}");

    let mut screen = server.screen(&token, &vm);
    let said = done(&beside(&server, &["vm", "stop", vmid(&vm)]));
    assert_eq!(said, format!("{} stopped: {WHY}\n", vmid(&vm)));
    assert_eq!(closed(&mut screen), (1000, "VM stopped".to_owned()));
    let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}\n{}", server.said());
    let audited = "select count(*) from audit where action = 'stop vm' and ip = 'command line' and target = ";
    assert_eq!(server.count(&format!("{audited}'{}'", vmid(&vm))), 1);
    server.assert_nothing_left();

    let again = refused(&beside(&server, &["vm", "stop", vmid(&vm)]));
    assert!(again.contains("does not run: it stopped at") && again.contains(WHY), "{again}");
    let unknown = refused(&beside(&server, &["vm", "stop", "000000000000", vmid(&vm)]));
    assert!(
        unknown.contains("there is no VM 000000000000") && unknown.contains("2 of 2 VMs are not stopped"),
        "{unknown}"
    );
    assert!(done(&beside(&server, &["vm", "list"])).starts_with("no VMs now"));
    let all = done(&beside(&server, &["vm", "list", "--all"]));
    assert!(all.contains(vmid(&vm)) && all.contains(WHY), "{all}");
    server.end();
}

#[test]
fn a_qemu_that_does_not_hear_is_killed_and_its_vm_is_stopped_all_the_same() {
    let server = Server::with(STAYS, "", "");
    let token = server.sign_up("deaf");
    let vm = server.launch(&token);
    let frozen = Command::new("kill").args(["-STOP", &vm["pid"].to_string()]).status().expect("kill");
    assert!(frozen.success());
    assert_eq!(done(&beside(&server, &["vm", "stop", vmid(&vm)])), format!("{} stopped: {WHY}\n", vmid(&vm)));
    server.assert_nothing_left();
    // The ports rest or are free: the next VM starts.
    let next = server.launch(&token);
    done(&beside(&server, &["vm", "stop", vmid(&next)]));
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_vm_is_stopped_without_a_server_and_the_next_one_finds_nothing_of_it() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("orphan");
    let vm = server.launch(&token);
    server.kill("-TERM");
    let (_, folder, said) = server.wait();
    let listed = done(&vmshare(folder.path(), &["vm", "list"]));
    assert!(listed.contains(vmid(&vm)) && listed.contains("running"), "{listed}\n{said}");
    assert_eq!(done(&vmshare(folder.path(), &["vm", "stop", vmid(&vm)])), format!("{} stopped: {WHY}\n", vmid(&vm)));
    assert!(!folder.path().join("b/runs").join(vmid(&vm)).exists(), "its folder is gone");
    let shown = done(&vmshare(folder.path(), &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("state     stopped") && shown.contains("pid       -"), "{shown}");

    let server = Server::run(folder);
    let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}");
    server.assert_nothing_left();
    let rested = "select count(*) from ports p, vms v where p.free_after >= v.ended_at";
    assert_eq!(server.count(rested), 2, "its ports cool down from then on");
    let next = server.launch(&token);
    server.stop(&token, &next);
    server.end();
}

#[test]
fn a_stop_whose_command_died_is_finished_by_the_next_server_with_its_reason() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("half");
    let vm = server.launch(&token);
    let mut database = server.database();
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let begun = format!(
        "update vms set state = 'stopping'; insert into vm_events (vmid, kind, detail) values ('{}', 'stopping', '{WHY}')",
        vmid(&vm)
    );
    database.batch_execute(&begun).expect("begun");
    drop(database);
    let qemu = qemu_of(&vm);
    qemu.send(Signal::Kill).expect("sent");
    assert!(qemu.wait(common::PATIENT).expect("poll"), "qemu ends");
    let shown = done(&vmshare(folder.path(), &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("which is gone"), "{shown}");
    let gone = refused(&vmshare(folder.path(), &["vm", "stop", vmid(&vm)]));
    assert!(gone.contains("has ended already"), "{gone}");
    let server = Server::run(folder);
    let now = until("its end is told", || {
        let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
        (!now["ended_at"].is_null()).then_some(now)
    });
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}");
    server.assert_nothing_left();
    server.end();
}
