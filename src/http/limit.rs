//! How often one may ask: a bucket for each key, each tenant, and each address on the endpoints that hash passwords or send mails
//! (`draft-ietf-httpapi-ratelimit-headers-10` for what the answers say of it).

use crate::{
    config::Limits,
    error::{Error, Result},
    ids::{KeyId, TenantId, UserId},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};
use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

type Buckets<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// Buckets of one kind.
struct Limit<K: Hash + Eq + Clone> {
    name: &'static str,
    per_minute: u32,
    buckets: Buckets<K>,
    clock: DefaultClock,
}

/// What is left in one bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    name: &'static str,
    /// Requests a minute, sustained.
    per_minute: u32,
    /// Requests that may come at once.
    burst: u32,
    /// Requests that may come now.
    remaining: u32,
}

/// The two fields that tell a client where it stands: `RateLimit-Policy` and `RateLimit`.
pub(super) fn fields(left: &[Left]) -> Option<(String, String)> {
    let policy = left.iter().map(|it| format!("\"{}\";q={};w=60", it.name, it.per_minute));
    let now = left.iter().map(|it| format!("\"{}\";r={};t={}", it.name, it.remaining, it.seconds_to_full()));
    (!left.is_empty()).then(|| (policy.collect::<Vec<_>>().join(", "), now.collect::<Vec<_>>().join(", ")))
}

impl Left {
    /// Seconds until the bucket is full again if nothing more is asked.
    fn seconds_to_full(self) -> u64 {
        (u64::from(self.burst.saturating_sub(self.remaining)) * 60).div_ceil(u64::from(self.per_minute.max(1)))
    }
}

impl<K: Hash + Eq + Clone> Limit<K> {
    fn new(name: &'static str, per_minute: usize, burst: usize) -> Self {
        let whole = |count| NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let (per_minute, burst) = (whole(per_minute), whole(burst));
        let buckets = RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(burst)).with_middleware();
        Self { name, per_minute: per_minute.get(), buckets, clock: DefaultClock::default() }
    }

    /// Takes one request out of a bucket. What is left is told either way.
    fn take(&self, key: &K, left: &mut Vec<Left>) -> Result<()> {
        match self.buckets.check_key(key) {
            Ok(state) => {
                left.push(self.left(state.quota().burst_size().get(), state.remaining_burst_capacity()));
                Ok(())
            }
            Err(until) => {
                left.push(self.left(until.quota().burst_size().get(), 0));
                Err(Error::RateLimited { retry_after: until.wait_time_from(self.clock.now()) })
            }
        }
    }

    fn left(&self, burst: u32, remaining: u32) -> Left {
        Left { name: self.name, per_minute: self.per_minute, burst, remaining }
    }
}

/// All buckets of a server.
pub(super) struct Limiter {
    keys: Limit<KeyId>,
    tenants: Limit<TenantId>,
    users: Limit<UserId>,
    addresses: Limit<IpAddr>,
}

impl Limiter {
    /// How often [`Limiter::forget`] should be called, so that full buckets do not stay in memory.
    pub(super) const FORGET_EVERY: Duration = Duration::from_secs(60);

    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            keys: Limit::new("key", limits.key_requests_per_minute, limits.key_requests_burst),
            tenants: Limit::new("tenant", limits.tenant_requests_per_minute, limits.tenant_requests_burst),
            users: Limit::new("user", limits.key_requests_per_minute, limits.key_requests_burst),
            addresses: Limit::new("address", limits.auth_requests_per_minute, limits.auth_requests_per_minute),
        }
    }

    /// One request of a key, out of its own bucket and its tenant's.
    pub(super) fn key(&self, key: KeyId, tenant: TenantId, left: &mut Vec<Left>) -> Result<()> {
        self.keys.take(&key, left)?;
        self.tenants.take(&tenant, left)
    }

    /// One request of a signed-in user.
    pub(super) fn user(&self, user: UserId, left: &mut Vec<Left>) -> Result<()> {
        self.users.take(&user, left)
    }

    /// One request of an address on an endpoint that anyone may call and that costs us something.
    pub(super) fn address(&self, peer: IpAddr, left: &mut Vec<Left>) -> Result<()> {
        self.addresses.take(&neighbourhood(peer), left)
    }

    /// Forgets buckets that are full again.
    pub(super) fn forget(&self) {
        self.keys.buckets.retain_recent();
        self.tenants.buckets.retain_recent();
        self.users.buckets.retain_recent();
        self.addresses.buckets.retain_recent();
        self.keys.buckets.shrink_to_fit();
        self.addresses.buckets.shrink_to_fit();
    }
}

/// One subscriber's addresses count as one: an IPv6 customer has a /64 at least.
pub(super) fn neighbourhood(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_wait_is_told() {
        let limits = Limits { key_requests_per_minute: 60, key_requests_burst: 2, ..Limits::default() };
        let limiter = Limiter::new(&limits);
        let (key, tenant) = (KeyId::new(), TenantId::new());
        let mut left = Vec::new();
        assert!(limiter.key(key, tenant, &mut left).is_ok());
        let (policy, now) = fields(&left).unwrap();
        assert_eq!(policy, "\"key\";q=60;w=60, \"tenant\";q=30000;w=60");
        assert_eq!(now, "\"key\";r=1;t=1, \"tenant\";r=2999;t=1");
        assert!(limiter.key(key, tenant, &mut Vec::new()).is_ok());
        let refused = limiter.key(key, tenant, &mut left);
        let Err(Error::RateLimited { retry_after }) = refused else { panic!("{refused:?}") };
        assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(1));
        assert!(limiter.key(KeyId::new(), tenant, &mut Vec::new()).is_ok(), "another key has its own bucket");
    }

    #[test]
    fn addresses_of_one_subscriber_share_a_bucket() {
        let same = |a: &str, b: &str| neighbourhood(a.parse().unwrap()) == neighbourhood(b.parse().unwrap());
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9") && !same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("192.0.2.1", "192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
    }
}
