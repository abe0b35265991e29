//! A hundred copies of one request, with one `Idempotency-Key`, and a kill in the middle.

use super::{arm, ask_on, full, kept, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::Settings,
};
use futures_util::future::join_all;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

const COPIES: usize = 100;

#[tokio::test]
async fn a_hundred_copies_with_a_kill_in_the_middle_are_one_answer_and_one_charge() {
    let mut server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("Only once.").drip(Duration::from_millis(5)));
    let tenant = server.rich_tenant("Copies").await;
    let config = server.config(&tenant, Wire::OpenAi.provider(), "smart", &json!({})).await;
    let points: &[&str] = if full() {
        &["turn-opened", "after-hold", "before-send", "after-piece", "after-answer", "in-settle", "after-settle", "before-told"]
    } else {
        &["after-piece", "after-settle"]
    };
    for point in points {
        let body = json!({"message": format!("Copied, killed at {point}")});
        let entries = server.number(&tenant.id, "SELECT count(*) FROM ledger");
        let mut calls = server.vendor.call_count();
        let mut in_this_life = |now: usize| {
            let made = now - calls;
            calls = now;
            made
        };
        server.kill().await;
        arm(&mut server, &format!("{point}=kill"));
        server.run().await;
        let cut = join_all((0..COPIES).map(|_| ask_on(&server, &tenant.key, &config, point, &body))).await;
        assert!(cut.iter().all(Option::is_none), "{point}: nobody was told before the kill");
        server.died().await;
        let calls_before = in_this_life(server.vendor.call_count());
        assert!(calls_before <= 1, "{point}: {calls_before} vendor calls in the first life");

        server.env.clear();
        server.run().await;
        let answers = join_all((0..COPIES).map(|_| ask_on(&server, &tenant.key, &config, point, &body))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer").expect(200)).collect();
        let bodies: BTreeSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
        assert_eq!(bodies.len(), 1, "{point}: one body: {bodies:#?}");
        let first = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
        let stored_before = ["after-settle", "before-told"].contains(point);
        assert_eq!(first, usize::from(!stored_before), "{point}: answers that are no replay");
        assert_eq!(in_this_life(server.vendor.call_count()), usize::from(!stored_before), "{point}: vendor calls in the second life");
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM ledger"), entries + 1, "{point}: one entry");
        kept(&server, &tenant, &answers[0].json());
        sound(&server, &[&tenant]).await;
    }
    server.done().await;
}
