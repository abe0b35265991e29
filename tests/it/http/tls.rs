//! TLS, and a certificate that changes while the server runs.

use super::{PATIENCE, Running};
use nimblesite::config::Tls;
use std::{path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// A new certificate for loopback, written to these files; given back as PEM.
fn issue(cert: &Path, key: &Path) -> String {
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    std::fs::write(key, issued.signing_key.serialize_pem()).unwrap();
    std::fs::write(cert, issued.cert.pem()).unwrap();
    issued.cert.pem()
}

async fn get(server: &Running, trusted: &str) -> Result<reqwest::Response, reqwest::Error> {
    let root = reqwest::Certificate::from_pem(trusted.as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    client.get(format!("https://localhost:{}/healthz", server.address.port())).send().await
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let first = issue(&cert, &key);
    let server = Running::with(|config| {
        config.tls = Some(Tls { cert: cert.clone(), key: key.clone() });
        config.limits.tls_check_ms = Duration::from_millis(50);
    })
    .await;

    let answer = get(&server, &first).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    assert!(answer.headers().contains_key("strict-transport-security"));

    std::fs::write(&cert, "not a certificate").unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(get(&server, &first).await.is_ok(), "the old certificate stays");

    let second = issue(&cert, &key);
    let until = Instant::now() + PATIENCE;
    while get(&server, &second).await.is_err() {
        assert!(Instant::now() < until, "the new certificate was never taken");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(get(&server, &first).await.is_err());
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    issue(&cert, &key);
    let server = Running::with(|config| config.tls = Some(Tls { cert, key })).await;
    assert!(!server.tell("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.contains("HTTP/1.1"));
}
