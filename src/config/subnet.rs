//! An address with a prefix length, `10.0.0.0/8`: which peers count as our own proxies.

use super::value::{Around, Raw, Value, Wrong};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The addresses that share their first `prefix` bits with `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// Whether `peer` is one of them. An IPv4 peer of a dual-stack socket (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.address, peer.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == peer.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == peer.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(whole), |prefix| prefix.parse().map_err(|_| ()))?;
        if prefix <= whole { Ok(Self { address, prefix }) } else { Err(()) }
    }
}

impl Value for Subnet {
    const SHAPE: &'static str = "ADDRESS[/PREFIX],…";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        let mend = "write addresses such as 127.0.0.1 or 10.0.0.0/8";
        let text = raw.text(mend)?.trim();
        text.parse().map_err(|()| Wrong::new(format!("{text:?} is not an address or a network"), mend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(net: &str, peer: &str) -> bool {
        net.parse::<Subnet>().expect("a subnet").contains(peer.parse().expect("an address"))
    }

    #[test]
    fn a_peer_is_inside_when_the_prefix_agrees() {
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("127.0.0.1", "127.0.0.1"));
        assert!(!holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("fd00::/8", "fd12::1"));
        assert!(!holds("fd00::/8", "fe80::1"));
        assert!(holds("::/0", "fe80::1"));
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_is_ipv4() {
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!holds("::/0", "::ffff:10.1.2.3"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "host"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
