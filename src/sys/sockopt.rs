//! Listening, and the socket options the standard library has no words for.
//!
//! - *Not-sent low water*: the kernel calls a socket writable only while little waits in it. Without it megabytes of old screen
//!   pile up in front of a slow browser, and its picture is seconds late.
//! - *Keep-alive* and *user time-out*: a laptop that was closed never says good-bye; these end its connection.
//!
//! - *Peer*: who really listens on a path in a folder that is not ours alone.
//!
//! What is not set here is the loop's: no-delay is a call of mio's.
//!
//! Sources: tcp(7), ipv6(7), socket(7), unix(7), listen(2).
#![allow(unsafe_code)]

use super::check;
use std::io;
use std::mem::size_of_val;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// How many finished handshakes may wait to be accepted; the kernel's own cap is `net.core.somaxconn`.
pub const BACKLOG: i32 = 1024;

/// What may wait unsent in the kernel per browser: some frames of a desktop, a fraction of a second on a slow line.
pub const NOT_SENT_LOW_WATER: u32 = 128 * 1024;

fn set(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let value: libc::c_int = value;
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; every option used here reads one int, and its size is given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) }).map(drop)
}

fn to_int(value: impl TryInto<i32>) -> io::Result<i32> {
    value.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// The socket is writable only while less than this many bytes wait unsent.
///
/// # Errors
/// On a socket that is not TCP.
pub fn set_not_sent_low_water(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, to_int(bytes)?)
}

/// After 30 s of silence the peer is asked every 10 s; after three questions without an answer the connection is over.
///
/// # Errors
/// On a socket that is not TCP.
pub fn set_keep_alive(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)?;
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Sent data that nobody confirms for this long ends the connection.
///
/// # Errors
/// On a socket that is not TCP, or for more than 24 days.
pub fn set_user_timeout(socket: &impl AsFd, limit: Duration) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, to_int(limit.as_millis())?)
}

/// Which process listens at the other end of a unix socket.
///
/// # Errors
/// On another kind of socket.
pub fn peer_pid(socket: &impl AsFd) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the structure is ours, of the option's type, and its size is given.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length)
    })?;
    u32::try_from(peer.pid).map_err(io::Error::other)
}

/// A listener, non-blocking, that may follow another on its port at once. `[::]` takes IPv4 as well, whatever the system's
/// default; any other address takes its own family only.
///
/// # Errors
/// `EADDRINUSE`, `EACCES` for a port below 1024, and what else bind(2) says.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(!address.ip().is_unspecified()))?;
    }
    match address {
        SocketAddr::V4(v4) => bind(
            &socket,
            &libc::sockaddr_in {
                sin_family: family(libc::AF_INET)?,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            },
        ),
        SocketAddr::V6(v6) => bind(
            &socket,
            &libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6)?,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            },
        ),
    }?;
    start_listening(&socket)?;
    Ok(TcpListener::from(socket))
}

fn family(family: i32) -> io::Result<libc::sa_family_t> {
    family.try_into().map_err(io::Error::other)
}

fn new_socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: three plain integers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The two address structures bind(2) is given here.
trait Address {}
impl Address for libc::sockaddr_in {}
impl Address for libc::sockaddr_in6 {}

fn bind<A: Address>(socket: &OwnedFd, address: &A) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(address)).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a whole socket address structure (see Address) and its true length is given.
    check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(address).cast(), length) }).map(drop)
}

fn start_listening(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    fn connects(address: SocketAddr) -> bool {
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
    }

    #[test]
    fn an_ipv4_listener_takes_connections_and_frees_its_port_at_once() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(connects(address));
        assert_eq!(listen(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        listen(address).unwrap();
    }

    #[test]
    fn accept_does_not_wait() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4_too() {
        match listen("[::]:0".parse().unwrap()) {
            Ok(listener) => {
                let port = listener.local_addr().unwrap().port();
                assert!(connects((Ipv4Addr::LOCALHOST, port).into()));
            }
            // A host without IPv6 says so; then there is nothing to be dual about.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EAFNOSUPPORT), "{e}"),
        }
    }

    #[test]
    fn a_unix_socket_says_who_listens_and_tcp_says_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(peer_pid(&socket).unwrap(), std::process::id());
        assert_ne!(peer_pid(&listen("127.0.0.1:0".parse().unwrap()).unwrap()).ok(), Some(std::process::id()));
    }

    #[test]
    fn the_options_are_taken_by_a_tcp_socket_and_refused_by_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_not_sent_low_water(&stream, NOT_SENT_LOW_WATER).unwrap();
        set_keep_alive(&stream).unwrap();
        set_user_timeout(&stream, Duration::from_secs(60)).unwrap();
        assert!(set_user_timeout(&stream, Duration::from_secs(u64::MAX)).is_err());
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(set_user_timeout(&unix, Duration::from_secs(60)).is_err());
    }
}
