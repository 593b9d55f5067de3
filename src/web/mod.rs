//! The HTTP contract: one table of routes, and the way from a request to its handler.
//!
//! Every request passes here: route, cross-site check, who calls, handler. Handlers are `async fn`s that read as the story of the
//! request and end in a [`Response`] or a [`Problem`]; they know nothing of sockets. What is in no row of the table is an embedded
//! page or 404.

pub mod admin;
pub mod assets;
pub mod auth;
pub mod connections;
pub mod console;
pub mod disks;
pub mod events;
pub mod isos;
pub mod life;
pub mod metrics;
pub mod openapi;
pub mod ops;
pub mod origin;
pub mod pages;
pub mod paging;
pub mod proxy;
mod recheck;
pub mod screen;
pub mod session;
pub mod shares;
pub mod snapshots;
pub mod throttle;
pub mod uploads;
pub mod viewers;
pub mod vms;

use crate::house::Cx;
use crate::net::body::Incoming;
use crate::net::response::Response;
use crate::proto::http::{Head, Method};
use crate::proto::problem::Problem;
use crate::proto::tus;
use crate::proto::url::Query;
use crate::reactor::task::Cancel;
use crate::vm::Vmid;
use session::Caller;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;

/// A request on its way through the house.
pub struct Req {
    /// Names it in the log and in the `x-request-id` header.
    pub id: String,
    /// The head.
    pub head: Head,
    /// The whole body.
    pub body: Vec<u8>,
    /// The body, where the route takes it piece by piece; `None` when it is empty.
    pub incoming: Option<Incoming>,
    /// Whose request it is: the peer, or what a trusted proxy says.
    pub ip: IpAddr,
    /// It came over TLS, here or at a trusted proxy.
    pub secure: bool,
    /// Set when the asker left.
    pub gone: Cancel,
    /// Who calls, once it is known.
    pub caller: std::cell::OnceCell<Caller>,
    /// What the path's `{…}` matched, in order.
    pub params: Vec<String>,
}

impl Req {
    /// What the path's `n`th `{…}` matched.
    #[must_use]
    pub fn param(&self, n: usize) -> &str {
        self.params.get(n).map_or("", String::as_str)
    }

    /// The query's fields.
    ///
    /// # Errors
    /// 400 when it is malformed.
    pub fn query(&self) -> Result<Query, Problem> {
        Query::parse(self.head.query.as_deref().unwrap_or(""))
            .map_err(|e| Problem::bad_request("bad_query", e.to_string()))
    }

    /// The token of a link, where the query has one.
    ///
    /// # Errors
    /// 400 when the query is malformed.
    pub fn link(&self) -> Result<Option<String>, Problem> {
        Ok(self.query()?.get("share").map(str::to_owned))
    }

    /// Who calls; only for routes that need somebody.
    ///
    /// # Errors
    /// 401.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.get().ok_or_else(session::sign_in_first)
    }
}

/// Who may call a route at all; finer rights are the handler's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Who is signed in.
    User,
    /// Who is signed in, or holds a link whose token is in the query; the handler looks at it.
    UserOrLink,
    /// Administrators.
    Admin,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, Problem>>>>;

/// One row of the table.
pub struct Route {
    /// The method; GET answers HEAD too.
    pub method: Method,
    /// The path; `{name}` matches one segment.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// The story.
    pub handler: fn(Cx, Rc<Req>) -> Answering,
    /// One line for people.
    pub summary: &'static str,
}

macro_rules! route {
    ($method:ident $path:literal $access:ident $handler:path, $summary:literal) => {
        Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            handler: |cx, req| Box::pin($handler(cx, req)),
            summary: $summary,
        }
    };
}

