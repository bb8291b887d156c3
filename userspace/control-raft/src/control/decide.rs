//! A change on its way: carried to whoever leads until it is decided, and visible here when it is answered.

use std::time::{Duration, Instant, SystemTime};

use control_api::{Principal, Refusal, RefusalKind};
use control_state::{Action, Answer, Command};
use openraft::error::{ClientWriteError, RaftError};

use super::{Inner, RETRY, random};
use crate::types::{NAMES_PRINCIPALS, Packed};
use crate::wire::WireError;

impl Inner {
    pub async fn propose(&self, action: Action) -> Answer {
        self.propose_for(action, None).await
    }

    /// On this member's own behalf where nobody is named.
    pub(super) async fn propose_for(&self, action: Action, by: Option<Principal>) -> Answer {
        let action = self.fitted(action).await?;
        let known = self.publisher.state().level() >= NAMES_PRINCIPALS;
        let by = by.unwrap_or_else(|| Principal::member(&self.own.name));
        self.decide(action, known.then_some(by), None).await
    }

    /// The same of what this member has planned as the leader of `term`: decided in that, or not at all.
    pub async fn propose_in(&self, term: u64, action: Action) -> Answer {
        let action = self.fitted(action).await?;
        let known = self.publisher.state().level() >= NAMES_PRINCIPALS;
        self.decide(action, known.then(|| Principal::member(&self.own.name)), Some(term)).await
    }

    /// As it is, whatever the cluster's feature level.
    pub async fn propose_raw_in(&self, term: u64, action: Action) -> Answer {
        self.decide(action, None, Some(term)).await
    }

    async fn decide(&self, action: Action, by: Option<Principal>, term: Option<u64>) -> Answer {
        if let Some(reason) = self.health.failure() {
            return Err(Refusal::unavailable(format!("this member has failed and starts again: {reason}")));
        }
        let now = control_api::time::rfc3339(SystemTime::now());
        let command = Command { request: random(), now, action, by };
        let decided = async {
            let command = Packed::new(&command);
            let done = match term {
                Some(term) => self.carry_in(term, command).await?,
                None => self.carry(command).await?,
            };
            // The answer may come from another member: what it speaks of shall be visible here as well.
            let _ = tokio::time::timeout(VISIBLE, self.publisher.reached(done.version)).await;
            Ok(done)
        };
        let answer = match tokio::time::timeout(self.own.request_timeout, decided).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::unavailable(format!(
                "not decided within {} (--cluster-request-timeout): whether the change was made is not known; look, and \
                 try again",
                base_text::duration(self.own.request_timeout)
            ))),
        };
        if matches!(&answer, Err(refusal) if refusal.kind == RefusalKind::Unavailable) {
            self.health.count_failed_proposal();
        }
        answer
    }

    pub(super) async fn catch_up(&self) -> bool {
        let version = if self.leading().is_some() {
            return self.confirmed_version().await.is_some();
        } else if let Some(url) = self.leader_url().or_else(|| self.any_primary()) {
            self.wire.post::<u64>(&url, "/raft/version", &(), CONFIRM).await.ok()
        } else {
            None
        };
        let Some(version) = version else { return false };
        tokio::time::timeout(VISIBLE, self.publisher.reached(version)).await.is_ok()
    }

    /// The version of everything that is decided; `None` when this member does not lead.
    pub async fn confirmed_version(&self) -> Option<u64> {
        let raft = self.leading()?;
        tokio::time::timeout(CONFIRM, raft.ensure_linearizable()).await.ok()?.ok()?;
        Some(self.publisher.state().view.version)
    }

    async fn carry_in(&self, term: u64, command: Packed) -> Answer {
        self.write(command, Some(term)).await.unwrap_or_else(|| {
            Err(Refusal::unavailable(format!(
                "this member leads in term {term} no more: what it planned then is left to who leads now"
            )))
        })
    }

    /// Offers the command to whoever leads until it is decided. Repeating it is safe: the state knows its number.
    async fn carry(&self, command: Packed) -> Answer {
        let mut patience = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            if self.leading().is_some() {
                if let Some(answer) = self.propose_here(command.clone()).await {
                    return answer;
                }
            } else if let Some(url) = self.leader_url().or_else(|| self.any_primary()) {
                let forward = self.wire.post::<Answer>(&url, "/raft/propose", &command, self.own.request_timeout);
                let answer = tokio::select! {
                    answer = forward => Some(answer),
                    () = self.led_otherwise(&url) => None,
                };
                match answer {
                    Some(Ok(answer)) => return answer,
                    Some(Err(WireError::NotLeader(hint))) => {
                        last = format!("{url} does not lead");
                        if self.voter.is_none() {
                            self.places.note_leader(hint);
                        }
                    }
                    Some(Err(error)) => {
                        last = error.to_string();
                        self.places.forget_leader(&url);
                    }
                    None if self.leader_url().is_some() => patience = Instant::now() + PATIENCE,
                    None => last = format!("{url} does not answer"),
                }
            }
            let leaderless = self.health.leaderless_for() > PATIENCE;
            if Instant::now() > patience || (self.voter.is_some() && leaderless) {
                return Err(self.no_leader(&last));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Ends when another is held to be the leader, or, after the time a guess deserves, nobody.
    async fn led_otherwise(&self, url: &str) {
        let guessed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            match self.leader_url() {
                Some(leader) if leader == url => {}
                None if guessed.elapsed() < GUESS => {}
                _ => return,
            }
        }
    }

    /// Decides the command here; `None` when this member does not lead.
    pub async fn propose_here(&self, command: Packed) -> Option<Answer> {
        self.write(command, None).await
    }

    /// The same, in this `term` alone where one is named. The first command of a cluster gives it its id: others wait for that, so that
    /// no version of the configuration is without one.
    async fn write(&self, command: Packed, term: Option<u64>) -> Option<Answer> {
        self.leading()?;
        if self.publisher.state().view.cluster_id.is_empty() && !command.founds() {
            self.roll.reported.notify_one();
            if tokio::time::timeout(PATIENCE, self.publisher.founded()).await.is_err() {
                let message =
                    "the cluster is being founded and takes no change before it has its id; try again in a moment";
                return Some(Err(Refusal::unavailable(message)));
            }
        }
        // Raft takes an entry in the term in which its leader takes it. Nothing waits between this look and the entry's place in Raft's
        // queue: of another term it is only where this member loses the lead and wins it again meanwhile, and that takes an election.
        let raft = match term {
            Some(term) => self.leading_in(term)?,
            None => self.leading()?,
        };
        let write = raft.client_write(command);
        let lost = async {
            while self.leading().is_some() {
                tokio::time::sleep(RETRY).await;
            }
            // A new leader may have taken over with the entry: openraft says so in a moment.
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            biased;
            written = write => match written {
                Ok(written) => Some(written.data.unwrap_or_else(|| Err(Refusal::unavailable("the log has no answer for this entry")))),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => None,
                Err(error) => Some(Err(Refusal::unavailable(format!("the change was not decided: {error}")))),
            },
            () = lost => Some(Err(self.no_leader("the majority was lost while the change was under way; whether it was made is not known"))),
        }
    }
}

/// An election is over within this; after it, changes are refused at once.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a member that may lead is waited for.
const GUESS: Duration = Duration::from_millis(700);
/// One round of heartbeats, with room for a busy machine.
const CONFIRM: Duration = Duration::from_millis(1000);
const VISIBLE: Duration = Duration::from_millis(1000);
