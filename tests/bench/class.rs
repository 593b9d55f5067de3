//! A class at nine: 200 students sign in at once, start their desktops at once and look at them; then the server is killed and another one
//! takes their VMs back; then it is told to end. `cargo bench --bench class`.
//!
//! Needs QEMU, PostgreSQL and 16 GB of memory. The guests halt at once: what is measured is the server and QEMU, not how fast a host boots
//! Linux. The limits are the usual ones but for the ports, the sign-ups, the memory
//! counted for a QEMU, and the host's load, which the floor has driven up. Loopback only; ends by itself. The floor of the launches is as many
//! bare QEMUs, as many at a time as the server starts; that of the pings is a bare echo process.

mod bare;
#[path = "../common/guests.rs"]
mod guests;
mod pings;
mod server;

use bare::Bare;
use guests::still;
use pings::{Echo, PINGS, pings, step_back};
use serde_json::{Value, json};
use server::{Server, at, call, cpu_ticks, ms, screen, sign_up, status_field};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const STUDENTS: usize = 200;
const MEMORY_MB: u32 = 64;
/// What `concurrent_launches` is unless set.
const AT_A_TIME: usize = 8;

/// All at once; what each gives, and how long it took from the common start, sorted by that.
fn all<T: Send>(act: impl Fn(usize) -> T + Sync) -> Vec<(Duration, T)> {
    let (began, act) = (Instant::now(), &act);
    let mut done: Vec<(Duration, T)> = thread::scope(|scope| {
        let each = |n| move || (act(n), began.elapsed());
        let threads: Vec<_> = (0..STUDENTS).map(|n| scope.spawn(each(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a student")).map(|(what, took)| (took, what)).collect()
    });
    done.sort_by_key(|(took, _)| *took);
    done
}

fn tell(what: &str, times: &[Duration]) {
    let part = |share| at(times, share).as_secs_f64();
    println!("{what:28} first {:.2} s, half {:.2} s, last {:.2} s", part(0.0), part(0.5), part(1.0));
}

fn times<T>(done: &[(Duration, T)]) -> Vec<Duration> {
    done.iter().map(|(took, _)| *took).collect()
}

/// As many QEMUs with nobody between, as many at a time as the server starts.
fn floor(iso: &Path) -> Vec<Duration> {
    let (began, next, running) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let work = || {
            let mut times = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < STUDENTS {
                let bare = Bare::start(iso, MEMORY_MB);
                times.push(began.elapsed());
                running.lock().expect("lock").push(bare);
            }
            times
        };
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a starter")).collect()
    });
    times.sort_unstable();
    times
}

/// What a student's browser does until it is let in: whoever is told to come back comes back.
fn persist(address: std::net::SocketAddr, path: &str, token: Option<&str>, body: &Value) -> (usize, Value) {
    step_back();
    let mut refused = 0;
    loop {
        match call(address, "POST", path, token, body) {
            (200, answer) => return (refused, answer),
            (503, _) if refused < 100 => {
                refused += 1;
                thread::park_timeout(Duration::from_secs(1));
            }
            (status, answer) => panic!("{path}: {status} {answer}"),
        }
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "--echo") {
        return Echo::run();
    }
    let iso = still();
    let bare = floor(&iso);
    let limits = "guest_overhead_mb = 16\nload_per_cpu = 0\nsignups_per_minute = 1000";
    let profile = format!(
        "default_memory_mb = {MEMORY_MB}\ndefault_cpus = 1\nvideo = \"std\"\nvnc_port_range = [5901, {}]\nhttp_port_range = [6901, {}]",
        5901 + STUDENTS,
        6901 + STUDENTS
    );
    let server = Server::with(&iso, limits, &profile);
    let address = server.address;
    let teacher = sign_up(address, "teacher");
    (0..STUDENTS).for_each(|n| drop(sign_up(address, &format!("student{n}"))));
    let (_, answer) = call(address, "POST", "/run-iso", Some(&teacher), &Value::Null);
    let mut relay = screen(address, &teacher, answer["vm"]["http_port"].as_u64().expect("port"));
    let mut echo = Echo::ahead();

    let signed_in = all(|n| {
        let body = json!({"email": format!("student{n}@example.org"), "password": "correct horse"});
        let (refused, answer) = persist(address, "/auth/login", None, &body);
        (refused, answer["token"].as_str().expect("token").to_owned())
    });
    tell(&format!("{STUDENTS} sign in"), &times(&signed_in));
    let refused = signed_in.iter().filter(|(_, (refused, _))| *refused > 0).count();
    println!("  told to come back: {refused}");
    let tokens: Vec<String> = signed_in.into_iter().map(|(_, (_, token))| token).collect();

    let (idle, idle_floor) = pings(&mut relay, &mut echo, |count| count < PINGS);
    let pid = server.child.id();
    let before = cpu_ticks(pid);
    let (looking, busy, busy_floor) = thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            all(|n| {
                let (refused, answer) = persist(address, "/run-iso", Some(&tokens[n]), &Value::Null);
                let port = answer["vm"]["http_port"].as_u64().expect("port");
                (refused, (n, port, screen(address, &tokens[n], port)))
            })
        });
        let (busy, busy_floor) = pings(&mut relay, &mut echo, |_| !crowd.is_finished());
        (crowd.join().expect("the class"), busy, busy_floor)
    });
    let took = times(&looking);
    tell(&format!("{STUDENTS} start and look"), &took);
    tell("  bare QEMUs", &bare);
    let refused = looking.iter().filter(|(_, (refused, _))| *refused > 0).count();
    println!("  the last one: {:.2}x; told to come back: {refused}", ms(at(&took, 1.0)) / ms(at(&bare, 1.0)));
    println!("  the server's own CPU: {:.1} ms each", (cpu_ticks(pid) - before) as f64 * 10.0 / STUDENTS as f64);
    for (name, idle, busy) in [("relay ping", &idle, &busy), ("bare echo process", &idle_floor, &busy_floor)] {
        let (idle, busy) = (ms(at(idle, 0.99)), ms(at(busy, 0.99)));
        println!("  {name:22} p99 {idle:.3} -> {busy:.3} ms: {:.2}x (target <= 2x)", busy / idle);
    }
    println!("  memory: {} KB resident", status_field(pid, "status", "VmRSS"));
    let ports: Vec<(usize, u64)> = looking.into_iter().map(|(_, (_, (n, port, _)))| (n, port)).collect();

    let server = server.killed();
    let address = server.address;
    let greeted = all(|i| drop(screen(address, &tokens[ports[i].0], ports[i].1)));
    tell("all look again after a kill", &times(&greeted));
    println!("  the server was ready after {:.2} s (target: screens within 2 s)", server.ready.as_secs_f64());
    let began = Instant::now();
    drop(server);
    println!("{:28} after {:.2} s", "told to end, all are gone", began.elapsed().as_secs_f64());
}
