//! `/metrics` as Prometheus reads it, and what hangs on its names: the dashboard and the alert rules under `conf`.

mod common;

use common::frozen::Frozen;
use common::{Server, image, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

/// What promtool says of `input`; nothing when all is good.
fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus; conf/setup --tests installs it");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("input");
    let output = child.wait_with_output().expect("output");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

fn metrics(server: &Server) -> String {
    let answer = server.call("GET", "/metrics", "", &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    String::from_utf8(answer.body).expect("text")
}

/// The value of a series, by its beginning.
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{series} is not in\n{text}"))
}

/// Our names in an expression, without the parts of histograms.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("vmshare_") || word.starts_with("process_"));
    ours.map(|name| {
        ["_bucket", "_sum", "_count"].iter().fold(name, |n, end| n.strip_suffix(end).unwrap_or(n)).to_owned()
    })
    .collect()
}

#[test]
fn what_happens_is_counted_and_prometheus_reads_it() {
    let server = Server::with(
        "tls = \"off\"\nstop_vms_on_exit = true",
        "[alerts]\nsample_seconds = 1\nfor_seconds = 0\nmemory_percent = 1\npause_launches = false",
        "",
    );
    let user = server.sign_up("alice");
    let vm = server.launch(&user);
    let mut screen = server.screen(&user, &vm);
    common::shake_hands(&mut screen);
    let head = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.iso\"\r\n\r\n";
    let form = [head, fs::read(image()).expect("image").as_slice(), b"\r\n--XX--\r\n"].concat();
    let mut socket = server.connect();
    write!(
        socket,
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {user}\r\nContent-Type: multipart/form-data; boundary=XX\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        form.len()
    )
    .expect("head");
    socket.write_all(&form).expect("body");
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut socket, &mut answer).expect("an answer");
    assert_eq!(server.call("GET", "/vms/c9a2f1c9a2f1", &user, &Value::Null).status, 404);
    let text = until("the host was measured and an alert told", || {
        let all = |text: &String| {
            // QEMU is small in its first moment.
            let told = text.contains("vmshare_alerts_total{rule=\"memory\"} 1");
            let walked = text.contains("# TYPE vmshare_user_storage_bytes");
            told && walked
                && text.contains("vmshare_vms_memory_bytes ")
                && value(text, "vmshare_vms_memory_bytes") > 1e7
        };
        Some(metrics(&server)).filter(all)
    });
    assert_eq!(promtool(&["check", "metrics"], &text), "", "promtool has something to say");
    let is = |series: &str, wanted: f64| assert_eq!(value(&text, series), wanted, "{series}");
    is("vmshare_vms", 1.0);
    is("vmshare_relays", 1.0);
    is("vmshare_launches_total{result=\"started\"}", 1.0);
    is("vmshare_launch_seconds_count", 1.0);
    is("vmshare_http_requests_total{method=\"GET\",route=\"/vms/{vmid}\",status=\"404\"}", 1.0);
    is("vmshare_http_request_seconds_count{route=\"/run-iso\"}", 1.0);
    is("vmshare_uploads_total{result=\"done\"}", 1.0);
    is("vmshare_ports{profile=\"custom\",kind=\"vnc\",state=\"used\"}", 1.0);
    is("vmshare_ports{profile=\"custom\",kind=\"vnc\",state=\"free\"}", 98.0);
    is("vmshare_alerts_firing{rule=\"memory\"}", 1.0);
    is("vmshare_launches_paused", 0.0);
    is(&format!("vmshare_volume_measured{{path=\"{}\"}}", server.base().display()), 1.0);
    assert!(value(&text, "vmshare_sampler_age_seconds") < 30.0, "{text}");
    is("vmshare_db_up", 1.0);
    is("vmshare_panics_total", 0.0);
    let more = |series: &str, than: f64| assert!(value(&text, series) > than, "{series} is {}", value(&text, series));
    more("vmshare_upload_bytes_total", 10e6);
    more("vmshare_relay_bytes_total{direction=\"down\"}", 11.0);
    more("vmshare_relay_bytes_total{direction=\"up\"}", 11.0);
    more("vmshare_connections_accepted_total", 4.0);
    more("vmshare_loop_turn_seconds_count", 10.0);
    more("vmshare_loop_lag_seconds_count", 0.0);
    more("vmshare_loop_slowest_turn_seconds", 0.0);
    more("vmshare_db_seconds_count", 3.0);
    more("process_resident_memory_bytes", 1e6);
    more("process_open_fds", 5.0);
    more("process_start_time_seconds", 1.7e9);
    more("vmshare_host_memory_bytes", 1e8);
    assert!(value(&text, "vmshare_host_swap_bytes") >= value(&text, "vmshare_host_swap_free_bytes"), "{text}");
    assert!(value(&text, "vmshare_host_network_bytes_per_second{direction=\"in\"}") >= 0.0, "{text}");
    let volume = format!("vmshare_volume_free_bytes{{path=\"{}\"}}", server.base().display());
    more(&volume, 1e6);
    let told: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect();
    let dashboard = fs::read_to_string(conf("grafana/vmshare.json")).expect("dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let rules = fs::read_to_string(conf("prometheus/vmshare.rules.yml")).expect("rules");
    let wanted: BTreeSet<String> = names(&dashboard.to_string()).union(&names(&rules)).cloned().collect();
    let unknown: Vec<&String> = wanted.difference(&told).collect();
    assert_eq!(unknown, [""; 0], "the dashboard or a rule asks for what /metrics does not tell");
    assert!(wanted.len() > 30, "{wanted:?}");
    let unseen: Vec<&String> = told.difference(&wanted).collect();
    assert_eq!(unseen, [""; 0], "told, and on no graph and in no rule");
    drop(screen);
    server.stop(&user, &vm);
    server.end();
}

