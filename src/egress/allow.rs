//! What may be reached: an operator's list of hosts, the wishes that it grants, and the addresses that no name may lead to. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host and a port, as a bundle names them and a request asks for them. The name is in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// A name. Addresses are none: nobody knows whose they are tomorrow.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Reads `host:port`; without a port it is `port`. None for what is no host's name.
    pub fn read(text: &str, port: Option<u16>) -> Option<Self> {
        let (host, port) = match (text.rsplit_once(':'), port) {
            (Some((host, digits)), _) if digits.bytes().all(|byte| byte.is_ascii_digit()) => (host, digits.parse().ok()?),
            (None, Some(port)) => (text, port),
            _ => return None,
        };
        let host = host.to_ascii_lowercase();
        (is_name(&host) && port > 0).then_some(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Labels of letters, digits, hyphens and underscores, the last of which is no number: what resolvers read as an address is no name.
fn is_name(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let labels = host.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain));
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && labels && last.bytes().any(|byte| byte.is_ascii_lowercase()) && !last.starts_with("0x")
}

/// One line of the operator's list: a host, `*.` and a domain, or `*`; then a port, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    host: String,
    port: Option<u16>,
}

impl Pattern {
    /// Reads `host:port`. The error says what would be right.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected host:port such as api.example.com:443, *.example.com:443 or *:443, not {text:?}");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = match port {
            "*" => None,
            digits => Some(digits.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
        };
        let host = host.to_ascii_lowercase();
        let fine = host == "*" || is_name(host.strip_prefix("*.").unwrap_or(&host));
        if fine { Ok(Self { host, port }) } else { Err(wrong()) }
    }

    fn covers(&self, target: &Target) -> bool {
        let named = match self.host.strip_prefix('*') {
            // With its dot: `*.example.com` is every host below, and not the domain itself.
            Some(domain) => target.host.ends_with(domain),
            None => target.host == self.host,
        };
        named && self.port.is_none_or(|port| port == target.port)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => write!(f, "{}:*", self.host),
        }
    }
}

/// The wishes that a list grants.
pub fn granted(wishes: &[String], list: &[Pattern]) -> Vec<Target> {
    let wished = wishes.iter().filter_map(|wish| Target::read(wish, None));
    let mut granted: Vec<Target> = wished.filter(|target| list.iter().any(|pattern| pattern.covers(target))).collect();
    granted.sort();
    granted.dedup();
    granted
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: IpAddr,
    bits: u8,
}

impl Range {
    /// Reads an address and a number of bits, such as `10.20.0.0/16`. The error says what would be right.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = || {
            let (base, bits) = text.split_once('/')?;
            let range = Self { base: base.parse().ok()?, bits: bits.parse().ok()? };
            let width = if range.base.is_ipv4() { 32 } else { 128 };
            (range.bits <= width).then_some(range)
        };
        read().ok_or_else(|| format!("expected a range of addresses such as 10.20.0.0/16, not {text:?}"))
    }

    fn holds(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => same(base.to_bits().into(), address.to_bits().into(), 32, self.bits),
            (IpAddr::V6(base), IpAddr::V6(address)) => same(base.to_bits(), address.to_bits(), 128, self.bits),
            _ => false,
        }
    }
}

fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
    (a ^ b).checked_shr(width - u32::from(bits)).unwrap_or_default() == 0
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Of IANA's special-purpose registries, everything that is not the Internet's: loopback, private, link-local (with clouds' metadata services),
/// shared, documentation, benchmarks, multicast, reserved.
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The part of IPv6 that is the Internet's, and what of it is not: tunnels that end anywhere, documentation, benchmarks.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is the Internet's, or of a range that the operator names.
pub fn may_be_dialled(address: IpAddr, private: &[Range]) -> bool {
    // An IPv4 address in IPv6's clothes is that address.
    let address = address.to_canonical();
    let within = |(base, bits): (IpAddr, u8)| Range { base, bits }.holds(address);
    let public = match address {
        IpAddr::V4(_) => !NOT_PUBLIC_V4.iter().any(|(base, bits)| within((IpAddr::V4(*base), *bits))),
        IpAddr::V6(_) => {
            let (base, bits) = PUBLIC_V6;
            within((IpAddr::V6(base), bits)) && !NOT_PUBLIC_V6.iter().any(|(base, bits)| within((IpAddr::V6(*base), *bits)))
        }
    };
    public || named(address, private)
}

/// Whether the operator names an address's range.
pub fn named(address: IpAddr, private: &[Range]) -> bool {
    private.iter().any(|range| range.holds(address.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_a_port_and_no_address() {
        let read = |text: &str| Target::read(text, None).map(|target| target.to_string());
        assert_eq!(read("API.Example.com:443").as_deref(), Some("api.example.com:443"));
        for bad in [
            "",
            "example.com",
            "example.com:0",
            "example.com:65536",
            "example.com:",
            "127.0.0.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "1.2.0x7f:80",
            "[::1]:80",
            "::1:80",
            "a..b:80",
            ".a:80",
            "a.:80",
            "a b:80",
            "ä.de:80",
            "user@a.de:80",
            "a/b:80",
            "a.de:80:443",
            "a.de\0:80",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Target::read("a.de", Some(80)).unwrap().port, 80);
    }

    #[test]
    fn a_list_grants_what_it_names_and_nothing_beside_it() {
        let list: Vec<_> = ["api.one.com:443", "*.two.com:443", "any.com:*"].iter().map(|text| Pattern::read(text).unwrap()).collect();
        let granted = |wishes: &[&str]| {
            let wishes: Vec<String> = wishes.iter().map(|wish| (*wish).to_owned()).collect();
            granted(&wishes, &list).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            granted(&["api.one.com:443", "a.b.two.com:443", "any.com:8080"]),
            ["a.b.two.com:443", "any.com:8080", "api.one.com:443"]
        );
        let none: [&str; 0] = [];
        assert_eq!(
            granted(&["api.one.com:80", "x.api.one.com:443", "two.com:443", "eviltwo.com:443", "xany.com:1", "*.two.com:443"]),
            none
        );
        assert_eq!(super::granted(&["a.de:443".to_owned()], &[]), []);
        for bad in ["", "a.com", "a.com:x", "a.com:0", "*a.com:443", "a.*.com:443", "1.2.3.4:443", "http://a.com:80"] {
            assert!(Pattern::read(bad).is_err(), "{bad}");
        }
        assert_eq!(Pattern::read("*:443").unwrap().to_string(), "*:443");
    }

    #[test]
    fn only_the_internet_s_addresses_are_dialled_unless_the_operator_names_others() {
        for good in ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(may_be_dialled(good.parse().unwrap(), &[]), "{good}");
        }
        let bad = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
            "::127.0.0.1",
        ];
        for bad in bad {
            assert!(!may_be_dialled(bad.parse().unwrap(), &[]), "{bad}");
        }
        let ours = [Range::read("127.0.0.0/8").unwrap(), Range::read("fd00::/8").unwrap()];
        assert!(may_be_dialled("127.9.9.9".parse().unwrap(), &ours) && may_be_dialled("::ffff:127.0.0.1".parse().unwrap(), &ours));
        assert!(may_be_dialled("fd12::1".parse().unwrap(), &ours) && !may_be_dialled("10.0.0.1".parse().unwrap(), &ours));
        assert!(
            Range::read("0.0.0.0/0").unwrap().holds("9.9.9.9".parse().unwrap())
                && Range::read("::/0").unwrap().holds("::1".parse().unwrap())
        );
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(Range::read(bad).is_err(), "{bad}");
        }
    }
}
