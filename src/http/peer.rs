//! Which address asks. A reverse proxy on this machine speaks for others and says for whom; nobody else is believed.

use hyper::HeaderMap;
use std::net::{IpAddr, Ipv4Addr};

/// The address of whoever asks: the peer's own, or, if the peer is on this machine and passes a request on, the last one that it added to
/// `X-Forwarded-For`. A request that was passed on without a usable address there comes from nowhere (`0.0.0.0`): certainly not from this
/// machine, which opens more.
pub(super) fn of(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    if !peer.is_loopback() || !["x-forwarded-for", "forwarded", "via", "x-real-ip"].iter().any(|name| headers.contains_key(*name)) {
        return peer;
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok()?.rsplit(',').next());
    let address = last.map(str::trim).and_then(parse);
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.to_canonical())
}

/// An address as proxies write it: bare, in brackets, or with a port behind.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.parse().ok();
    let bracketed = || text.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|it| it.ip());
    bare.or_else(bracketed).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, fields: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        of(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_a_proxy_on_this_machine_speaks_for_others() {
        assert_eq!(seen("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(seen("::ffff:127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(seen("203.0.113.7", &[("x-forwarded-for", "127.0.0.1")]), "203.0.113.7");
        assert_eq!(seen("127.0.0.1", &[("x-forwarded-for", "127.0.0.1, 203.0.113.7")]), "203.0.113.7");
        assert_eq!(seen("127.0.0.1", &[("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "203.0.113.7:4711")]), "203.0.113.7");
        assert_eq!(seen("::1", &[("x-forwarded-for", "[2001:db8::1]:443")]), "2001:db8::1");
    }

    #[test]
    fn what_was_passed_on_is_never_from_this_machine_by_default() {
        for fields in
            [[("via", "1.1 proxy")], [("forwarded", "for=127.0.0.1")], [("x-forwarded-for", "unknown")], [("x-real-ip", "127.0.0.1")]]
        {
            assert_eq!(seen("127.0.0.1", &fields), "0.0.0.0", "{fields:?}");
        }
    }
}
