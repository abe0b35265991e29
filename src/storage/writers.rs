//! Who works on the tenants' queues of writes: a few threads, which the tenants get in turn.
//!
//! A thread for each tenant that has something to write would be woken and switched to for each commit; a few that go from one tenant to the
//! next find work as long as there is any. Each visit to a tenant is one commit: what came meanwhile waits for its next turn, so that nobody
//! keeps a thread to itself.

use super::engine::{Engine, Place, Turnout};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// The writing threads of one process.
pub(super) struct Writers {
    state: Mutex<State>,
    max: usize,
}

#[derive(Default)]
struct State {
    /// Tenants with writes that wait, each once.
    waiting: VecDeque<Place>,
    working: usize,
}

impl Writers {
    /// At most so many at once.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max: max.max(1) })
    }

    /// Has the place's queue worked on: call it for each [`Turnout::Drain`], on a runtime.
    pub(super) fn work(self: &Arc<Self>, engine: &Arc<dyn Engine>, place: Place) {
        let engine = Arc::clone(engine);
        if place == Place::Catalog {
            // Behind no tenant: keys, users and tenants are everyone's.
            drop(tokio::task::spawn_blocking(move || engine.drain_all(place)));
            return;
        }
        {
            let mut state = self.state.lock();
            state.waiting.push_back(place);
            if state.working >= self.max {
                return;
            }
            state.working += 1;
        }
        let writers = Arc::clone(self);
        // Not awaited: answers come through the jobs, and a dropped caller must not stop the commit of others.
        drop(tokio::task::spawn_blocking(move || {
            while let Some(place) = writers.next() {
                // A panic has refused what waited there; this thread goes on for the others.
                let left = catch_unwind(AssertUnwindSafe(|| engine.drain(place))).unwrap_or(Turnout::Queued);
                if left == Turnout::Drain {
                    writers.state.lock().waiting.push_back(place);
                }
            }
        }));
    }

    /// The next tenant; none when none waits, and then this thread works no more.
    fn next(&self) -> Option<Place> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.working -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        conformance::{Bench, Piece, config, configs},
        engine::{Job, Tx},
    };
    use std::sync::mpsc;

    struct Told(Piece, mpsc::Sender<crate::error::Result<()>>);

    impl Job for Told {
        fn run(&mut self, tx: &mut dyn Tx) -> crate::error::Result<()> {
            (self.0)(tx)
        }

        fn done(self: Box<Self>, outcome: crate::error::Result<()>) {
            self.1.send(outcome).unwrap();
        }
    }

    #[tokio::test]
    async fn one_thread_serves_many_tenants_and_outlives_who_panics() {
        let bench = Bench::new();
        let (writers, engine) = (Writers::new(1), Arc::clone(&bench.engine));
        let tenants: Vec<_> = (0..5).map(|_| bench.tenant()).collect();
        let (told, outcomes) = mpsc::channel();
        for round in 0..20 {
            for tenant in &tenants {
                let work: Piece =
                    if round == 7 { Box::new(|_| panic!("as told")) } else { Box::new(config(*tenant, &format!("config {round}"))) };
                if engine.enqueue(Place::Tenant(*tenant), Box::new(Told(work, told.clone()))) == Turnout::Drain {
                    writers.work(&engine, Place::Tenant(*tenant));
                }
                assert!(writers.state.lock().working <= 1);
            }
        }
        let outcomes = tokio::task::spawn_blocking(move || outcomes.iter().take(100).flatten().count()).await.unwrap();
        assert_eq!(outcomes, 95);
        for tenant in tenants {
            assert_eq!(configs(&*engine, tenant).unwrap().len(), 19);
        }
    }
}
