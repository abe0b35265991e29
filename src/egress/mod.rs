//! The one way out of a sandbox that was granted some: a proxy that listens inside it and dials outside. It resolves names itself, looks at the
//! addresses, and dials one that it looked at, so that no name leads to a place that was not looked at. It knows neither tenants nor sandboxes.
//!
//! - [`allow`]: which hosts and which addresses, pure;
//! - [`head`]: requests, read in one way only, pure;
//! - [`news`]: what became of what was asked for, for whoever keeps it.
//!
//! What goes through is not looked into: who may reach a host may ask it for anything, in whatever name.

pub mod allow;
pub mod head;
pub mod news;

pub use allow::{Pattern, Range, Target};

use crate::config::Limits;
use head::Wanted;
use news::{News, Sum};
use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// What a name leads to.
pub type Resolve = Arc<dyn Fn(Target) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// Of a name's addresses, so many are tried.
const ADDRESSES_MAX: usize = 4;
/// So much is told of what was asked for.
const TOLD_MAX: usize = 32;
const CHUNK: usize = 16 * 1024;

/// What one sandbox may reach, and what it did.
pub struct Egress {
    granted: Vec<Target>,
    private: Vec<Range>,
    resolve: Resolve,
    connect: Duration,
    idle: Duration,
    connections: Arc<Semaphore>,
    budget: Budget,
    told: Mutex<VecDeque<String>>,
    news: Arc<News>,
}

/// Why nothing goes through.
struct Refused {
    status: &'static str,
    why: String,
}

impl Egress {
    /// For these hosts; `private` are the ranges beside the Internet's that may be dialled. What becomes of it is added to `news`.
    pub fn new(granted: Vec<Target>, private: Vec<Range>, limits: &Limits, resolve: Resolve, news: Arc<News>) -> Arc<Self> {
        Arc::new(Self {
            granted,
            private,
            resolve,
            connect: limits.sandbox_egress_connect_ms,
            idle: limits.sandbox_egress_idle_ms,
            connections: Arc::new(Semaphore::new(limits.sandbox_egress_connections_max.clamp(1, Semaphore::MAX_PERMITS))),
            budget: Budget { bytes_max: limits.sandbox_egress_bytes_per_minute as u64, minute: Mutex::new((Instant::now(), 0)) },
            told: Mutex::default(),
            news,
        })
    }

    /// What was asked for of late, newest last, and what became of it.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes connections until this is dropped, and ends them with it.
    pub async fn serve(self: Arc<Self>, listener: std::net::TcpListener) {
        let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a sandbox's way out cannot be listened on"),
        };
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => _ = running.spawn(Arc::clone(&self).connection(stream)),
                    // Out of descriptors, most likely: those that run give theirs back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = running.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, mut inside: TcpStream) {
        let Ok(_place) = Arc::clone(&self.connections).try_acquire_owned() else {
            return self
                .refuse(inside, "?", Refused { status: "503 Service Unavailable", why: "too many connections at once".to_owned() })
                .await;
        };
        let (wanted, early) = match timeout(self.connect, wanted(&mut inside)).await {
            Ok(Ok(Some(read))) => read,
            // Nobody asked for anything.
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(why)) => return self.refuse(inside, "?", Refused { status: "400 Bad Request", why: why.to_owned() }).await,
        };
        let (target, first) = match wanted {
            Wanted::Tunnel(target) => (target, None),
            Wanted::Plain(target, head) => (target, Some(head)),
        };
        let (mut outside, address) = match self.dial(&target).await {
            Ok(dialled) => dialled,
            Err(refused) => return self.refuse(inside, &target.to_string(), refused).await,
        };
        // A plain request's own bytes go out like any.
        let sent = (early.len() + first.as_ref().map_or(0, Vec::len)) as u64;
        // Said at once: a connection may outlive whoever could say it afterwards.
        let (named, at) = (target.to_string(), address.to_string());
        self.news.add(&named, true, Sum { detail: at.clone(), attempts: 1, ..Sum::default() });
        let begun = match &first {
            None => inside.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await,
            Some(head) => outside.write_all(head).await,
        };
        let begun = match begun {
            Ok(()) if self.budget.take(sent) => outside.write_all(&early).await,
            Ok(()) => Err(io::Error::other("this minute's bytes are used up")),
            failed => failed,
        };
        let (up, down) = if begun.is_ok() { self.through(inside, outside).await } else { (0, 0) };
        let up = up + sent;
        self.news.add(&named, true, Sum { detail: at, attempts: 0, bytes_out: up, bytes_in: down });
        tracing::info!(%target, %address, bytes_up = up, bytes_down = down, "egress allowed");
        self.tell(format!("{target} reached at {address}: {up} bytes out, {down} in"));
    }

    async fn refuse(&self, mut inside: TcpStream, asked: &str, refused: Refused) {
        let Refused { status, why } = refused;
        tracing::warn!(target = asked, why, "egress refused");
        self.news.add(asked, false, Sum { detail: why.clone(), attempts: 1, ..Sum::default() });
        self.tell(format!("{asked} refused: {why}"));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
            why.len() + 1
        );
        drop(timeout(self.connect, inside.write_all(head.as_bytes())).await);
        drop(inside.shutdown().await);
    }

    fn tell(&self, line: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() == TOLD_MAX {
            told.pop_front();
        }
        told.push_back(line);
    }

    /// A connection to one of the addresses that the target's name leads to and that may be dialled.
    async fn dial(&self, target: &Target) -> Result<(TcpStream, IpAddr), Refused> {
        if !self.granted.contains(target) {
            let granted = self.granted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Refused { status: "403 Forbidden", why: format!("{target} is none of what may be reached: {granted}") });
        }
        if !self.budget.has_some() {
            return Err(Refused { status: "429 Too Many Requests", why: "this minute's bytes are used up".to_owned() });
        }
        let failed = |why: &str| Refused { status: "502 Bad Gateway", why: format!("{}: {why}", target.host) };
        let resolved =
            timeout(self.connect, (self.resolve)(target.clone())).await.map_err(|_| failed("its name is not answered in time"))?;
        let mut addresses: Vec<IpAddr> = resolved.map_err(|_| failed("its name leads nowhere"))?.iter().map(IpAddr::to_canonical).collect();
        addresses.retain(|address| {
            allow::may_be_dialled(*address, &self.private) && (!is_own(*address) || allow::named(*address, &self.private))
        });
        if addresses.is_empty() {
            return Err(Refused { status: "403 Forbidden", why: format!("{} leads to no address that may be reached", target.host) });
        }
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            // This address, and not the name, which might lead elsewhere by now.
            if let Ok(Ok(stream)) = timeout(self.connect, TcpStream::connect(SocketAddr::new(address, target.port))).await {
                return Ok((stream, address));
            }
        }
        Err(failed("it does not answer"))
    }

    /// Bytes to and fro, until both sides have said all, one fails, nothing comes for too long, or the minute's bytes are used up.
    async fn through(&self, mut inside: TcpStream, mut outside: TcpStream) -> (u64, u64) {
        let (up, down, alive) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let begun = Instant::now();
        let (from_inside, to_inside) = inside.split();
        let (from_outside, to_outside) = outside.split();
        let clock = Clock { begun, alive: &alive };
        let ended =
            tokio::try_join!(self.one_way(from_inside, to_outside, &up, &clock), self.one_way(from_outside, to_inside, &down, &clock));
        if let Err(why) = ended {
            tracing::debug!(%why, "a connection out of a sandbox was ended");
        }
        (up.into_inner(), down.into_inner())
    }

    async fn one_way(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        sum: &AtomicU64,
        clock: &Clock<'_>,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match timeout(self.idle, from.read(&mut chunk)).await {
                Ok(read) => read?,
                // The other way may be busy all the while.
                Err(_) if clock.quiet_for() < self.idle => continue,
                Err(_) => return Err(io::Error::other("nothing came for too long")),
            };
            if read == 0 {
                return to.shutdown().await;
            }
            if !self.budget.take(read as u64) {
                return Err(io::Error::other("this minute's bytes are used up"));
            }
            clock.moved();
            timeout(self.idle, to.write_all(&chunk[..read])).await.map_err(|_| io::Error::other("nobody reads"))??;
            sum.fetch_add(read as u64, Ordering::Relaxed);
        }
    }
}

