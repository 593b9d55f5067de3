//! `/metrics` for Prometheus: what was counted, and what is looked up now. Nothing in here waits for long: what cannot be had is left out.

use super::{Req, session};
use crate::db::{State, ports};
use crate::house::{Cx, House};
use crate::metrics::text::{Kind, Page};
use crate::net::response::{Body, Response};
use crate::proto::problem::Problem;
use crate::sampler::rules::Kind as Rule;
use crate::sampler::storage::Storage;
use crate::sampler::{Own, Sample};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Users whose storage is told.
const KEEPERS: usize = 20;

/// `GET /metrics`.
pub async fn serve(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    // Who comes by a proxy of this host is not this host itself.
    let trusted = cx.config.trusted_proxies.iter().any(|network| network.contains(req.ip));
    let forwarded =
        ["x-forwarded-for", "forwarded"].iter().any(|name| req.head.headers.get(name).is_some()) && !trusted;
    if forwarded || !req.ip.is_loopback() {
        let caller = session::authenticate(&cx, &req).await?.ok_or_else(session::sign_in_first)?;
        if !caller.is_admin() {
            return Err(Problem::forbidden("admin_only", "Only administrators and this host itself may read metrics."));
        }
    }
    // Asked for before the page is begun: the numbers on it are of one moment.
    let ports = match cx.db.state() {
        State::Ready => cx.db(ports::counts(&cx.db, ranges(&cx))).await.ok(),
        _ => None,
    };
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("vmshare_build_info", Kind::Gauge, "Which version runs.").value(&[("version", version)], 1.0);
    cx.metrics.write(&mut page, cx.now());
    machines(&mut page, &cx, ports.as_deref());
    relays(&mut page, &cx);
    queues(&mut page, &cx);
    alerts(&mut page, &cx);
    if let Some(report) = cx.host.report() {
        host(&mut page, &report.sample);
        if let Some(storage) = &report.storage {
            kept(&mut page, &cx, storage);
        }
        if let Some(own) = report.sample.own {
            process(&mut page, &own);
        }
    }
    let mut response = Response::empty(200).with("content-type", "text/plain; version=0.0.4; charset=utf-8");
    response.body = Body::Bytes(page.into_text().into_bytes());
    Ok(response)
}

#[allow(clippy::cast_precision_loss)]
fn float(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss)]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// Each profile's ports.
pub(super) fn ranges(cx: &House) -> Vec<(String, ports::Ports, ports::Ports)> {
    let profiles = cx.config.profiles.values();
    profiles.map(|profile| (profile.name.clone(), profile.vnc_ports.clone(), profile.http_ports.clone())).collect()
}

fn machines(page: &mut Page, cx: &House, ports: Option<&[ports::Count]>) {
    use Kind::Gauge;
    page.one("vmshare_vms", Gauge, "Live VMs.", float(cx.vms.len()));
    page.one("vmshare_launching", Gauge, "Launches under way.", float(cx.launches.len()));
    page.one("vmshare_uploads_active", Gauge, "Uploads that are being worked on.", float(cx.uploads.active()));
    let up = f64::from(u8::from(ports.is_some()));
    page.one("vmshare_db_up", Gauge, "1 while the database answers.", up);
    let mut family = page.family(
        "vmshare_ports",
        Gauge,
        "Ports of a profile by kind and state; a VM takes one of each kind. Profiles may share them.",
    );
    for count in ports.unwrap_or_default() {
        for (state, number) in [("free", count.free), ("used", count.used), ("cooling", count.cooling)] {
            family.value(
                &[("profile", &count.profile), ("kind", &count.kind), ("state", state)],
                bytes(u64::try_from(number).unwrap_or(0)),
            );
        }
    }
}