/// THE table.
pub static ROUTES: &[Route] = &[
    route!(Post "/auth/signup" Public auth::signup, "make an account and sign in"),
    route!(Post "/auth/login" Public auth::login, "sign in"),
    route!(Post "/auth/logout" User auth::logout, "end this session"),
    route!(Get "/auth/me" User auth::me, "who I am, what I may, my VM"),
    route!(Post "/auth/password" User auth::password, "change my password; other sessions end"),
    route!(Post "/run-iso" User vms::run_iso, "start my VM, or return the one running"),
    route!(Get "/vms" User vms::list, "my VMs, live ones first"),
    route!(Get "/vms/{vmid}" User vms::show, "one VM"),
    route!(Get "/vms/{vmid}/events" User connections::history, "what happened to a VM"),
    route!(Get "/vms/{vmid}/screen.png" UserOrLink screen::show, "what a VM shows now, as a picture"),
    route!(Post "/vms/{vmid}/stop" User vms::stop, "end a VM"),
    route!(Post "/upload" User uploads::form, "bring an image, as a form"),
    route!(Options "/uploads/" Public uploads::options, "what is spoken of tus"),
    route!(Options "/uploads/{id}" Public uploads::options, "what is spoken of tus"),
    route!(Post "/uploads/" User uploads::create, "begin a resumable upload (tus 1.0.0)"),
    route!(Head "/uploads/{id}" User uploads::status, "how far an upload is"),
    route!(Patch "/uploads/{id}" User uploads::append, "go on with an upload"),
    route!(Delete "/uploads/{id}" User uploads::remove, "throw an upload away"),
    route!(Get "/isos" User isos::list, "my images and the shared ones"),
    route!(Delete "/isos/{name}" User isos::remove, "remove an image"),
    route!(Get "/disks" User disks::list, "my kept disks"),
    route!(Post "/disks" User disks::create, "make a disk, empty or from an image"),
    route!(Delete "/disks/{name}" User disks::remove, "remove a disk and all on it"),
    route!(Post "/disks/{name}/grow" User disks::grow, "make a disk larger"),
    route!(Get "/vms/{vmid}/snapshots" User snapshots::list, "snapshots of a VM's disk"),
    route!(Post "/vms/{vmid}/snapshots" User snapshots::create, "take a snapshot, with memory where the VM runs"),
    route!(Post "/vms/{vmid}/snapshots/{name}/restore" User snapshots::restore, "go back to a snapshot"),
    route!(Delete "/vms/{vmid}/snapshots/{name}" User snapshots::remove, "remove a snapshot"),
    route!(Post "/vms/{vmid}/restart" User life::restart, "press its reset button, or switch it off and on"),
    route!(Post "/vms/{vmid}/resume" User life::resume, "let a VM that stands still go on"),
    route!(Post "/vms/{vmid}/keep" User life::keep, "keep a VM running that nobody uses"),
    route!(Post "/vms/{vmid}/shares" User shares::create, "make a link to a VM's consoles"),
    route!(Get "/vms/{vmid}/shares" User shares::list, "a VM's links"),
    route!(Delete "/vms/{vmid}/shares/{id}" User shares::revoke, "end a link, and what it opened"),
    route!(Post "/vms/{vmid}/viewers/{id}" User viewers::control, "give somebody who looks control, or take it back"),
    route!(Delete "/vms/{vmid}/viewers/{id}" User viewers::close, "close somebody's screens of a VM"),
    route!(Get "/profiles" User vms::profiles, "what I may start"),
    route!(Get "/connections" Admin connections::recent, "recent connects and disconnects"),
    route!(Get "/connections/{vmid}" User connections::of_vm, "who looks at a VM"),
    route!(Get "/events" User events::stream, "changes of my VM as they happen (server-sent events)"),
    route!(Get "/ws/{http_port}" UserOrLink console::vnc, "the screen (websocket)"),
    route!(Get "/ws/{http_port}/serial" UserOrLink console::serial, "the serial console (websocket)"),
    route!(Get "/admin/host" Admin admin::host::host, "what the host does, now and lately"),
    route!(Get "/admin/load" Admin admin::host::load, "what each VM and each user takes up"),
    route!(Get "/admin/alerts" Admin admin::host::alerts, "what was told about the host"),
    route!(Get "/ws/{http_port}/events" UserOrLink viewers::stream, "what I may at a VM I look at (server-sent events)"),
    route!(Get "/admin/users" Admin admin::users::list, "accounts, with a search"),
    route!(Post "/admin/users/{id}" Admin admin::users::change, "change a role or a quota, disable or enable"),
    route!(Post "/admin/users/{id}/password" Admin admin::users::reset, "give somebody another password"),
    route!(Get "/admin/invites" Admin admin::invites::list, "invitations that have not ended"),
    route!(Post "/admin/invites" Admin admin::invites::create, "invite somebody, or a class"),
    route!(Delete "/admin/invites/{id}" Admin admin::invites::remove, "take an invitation back"),
    route!(Get "/admin/audit" Admin admin::audit::list, "who did what, with a search"),
    route!(Post "/admin/vms/stop" Admin admin::vms::stop, "stop many VMs"),
    route!(Post "/admin/vms/restart" Admin admin::vms::restart, "restart many VMs"),
    route!(Get "/healthz" Public ops::healthz, "the process is alive"),
    route!(Get "/readyz" Public ops::readyz, "database answers, QEMU found"),
    route!(Get "/version" Public ops::version, "name, version, sign-up mode"),
    route!(Get "/openapi.json" Public openapi::serve, "this description, for programs"),
    route!(Get "/metrics" Public metrics::serve, "Prometheus text, for admins and loopback"),
];

