//! What the member that leads does for all of them, and nobody else does: turn by turn it observes, plans and acts, as long as its term
//! lasts.
//!
//! What is planned in a term is decided in it or not at all: a member that was deposed and has not heard of it holds for true what is no
//! longer so, and its successor is not to be told that. What the leader itself writes down goes through [`Term::propose`]; controllers,
//! which write through the same door as people, have a lease that names the term.

use std::sync::Arc;

use control_state::{Action, Answer};

use crate::control::Inner;
use crate::types::Raft;

/// A task of the leader. It is made anew for each term, and dropped with it.
pub trait Duty: Send {
    /// How things are.
    type Seen: Send;
    /// What is to be done about that.
    type Plan: Send;

    fn observe(&mut self) -> Self::Seen;

    /// Follows from what was seen, and from nothing else.
    fn plan(seen: &Self::Seen) -> Self::Plan;

    fn act(&mut self, plan: Self::Plan) -> impl Future<Output = Next> + Send;

    /// Returns when there may be something to do again.
    fn rest(&mut self) -> impl Future<Output = Next> + Send;
}

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another, when there may be something to do.
    Rest,
    /// Another at once: what was done comes before anything else that is to be.
    Turn,
    /// None: another member leads by now.
    Over,
}

/// Carries a task out, turn by turn, as long as this member leads in the term that the task was made for.
pub async fn serve(duty: &mut impl Duty, leads: impl Fn() -> bool + Send) {
    while leads() {
        let seen = duty.observe();
        let plan = plan_of(duty, &seen);
        // Whatever it holds of the state is let go of before anything waits.
        drop(seen);
        let next = match duty.act(plan).await {
            Next::Rest => duty.rest().await,
            next => next,
        };
        if next == Next::Over {
            return;
        }
    }
}

fn plan_of<D: Duty>(_: &D, seen: &D::Seen) -> D::Plan {
    D::plan(seen)
}

/// One time of leading.
#[derive(Clone)]
pub(crate) struct Term {
    pub inner: Arc<Inner>,
    number: u64,
}

impl Term {
    /// The one that this member leads in, while a majority confirms it.
    pub fn of(inner: &Arc<Inner>) -> Option<Term> {
        let number = inner.leading()?.metrics().borrow().current_term;
        Some(Term { inner: inner.clone(), number })
    }

    pub fn holds(&self) -> bool {
        self.raft().is_some()
    }

    /// The Raft handle, while the term lasts.
    pub fn raft(&self) -> Option<&Raft> {
        self.inner.leading_in(self.number)
    }

    /// Decides a change in this term, or not at all.
    pub async fn propose(&self, action: Action) -> Answer {
        self.inner.propose_in(self.number, action).await
    }

    /// The same of one that the cluster's feature level does not hold up.
    pub async fn propose_raw(&self, action: Action) -> Answer {
        self.inner.propose_raw_in(self.number, action).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use control_api::RefusalKind;
    use tempfile::TempDir;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::{Config, Control};

    /// A member whose leader's turn is held up holds another for silent; by then another leads, which hears that one very well.
    #[test]
    fn what_was_planned_in_a_term_is_not_done_in_the_next() {
        let group = Group::start();
        let (leader, term) = group.eventually(|| group.members().find_map(|(n, inner)| Some((n, Term::of(inner)?))));
        group.eventually(|| (term.inner.publisher().state().view.members.len() == 3).then_some(()));
        // The others hear nothing of it any more, and choose another.
        term.inner.voter().unwrap().raft.runtime_config().heartbeat(false);
        let next =
            group.eventually(|| group.members().filter(|(n, _)| *n != leader).find_map(|(_, inner)| Term::of(inner)));
        group.eventually(|| (!term.holds()).then_some(()));
        let name = next.inner.name().to_owned();
        let before = next.inner.publisher().state();
        let down = Action::SetMemberUp { name: name.clone(), up: false };
        let refused = group.runtime.block_on(term.propose(down.clone())).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Unavailable, "{refused}");
        let entries = next.inner.publisher().state().view.version - before.view.version;
        assert!(next.inner.publisher().state().view.members[&name].up, "after {entries} changes");
        // Whoever leads decides in its own term.
        group.runtime.block_on(next.propose(Action::SetMemberUp { name, up: true })).unwrap();
    }

    struct Group {
        controls: Vec<Control>,
        runtime: Runtime,
        _directory: TempDir,
    }

    impl Group {
        fn start() -> Group {
            let directory = tempfile::tempdir().unwrap();
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let names = ["n1", "n2", "n3"];
            let listeners = names.map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap()));
            let initial: BTreeMap<String, String> = listeners
                .iter()
                .map(|(name, listener)| ((*name).to_owned(), format!("http://{}", listener.local_addr().unwrap())))
                .collect();
            let starts = listeners.map(|(name, listener)| {
                let mut config = Config::single(name, directory.path().join(name));
                std::fs::create_dir_all(&config.data_dir).unwrap();
                (config.listeners, config.initial_cluster) = (vec![listener], initial.clone());
                runtime.spawn(Control::start(config))
            });
            let controls =
                starts.into_iter().map(|started| runtime.block_on(started).unwrap().unwrap_or_else(|e| panic!("{e}")));
            let controls = controls.collect();
            Group { controls, runtime, _directory: directory }
        }

        fn members(&self) -> impl Iterator<Item = (usize, &Arc<Inner>)> {
            self.controls.iter().map(Control::inner).enumerate()
        }

        fn eventually<T>(&self, mut is: impl FnMut() -> Option<T>) -> T {
            let began = Instant::now();
            loop {
                if let Some(found) = is() {
                    return found;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "it does not come to that");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            for control in &self.controls {
                self.runtime.block_on(control.abandon());
            }
        }
    }
}
