//! The head of a request to the proxy: read in one way only, or refused. Whatever could be read in two ways (two hosts, folded lines, a body where
//! none belongs) is refused, so that what is checked is what is sent. Pure.

use super::allow::Target;

/// The most bytes of a head.
pub const BYTES_MAX: usize = 16 * 1024;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `CONNECT`: bytes to and fro.
    Tunnel(Target),
    /// A plain request, and its head as the target is to read it.
    Plain(Target, Vec<u8>),
}

/// Fields that are between a client and its proxy, or would keep the connection for a next request.
const HOP_BY_HOP: [&str; 8] =
    ["connection", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "upgrade"];

/// Reads a head, its empty line included. The error says what is wrong.
pub fn read(head: &[u8]) -> Result<Wanted, &'static str> {
    let text = std::str::from_utf8(head).ok().filter(|text| text.is_ascii()).ok_or("the head is no ASCII")?;
    let text = text.strip_suffix("\r\n\r\n").ok_or("the head has no end")?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let (Some(method), Some(what), Some("HTTP/1.1" | "HTTP/1.0"), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("the first line is no request of HTTP/1.1");
    };
    if method.is_empty() || !method.bytes().all(is_token) || !what.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the first line is no request of HTTP/1.1");
    }
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    let said =
        |name: &str| fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect::<Vec<_>>();
    let hosts = said("host");
    if hosts.len() > 1 {
        return Err("there are two Hosts");
    }
    if method == "CONNECT" {
        let target = Target::read(what, None).ok_or("CONNECT wants a host's name and a port; addresses are refused")?;
        if hosts.iter().any(|host| Target::read(host, Some(target.port)) != Some(target.clone())) {
            return Err("Host names another host");
        }
        if !said("content-length").is_empty() || !said("transfer-encoding").is_empty() {
            return Err("CONNECT has no body");
        }
        return Ok(Wanted::Tunnel(target));
    }
    let rest = what.strip_prefix("http://").ok_or("the proxy takes CONNECT and http:// addresses")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let target = Target::read(authority, Some(80)).ok_or("that is no host's name; addresses are refused")?;
    if hosts.iter().any(|host| Target::read(host, Some(80)) != Some(target.clone())) {
        return Err("Host names another host");
    }
    if said("content-length").len() + said("transfer-encoding").len() > 1 {
        return Err("the body's length is told twice");
    }
    let named: Vec<&str> = said("connection").iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut sent =
        format!("{method} {}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n", if path.starts_with('/') { "" } else { "/" });
    for (name, value) in &fields {
        let gone = HOP_BY_HOP.iter().chain(&named).any(|other| name.eq_ignore_ascii_case(other));
        if !gone || name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding") {
            sent.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    sent.push_str("\r\n");
    Ok(Wanted::Plain(target, sent.into_bytes()))
}

fn field(line: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = line.split_once(':').ok_or("a line is no field")?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("a field has no proper name");
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("a field has control characters");
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(host: &str, port: u16) -> Wanted {
        Wanted::Tunnel(Target { host: host.to_owned(), port })
    }

    #[test]
    fn a_tunnel_is_to_one_host_and_begins_behind_the_head() {
        assert_eq!(read(b"CONNECT api.a.com:443 HTTP/1.1\r\nHost: api.a.com:443\r\nUser-Agent: x\r\n\r\n"), Ok(tunnel("api.a.com", 443)));
        assert_eq!(read(b"CONNECT API.a.com:443 HTTP/1.0\r\n\r\n"), Ok(tunnel("api.a.com", 443)));
        assert_eq!(read(b"CONNECT a.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n"), Ok(tunnel("a.com", 443)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "CONNECT a.com:443 HTTP/1.1\r\nHost: b.com:443\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nHost: a.com:443\r\nHost: b.com:443\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT a.com HTTP/1.1\r\n\r\n",
            "CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
            "CONNECT [::1]:80 HTTP/1.1\r\n\r\n",
            "CONNECT http://a.com:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.com:443@b.com:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.com:443\tHTTP/1.1\r\n\r\n",
            "CONNECT a.com:443  HTTP/1.1\r\n\r\n",
            "CONNECT a.com:443 HTTP/2.0\r\n\r\n",
            "CONNECT a.com:443\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\nHost: b.com\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nHost : a.com:443\r\n\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\nA: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n",
            "GET https://a.com/ HTTP/1.1\r\n\r\n",
            "GET http://user:word@a.com/ HTTP/1.1\r\n\r\n",
            "GET http://a.com:80@b.com/ HTTP/1.1\r\n\r\n",
            "GET http://a.com#@b.com/ HTTP/1.1\r\n\r\n",
            "GET http://169.254.169.254/ HTTP/1.1\r\n\r\n",
            "GET http://a.com/ HTTP/1.1\r\nHost: b.com\r\n\r\n",
            "POST http://a.com/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a.com/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "GET http://ä.com/ HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "",
        ] {
            assert!(read(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_plain_request_is_sent_as_its_host_reads_it_and_ends_its_connection() {
        let asked = b"POST http://A.com:8080/x?y=1 HTTP/1.1\r\nHost: a.com:8080\r\nProxy-Authorization: Basic eA==\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n";
        let Ok(Wanted::Plain(target, sent)) = read(asked) else { panic!() };
        assert_eq!(target.to_string(), "a.com:8080");
        assert_eq!(
            String::from_utf8(sent).unwrap(),
            "POST /x?y=1 HTTP/1.1\r\nHost: A.com:8080\r\nConnection: close\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n"
        );
        let Ok(Wanted::Plain(_, sent)) = read(b"GET http://a.com?q HTTP/1.0\r\nConnection: content-length\r\n\r\n") else { panic!() };
        assert_eq!(String::from_utf8(sent).unwrap(), "GET /?q HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
    }
}