fn relays(page: &mut Page, cx: &House) {
    use Kind::{Counter, Gauge};
    let viewers: u32 = cx.vms.all().iter().map(|vm| vm.viewers.open()).sum();
    page.one("vmshare_relays", Gauge, "Open screens and terminals.", viewers.into());
    let meter = &cx.relayed;
    let help = "Payload of screens and terminals, to browsers (down) and to VMs (up).";
    let mut family = page.family("vmshare_relay_bytes_total", Counter, help);
    family.value(&[("direction", "down")], bytes(meter.down.get()));
    family.value(&[("direction", "up")], bytes(meter.up.get()));
    let help = "Time in which a relay's source waited for its reader, added over all relays.";
    let mut family = page.family("vmshare_relay_stalled_seconds_total", Counter, help);
    family.value(&[("direction", "down")], meter.down_stalled.get().as_secs_f64());
    family.value(&[("direction", "up")], meter.up_stalled.get().as_secs_f64());
}

fn queues(page: &mut Page, cx: &House) {
    let mut family = page.family("vmshare_queue_depth", Kind::Gauge, "What waits, by queue.");
    let waiting = cx.sampler.told.waiting.load(Ordering::Relaxed);
    for (queue, depth) in [
        ("db", cx.db.depth()),
        ("disk", cx.disk.depth()),
        ("store", cx.store.depth()),
        ("hash", cx.hash.depth()),
        ("events", cx.diary.depth()),
        ("launch", cx.launches.waiting()),
        ("telegram", usize::try_from(waiting).unwrap_or(usize::MAX)),
    ] {
        family.value(&[("queue", queue)], float(depth));
    }
    let help = "What a full queue refused, by queue.";
    let mut family = page.family("vmshare_queue_refused_total", Kind::Counter, help);
    for (queue, count) in [
        ("db", cx.db.refused()),
        ("disk", cx.disk.refused()),
        ("hash", cx.hash.refused()),
        ("events", cx.diary.refused()),
    ] {
        family.value(&[("queue", queue)], bytes(count));
    }
}

fn alerts(page: &mut Page, cx: &House) {
    use Kind::{Counter, Gauge};
    let help =
        "Since the host was last measured; while that does not go on nothing of the host is told, and no alert comes.";
    page.one("vmshare_sampler_age_seconds", Gauge, help, cx.host.age(cx.now()).as_secs_f64());
    // Without a report nobody knows: no 0, which would say that all is well.
    if let Some(report) = cx.host.report() {
        let paused = f64::from(u8::from(report.pause.is_some()));
        page.one("vmshare_launches_paused", Gauge, "1 while an alert refuses launches.", paused);
        let mut family = page.family("vmshare_alerts_firing", Gauge, "Alerts that fire now, by rule.");
        for rule in Rule::ALL {
            let count = report.firing.get(&rule).copied().unwrap_or(0);
            family.value(&[("rule", rule.name())], bytes(count));
        }
    }
    let mut family = page.family("vmshare_alerts_total", Counter, "Alerts told, repetitions included, by rule.");
    cx.host.fired.borrow().iter().for_each(|(rule, count)| family.value(&[("rule", rule)], bytes(*count)));
    let told = &cx.sampler.told;
    let read = |counter: &std::sync::atomic::AtomicU64| bytes(counter.load(Ordering::Relaxed));
    let mut family = page.family("vmshare_telegram_messages_total", Counter, "Messages to Telegram by outcome.");
    family.value(&[("result", "sent")], read(&told.sent));
    family.value(&[("result", "lost")], read(&told.lost));
    let help = "Calls of Telegram that did not work; most are tried again.";
    page.one("vmshare_telegram_failures_total", Counter, help, read(&told.failed));
}

