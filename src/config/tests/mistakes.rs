//! The sentence for each mistake: place, name, what is wrong, what to write; and never a secret.

use super::*;

/// What is wrong in `vmshare.toml`, and the sentence that must be said.
const TOML_MISTAKES: &[(&str, &str)] = &[
    ("\nprot = 1", "vmshare.toml:2: prot: no setting has this name; did you mean port?"),
    ("PORT = 1\nport = 2", "vmshare.toml:1: PORT: it is given as port too; remove one of the two"),
    ("Port = 1", "vmshare.toml:1: Port: no setting has this name; did you mean port?"),
    (
        "colour = 1",
        "vmshare.toml:1: colour: no setting has this name; remove it, or see `vmshare serve --help` for the names",
    ),
    ("[limit]\ndb_queue = 1", "vmshare.toml:1: limit: no setting has this name; did you mean limits?"),
    ("[limits]\ndb_que = 1", "vmshare.toml:2: limits.db_que: no setting has this name; did you mean db_queue?"),
    (
        "[limits]\nhost = '::'",
        "vmshare.toml:2: limits.host: no setting has this name; write host at the top of the file, above the first [table]",
    ),
    ("boot_seconds = 1", "vmshare.toml:1: boot_seconds: no setting has this name; write boot_seconds below [limits]"),
    ("port = '9000'", "vmshare.toml:1: port: it is a string; write a whole number from 0 to 65535, without quotes"),
    ("port = 70000", "vmshare.toml:1: port: 70000 is out of range; write a whole number from 0 to 65535"),
    ("port = -1", "vmshare.toml:1: port: -1 is out of range; write a whole number from 0 to 65535"),
    ("port = 1.5", "vmshare.toml:1: port: it is a number with a point; write a whole number from 0 to 65535"),
    ("port = []", "vmshare.toml:1: port: it is a list; write a whole number from 0 to 65535"),
    (
        "host = 'here'",
        "vmshare.toml:1: host: \"here\" is not an IP address; write an address such as 0.0.0.0, 127.0.0.1 or ::",
    ),
    ("signup = 'all'", "vmshare.toml:1: signup: \"all\" is not known; write one of open|invite|closed"),
    (
        "stop_vms_on_exit = 'true'",
        "vmshare.toml:1: stop_vms_on_exit: it is a string; write true or false, without quotes",
    ),
    ("tls = 'maybe'", "vmshare.toml:1: tls: \"maybe\" is neither true nor false; write on or off"),
    ("tls_cert = 'c.pem'", "vmshare.toml:1: tls_cert: its key is not named; set tls_key too"),
    ("tls_key = 'k.pem'", "vmshare.toml:1: tls_key: its certificate is not named; set tls_cert too"),
    (
        "port = 80\nhttp_port = 80",
        "vmshare.toml:2: http_port: it is the same as port; write another port, or remove it",
    ),
    ("vm_base_dir = ''", "vmshare.toml:1: vm_base_dir: it is empty; write a path, or remove the line"),
    (
        "access_token_expire_minutes = 0",
        "vmshare.toml:1: access_token_expire_minutes: 0 is out of range; write a whole number from 1 to 525600",
    ),
    (
        "novnc_base_url = '//evil'",
        "vmshare.toml:1: novnc_base_url: it is neither a path nor a web address; write /novnc",
    ),
    (
        "tg_api_base = 'https://bots.example:99999'",
        "vmshare.toml:1: tg_api_base: no server can be called there; write https://HOST or https://HOST:PORT, with a name or an IPv4 address, and without a query",
    ),
    (
        "tg_api_base = 'https://me@bots.example'",
        "vmshare.toml:1: tg_api_base: no server can be called there; write https://HOST or https://HOST:PORT, with a name or an IPv4 address, and without a query",
    ),
    (
        "tg_chat_id = 'me'",
        "vmshare.toml:1: tg_chat_id: \"me\" is not a chat; write the chat's number, such as -1001234567890, or its @name",
    ),
    (
        "trusted_proxies = ['10.0.0.0/99']",
        "vmshare.toml:1: trusted_proxies: \"10.0.0.0/99\" is not an address or a network; write addresses such as 127.0.0.1 or 10.0.0.0/8",
    ),
    (
        "log_level = 'off'",
        "vmshare.toml:1: log_level: \"off\" is not a level; write one of error|warn|info|debug|trace",
    ),
    (
        "secret_key = 'change-me'",
        "vmshare.toml:1: secret_key: this is the placeholder of the example, which everybody knows; remove it and the server makes one, or write the output of `openssl rand -hex 32`",
    ),
    ("limits = 3", "vmshare.toml:1: limits: it is a table of settings; write [limits] and the settings below it"),
    (
        "profiles = 3",
        "vmshare.toml:1: profiles: it is a table of settings; write [profiles.custom] and the settings below it",
    ),
    (
        "[profiles]\ncustom = 3",
        "vmshare.toml:2: profiles.custom: it is a table of settings; write [profiles.custom] and the settings below it",
    ),
    (
        "[profiles.'../x']",
        "vmshare.toml:1: profiles.../x: this cannot be the name of a profile; write up to 32 of a-z, 0-9, - and _",
    ),
    (
        "[limits]\n\nmax_connections = 1",
        "vmshare.toml:3: limits.max_connections: 1 is out of range; write a whole number from 16 to 1000000",
    ),
    (
        "[alerts]\ncpu_percent = 101",
        "vmshare.toml:2: alerts.cpu_percent: 101 is out of range; write a whole number from 1 to 100",
    ),
    (
        "[alerts]\nvolumes = { '/srv' = 0 }",
        "vmshare.toml:2: alerts.volumes: 0 is out of range; write a whole number from 1 to 100",
    ),
    (
        "[alerts]\nvolumes = { 'srv' = 90 }",
        "vmshare.toml:2: alerts.volumes: \"srv\" is no whole path; write the folder it is mounted on, such as \"/srv\"",
    ),
    (
        "[alerts]\nvolumes = 90",
        "vmshare.toml:2: alerts.volumes: it is a number; write a table such as { \"/srv\" = 90 }",
    ),
];

