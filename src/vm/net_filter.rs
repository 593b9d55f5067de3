//! What guests with internet access may reach: the internet, and neither this host, nor private addresses, nor another guest.
//!
//! Such a guest's packets leave through sockets of its QEMU (`-netdev user`), and QEMU's own network stack would take a guest to the
//! host's loopback and to every neighbour of the host. QEMU runs as a user of its own (`apart`), so the kernel's packet filter knows whose
//! packets they are: one table of nftables for all uids that VMs may have, made before the first such VM starts. Refused is what is an
//! address of this host or not of the internet; of the resolvers of `/etc/resolv.conf` only their port 53 is reached.
//!
//! The table is made again whole, in one transaction, at each such launch and every few seconds while such VMs live: whoever
//! reloads the host's firewall may have flushed it. When that fails some times in a row, they are stopped. Where there is no `nft`, no right to use it, or no
//! users of their own, no such VM is started. The table is left when the server ends, because VMs may live on.
//!
//! Sources: nft(8); IANA's registries of special-purpose addresses (RFC 6890); RFC 4291, RFC 4380, RFC 6052 and RFC 7526 (tunnels and
//! translations to version 4); resolv.conf(5).

use super::apart::Users;
use super::{Vm, args, stop, tool};
use crate::house::{Cx, House};
use crate::proto::problem::Problem;
use crate::sys::rights::{self, Right};
use data_encoding::HEXLOWER;
use ring::digest;
use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How often it may fail to be renewed; a host that is busy for a moment must cost nobody his work.
const FAILURES: u32 = 4;
/// How long a flushed table may go unnoticed.
const EVERY: Duration = Duration::from_secs(5);
/// Where distributions put it; a service's PATH may be short.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// More resolvers than the C library looks at.
const RESOLVERS_MAX: usize = 8;

/// Addresses of version 4 that are not the internet's.
const PRIVATE_4: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, \
    192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3";
/// Addresses of version 6 that are not the internet's; a mapped or translated address of version 4 among them.
const PRIVATE_6: &str = "::/96, ::ffff:0:0/96, ::ffff:0:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48, 100::/64, 2001::/23, 2002::/16, \
    3fff::/20, 5f00::/16, fc00::/7, fe80::/10, fec0::/10, ff00::/8";

/// Whether the story that renews the table runs.
#[derive(Default)]
pub struct NetFilter(Cell<bool>);

/// The table's name; two servers of one host have one each.
#[must_use]
pub fn table(base_dir: &Path) -> String {
    let hash = digest::digest(&digest::SHA256, base_dir.as_os_str().as_bytes());
    format!("vmshare_{}", HEXLOWER.encode(hash.as_ref().get(..4).unwrap_or_default()))
}

/// What `nft` is given.
#[must_use]
pub fn rules(table: &str, uids: &RangeInclusive<u32>, others: &[u32], resolvers: &[IpAddr]) -> String {
    let mut ask = String::new();
    for resolver in resolvers {
        let family = if resolver.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(ask, "    {family} daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 accept");
    }
    let mut guests = format!("{}-{}", uids.start(), uids.end());
    for uid in others.iter().filter(|uid| !uids.contains(uid)) {
        let _ = write!(guests, ", {uid}");
    }
    format!(
        "table inet {table} {{}}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         \x20 chain output {{\n\
         \x20   type filter hook output priority filter; policy accept;\n\
         \x20   meta skuid {{ {guests} }} jump guests\n\
         \x20 }}\n\
         \x20 chain guests {{\n\
         {ask}\
         \x20   fib daddr type {{ local, broadcast, anycast, multicast }} reject\n\
         \x20   ip daddr {{ {PRIVATE_4} }} reject\n\
         \x20   ip6 daddr {{ {PRIVATE_6} }} reject\n\
         \x20 }}\n\
         }}\n"
    )
}

/// The resolvers that QEMU asks for a guest.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).take(RESOLVERS_MAX).collect()
}

/// Why guests cannot have the internet here, in a sentence with the mend; `None` when they can. Blocks.
#[must_use]
pub fn missing(users: &Users) -> Option<String> {
    let Users::Range(_) = users else {
        return Some("VMs do not run as users of their own, so their packets cannot be told from the server's".into());
    };
    if !matches!(rights::missing(&[Right::NetAdmin]).as_deref(), Ok([])) {
        return Some("the server may not change the packet filter: give it CAP_NET_ADMIN".into());
    }
    program().is_none().then(|| "nft is not installed: apt-get install nftables".into())
}

