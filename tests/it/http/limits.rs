//! How much, how often, how long; and how the server stops.

use super::{PATIENCE, Running, statuses};
use std::time::Duration;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let server = Running::with(|config| config.limits.connections_max = 2).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (mut first, mut second, mut third) = (server.connect().await, server.connect().await, server.connect().await);
    first.send(request).await;
    second.send(request).await;
    assert_eq!(statuses(&first.rest().await), [200]);
    assert_eq!(statuses(&second.rest().await), [200]);
    third.send(request).await;
    assert_eq!(third.rest().await, "", "the third must wait");
    drop(first);
    assert_eq!(statuses(&third.rest().await), [200]);
}

#[tokio::test]
async fn a_stop_takes_no_new_connection_and_closes_idle_ones() {
    let mut server = Running::start().await;
    let mut idle = server.connect().await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(statuses(&idle.rest().await), [200]);
    server.stop.take().unwrap().send(()).unwrap();
    assert!(idle.closes().await);
    timeout(PATIENCE, &mut server.serving).await.unwrap().unwrap().unwrap();
    assert!(server.app.stopping.is_cancelled());
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_stop_waits_no_longer_than_it_may() {
    let mut server = Running::with(|config| config.limits.shutdown_ms = Duration::from_millis(200)).await;
    let mut slow = server.connect().await;
    slow.send("GET /healthz HTTP/1.1\r\nHo").await;
    sleep(Duration::from_millis(50)).await;
    server.stop.take().unwrap().send(()).unwrap();
    timeout(PATIENCE / 2, &mut server.serving).await.unwrap().unwrap().unwrap();
}