/// The same for profiles; the line is the second.
const PROFILE_MISTAKES: &[(&str, &str)] = &[
    ("vnc_port_range = [5999, 5901]", "vnc_port_range: the first port is above the last; write [5901, 5999]"),
    (
        "vnc_port_range = [5901]",
        "vnc_port_range: it has 1 numbers; write the first and the last port, such as [5901, 5999]",
    ),
    ("http_port_range = [0, 9]", "http_port_range: 0 is out of range; write a whole number from 1024 to 65535"),
    (
        "http_port_range = 6101",
        "http_port_range: it is a number; write the first and the last port, such as [5901, 5999]",
    ),
    (
        "base_image = '/x/{user}'",
        "base_image: it has a placeholder besides {uid} and {VM_BASE_DIR}; write a path such as /var/lib/vmshare/uploads or {VM_BASE_DIR}/users/{uid}.iso",
    ),
    (
        "base_image = '../x'",
        "base_image: it has .. in it; write a path such as /var/lib/vmshare/uploads or {VM_BASE_DIR}/users/{uid}.iso",
    ),
    (
        "prefix = '../{uid}.iso'",
        "prefix: it names more than a file inside base_image; write the name of a file, such as {uid}.iso",
    ),
    ("prefix = '{name}'", "prefix: it has a placeholder besides {uid}; write the name of a file, such as {uid}.iso"),
    (
        "max_memory_mb = 1024",
        "max_memory_mb: 1024 is less than default_memory_mb, which is 2048; write at least 2048, or lower default_memory_mb",
    ),
    ("max_cpus = 1", "max_cpus: 1 is less than default_cpus, which is 2; write at least 2, or lower default_cpus"),
    ("network = 'lan'", "network: \"lan\" is not known; write one of none|restricted|internet"),
    ("idle_minutes = -1", "idle_minutes: -1 is out of range; write a number of minutes from 0 to 525600"),
    ("idle_minutes = nan", "idle_minutes: nan is out of range; write a number of minutes from 0 to 525600"),
    (
        "idle_minutes = \"5\"",
        "idle_minutes: it is a string; write a number of minutes from 0 to 525600, without quotes",
    ),
    ("max_minutes = 525600.01", "max_minutes: 525600.01 is out of range; write a number of minutes from 0 to 525600"),
    ("max_minutes = true", "max_minutes: it is true or false; write a number of minutes from 0 to 525600"),
    (
        "vnc = 'tcp'\nvnc_port_range = [5000, 6000]",
        "vnc_port_range: QEMU's VNC cannot listen below port 5900, and vnc is \"tcp\"; write [5901, 5999]",
    ),
    (
        "vnc = 'tcp'\nvnc_port_range = [8400, 8500]",
        "vnc_port_range: the server itself listens on 8443, and vnc is \"tcp\"; write a range without it, such as [5901, 5999]",
    ),
    ("ram = 5", "ram: no setting has this name; remove it, or see `vmshare serve --help` for the names"),
];