/// Looks at a head before anybody: gives it the method that it means, and is true for requests whose body goes to the handler piece by
/// piece.
#[must_use]
pub fn admit(head: &mut Head) -> bool {
    if uploads::is_tus(&head.path) && head.method == Method::Post {
        // For clients that cannot send these (tus 1.0.0); any can send the others, and an answer to HEAD would not fit one to POST.
        match head.headers.get("x-http-method-override") {
            Some("PATCH") => head.method = Method::Patch,
            Some("DELETE") => head.method = Method::Delete,
            _ => {}
        }
    }
    let upload = head.path == "/upload" || uploads::is_tus(&head.path);
    upload && matches!(head.method, Method::Post | Method::Patch)
}

/// Answers a request. `req.params` and `req.caller` are filled in here.
pub async fn answer(cx: Cx, mut req: Req, found: Found) -> Response {
    let asked = cx.now();
    let matched = found.as_ref().ok().and_then(Option::as_ref);
    let path = matched.map(|(route, _)| (route.method.to_string(), route.path));
    let vmid = matched.filter(|(route, _)| route.path.contains("{vmid}"));
    let vmid = vmid.and_then(|(_, params)| Vmid::parse(params.first()?)).map(|vmid| vmid.to_string());
    let Outcome { result, secure, id, login } = dispatch(&cx, &mut req, found).await;
    let mut response = match result {
        Ok(response) => response,
        Err(problem) => problem.into(),
    };
    response.about.user = response.about.user.take().or(login);
    response.about.vmid = response.about.vmid.take().or(vmid);
    // Methods are those of the table; what is asked for beside it is one route.
    let (method, path) = path.unwrap_or_else(|| ("any".to_owned(), "page"));
    cx.metrics.request(method, path, response.status, cx.now() - asked);
    if uploads::is_tus(&req.head.path) {
        response.headers.push(("tus-resumable", tus::VERSION.to_owned()));
    }
    if response.upgrade.is_none() {
        response.headers.push(("x-request-id", id));
        response.headers.extend(pages::security_headers(secure));
    }
    response
}

/// What came of a request.
struct Outcome {
    result: Result<Response, Problem>,
    secure: bool,
    id: String,
    /// Who asked, once that was known.
    login: Option<String>,
}

