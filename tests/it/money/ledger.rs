//! The ledger in SQL against the pure wallet and against the auditor, after every step of random histories on a real tenant's file: holds,
//! settles, releases, top-ups and taking back, the same credit twice, keys with limits of their own, dropped holds, restarts.

use super::{dice::Dice, full, seed};
use nimblesite::{
    config::Limits,
    error::Error,
    ids::{ConversationId, KeyId, TenantId, TurnId},
    model::{ModelRef, Usage},
    money::Money,
    rates::{CardRow, RateCard},
    secret::Password,
    storage::{CreditInput, Hold, HoldAsk, Mode, Step, Storage, TenantStore},
    wallet::{self, Denied, Purse, Wish},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// One tenant's file, and what the pure machine says of it.
struct World {
    dir: tempfile::TempDir,
    dice: Dice,
    row: Arc<CardRow>,
    keys: Vec<(KeyId, Option<Money>)>,
    credential: String,
    tenant: TenantId,
    storage: Storage,
    store: TenantStore,
    purse: Purse,
    /// What each key has spent and holds.
    of_keys: BTreeMap<KeyId, (i64, i64)>,
    open: Vec<(Hold, KeyId)>,
    /// References that were counted, and their amounts.
    references: Vec<(String, Money)>,
    entries: u64,
    seen: BTreeMap<&'static str, u64>,
}

/// A nano-dollar a token, so that every amount can be asked for.
fn row() -> Arc<CardRow> {
    let card = "[[model]]\nprovider='p'\nname='m'\ninput='0.001'\noutput='0.001'\ncontext_window=4000000000000000000\noutput_limit=4000000000\noutput_min=1";
    RateCard::parse(card).expect("a card").rows()[0].clone()
}

fn limits() -> Limits {
    Limits { heads_interval_ms: Duration::from_millis(20), ..Limits::default() }
}

impl World {
    async fn new(dice: Dice) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Storage::open(dir.path(), Mode::Server, &limits()).expect("storage");
        let operator = storage.operator_here();
        let email = "ada@example.com";
        storage
            .user_create(&operator, email, &Password::new("a few unrelated words".to_owned()), true)
            .await
            .expect("a user of the operator's");
        let made = storage.tenant_create_for(&operator, "Acme", email).await.expect("a tenant");
        let credential = made.api_key.clone();
        let who = storage.principal_by_key(&credential).await.expect("its key");
        let store = storage.tenant_store(&who).await.expect("its store");
        let keys = vec![(who.key_id(), None), (KeyId::new(), Some(Money::from_nanos(5_000))), (KeyId::new(), Some(Money::ZERO))];
        Self {
            dir,
            dice,
            row: row(),
            keys,
            credential,
            tenant: who.tenant_id(),
            storage,
            store,
            purse: Purse::default(),
            of_keys: BTreeMap::new(),
            open: Vec::new(),
            references: Vec::new(),
            entries: 0,
            seen: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn edges(&self) -> [i64; 4] {
        [self.purse.available().nanos(), self.purse.balance().nanos(), self.purse.held.nanos(), i64::MAX - self.purse.deposited.nanos()]
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..=3 => self.credit().await,
            4 => self.credit_again().await,
            5..=10 => self.hold().await,
            17 => self.drop_one().await,
            18 if self.dice.chance(40) => self.restart().await,
            _ => self.settle().await,
        }
        self.agree().await;
    }

    /// Pure machine, SQL and auditor say the same.
    async fn agree(&self) {
        let wallet = self.store.wallet_read().await.expect("a wallet");
        assert_eq!((wallet.balance, wallet.held, wallet.available), (self.purse.balance(), self.purse.held, self.purse.available()));
        let audit = self.store.audit().await.expect("an audit");
        assert_eq!(audit.faults, Vec::<String>::new());
        assert_eq!((audit.deposited, audit.settled, audit.held), (self.purse.deposited, self.purse.settled, self.purse.held));
        assert_eq!(audit.entries, self.entries, "entries of the ledger");
    }

    async fn credit(&mut self) {
        let edges = self.edges();
        // Mostly purses of a size in which holds collide, now and then the largest there can be.
        let nanos = if self.dice.chance(60) { i64::try_from(self.dice.below(4_000)).expect("small") } else { self.dice.amount(&edges) };
        let (amount, reference) = (Money::from_nanos(nanos), self.dice.chance(50).then(|| format!("r{}", self.dice.bits())));
        let input = CreditInput { amount, reference: reference.clone(), note: None };
        let answer = self.storage.credit_add(&self.storage.operator_here(), self.tenant, input).await;
        match (self.purse.deposit(amount), answer) {
            (Ok(purse), Ok(entry)) => {
                self.entries += 1;
                assert_eq!((entry.seq, entry.amount, entry.balance), (self.entries, amount, purse.balance()));
                self.purse = purse;
                self.references.extend(reference.map(|reference| (reference, amount)));
                self.note(if amount.is_negative() { "taken back" } else { "deposited" });
            }
            (_, Err(Error::ValidationFailed { .. })) if nanos == 0 => {}
            (Err(_), Err(Error::ValidationFailed { .. })) => self.note("credit refused"),
            (pure, sql) => panic!("{nanos}: the pure machine says {pure:?}, SQL {sql:?}"),
        }
    }

    /// A reference that was counted counts once.
    async fn credit_again(&mut self) {
        if self.references.is_empty() {
            return;
        }
        let (reference, amount) = self.dice.pick(&self.references).clone();
        let other = Money::from_nanos(amount.nanos().wrapping_add(1).max(1));
        let input = |amount| CreditInput { amount, reference: Some(reference.clone()), note: None };
        let operator = self.storage.operator_here();
        let again = self.storage.credit_add(&operator, self.tenant, input(amount)).await.expect("the same entry");
        assert_eq!((again.amount, again.reference.as_deref()), (amount, Some(reference.as_str())));
        if other != amount {
            let refused = self.storage.credit_add(&operator, self.tenant, input(other)).await;
            assert!(matches!(refused, Err(Error::ValidationFailed { .. })), "{refused:?}");
        }
        self.note("credited twice");
    }

    async fn hold(&mut self) {
        let (key, limit) = if self.dice.chance(75) { self.keys[0] } else { *self.dice.pick(&self.keys) };
        let edges = self.edges();
        let amount = match self.dice.below(4) {
            0 | 1 => self.dice.below(3_000),
            // The input is paid and not all of the output.
            2 => self.purse.available().nanos().unsigned_abs().saturating_sub(self.dice.below(1_000)),
            _ => self.dice.amount(&edges).unsigned_abs(),
        };
        let wish = Wish {
            input_tokens_max: amount,
            cache_writes: true,
            output_tokens: u32::try_from(self.dice.below(2_000)).expect("small"),
            output_above: if self.dice.chance(80) { 0 } else { 100 },
        };
        let (spent, held) = self.of_keys.get(&key).copied().unwrap_or_default();
        let (mut free, mut whole) = (self.purse.available(), self.purse.balance());
        if let Some(limit) = limit {
            free = free.min(Money::from_nanos((limit.nanos() - spent - held).max(0)));
            whole = whole.min(Money::from_nanos((limit.nanos() - spent).max(0)));
        }
        let expected = wallet::grant(&self.row, wish, free, whole);
        let ask = HoldAsk {
            turn: TurnId::new(),
            step: 1,
            key,
            spend_limit: limit,
            model: ModelRef { provider: "p".to_owned(), model: "m".to_owned() },
            row: Arc::clone(&self.row),
            wish,
        };
        match (expected, self.store.wallet_hold(ask).await) {
            (Ok(grant), Ok(hold)) => {
                assert_eq!((hold.amount(), hold.output_tokens()), (grant.amount, grant.output_tokens));
                self.purse = self.purse.hold(grant.amount).expect("the pure machine holds what SQL held");
                self.of_keys.entry(key).or_default().1 += grant.amount.nanos();
                self.open.push((hold, key));
                self.note(if grant.output_tokens < wish.output_tokens { "held for less output" } else { "held" });
            }
            (Err(Denied::Insufficient { .. }), Err(Error::InsufficientCredit { available, .. })) => {
                assert_eq!(available, self.purse.available());
                self.note("insufficient");
            }
            (Err(Denied::Insufficient { .. }), Err(Error::KeySpendLimit { .. })) => {
                assert!(limit.is_some());
                self.note("the key's limit");
            }
            (Err(Denied::Reserved { .. }), Err(Error::CreditReserved { .. })) => self.note("reserved"),
            (pure, sql) => panic!("{wish:?}: the pure machine says {pure:?}, SQL {:?}", sql.map(|hold| hold.amount())),
        }
    }

    fn take_open(&mut self) -> Option<(Hold, KeyId)> {
        if self.open.is_empty() {
            return None;
        }
        let at = usize::try_from(self.dice.below(self.open.len() as u64)).expect("an index");
        Some(self.open.swap_remove(at))
    }

    fn ended(&mut self, key: KeyId, held: Money, charge: Money) {
        self.purse = self.purse.settle(held, charge).expect("the pure machine settles");
        let (spent, holds) = self.of_keys.entry(key).or_default();
        (*spent, *holds) = (*spent + charge.nanos(), *holds - held.nanos());
    }

    async fn settle(&mut self) {
        let Some((hold, key)) = self.take_open() else { return };
        let held = hold.amount();
        // What the vendor says it used, honest or not; then the charge is cut to the hold.
        let tokens = self.dice.amount(&[0, held.nanos(), held.nanos() / 2]).unsigned_abs();
        let usage = Usage { input_tokens: tokens, ..Usage::default() };
        let (charge, breach) = if self.dice.chance(25) { (Money::ZERO, None) } else { wallet::charge(self.row.cost(usage), held) };
        let step = Step {
            turn: TurnId::new(),
            conversation: ConversationId::new(),
            claimed: false,
            charge,
            usage: Some(usage),
            // An estimate is cut to its hold without a word, which a reported breach is not.
            estimated: breach.is_some() || self.dice.chance(20),
            breached: false,
            summary: None,
            kept: None,
            note: None,
            end: None,
            logs: Vec::new(),
        };
        let settled = self.store.step_settle(hold, Arc::new(step)).await.map_err(|(error, hold)| {
            hold.abandon();
            error
        });
        self.ended(key, held, charge);
        assert_eq!(settled.expect("a settle").available, self.purse.available());
        self.entries += u64::from(!charge.is_zero());
        self.note(match (charge.is_zero(), breach) {
            (true, _) => "released",
            (false, None) => "settled",
            (false, Some(_)) => "cut to the hold",
        });
    }

    /// A hold that is dropped (a panic on the way) goes back by itself.
    async fn drop_one(&mut self) {
        let Some((hold, key)) = self.take_open() else { return };
        let held = hold.amount();
        drop(hold);
        self.ended(key, held, Money::ZERO);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while self.store.wallet_read().await.expect("a wallet").held != self.purse.held {
            assert!(std::time::Instant::now() < until, "the janitor did not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.note("dropped");
    }

    /// Another life of the server gives back what this one held.
    async fn restart(&mut self) {
        for (hold, key) in std::mem::take(&mut self.open) {
            let held = hold.amount();
            hold.abandon();
            self.ended(key, held, Money::ZERO);
        }
        let storage = self.storage.clone();
        tokio::task::spawn_blocking(move || storage.close()).await.expect("closed");
        // The lock is free only once the old one is gone for good.
        let other = Storage::open(self.dir.path(), Mode::Server, &limits()).expect("storage again");
        let who = other.principal_by_key(&self.credential).await.expect("its key");
        self.store = other.tenant_store(&who).await.expect("its store");
        self.storage = other;
        self.note("restarted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_machine_ledger_and_auditor_agree_after_every_step() {
    let (histories, steps) = if full() { (20, 500) } else { (3, 120) };
    let seed = seed("ledger histories");
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for history in 0..histories {
        let mut world = World::new(Dice::of(seed, history)).await;
        for _ in 0..steps {
            world.step().await;
        }
        world.restart().await;
        world.agree().await;
        assert_eq!(world.purse.held, Money::ZERO, "nothing is held at rest");
        for (what, count) in world.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{histories} histories of {steps} steps on real files, audited after every step: {seen:?}");
    for what in ["deposited", "held", "held for less output", "settled", "released", "cut to the hold", "insufficient", "the key's limit"] {
        assert!(seen.contains_key(what), "{what} never happened: {seen:?}");
    }
}
