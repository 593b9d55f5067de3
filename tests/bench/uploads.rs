//! Figures of uploads, each beside the floor measured in the same run: a bare copy from a socket into a file, and the same through rustls.
//! `cargo bench --bench uploads`. Files are in memory, so that the disk's speed is not what is compared.
#![allow(missing_docs, clippy::cast_precision_loss)]

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_vmshare");
const BYTES: usize = 2 << 30;
const PIECE: usize = 1 << 20;
const ROUNDS: usize = 3;
const PATIENT: Duration = Duration::from_secs(60);
const CROWD: usize = 50;

/// A process that is ended with the benchmark.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Process {
    /// CPU time in seconds.
    fn cpu(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let rest = text.rsplit(')').next().unwrap_or_default();
        let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        (field(11) + field(12)) as f64 / 100.0
    }

    fn resident_kb(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let line = text.lines().find(|line| line.starts_with("RssAnon")).expect("field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
    }
}

struct Server {
    process: Process,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(tls: bool) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("vmsb").tempdir_in("/dev/shm").expect("folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
        let config = folder.path().join("vmshare.toml");
        let tls = if tls { "" } else { "tls = \"off\"\n" };
        let text = format!(
            "host = \"127.0.0.1\"\nport = 0\n{tls}vm_base_dir = {:?}\n[alerts]\npause_launches = false\n[limits]\nuploads_per_user = 100\ndisk_reserve_mb = 0\n\
             upload_quota_mb = 1000000\nsignups_per_minute = 1000\n",
            folder.path().join("b")
        );
        fs::write(&config, text).expect("config");
        let mut child = Command::new(BINARY)
            .args(["serve", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("server");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let process = Process(child);
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("log") > 0, "the server ended");
            if let Some((_, rest)) = line.split_once("listening on http") {
                let rest = rest.trim_start_matches('s').trim_start_matches("://");
                break rest.split_whitespace().next().expect("address").parse().expect("address");
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, address, folder }
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

fn wire(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Box<dyn Wire> {
    let socket = TcpStream::connect(address).expect("connect");
    socket.set_nodelay(true).expect("nodelay");
    match tls {
        None => Box::new(socket),
        Some(config) => {
            let name = "localhost".try_into().expect("name");
            Box::new(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("tls"), socket))
        }
    }
}

/// A client that takes any certificate: what is measured is bytes.
mod trusting {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

fn client_config() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let verifier = Arc::new(trusting::Trusting);
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn call(wire: &mut dyn Wire, head: &str, body: &[u8]) -> (u16, String) {
    wire.write_all(head.as_bytes()).expect("head");
    wire.write_all(body).expect("body");
    wire.flush().expect("flush");
    answer(wire)
}

fn answer(wire: &mut dyn Wire) -> (u16, String) {
    let mut text = Vec::new();
    let mut byte = [0; 4096];
    loop {
        match wire.read(&mut byte) {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&byte[..count]),
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), text)
}

fn sign_up(server: &Server, tls: Option<&Arc<ClientConfig>>, name: &str) -> String {
    let began = Instant::now();
    loop {
        let body = json!({"email": format!("{name}@example.org"), "password": "correct horse"}).to_string();
        let head = format!(
            "POST /auth/signup HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (status, text) = call(&mut *wire(server.address, tls), &head, body.as_bytes());
        if status == 201 {
            let body = text.split("\r\n\r\n").nth(1).expect("body");
            let value: Value = serde_json::from_str(body).expect("json");
            return value["token"].as_str().expect("token").to_owned();
        }
        assert!(began.elapsed() < PATIENT, "no sign-up: {text}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn create(server: &Server, tls: Option<&Arc<ClientConfig>>, token: &str, size: usize) -> String {
    let head = format!(
        "POST /uploads/ HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n\
         Upload-Length: {size}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let (status, text) = call(&mut *wire(server.address, tls), &head, b"");
    assert_eq!(status, 201, "{text}");
    let location = text.lines().find_map(|line| line.strip_prefix("location: ")).expect("location");
    location.trim().to_owned()
}

fn patch_head(token: &str, path: &str, size: usize) -> String {
    format!(
        "PATCH {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
         Content-Type: application/offset+octet-stream\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    )
}

/// Sends an image of [`BYTES`]: the head of a real one, then anything.
fn send(wire: &mut dyn Wire, head: &[u8]) {
    let mut piece = vec![0x5a; PIECE];
    piece[..head.len()].copy_from_slice(head);
    wire.write_all(&piece).expect("piece");
    piece.fill(0x5a);
    for _ in 1..BYTES / PIECE {
        wire.write_all(&piece).expect("piece");
    }
    wire.flush().expect("flush");
}

/// Seconds and CPU seconds of one upload.
fn ours(server: &Server, tls: Option<&Arc<ClientConfig>>, token: &str, head: &[u8], form: bool) -> (f64, f64) {
    let (before, end): (&[u8], &[u8]) = if form {
        (b"--X\r\nContent-Disposition: form-data; name=f; filename=big.iso\r\n\r\n", b"\r\n--X--\r\n")
    } else {
        (b"", b"")
    };
    let request = if form {
        format!(
            "POST /upload HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=X\r\nContent-Length: {}\r\n\r\n",
            BYTES + before.len() + end.len()
        )
    } else {
        patch_head(token, &create(server, tls, token, BYTES), BYTES)
    };
    let mut wire = wire(server.address, tls);
    let (cpu, began) = (server.process.cpu(), Instant::now());
    wire.write_all(request.as_bytes()).expect("head");
    wire.write_all(before).expect("part");
    send(&mut *wire, head);
    wire.write_all(end).expect("end");
    wire.flush().expect("flush");
    let (status, text) = answer(&mut *wire);
    assert!(status == 204 || status == 201, "{text}");
    let took = (began.elapsed().as_secs_f64(), server.process.cpu() - cpu);
    forget(server, tls, token);
    took
}

/// Removes what was brought, as the floor does: memory that nobody has used yet is slower than what was just given back.
fn forget(server: &Server, tls: Option<&Arc<ClientConfig>>, token: &str) {
    let ask = |line: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        call(&mut *wire(server.address, tls), &head, b"")
    };
    let (_, text) = ask("GET /isos");
    let body = text.split("\r\n\r\n").nth(1).expect("body");
    let images: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {text}"));
    for image in images["isos"].as_array().expect("list") {
        let (status, text) = ask(&format!("DELETE /isos/{}", image["name"].as_str().expect("name")));
        assert_eq!(status, 204, "{text}");
    }
}

/// The floor: this program again, with nothing but the copy.
struct Floor(Process, SocketAddr, #[expect(dead_code)] tempfile::TempDir);

impl Floor {
    /// With `hash` it does what the server must: a SHA-256 of what comes by.
    fn start(tls: bool, hash: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("vmsf").tempdir_in("/dev/shm").expect("folder");
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--copy", if tls { "tls" } else { "plain" }, if hash { "hash" } else { "bare" }])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("floor");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("address");
        Self(Process(child), line.trim().parse().expect("address"), folder)
    }

    fn run(tls: bool, hash: bool, folder: &Path) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        println!("{}", listener.local_addr().expect("address"));
        let config = tls.then(|| {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("certificate");
            let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let builder = builder.expect("versions").with_no_client_auth();
            Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).expect("config"))
        });
        for socket in listener.incoming() {
            let socket = socket.expect("accept");
            socket.set_nodelay(true).expect("nodelay");
            let mut wire: Box<dyn Wire> = match &config {
                None => Box::new(socket),
                Some(config) => {
                    Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(config)).expect("tls"), socket))
                }
            };
            let path = folder.join("copy");
            let mut file = fs::File::create(&path).expect("file");
            let (mut buffer, mut left) = (vec![0; 256 * 1024], BYTES);
            let mut sha256 = ring::digest::Context::new(&ring::digest::SHA256);
            while left > 0 {
                let count = wire.read(&mut buffer).expect("read");
                if hash {
                    sha256.update(&buffer[..count]);
                }
                file.write_all(&buffer[..count]).expect("write");
                left -= count;
            }
            file.sync_all().expect("sync");
            std::hint::black_box(sha256.finish());
            wire.write_all(b"H 200 ").expect("answer");
            wire.flush().expect("flush");
            drop(wire);
            let _ = fs::remove_file(path);
        }
    }

    fn measure(&self, tls: Option<&Arc<ClientConfig>>, head: &[u8]) -> (f64, f64) {
        let mut wire = wire(self.1, tls);
        let (cpu, began) = (self.0.cpu(), Instant::now());
        send(&mut *wire, head);
        let mut byte = [0; 6];
        wire.read_exact(&mut byte).expect("answer");
        (began.elapsed().as_secs_f64(), self.0.cpu() - cpu)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn speed(name: &str, tls: Option<&Arc<ClientConfig>>, head: &[u8]) {
    let (server, floor) = (Server::start(tls.is_some()), Floor::start(tls.is_some(), false));
    let hashing = Floor::start(tls.is_some(), true);
    let token = sign_up(&server, tls, "big");
    let gb = BYTES as f64 / 1e9;
    // The first to use the host's memory pays for it.
    floor.measure(tls, head);
    ours(&server, tls, &token, head, false);
    let mut rounds: [Vec<(f64, f64)>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(ours(&server, tls, &token, head, false));
        rounds[1].push(floor.measure(tls, head));
        rounds[2].push(ours(&server, tls, &token, head, true));
        rounds[3].push(hashing.measure(tls, head));
    }
    let of = |n: usize| {
        let (time, cpu): (Vec<f64>, Vec<f64>) = rounds[n].iter().copied().unzip();
        (gb / median(time), median(cpu) / gb)
    };
    let (tus, bare, form, hashed) = (of(0), of(1), of(2), of(3));
    println!("2 GiB {name}: bare copy     {:.2} GB/s, {:.2} CPU s/GB", bare.0, bare.1);
    println!("2 GiB {name}: and SHA-256   {:.2} GB/s, {:.2} CPU s/GB", hashed.0, hashed.1);
    for (what, got) in [("tus ", tus), ("form", form)] {
        println!(
            "2 GiB {name}: {what}          {:.2} GB/s: {:.2}x of the bare copy (target >= 0.8x), {:.2}x of the one that hashes, {:.2} CPU s/GB (target <= 0.5 plain)",
            got.0,
            got.0 / bare.0,
            got.0 / hashed.0,
            got.1
        );
    }
    drop(server.folder);
}

/// Memory while many upload at once, each with its buffers full.
fn crowd() {
    let server = Server::start(false);
    let token = sign_up(&server, None, "crowd");
    let paths: Vec<String> = (0..CROWD).map(|_| create(&server, None, &token, BYTES)).collect();
    let before = server.process.resident_kb();
    let piece = vec![0x5a; PIECE];
    let mut open: Vec<TcpStream> = Vec::new();
    let mut most = 0;
    for path in &paths {
        let mut socket = TcpStream::connect(server.address).expect("connect");
        socket.write_all(patch_head(&token, path, BYTES).as_bytes()).expect("head");
        open.push(socket);
    }
    for _ in 0..32 {
        for socket in &mut open {
            socket.write_all(&piece).expect("piece");
        }
        most = most.max(server.process.resident_kb());
    }
    let each = most.saturating_sub(before) as f64 / CROWD as f64;
    println!("{CROWD} uploads at once        +{each:.0} KB of memory each (target < 256)");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--copy") {
        return Floor::run(args[at + 1] == "tls", args[at + 2] == "hash", Path::new(&args[at + 3]));
    }
    let image =
        std::env::var_os("VMSHARE_TEST_ISO").map_or_else(|| "target/test-images/tiny.iso".into(), PathBuf::from);
    let mut head = vec![0; 64 * 1024];
    fs::File::open(&image).expect("tests/run makes the image").read_exact(&mut head).expect("head");
    speed("plain", None, &head);
    speed("TLS  ", Some(&client_config()), &head);
    crowd();
}
