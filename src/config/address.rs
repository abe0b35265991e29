//! Addresses in settings: what a base URL may be, and how people write them.

/// A base URL in its plain form: `http` or `https`, a host, perhaps a port and a path; no trailing slash.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected an address such as https://api.example.com/v1";
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(|| format!("{EXPECTED}: it must begin with http:// or https://"))?;
    if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err(format!("{EXPECTED}, without spaces"));
    }
    if text.contains(['?', '#']) {
        return Err(format!("{EXPECTED}, without ? and #"));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(
            "a user name or password does not belong into an address; name the variable that holds the key in api_key_env".to_owned()
        );
    }
    let (host, port) = split_port(authority);
    if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(format!("{EXPECTED}: host and port are not valid"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// An origin exactly as browsers send it: scheme, host and port in lower case, no path, no port that goes without saying.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let url = base_url(text).map_err(|_| format!("expected an origin such as https://app.example.com, not {text:?}"))?;
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let usual = if url.starts_with("https") { ":443" } else { ":80" };
    if url != text || authority.contains(['/', '*']) || authority.ends_with(usual) || url.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "expected an origin as browsers send it, such as https://app.example.com: no path, no * and no usual port, not {text:?}"
        ));
    }
    Ok(url)
}

/// `OLLAMA_HOST` as Ollama itself reads it: scheme and port may be left out, and the address that a server binds to stands for this machine.
pub(super) fn ollama_host(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = split_port(authority);
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    let usual = if scheme == "https" { "443" } else { "11434" };
    base_url(&format!("{scheme}://{host}:{}/{path}", port.unwrap_or(usual)))
}

/// Host and port of an authority; an IPv6 host keeps its brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[host_end..].rfind(':') {
        Some(colon) => (&authority[..host_end + colon], Some(&authority[host_end + colon + 1..])),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        assert_eq!(origin("https://app.example.com").as_deref(), Ok("https://app.example.com"));
        assert_eq!(origin("http://localhost:3000").as_deref(), Ok("http://localhost:3000"));
        for text in [
            "*",
            "null",
            "https://*.example.com",
            "https://a.example/",
            "https://a.example/x",
            "https://A.example",
            "https://a.example:443",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base_urls_lose_their_trailing_slash_and_nothing_else() {
        assert_eq!(base_url("http://127.0.0.1:9000/v1/").as_deref(), Ok("http://127.0.0.1:9000/v1"));
        assert_eq!(base_url("https://[::1]:8080").as_deref(), Ok("https://[::1]:8080"));
        for bad in [
            "",
            "ftp://a",
            "a.example",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:99999",
            "http://u:p@a",
            "http://a/?k=1",
            "http://a b",
        ] {
            assert!(base_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ollama_hosts_may_leave_out_scheme_and_port() {
        for (text, url) in [
            ("127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("gpu.example", "http://gpu.example:11434"),
            ("https://gpu.example", "https://gpu.example:443"),
            ("[::]:8000", "http://[::1]:8000"),
            ("http://gpu.example:1/ollama/", "http://gpu.example:1/ollama"),
        ] {
            assert_eq!(ollama_host(text).as_deref(), Ok(url), "{text}");
        }
    }
}
