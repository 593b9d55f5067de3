//! `vmshare check`: what this host has, what is missing, and how to mend it.

use crate::config::{Config, Network, Overrides, Tls};
use crate::db::private;
use crate::net::tls::TlsSettings;
use crate::proto::telegram::{Message, Piece, Verdict};
use crate::sampler::{self, telegram::Bot};
use crate::sys::{landlock, statvfs};
use crate::vm::apart::Users;
use crate::vm::args::Accel;
use crate::vm::cgroup::Groups;
use crate::vm::{disk_weight, hypervisor, net_filter};
use std::path::Path;

/// Least free space below which the check complains.
const FREE_MIN: u64 = 2 << 30;

/// Prints the findings.
///
/// # Errors
/// Something without which no VM can be started.
pub(super) fn run(overrides: &Overrides) -> Result<(), String> {
    let config = super::load(overrides)?;
    let mut missing = 0;
    let mut tell = |good: bool, what: String| {
        missing += u32::from(!good);
        println!("{} {what}", if good { "ok     " } else { "MISSING" });
    };
    match hypervisor::look(&config) {
        Ok(found) => {
            tell(true, format!("QEMU {} at {}", found.version, found.qemu.display()));
            let remark = if found.choice.accel == Accel::Tcg {
                "; guests run slower, and QEMU's manual says that TCG is no security boundary"
            } else {
                ""
            };
            tell(true, format!("accelerator {}: {}{remark}", found.choice.accel, found.choice.why));
            let img = found.qemu_img.map(|path| path.display().to_string());
            tell(img.is_some(), img.unwrap_or_else(|| "qemu-img: apt-get install qemu-utils".into()));
        }
        Err(why) => tell(false, why),
    }
    if config.database_url.is_none() && !config.base_dir.exists() {
        let (good, text) = new_folder(&config.base_dir, config.postgres_bin_dir.as_deref());
        tell(good, text);
    } else {
        match crate::db::open_for_cli(&super::db_settings(&config)) {
            Ok(_) => tell(true, "database answers".into()),
            Err(why) => tell(false, format!("database: {why}")),
        }
    }
    if let Tls::Files { cert, key } = &config.tls {
        match TlsSettings::load(cert, key) {
            Ok(_) => tell(true, format!("certificate {}", cert.display())),
            Err(e) => tell(false, e.to_string()),
        }
    }
    match statvfs::free_bytes(&config.base_dir) {
        Ok(free) => tell(free >= FREE_MIN, format!("{} MiB free in {}", free >> 20, config.base_dir.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => tell(false, format!("{}: {e}; give the server's user the right to it", config.base_dir.display())),
    }
    match Users::look(&config) {
        Users::Range(uids) => {
            tell(true, format!("each VM runs as a user of its own (uids {} to {})", uids.start(), uids.end()));
        }
        Users::Ours(why) => println!(
            "WARNING VMs run as the server's own user, for {why}: a guest that breaks out of QEMU could read the server's files, every \
             user's images and every other screen; give the server the rights that conf/vmshare.service gives it"
        ),
        Users::Refused(why) => tell(false, format!("no VM can be started, because QEMU would run as root: {why}")),
    }
    match landlock::version() {
        Some(_) => tell(true, "QEMU can write to nothing but its VM's folder and disks (Landlock)".into()),
        None => println!(
            "WARNING a guest that breaks out of QEMU could fill up /tmp and whatever else everybody may write to: this kernel has no \
             Landlock (Linux 5.13, with landlock among its security modules)"
        ),
    }
    if config.profiles.values().any(|profile| profile.network == Network::Internet) {
        match net_filter::missing(&Users::look(&config)) {
            None => tell(
                true,
                "guests with internet access are kept from this host and private addresses by nftables".into(),
            ),
            Some(why) => tell(false, format!("internet for guests: {why}")),
        }
    }
    bounds(&config, &mut tell);
    if Bot::of(&config.telegram).is_none() {
        println!("note    alerts are only logged; to have them in Telegram set TG_BOT_TOKEN and TG_CHAT_ID");
    }
    if missing == 0 { Ok(()) } else { Err(format!("{missing} things are missing")) }
}

/// What a VM may take of the host.
fn bounds(config: &Config, tell: &mut impl FnMut(bool, String)) {
    let groups = Groups::look(config);
    match groups.missing() {
        None => {
            tell(true, "VMs are bounded in memory, processor time and threads by control groups".into());
            if !groups.weigh_disks() {
                println!(
                    "WARNING a VM that reads and writes much slows the others' disks: their control groups have no weight there; let the \
                     unit that holds them delegate io too (Delegate=cpu memory pids io)"
                );
                return;
            }
            let disks = disk_weight::undivided(&config.base_dir);
            if !disks.is_empty() {
                println!(
                    "note    a VM that reads and writes much slows the others' disks: {} goes by no weights; where that matters, let \
                     bfq be its scheduler (/sys/block/DISK/queue/scheduler)",
                    disks.join(", ")
                );
            }
        }
        Some(why) => println!(
            "WARNING VMs are not bounded in memory and processor time, so one can slow all others down: {why}; run the server as the \
             systemd service of conf/vmshare.service, beside conf/vmshare-vms.service"
        ),
    }
}

/// What comes of a folder that is not there yet: the server makes it, and its database in it, where it may.
fn new_folder(base: &Path, bin_dir: Option<&Path>) -> (bool, String) {
    let above = base.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or_else(|| Path::new("/"));
    let shown = base.display();
    let probe = above.join(format!(".vmshare-check-{}", std::process::id()));
    let may = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
    match (may, private::missing(bin_dir)) {
        (Err(e), _) => {
            let mend = format!("mkdir {shown} and chown it to the server's user, or set vm_base_dir");
            (false, format!("{shown} is not there, and {} takes no new folder ({e}): {mend}", above.display()))
        }
        (Ok(()), Some(why)) => (false, format!("database: {why}")),
        (Ok(()), None) => (true, format!("{shown} and the database in it are made at the first start")),
    }
}

/// Sends a test message.
///
/// # Errors
/// What is missing in the settings, or what Telegram says.
pub(super) fn telegram(overrides: &Overrides) -> Result<(), String> {
    let config = super::load(overrides)?;
    let missing = "set TG_BOT_TOKEN and TG_CHAT_ID: @BotFather gives the first, and the bot must be in the chat";
    let bot = Bot::of(&config.telegram).ok_or(missing)?;
    let now = jiff::Timestamp::now();
    let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    let plain = |text: String| Piece::Plain(text);
    let mut message = Message::default();
    message.line([plain("✅ ".into()), Piece::Bold(format!("Test message from VM-share on {}", sampler::host_name()))]);
    message.line([plain(format!("Time: {}", now.to_string().replace('T', " ")))]);
    let alerts = &config.alerts;
    message.line([plain(format!(
        "Alerts: CPU over {}%, memory over {}%, disk over {}%, each for {} s",
        alerts.cpu_percent, alerts.memory_percent, alerts.disk_percent, alerts.for_seconds
    ))]);
    let chat = config.telegram.chat_id.as_deref().unwrap_or_default();
    match bot.send(&message) {
        Verdict::Sent => {
            println!("ok      Telegram took a test message for chat {chat}");
            Ok(())
        }
        Verdict::Wait(seconds) => Err(format!("Telegram asks to wait: try again in {seconds} seconds")),
        Verdict::Refused { why, .. } => {
            Err(format!("Telegram refuses the message ({why}): look at TG_BOT_TOKEN and TG_CHAT_ID"))
        }
        Verdict::Trouble(why) => Err(format!("Telegram cannot be told: {why}")),
    }
}