#[test]
fn each_mistake_in_the_file_is_told_with_file_line_and_mend() {
    for (text, sentence) in TOML_MISTAKES {
        assert_eq!(refusal(from_toml(text)), *sentence, "{text}");
    }
    for (text, sentence) in PROFILE_MISTAKES {
        let line = 1 + text.lines().count();
        let sentence = format!("vmshare.toml:{line}: profiles.custom.{sentence}");
        assert_eq!(refusal(from_toml(&format!("[profiles.custom]\n{text}"))), sentence);
    }
}

#[test]
fn a_syntax_error_is_told_with_its_line_and_without_the_line_itself() {
    let error = refusal(from_toml("port = 1\nsecret_key = \"hunter2\n"));
    assert!(error.starts_with("vmshare.toml:2: this is not TOML: "), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let error = refusal(from_toml("port = 1\nport = 2"));
    assert!(error.starts_with("vmshare.toml:2: this is not TOML: duplicate key"), "{error}");
}

#[test]
fn each_mistake_in_dotenv_is_told_with_line_and_mend() {
    let cases = [
        ("# x\n\nPROT=1", ".env:3: PROT: no setting has this name; did you mean PORT?"),
        ("port=1", ".env:1: port: no setting has this name; did you mean PORT?"),
        (
            "VM_PROFILES={}",
            ".env:1: VM_PROFILES: no setting has this name; write each profile as a table [profiles.NAME] in vmshare.toml",
        ),
        ("PORT=abc", ".env:1: PORT: \"abc\" is not a whole number; write a whole number from 0 to 65535"),
        ("PORT=1\nPORT=2", ".env:2: PORT: it is given on line 1 already; remove one of the two"),
        ("SECRET_KEY hunter2", ".env:1: this is not a setting; write NAME=value"),
        ("SECRET_KEY='hunter2", ".env:1: the quote is not closed on this line; close it"),
        (
            "SECRET_KEY=Change_Me",
            ".env:1: SECRET_KEY: this is the placeholder of the example, which everybody knows; remove it and the server makes one, or write the output of `openssl rand -hex 32`",
        ),
    ];
    for (text, sentence) in cases {
        assert_eq!(refusal(Scene::new("", text).load(&[], &[])), sentence, "{text}");
    }
}

#[test]
fn mistakes_in_environment_and_flags_are_told_too_and_strangers_names_are_left_alone() {
    let place = Scene::new("", "");
    let told = |flags: &[&str], environment: &[(&str, &str)]| refusal(place.load(flags, environment));
    assert_eq!(
        told(&[], &[("PORT", "x")]),
        "environment: PORT: \"x\" is not a whole number; write a whole number from 0 to 65535"
    );
    assert_eq!(
        told(&[], &[("VMSHARE_PORT", "1")]),
        "environment: VMSHARE_PORT: no setting has this name; did you mean PORT?"
    );
    assert_eq!(
        told(&[], &[("VMSHARE_CONF", "1")]),
        "environment: VMSHARE_CONF: no setting has this name; did you mean VMSHARE_CONFIG?"
    );
    assert_eq!(told(&["--port", "70000"], &[]), "--port: 70000 is out of range; write a whole number from 0 to 65535");
    let environment =
        [("PATH", "/bin"), ("port", "7"), ("PROT", "7"), ("VMSHARE_PASSWORD", "x"), ("VMSHARE_TEST_ISO", "x")];
    assert_eq!(place.load(&[], &environment).expect("fine").0.port, 8443);
}

#[test]
fn a_database_url_that_cannot_work_is_refused_without_being_told() {
    for url in
        ["mysql://u:hunter2@h/d", "hunter2", "postgresql://u:hunter2@h:port/d", "postgresql://u:hunter2@h/d?nonsense=1"]
    {
        let error = refusal(Scene::new("", "").load(&[], &[("DATABASE_URL", url)]));
        assert!(
            error.starts_with("environment: DATABASE_URL: ")
                && error.ends_with("; write postgresql://USER:PASSWORD@HOST:5432/NAME"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}