struct Clock<'a> {
    begun: Instant,
    /// When a byte last moved, in milliseconds since the beginning.
    alive: &'a AtomicU64,
}

impl Clock<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moved(&self) {
        self.alive.store(self.now(), Ordering::Relaxed);
    }

    fn quiet_for(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.alive.load(Ordering::Relaxed)))
    }
}

/// Bytes that may still go through in this minute, in both directions and on all connections together.
struct Budget {
    bytes_max: u64,
    minute: Mutex<(Instant, u64)>,
}

impl Budget {
    fn take(&self, bytes: u64) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.0.elapsed() >= Duration::from_secs(60) {
            *minute = (Instant::now(), 0);
        }
        minute.1 = minute.1.saturating_add(bytes);
        minute.1 <= self.bytes_max
    }

    fn has_some(&self) -> bool {
        self.take(0)
    }
}

/// The head of a request, and the bytes behind it that came along. None where the connection ends before anything was said.
async fn wanted(inside: &mut TcpStream) -> Result<Option<(Wanted, Vec<u8>)>, &'static str> {
    let mut head = Vec::new();
    loop {
        let mut chunk = [0; 2048];
        let read = inside.read(&mut chunk).await.unwrap_or_default();
        if read == 0 {
            return if head.is_empty() { Ok(None) } else { Err("the head has no end") };
        }
        let look_from = head.len().saturating_sub(3);
        head.extend_from_slice(&chunk[..read]);
        let end = head[look_from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| look_from + at + 4);
        if end.unwrap_or(head.len()) > head::BYTES_MAX {
            return Err("the head is too long");
        }
        if let Some(end) = end {
            let early = head.split_off(end);
            return head::read(&head).map(|wanted| Some((wanted, early)));
        }
    }
}

/// Whether an address is this machine's own: then, the kernel says without sending anything, one would come from it to reach it.
fn is_own(address: IpAddr) -> bool {
    let from: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asked = UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((address, 9)).and_then(|()| socket.local_addr()));
    asked.is_ok_and(|ours| ours.ip().to_canonical() == address)
}

/// Names as this machine resolves them.
pub fn resolve_here() -> Resolve {
    Arc::new(|target: Target| {
        Box::pin(async move { Ok(tokio::net::lookup_host((target.host, target.port)).await?.map(|address| address.ip()).collect()) })
    })
}

#[cfg(test)]
mod tests;
