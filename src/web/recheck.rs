//! Looks again whether those who have a screen, a terminal or a stream of events open still may.
//!
//! What this server does itself (a log-out, a change of role or password by its API, a revoked link) ends what is open at once. What happens
//! past it, by the command line or because a session's time is over, is seen here: one question to the database every [`EVERY`] for all
//! of them, and none while nobody has anything open. What has passed through open screens is noted at the same time, for a server that is killed. While the database is away everything stays as it is.

use super::session::{self, TokenHash};
use super::viewers::kind_of_roles;
use crate::db::{events, sessions, users};
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::vm::Vm;
use crate::vm::viewers::Kind;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks; as long as a session is believed without asking.
const EVERY: Duration = session::BELIEVED;

/// Somebody has something open: from now on it is looked at until nobody has.
pub(super) fn begin(cx: &Cx) {
    if cx.sessions.rechecks.replace(true) {
        return;
    }
    let story = Rc::clone(cx);
    cx.spawner.spawn("look at sessions again", async move {
        while !story.stopping.get() {
            story.clock.sleep(EVERY).await;
            let totals: Vec<_> = story.vms.all().iter().flat_map(|vm| vm.viewers.totals()).collect();
            let tokens = open(&story);
            if tokens.is_empty() && totals.is_empty() {
                break;
            }
            // One that is away is asked again soon enough.
            let _ = story.db(events::running_totals(&story.db, totals)).await;
            look(&story, tokens).await;
        }
        story.sessions.rechecks.set(false);
    });
}

/// The sessions something is open with; links are looked after by themselves.
fn open(cx: &Cx) -> HashSet<TokenHash> {
    let mut tokens = cx.bus.sessions();
    for vm in cx.vms.all() {
        let viewers = vm.viewers.all();
        tokens.extend(viewers.iter().filter(|viewer| viewer.kind != Kind::Link).map(|viewer| viewer.token));
        let links = vm.shares.borrow();
        tokens.retain(|token| !links.contains_key(token));
    }
    tokens
}

async fn look(cx: &Cx, tokens: HashSet<TokenHash>) {
    let asked = tokens.iter().copied().collect();
    let Ok(alive) = cx.db(sessions::alive(&cx.db, asked)).await else { return };
    let alive: HashMap<TokenHash, String> = alive.into_iter().collect();
    let dead: HashSet<TokenHash> = tokens.into_iter().filter(|token| !alive.contains_key(token)).collect();
    if !dead.is_empty() {
        log::info!("{} sessions with something open have ended", dead.len());
        session::end(cx, dead);
    }
    let vms = cx.vms.all();
    let owners = vms.iter().map(|vm| vm.user.clone()).collect::<HashSet<_>>().into_iter().collect();
    let Ok(roles) = cx.db(users::roles(&cx.db, owners)).await else { return };
    let roles: HashMap<String, String> = roles.into_iter().collect();
    for vm in vms {
        if let Some(role) = roles.get(&vm.user) {
            vm.row.borrow_mut().user_role.clone_from(role);
        }
        look_at(cx, &vm, &alive);
    }
}

/// Closes the screens of those whose role, or whose student's, is another one by now.
fn look_at(cx: &Cx, vm: &Vm, alive: &HashMap<TokenHash, String>) {
    for viewer in vm.viewers.all().into_iter().filter(|viewer| viewer.kind.watches()) {
        let Some(role) = alive.get(&viewer.token) else { continue };
        if kind_of_roles(role, &vm.row.borrow().user_role) != Some(viewer.kind) {
            log::info!(vmid:% = vm.vmid, user = viewer.name.as_str(); "may look at this vm no longer");
            cx.order(Order::End(Which::Viewer(vm.vmid, viewer.id), End::new(1008, "your rights have changed")));
        }
    }
}
