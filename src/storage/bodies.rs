//! Configs as turns need them, in memory: a config is read from its file at every turn, but not made of its JSON again while that stays the same.

use crate::{
    error::{Error, Result},
    ids::*,
    model::ConfigBody,
};
use quick_cache::{Weighter, sync::Cache};
use std::sync::Arc;

/// About what a body weighs beside what is written in it, in bytes.
const BODY_BYTES: usize = 1024;

/// Bodies of configs that were asked lately, within a bound, each with the text that it was made of. What a file says now is always compared with
/// that, so that nothing has to be told when a config changes, or when a tenant's file is replaced by another.
pub(super) struct Bodies {
    kept: Cache<(TenantId, ConfigId), Arc<Known>, Weight>,
}

struct Known {
    text: Box<str>,
    body: Arc<ConfigBody>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<(TenantId, ConfigId), Arc<Known>> for Weight {
    fn weight(&self, _key: &(TenantId, ConfigId), known: &Arc<Known>) -> u64 {
        // The text, and about twice as much for what was made of it.
        (BODY_BYTES + 3 * known.text.len()) as u64
    }
}

impl Bodies {
    /// Keeps at most about so many bytes; 0 keeps nothing.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { kept: Cache::with_weighter(bytes_max / (4 * BODY_BYTES), bytes_max as u64, Weight) })
    }

    /// What this text says.
    pub(super) fn read(&self, key: (TenantId, ConfigId), text: &str) -> Result<Arc<ConfigBody>> {
        if let Some(known) = self.kept.get(&key).filter(|known| *known.text == *text) {
            return Ok(Arc::clone(&known.body));
        }
        let body: Arc<ConfigBody> = Arc::new(serde_json::from_str(text).map_err(Error::internal)?);
        self.kept.insert(key, Arc::new(Known { text: text.into(), body: Arc::clone(&body) }));
        Ok(body)
    }

    /// Forgets a tenant that is deleted.
    pub(super) fn forget_tenant(&self, tenant: TenantId) {
        self.kept.retain(|(of, _), _| *of != tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_is_what_the_text_says_now_and_whose_it_is() {
        let text =
            |name: &str| json!({"name": name, "system_prompt": "", "model_config": {"provider": "echo", "model": "echo"}}).to_string();
        let (bodies, config) = (Bodies::new(64 * 1024), ConfigId::new());
        let (one, other) = ((TenantId::new(), config), (TenantId::new(), config));
        let first = bodies.read(one, &text("first")).unwrap();
        assert!(Arc::ptr_eq(&first, &bodies.read(one, &text("first")).unwrap()), "it is not made again");
        assert_eq!(bodies.read(one, &text("second")).unwrap().name, "second");
        assert_eq!(bodies.read(one, &text("first")).unwrap().name, "first", "an older text is not the newer body");
        assert_eq!(bodies.read(other, &text("theirs")).unwrap().name, "theirs");
        assert!(bodies.read(one, "{").is_err());
        bodies.forget_tenant(one.0);
        assert_eq!((bodies.kept.len(), bodies.kept.peek(&other).is_some()), (1, true));
    }

    #[test]
    fn the_bound_holds_and_none_keeps_nothing() {
        for bytes_max in [0, 32 * 1024] {
            let bodies = Bodies::new(bytes_max);
            for n in 0..200 {
                let text =
                    json!({"name": "x".repeat(n), "system_prompt": "", "model_config": {"provider": "echo", "model": "echo"}}).to_string();
                bodies.read((TenantId::new(), ConfigId::new()), &text).unwrap();
            }
            assert!(bodies.kept.weight() <= bytes_max as u64 && bodies.kept.is_empty() == (bytes_max == 0), "{}", bodies.kept.weight());
        }
    }
}
