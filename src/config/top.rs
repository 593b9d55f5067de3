//! The settings at the top of `vmshare.toml`, which are also those of the environment and of the command line.

use super::subnet::Subnet;
use super::table::settings;
use super::value::{Around, Program, Raw, Secret, Value, Wrong, choices};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

choices! {
    /// Who may make an account.
    Signup {
        /// Everybody who reaches the page.
        Open = "open",
        /// Who has an invitation.
        Invite = "invite",
        /// Nobody; an admin adds people.
        Closed = "closed",
    } shape "open|invite|closed"
}

choices! {
    /// Which accelerator QEMU is to use.
    AccelWish {
        /// KVM where a VM can really be made with it, else TCG.
        Auto = "auto",
        /// KVM or no start.
        Kvm = "kvm",
        /// Emulation even where KVM works.
        Tcg = "tcg",
    } shape "auto|kvm|tcg"
}

choices! {
    /// How a line of the log looks.
    LogFormat {
        /// `TIME LEVEL message key=value`.
        Text = "text",
        /// One JSON object.
        Json = "json",
    } shape "text|json"
}

settings! {
    /// The settings as they are written.
    pub(super) struct Top in "" {
        /// The address to listen on.
        host: IpAddr = "0.0.0.0";
        /// The port to listen on; 0 lets the system choose.
        port: u16 = "8443", 0..=65_535;
        /// A plain-HTTP port that only redirects to the listener.
        http_port: Option<u16> = "", 0..=65_535;
        /// on, or off for plain HTTP behind a proxy on the same host.
        tls: Switch = "on";
        /// The certificate chain in PEM; a self-signed one in VM_BASE_DIR/tls if unset. Read again on SIGHUP.
        tls_cert: Option<PathBuf> = "";
        /// The private key of tls_cert in PEM.
        tls_key: Option<PathBuf> = "";
        /// postgresql://USER:PASSWORD@HOST/NAME; a private cluster in VM_BASE_DIR/postgres if unset.
        database_url: Option<Secret> = "";
        /// The folder of everything the server keeps.
        vm_base_dir: PathBuf = "/var/lib/vmshare";
        /// Keys share links and token hashes; made once and kept in VM_BASE_DIR/secret if unset.
        secret_key: Option<Secret> = "";
        /// How long a log-in lasts.
        access_token_expire_minutes: u32 = "120", 1..=525_600;
        /// Where the API's redirect points.
        novnc_base_url: String = "/novnc";
        /// Where QEMU's VNC listens in profiles with vnc = "tcp".
        websockify_host: IpAddr = "127.0.0.1";
        /// The first VNC port of profiles with vnc = "tcp" that have no vnc_port_range of their own.
        websockify_base_port: Option<u16> = "", 5900..=65_535;
        /// The Telegram bot that sends alerts.
        tg_bot_token: Option<Secret> = "";
        /// The Telegram chat that gets them.
        tg_chat_id: Option<ChatId> = "";
        /// Telegram's API.
        tg_api_base: String = "https://api.telegram.org";
        /// Another QEMU than qemu-system-x86_64 on PATH.
        qemu_bin: Option<Program> = "";
        /// Another qemu-img than the one on PATH.
        qemu_img_bin: Option<Program> = "";
        /// The folder of initdb and postgres where they are in no usual place.
        postgres_bin_dir: Option<PathBuf> = "";
        /// Who may make an account.
        signup: Signup = "open";
        /// The uids that QEMUs run as, one per VM, where the server may become other users; they need no accounts.
        vm_uid_range: UidRange = "[1900000000, 1900065535]", 1000..=4_294_967_293;
        /// The control group (version 2) that VMs get theirs below, such as that of conf/vmshare-vms.service; the server's own if unset.
        vm_cgroup: Option<PathBuf> = "";
        /// KVM, emulation (tcg), or KVM where it works (auto).
        accel: AccelWish = "auto";
        /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
        trusted_proxies: Vec<Subnet> = "";
        /// Whether VMs end with the server instead of being taken over by the next one.
        stop_vms_on_exit: bool = "false";
        /// How a line of the log looks.
        log_format: LogFormat = "text";
        /// The least important records that are written.
        log_level: log::LevelFilter = "info";
    }
}

/// `on` or `off`; in the file also `true` and `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch(pub(super) bool);

impl Value for Switch {
    const SHAPE: &'static str = "on|off";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let plain = if let Raw::Quoted(text) = raw { &Raw::Text(text.clone()) } else { raw };
        bool::parse(plain, around).map(Self).map_err(|bad| Wrong::new(bad.wrong, "write on or off"))
    }
}

/// Uids that nobody else on the host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UidRange(pub(super) RangeInclusive<u32>);

impl Value for UidRange {
    const SHAPE: &'static str = "[FIRST, LAST]";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let mend = "write the first and the last uid, such as [1900000000, 1900065535]";
        let items = raw.items(mend)?;
        let [first, last] = items.as_slice() else {
            return Err(Wrong::new(format!("it has {} numbers", items.len()), mend));
        };
        let (first, last) = (u32::parse(first, around)?, u32::parse(last, around)?);
        if first > last {
            return Err(Wrong::new("the first uid is above the last", format!("write [{last}, {first}]")));
        }
        Ok(Self(first..=last))
    }
}

/// A chat's number, which may be negative, or its @name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChatId(pub(super) String);

impl Value for ChatId {
    const SHAPE: &'static str = "NUMBER|@NAME";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        if let Raw::Integer(number) = raw {
            return Ok(Self(number.to_string()));
        }
        let mend = "write the chat's number, such as -1001234567890, or its @name";
        let text = raw.text(mend)?.trim();
        let is_name = text.strip_prefix('@').is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        });
        if is_name || text.parse::<i64>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(Wrong::new(format!("{text:?} is not a chat"), mend))
        }
    }
}

impl Value for log::LevelFilter {
    const SHAPE: &'static str = "error|warn|info|debug|trace";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        let mend = "write one of error|warn|info|debug|trace";
        let text = raw.text(mend)?.trim();
        let level = text.parse().ok().filter(|level| *level != Self::Off);
        level.ok_or_else(|| Wrong::new(format!("{text:?} is not a level"), mend))
    }
}