fn program() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Makes the table, so that what starts next is filtered.
///
/// # Errors
/// 503; nothing may be started then.
pub async fn ensure(cx: &Cx) -> Result<(), Problem> {
    let refused = |why: String| {
        log::error!("a guest gets no internet access: {why}");
        let detail = "Guests cannot be given internet access safely on this server right now. Tell the operator.";
        Problem::unavailable("network_unavailable", detail, 60)
    };
    // VMs of a former server may run as users of another range than today's.
    let (users, others) = (cx.apart.users().clone(), cx.apart.taken());
    let name = table(&cx.config.base_dir);
    let made = cx.disk(move || {
        if let Some(why) = missing(&users) {
            return Err(why);
        }
        let (Users::Range(uids), Some(nft)) = (users, program()) else { return Err("nothing to filter with".into()) };
        let resolvers = resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        Ok((nft, rules(&name, &uids, &others, &resolvers)))
    });
    let (nft, rules) = made.await?.map_err(refused)?;
    // As an argument: no file that another launch could be writing, or that a full disk could lack.
    let line = [nft.into_os_string(), OsString::from(rules)];
    tool::run_with_rights(cx, line.to_vec()).await.map_err(|problem| refused(problem.detail))?;
    watch(cx);
    Ok(())
}

/// Starts the story that renews the table while it is needed, unless it runs.
fn watch(cx: &Cx) {
    if cx.net_filter.0.replace(true) {
        return;
    }
    log::info!("guests with internet access are filtered by the nftables table inet {}", table(&cx.config.base_dir));
    let story = Rc::clone(cx);
    cx.spawner.spawn("net filter", async move {
        let cx = story;
        let mut failed = 0;
        loop {
            cx.clock.sleep(EVERY).await;
            if cx.stopping.get() || (with_internet(&cx).is_empty() && cx.launches.is_empty()) {
                return cx.net_filter.0.set(false);
            }
            failed = if ensure(&cx).await.is_ok() { 0 } else { failed + 1 };
            if failed >= FAILURES {
                for vm in with_internet(&cx) {
                    log::error!(vmid:% = vm.vmid, user = vm.login().as_str(); "it is stopped: what it reaches can no longer be bounded");
                    let _ = stop::stop(&cx, &vm, "its internet access could not be bounded", true).await;
                }
            }
        }
    });
}

/// Whether a QEMU that somebody else started has a way to the internet, as its command line says. Blocks.
#[must_use]
pub fn has_internet(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == args::INTERNET.as_bytes())
}

/// Live VMs whose QEMU has a way to the internet, whatever their profile says by now.
fn with_internet(house: &House) -> Vec<Rc<Vm>> {
    house.vms.all().into_iter().filter(|vm| vm.process.borrow().has_internet.get()).collect()
}

/// Renews the table for VMs of a former server.
pub async fn take_back(cx: &Cx) {
    if !with_internet(cx).is_empty() && ensure(cx).await.is_err() {
        watch(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_guests_and_their_resolvers_first() {
        let all = ["192.0.2.53".parse().unwrap(), "fd00::53".parse().unwrap()];
        let text = rules("vmshare_0", &(10..=20), &[12, 35], &all);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
        assert!(at("ip daddr 192.0.2.53 meta l4proto { tcp, udp } th dport 53 accept") < at("fib daddr type"));
        assert!(at("ip6 daddr fd00::53 meta l4proto") < at("ip6 daddr { ::/96"));
        assert!(at("delete table inet vmshare_0") < at("meta skuid { 10-20, 35 } jump guests"));
    }

    #[test]
    fn resolvers_are_addresses_and_not_many() {
        let text =
            "# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nnameserver 2001:db8::1\n";
        let expected: Vec<IpAddr> = vec!["127.0.0.53".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
        assert_eq!(resolvers(&"nameserver 192.0.2.1\n".repeat(100)).len(), RESOLVERS_MAX);
    }

    #[test]
    fn without_users_of_their_own_there_is_no_internet() {
        assert!(missing(&Users::Ours("x".into())).unwrap().contains("users of their own"));
    }
}
