//! What was asked for twice and is done once. Whoever asks while the same is being done waits for it; whoever asks later is told what came of it,
//! as long as that is remembered. It knows no forms and no requests.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// What is being done, and what was done lately. Two hashes under keys of this process stand for what was asked: nothing of it is kept.
pub struct Once {
    hashers: [RandomState; 2],
    most: usize,
    state: Mutex<State>,
}

type Mark = [u64; 2];

#[derive(Default)]
struct State {
    known: HashMap<Mark, watch::Receiver<Option<String>>>,
    /// In the order of coming, to forget the oldest.
    order: VecDeque<Mark>,
}

/// What [`Once::begin`] found.
pub enum Begun {
    /// It is to be done now, by whoever asked.
    First(Ticket),
    /// It was done: what came of it.
    Before(String),
}

/// Leave to do it. Dropped before [`Ticket::done`], it was not done, and may be asked for again.
pub struct Ticket {
    once: Arc<Once>,
    mark: Mark,
    told: watch::Sender<Option<String>>,
}

impl Once {
    /// Remembers at most so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { hashers: [RandomState::new(), RandomState::new()], most: most.max(1), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to do what `asked` stands for.
    pub async fn begin(self: &Arc<Self>, asked: &impl Hash) -> Begun {
        let mark = [self.hashers[0].hash_one(asked), self.hashers[1].hash_one(asked)];
        loop {
            let mut known = match self.first(mark) {
                Ok(ticket) => return Begun::First(ticket),
                Err(known) => known,
            };
            if let Ok(done) = known.wait_for(Option::is_some).await
                && let Some(text) = done.as_ref()
            {
                return Begun::Before(text.clone());
            }
            // Whoever was to do it gave up: it is this one's turn, unless another was quicker.
        }
    }

    fn first(self: &Arc<Self>, mark: Mark) -> Result<Ticket, watch::Receiver<Option<String>>> {
        let mut state = self.lock();
        if let Some(known) = state.known.get(&mark) {
            return Err(known.clone());
        }
        while state.order.len() >= self.most {
            let Some(oldest) = state.order.pop_front() else { break };
            state.known.remove(&oldest);
        }
        let (told, receiver) = watch::channel(None);
        state.known.insert(mark, receiver);
        state.order.push_back(mark);
        Ok(Ticket { once: Arc::clone(self), mark, told })
    }
}

impl Ticket {
    /// It was done: this came of it.
    pub fn done(self, what: String) {
        self.told.send_replace(Some(what));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.told.borrow().is_some() {
            return;
        }
        let mut state = self.once.lock();
        // Forgotten and begun anew meanwhile, the mark may be another's.
        if state.known.get(&self.mark).is_some_and(|known| known.same_channel(&self.told.subscribe())) {
            state.known.remove(&self.mark);
            state.order.retain(|mark| *mark != self.mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(once: &Arc<Once>, asked: u8) -> Option<Ticket> {
        match once.begin(&asked).await {
            Begun::First(ticket) => Some(ticket),
            Begun::Before(_) => None,
        }
    }

    async fn before(once: &Arc<Once>, asked: u8) -> Option<String> {
        match once.begin(&asked).await {
            Begun::First(_) => None,
            Begun::Before(text) => Some(text),
        }
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_learns_what_came_of_it() {
        let once = Once::new(8);
        let ticket = first(&once, 1).await.unwrap();
        let second = tokio::spawn({
            let once = Arc::clone(&once);
            async move { before(&once, 1).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        ticket.done("there".to_owned());
        assert_eq!(second.await.unwrap().as_deref(), Some("there"));
        assert_eq!(before(&once, 1).await.as_deref(), Some("there"));
        assert!(first(&once, 2).await.is_some(), "another thing is another thing");
    }

    #[tokio::test]
    async fn what_was_not_done_may_be_asked_for_again() {
        let once = Once::new(8);
        let ticket = first(&once, 1).await.unwrap();
        let second = tokio::spawn({
            let once = Arc::clone(&once);
            async move { first(&once, 1).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(ticket);
        assert!(second.await.unwrap());
        assert!(first(&once, 1).await.is_some());
    }

    #[tokio::test]
    async fn the_oldest_is_forgotten() {
        let once = Once::new(2);
        for asked in 1..=3 {
            first(&once, asked).await.unwrap().done(asked.to_string());
        }
        assert_eq!(before(&once, 3).await.as_deref(), Some("3"));
        let ticket = first(&once, 1).await.unwrap();
        assert_eq!(once.lock().known.len(), 2);
        ticket.done("anew".to_owned());
        assert_eq!(before(&once, 1).await.as_deref(), Some("anew"));
    }
}
