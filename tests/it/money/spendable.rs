//! How much of a deposit can be spent: fifty clients with prompts of a hundred kilobytes come back until the balance is refused for good. What is
//! left then is less than the bound of one more turn, and that is less than a twentieth of the deposit.

use crate::{
    fake_provider::Reply,
    harness::{Server, Settings, Tenant},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

const CLIENTS: usize = 50;
const PROMPT_BYTES: usize = 100_000;
const DEPOSIT_NANOS: i64 = 10_000_000_000;

/// A model at a flagship's price, and the bound that its calls get.
struct Flagship {
    provider: &'static str,
    row: &'static str,
    /// Pico-dollars a token: input, output, cache read, cache write.
    pico: [u64; 4],
    /// How many tokens its vendor makes of a text.
    tokens: fn(&str) -> u64,
    /// The most that may be left of ten dollars.
    left_nanos_max: i64,
}

const ANTHROPIC: Flagship = Flagship {
    provider: "fake-anthropic",
    row: "input = \"4.00\"\noutput = \"20.00\"\ncache_read = \"0.20\"\ncache_write = \"5.00\"\ncontext_window = 1000000\n\
          output_limit = 128000\noutput_min = 1024\nthinking_default = true\n",
    pico: [4_000_000, 20_000_000, 200_000, 5_000_000],
    tokens: |text| text.len() as u64 / 4,
    left_nanos_max: 430_000_000,
};

const OPENAI: Flagship = Flagship {
    provider: "fake-openai",
    row: "input = \"5.00\"\noutput = \"30.00\"\ncache_read = \"0.50\"\ncontext_window = 1050000\noutput_limit = 128000\noutput_min = 1024\n\
          reasoning = true\ntokenizer = \"o200k_base\"\n",
    pico: [5_000_000, 30_000_000, 500_000, 5_000_000],
    tokens: |text| tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64 + 20,
    left_nanos_max: 200_000_000,
};

/// Prose and code, as agents are given them.
fn prompt() -> String {
    let sources = [include_str!("rules.rs"), include_str!("../../../README.md"), include_str!("../../../docs/ARCHITECTURE.md")];
    let text: String = sources.iter().cycle().flat_map(|source| source.lines()).flat_map(|line| [line, "\n"]).take(8_000).collect();
    text[..text.floor_char_boundary(PROMPT_BYTES)].to_owned()
}

/// Comes back until the wallet says that waiting is of no use; how many turns were answered, and how often it was told to wait.
async fn spend(server: &Server, tenant: &Tenant, config: &str, prompt: &str) -> (u32, u32) {
    let (mut answered, mut waited) = (0, 0);
    loop {
        let answer = server.chat(&tenant.key, config, &json!({"message": prompt})).await;
        match answer.status {
            200 => answered += 1,
            429 => {
                let answer = answer.problem(429, "credit_reserved");
                assert!(answer.header("retry-after").is_some(), "told to wait, but not how long");
                waited += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => {
                answer.problem(402, "insufficient_credit");
                return (answered, waited);
            }
        }
    }
}

async fn most_of_a_deposit_can_be_spent(flagship: Flagship) {
    let card = format!("[[model]]\nprovider = \"{}\"\nname = \"flagship\"\n{}", flagship.provider, flagship.row);
    let settings = Settings::default().rates(&card);
    let server = Arc::new(settings.start().await);
    server.vendor.price(flagship.provider, "flagship", flagship.pico);
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, flagship.provider, "flagship", &json!({})).await;
    let prompt = prompt();
    assert!(prompt.len() > PROMPT_BYTES - 4);
    server.vendor.otherwise(Reply::text("Done.").tokens((flagship.tokens)(&prompt), 300).within_limit());
    let clients = (0..CLIENTS).map(|_| spend(&server, &tenant, &config, &prompt));
    let ended = futures_util::future::join_all(clients).await;
    let (answered, waited): (u32, u32) = ended.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    // For good means: with nothing held, too.
    server.chat(&tenant.key, &config, &json!({"message": prompt})).await.problem(402, "insufficient_credit");
    let wallet = |field: &str| server.number(&tenant.id, &format!("SELECT {field} FROM wallet"));
    let (deposited, settled, held) = (wallet("deposited"), wallet("settled"), wallet("held"));
    println!("{}: {answered} turns, {waited} waits, {settled} of {deposited} nano-dollars spent", flagship.provider);
    assert_eq!((deposited, held), (DEPOSIT_NANOS, 0));
    assert!(settled * 100 >= deposited * 95, "{settled} of {deposited}");
    assert!(deposited - settled <= flagship.left_nanos_max, "{settled} of {deposited}");
    assert!(server.vendor.billed_nanos() <= settled && settled <= deposited, "{} billed", server.vendor.billed_nanos());
    assert!(waited > 0, "fifty turns at once never had to wait for each other's holds: not the case to be shown");
    Arc::into_inner(server).expect("nobody else").done().await;
}

#[tokio::test]
async fn most_of_a_deposit_can_be_spent_where_the_tokenizer_is_public() {
    most_of_a_deposit_can_be_spent(OPENAI).await;
}

#[tokio::test]
async fn most_of_a_deposit_can_be_spent_where_every_byte_may_be_a_token() {
    most_of_a_deposit_can_be_spent(ANTHROPIC).await;
}