#[test]
fn what_waits_and_what_is_refused_is_on_the_page_while_it_is_so() {
    let alerts = "db_seconds = 1\n[alerts]\nsample_seconds = 1\nfor_seconds = 0\nmemory_percent = 1";
    let server = Server::with("tls = \"off\"", alerts, "");
    let user = server.sign_up("alice");
    assert_eq!(value(&metrics(&server), "vmshare_uploads_active"), 0.0);
    let mut upload = server.connect();
    let head = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.iso\"\r\n\r\nand no more comes";
    write!(
        upload,
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {user}\r\nContent-Type: multipart/form-data; boundary=XX\r\n\
         Content-Length: 20000000\r\n\r\n{head}"
    )
    .expect("a part");
    let text = until("an upload is under way and launches wait", || {
        let is = |text: &String, series| text.contains(series) && value(text, series) == 1.0;
        Some(metrics(&server)).filter(|text| is(text, "vmshare_launches_paused") && is(text, "vmshare_uploads_active"))
    });
    // While it was started the database may have been waited for already.
    let timeouts = value(&text, "vmshare_db_timeouts_total");
    assert_eq!(value(&text, "vmshare_queue_refused_total{queue=\"events\"}"), 0.0);
    for resource in ["cpu", "memory", "io"] {
        let series = format!("vmshare_host_pressure_ratio{{resource=\"{resource}\"}}");
        // Where the kernel tells.
        if fs::read(format!("/proc/pressure/{resource}")).is_ok() {
            assert!((0.0..=1.0).contains(&value(&text, &series)), "{text}");
        } else {
            assert!(!text.contains(&series), "{text}");
        }
    }
    let frozen = Frozen::new(&server);
    let before = value(&text, "vmshare_db_seconds_sum");
    let text = metrics(&server);
    assert_eq!(value(&text, "vmshare_db_up"), 0.0);
    assert!(value(&text, "vmshare_queue_depth{queue=\"db\"}") >= 1.0, "what was given up is still being done: {text}");
    let given_up = value(&text, "vmshare_db_timeouts_total") - timeouts;
    assert!(given_up >= 1.0, "{text}");
    assert!(
        value(&text, "vmshare_db_seconds_sum") >= before + given_up,
        "the wait that was given up is no wait: {text}"
    );
    drop(frozen);
    drop(upload);
    until("nothing waits any more", || {
        let text = metrics(&server);
        let is_quiet = value(&text, "vmshare_queue_depth{queue=\"db\"}") == 0.0 && value(&text, "vmshare_db_up") == 1.0;
        (is_quiet && value(&text, "vmshare_uploads_active") == 0.0).then_some(())
    });
    server.end();
}

#[test]
fn the_alert_rules_fire_when_they_should_and_the_queries_of_the_dashboard_are_promql() {
    let rules = conf("prometheus/vmshare.rules.yml");
    let said = promtool(&["check", "rules", rules.to_str().expect("a path")], "");
    assert!(said.contains("SUCCESS: 14 rules found"), "{said}");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules.test.yml");
    promtool(&["test", "rules", cases.to_str().expect("a path")], "");
    let dashboard = fs::read_to_string(conf("grafana/vmshare.json")).expect("dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    // Each query as the expression of a rule, with Grafana's variables filled in.
    let rules: Vec<Value> = targets
        .enumerate()
        .map(|(n, target)| {
            let query =
                target["expr"].as_str().expect("a query").replace("$__rate_interval", "1m").replace("$instance", ".*");
            json!({"record": format!("query:{n}"), "expr": query})
        })
        .collect();
    assert!(rules.len() > 40, "{}", rules.len());
    let folder = common::folder();
    let file = folder.path().join("queries.yml");
    // JSON is YAML.
    fs::write(&file, json!({"groups": [{"name": "queries", "rules": rules}]}).to_string()).expect("file");
    promtool(&["check", "rules", file.to_str().expect("a path")], "");
}

#[test]
fn a_turn_that_kept_everybody_waiting_is_told_with_its_owner() {
    let server = Server::with("tls = \"off\"", "", "");
    let process = vmshare::sys::pidfd::PidFd::open(server.pid()).expect("the server");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Work without end, and a stop of the whole process that sooner or later falls into a turn.
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    server.call("GET", "/healthz", "", &Value::Null);
                }
            });
        }
        let signal = |signal: &str| {
            let status = Command::new("kill").args([signal, &server.pid().to_string()]).status();
            assert!(status.expect("kill").success() && !process.has_exited().expect("a pidfd"));
        };
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("a slow turn is told", || {
                signal("-STOP");
                std::thread::park_timeout(std::time::Duration::from_millis(80));
                signal("-CONT");
                let said = server.said();
                said.lines().find(|line| line.contains("a turn of the loop took")).map(str::to_owned)
            })
        }));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let told = told.expect("told");
        assert!(told.contains("WARN") && told.contains("of them for this"), "{told}");
        // Nothing else is done here: whoever it was works for one of the requests.
        let owner = told.split_once("owner=").and_then(|(_, rest)| rest.split(' ').next()).expect("an owner");
        assert!(["listener", "connection", "stories", "answer", "loop"].contains(&owner), "{told}");
    });
    server.end();
}