/// Times in the contract are RFC 3339 UTC with whole seconds.
fn time(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The route that was found with what its `{…}` matched, or why there is none.
pub type Found = Result<Option<(&'static Route, Vec<String>)>, Problem>;

async fn dispatch(cx: &Cx, req: &mut Req, found: Found) -> Outcome {
    let (secure, id, mut login) = (req.secure, req.id.clone(), None);
    Outcome { result: route(cx, req, found, &mut login).await, secure, id, login }
}

async fn route(cx: &Cx, req: &mut Req, found: Found, login: &mut Option<String>) -> Result<Response, Problem> {
    let Some((route, params)) = found? else {
        return pages::serve(req);
    };
    req.params = params;
    // Before who calls: what another site's page opens is nobody's.
    if req.head.headers.get("upgrade").is_some() {
        origin::check_upgrade(req)?;
    }
    let caller = session::authenticate(cx, req).await;
    *login = caller.as_ref().ok().and_then(Option::as_ref).map(|caller| caller.user.login.clone());
    if !matches!(req.head.method, Method::Get | Method::Head | Method::Options) {
        origin::check(req, matches!(&caller, Ok(Some(caller)) if caller.by_cookie))?;
    }
    match (route.access, caller) {
        // Whoever signs in may hold a dead cookie; a database that is away is told by the handler.
        (Access::Public, Ok(None) | Err(_)) => {}
        (Access::UserOrLink, Ok(None) | Err(_)) if req.link()?.is_some() => {}
        (_, Err(problem)) => return Err(problem),
        (_, Ok(None)) => return Err(session::sign_in_first()),
        (access, Ok(Some(caller))) => {
            if access == Access::Admin && !caller.is_admin() {
                return Err(Problem::forbidden("admin_only", "Only administrators may do this."));
            }
            let _ = req.caller.set(caller);
        }
    }
    let taken = Req {
        id: req.id.clone(),
        head: req.head.clone(),
        body: std::mem::take(&mut req.body),
        incoming: req.incoming.take(),
        ip: req.ip,
        secure: req.secure,
        gone: req.gone.clone(),
        caller: std::mem::take(&mut req.caller),
        params: std::mem::take(&mut req.params),
    };
    (route.handler)(Rc::clone(cx), Rc::new(taken)).await
}

/// The route of a request, or 405 when its path is known under other methods.
///
/// # Errors
/// 405.
pub fn find(head: &Head) -> Found {
    let wanted = if head.method == Method::Head { &Method::Get } else { &head.method };
    let mut allow: Vec<String> = Vec::new();
    for route in ROUTES {
        if let Some(params) = matches(route.path, &head.path) {
            if route.method == head.method || route.method == *wanted {
                return Ok(Some((route, params)));
            }
            allow.push(route.method.to_string());
        }
    }
    if allow.is_empty() {
        return Ok(None);
    }
    if allow.iter().any(|method| method == "GET") {
        allow.push("HEAD".into());
    }
    Err(Problem::method_not_allowed(&allow.join(", ")))
}

fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut params = Vec::new();
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(params),
            (Some(want), Some(got)) if want.starts_with('{') && !got.is_empty() => params.push(got.to_owned()),
            (Some(want), Some(got)) if want == got => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_segments_only() {
        assert_eq!(matches("/vms/{vmid}/stop", "/vms/abc/stop"), Some(vec!["abc".to_owned()]));
        assert_eq!(matches("/vms", "/vms"), Some(vec![]));
        for other in ["/vms//stop", "/vms/abc", "/vms/abc/stop/", "/vms/abc/stop/x", "vms/abc/stop"] {
            assert_eq!(matches("/vms/{vmid}/stop", other), None, "{other}");
        }
    }

    #[test]
    fn no_two_routes_can_match_one_request() {
        for (i, a) in ROUTES.iter().enumerate() {
            for b in &ROUTES[i + 1..] {
                assert!(a.method != b.method || a.path != b.path, "{} {} is there twice", a.method, a.path);
            }
        }
    }
}
