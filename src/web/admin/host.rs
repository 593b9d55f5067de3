//! `/admin/host`, `/admin/load`, `/admin/alerts`: what the host does, who uses it, and what was told about it.

use crate::db::alerts;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use crate::sampler::history::{COARSE_SECONDS, Point};
use crate::sampler::{Report, Sample};
use crate::web::{Req, paging};
use serde_json::{Value, json};
use std::rc::Rc;

const GIB: f64 = 1_073_741_824.0;

/// To one digit behind the point; graphs need no more.
fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Bytes a second as bits a second, as `_bps` is read.
fn bits(bytes: f64) -> f64 {
    short(bytes * 8.0)
}

#[allow(clippy::cast_precision_loss)]
fn gib(bytes: u64) -> f64 {
    (bytes as f64 / GIB * 100.0).round() / 100.0
}

fn time(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

fn report(cx: &Cx) -> Result<Report, Problem> {
    let wait = || Problem::unavailable("not_measured", "The host is being measured. Try again in a moment.", 1);
    cx.host.report().ok_or_else(wait)
}

/// `GET /admin/host?range=hour|day`.
pub async fn host(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let query = req.query()?;
    let report = report(&cx)?;
    let history = cx.host.history();
    let (step, points): (i64, Vec<&Point>) = match query.get("range").unwrap_or("hour") {
        "hour" => (i64::try_from(cx.config.alerts.sample_seconds).unwrap_or(i64::MAX), history.hour().collect()),
        "day" => (COARSE_SECONDS, history.day().collect()),
        _ => return Err(Problem::unprocessable("range", "must be \"hour\" or \"day\"")),
    };
    let choice = cx.hypervisor.found().ok().map(|found| found.choice);
    let column = |pick: fn(&Point) -> f64| points.iter().map(|point| short(pick(point))).collect::<Vec<f64>>();
    Ok(Response::json(
        200,
        &json!({
            "accel": choice.as_ref().map(|choice| choice.accel.to_string().to_lowercase()),
            "accel_because": choice.as_ref().map(|choice| &choice.why),
            "now": now(&report.sample, cx.vms.len()),
            "history": {
                "step_s": step,
                "at": points.iter().map(|point| point.at).collect::<Vec<i64>>(),
                "cpu_percent": column(|point| point.cpu),
                "memory_percent": column(|point| point.memory),
                "disk_percent": column(|point| point.disk),
                "load": column(|point| point.load),
                "rx_bps": column(|point| point.rx * 8.0),
                "tx_bps": column(|point| point.tx * 8.0),
                "vms": column(|point| point.vms),
            },
        }),
    ))
}

fn now(sample: &Sample, vms: usize) -> Value {
    let volumes: Vec<Value> = sample
        .volumes
        .iter()
        .map(|volume| {
            json!({
                "path": volume.path.to_string_lossy(),
                "total_gb": gib(volume.total),
                "free_gb": gib(volume.free),
                "percent": short(volume.percent),
                "inodes_percent": short(volume.inodes_percent),
                "measured": volume.is_measured,
            })
        })
        .collect();
    json!({
        "at": time(sample.at),
        "cpu_percent": sample.cpu_percent.map(short),
        "load": sample.load,
        "memory": {
            "total_mb": sample.memory.total >> 20,
            "available_mb": sample.memory.available >> 20,
            "percent": short(sample.memory_percent()),
        },
        "swap": {
            "total_mb": sample.memory.swap_total >> 20,
            "free_mb": sample.memory.swap_free >> 20,
            "percent": short(sample.swap_percent()),
        },
        "pressure": { "cpu": sample.pressure.cpu, "memory": sample.pressure.memory, "io": sample.pressure.io },
        "volumes": volumes,
        "network": { "rx_bps": bits(sample.network.rx), "tx_bps": bits(sample.network.tx) },
        "vms": vms,
    })
}

/// `GET /admin/load`: what each VM uses now, and what each user keeps.
pub async fn load(cx: Cx, _: Rc<Req>) -> Result<Response, Problem> {
    let report = report(&cx)?;
    let vms: Vec<Value> = report
        .sample
        .vms
        .iter()
        .map(|vm| {
            json!({
                "vmid": vm.vmid,
                "user": vm.user,
                "cpu_percent": vm.cpu_percent.map(short),
                "rss_mb": vm.rss >> 20,
                "threads": vm.threads,
                "read_bps": vm.read_bps.map(bits),
                "write_bps": vm.write_bps.map(bits),
            })
        })
        .collect();
    let storage: Vec<Value> = report.storage.as_ref().map_or_else(Vec::new, |storage| {
        let named = |id: &String| cx.host.login(id).unwrap_or_else(|| id.clone());
        storage.users.iter().map(|(id, bytes)| json!({ "user": named(id), "gb": gib(*bytes) })).collect()
    });
    Ok(Response::json(200, &json!({ "vms": vms, "storage": storage })))
}

/// `GET /admin/alerts?q&limit&before`: newest first.
pub async fn alerts(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let query = req.query()?;
    let limit = paging::limit(&query)?;
    let rows = cx.db(alerts::recent(&cx.db, paging::words(&query)?, limit, paging::before(&query)?)).await?;
    let next = rows.last().map(|row| row.id).filter(|_| i64::try_from(rows.len()) == Ok(limit));
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "rule": row.rule,
                "subject": row.subject,
                "state": if row.ended.is_none() { "firing" } else { "resolved" },
                "value": short(row.value),
                "threshold": row.threshold,
                "text": row.text,
                "since": time(row.since.as_second()),
                "ended": row.ended.and_then(|at| time(at.as_second())),
            })
        })
        .collect();
    Ok(Response::json(200, &json!({ "alerts": shown, "next": next })))
}