fn host(page: &mut Page, sample: &Sample) {
    use Kind::Gauge;
    if let Some(percent) = sample.cpu_percent {
        page.one("vmshare_host_cpu_ratio", Gauge, "Processors of the host in use.", percent / 100.0);
    }
    page.one("vmshare_host_cpus", Gauge, "Processors of the host.", sample.cpus.into());
    page.one("vmshare_host_load1", Gauge, "Load of the host over one minute.", sample.load[0]);
    page.one("vmshare_host_memory_bytes", Gauge, "Memory of the host.", bytes(sample.memory.total));
    let help = "Memory of the host that can be given out without swapping.";
    page.one("vmshare_host_memory_available_bytes", Gauge, help, bytes(sample.memory.available));
    page.one("vmshare_host_swap_bytes", Gauge, "Swap space of the host.", bytes(sample.memory.swap_total));
    page.one("vmshare_host_swap_free_bytes", Gauge, "Swap space that is free.", bytes(sample.memory.swap_free));
    let help = "Bytes a second from and to other hosts.";
    let mut family = page.family("vmshare_host_network_bytes_per_second", Gauge, help);
    family.value(&[("direction", "in")], sample.network.rx);
    family.value(&[("direction", "out")], sample.network.tx);
    let help = "Share of the last ten seconds in which some task waited.";
    let mut family = page.family("vmshare_host_pressure_ratio", Gauge, help);
    let pressure = [("cpu", sample.pressure.cpu), ("memory", sample.pressure.memory), ("io", sample.pressure.io)];
    for (resource, percent) in pressure {
        if let Some(percent) = percent {
            family.value(&[("resource", resource)], percent / 100.0);
        }
    }
    let paths: Vec<_> = sample.volumes.iter().map(|volume| volume.path.to_string_lossy()).collect();
    let volumes = || paths.iter().zip(&sample.volumes);
    let mut family = page.family("vmshare_volume_bytes", Gauge, "Size of a volume.");
    volumes().for_each(|(path, volume)| family.value(&[("path", path)], bytes(volume.total)));
    let mut family = page.family("vmshare_volume_free_bytes", Gauge, "What is left of a volume.");
    volumes().for_each(|(path, volume)| family.value(&[("path", path)], bytes(volume.free)));
    let mut family = page.family("vmshare_volume_inodes_used_ratio", Gauge, "Inodes of a volume in use.");
    volumes().for_each(|(path, volume)| family.value(&[("path", path)], volume.inodes_percent / 100.0));
    let mut family = page.family(
        "vmshare_volume_measured",
        Gauge,
        "0 while a volume does not answer; its values are the last ones.",
    );
    volumes().for_each(|(path, volume)| family.value(&[("path", path)], f64::from(u8::from(volume.is_measured))));
    let cpu: f64 = sample.vms.iter().filter_map(|vm| vm.cpu_percent).map(|percent| percent / 100.0).sum();
    page.one("vmshare_vms_cpu_ratio", Gauge, "Processors in use by all QEMUs together; 1 is one processor.", cpu);
    let rss = sample.vms.iter().map(|vm| vm.rss).sum();
    page.one("vmshare_vms_memory_bytes", Gauge, "Memory in use by all QEMUs together.", bytes(rss));
}

/// By login name, once that is known; those with the most, for each is a series of its own.
fn kept(page: &mut Page, cx: &House, storage: &Storage) {
    let help = "Images, disks and uploads of those who keep the most; looked at every few minutes.";
    let mut family = page.family("vmshare_user_storage_bytes", Kind::Gauge, help);
    for (id, count) in storage.users.iter().take(KEEPERS) {
        let user = cx.host.login(id).unwrap_or_else(|| id.clone());
        family.value(&[("user", &user)], bytes(*count));
    }
}

/// Under the names that every Prometheus client has.
fn process(page: &mut Page, own: &Own) {
    use Kind::{Counter, Gauge};
    page.one("process_cpu_seconds_total", Counter, "Processor time of this server.", own.cpu_seconds);
    page.one("process_resident_memory_bytes", Gauge, "Memory of this server.", bytes(own.rss));
    page.one("process_open_fds", Gauge, "Open files of this server.", float(own.fds));
    if let Some(most) = own.max_fds {
        page.one("process_max_fds", Gauge, "Files this server may open.", bytes(most));
    }
    page.one("process_threads", Gauge, "Threads of this server.", bytes(own.threads));
    page.one("process_start_time_seconds", Gauge, "When this server started, since 1970.", own.started);
}
