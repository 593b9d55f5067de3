//! Around the edges of the house: trusted proxies, the plain port's redirect, the certificate's reload.

use crate::config::{Config, Tls};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::http::Head;
use std::net::IpAddr;
use std::rc::Rc;

/// Whose request it is and whether it came over TLS. `X-Forwarded-For` and `-Proto` count only when the peer is a trusted proxy; then the
/// last address that is not one itself is the client's, because anything before it may be invented.
#[must_use]
pub fn origin(config: &Config, head: &Head, peer: IpAddr, over_tls: bool) -> (IpAddr, bool) {
    let trusted = |ip: IpAddr| config.trusted_proxies.iter().any(|network| network.contains(ip));
    if !trusted(peer) {
        return (peer, over_tls);
    }
    let mut client = peer;
    let forwarded: Vec<&str> = head.headers.get_all("x-forwarded-for").flat_map(|value| value.split(',')).collect();
    for text in forwarded.iter().rev() {
        let Ok(ip) = text.trim().parse::<IpAddr>() else { break };
        client = ip.to_canonical();
        if !trusted(client) {
            break;
        }
    }
    let proto = head.headers.get("x-forwarded-proto").unwrap_or("");
    (client, over_tls || proto.eq_ignore_ascii_case("https"))
}

/// What the plain port answers: the same address over TLS.
#[must_use]
pub fn to_tls(port: u16, head: &Head) -> Response {
    let host = head.headers.get("host").unwrap_or("localhost");
    // An IPv6 host has colons of its own, inside brackets.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    Response::empty(308).with("location", format!("https://{name}{port}{}", head.target))
}

/// SIGHUP: reads the certificate anew; on an error the old one stays.
pub fn reload_certificate(cx: &Cx) {
    let Some(tls) = cx.tls.clone() else { return log::info!("told to reload, but TLS is off") };
    let (cert, key) = match &cx.config.tls {
        Tls::Files { cert, key } => (cert.clone(), key.clone()),
        Tls::SelfSigned | Tls::Off => {
            let folder = cx.config.base_dir.join("tls");
            (folder.join("cert.pem"), folder.join("key.pem"))
        }
    };
    let story = Rc::clone(cx);
    cx.spawner.spawn("reload certificate", async move {
        match story.disk(move || tls.reload(&cert, &key)).await {
            Ok(Ok(())) => log::info!("certificate reloaded"),
            Ok(Err(e)) => log::error!("the certificate is not reloaded, the old one stays: {e}"),
            Err(problem) => log::error!("the certificate is not reloaded: {}", problem.detail),
        }
    });
}
