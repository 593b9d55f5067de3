//! The port of the guest's agent (spice-vdagent), which shares the guest's clipboard with VNC's.
//!
//! QEMU before 10.1 takes no snapshot of a machine that has it, and restores none ("The vdagent chardev doesn't yet support migration"), so
//! it is unplugged for that time. The guest's agent sees its port go and come back.

use super::args::{AGENT, AGENT_NAME, AGENT_PORT, PORTS};
use super::monitor::Failed;
use super::process::Process;
use crate::house::House;
use serde_json::json;
use std::time::Duration;

/// Attempts to take the agent away: the port lets go of it a moment after it was unplugged.
const ATTEMPTS: u32 = 100;
/// Between them.
const PAUSE: Duration = Duration::from_millis(10);

/// Unplugs it; one that is not there is no error.
pub(super) async fn unplug(cx: &House, process: &Process) {
    let _ = process.ask(cx, "device_del", Some(json!({ "id": AGENT_PORT }))).await;
    for _ in 0..ATTEMPTS {
        match process.ask(cx, "chardev-remove", Some(json!({ "id": AGENT }))).await {
            Err(Failed::Refused(why)) if why.contains("busy") => cx.clock.sleep(PAUSE).await,
            _ => return,
        }
    }
}

/// Plugs it in; one that is there stays.
pub(super) async fn plug(cx: &House, process: &Process) {
    let backend = json!({ "type": "qemu-vdagent", "data": { "clipboard": true, "mouse": false } });
    let port = json!({ "driver": "virtserialport", "bus": PORTS, "nr": 1, "chardev": AGENT, "name": AGENT_NAME, "id": AGENT_PORT });
    for (command, arguments) in [("chardev-add", json!({ "id": AGENT, "backend": backend })), ("device_add", port)] {
        if let Err(e) = process.ask(cx, command, Some(arguments)).await {
            log::debug!(vmid:% = process.vmid, user = process.owner(); "{command} {AGENT}: {e}");
        }
    }
}
