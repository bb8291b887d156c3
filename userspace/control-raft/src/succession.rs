//! How one authority follows another in a cluster that issues its members' certificates itself.
//!
//! Long before the authority ends, or when an operator says so, the leader makes the next one and hands it to the group, sealed as the
//! first was. Every member comes to believe both, and says so with its heartbeats; then the next one signs. Every member asks for a
//! certificate of that, and says so too; then the one before is believed no more. So at no time does a member show what another does not
//! believe. A member that is away is waited for as long as its certificate is good, and no longer.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use control_api::{Refusal, certificates};
use control_state::{AUTHORITIES_LEVEL, Action, Authority, AuthorityStep, State, Successor, Terms};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::control::{Inner, lock};
use crate::issue;
use crate::join::{Issuing, fingerprint_of, seconds};
use crate::secret::hex;
use crate::types::Raft;

/// What is in force in a member, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Believes {
    /// Authorities that it believes; the one that signs, as far as it knows, is the first.
    pub authorities: Vec<String>,
    /// The authority that has signed what it shows.
    pub shows: String,
}

/// How the authority is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityShown {
    pub ends: Option<SystemTime>,
    /// Since when another is to follow.
    pub next: Option<SystemTime>,
    /// Since when the one before signs no more.
    pub former: Option<SystemTime>,
    /// Members that the next step waits for; the leader knows them.
    pub waits_for: Option<Vec<String>>,
}

impl Issuing {
    pub fn believes(&self) -> Believes {
        let Some((identity, authorities)) = self.tls.identity() else { return Believes::default() };
        let authorities = authorities.map(|pem| pem.text).unwrap_or_default();
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(&authorities).flatten().collect();
        let shown = CertificateDer::from_pem_slice(&identity.chain.text).ok();
        let signer =
            authorities.iter().find(|of| shown.as_ref().is_some_and(|shown| certificates::names_issuer(shown, of)));
        Believes {
            authorities: authorities.iter().map(|of| fingerprint(of)).collect(),
            shows: signer.map(|of| fingerprint(of)).unwrap_or_default(),
        }
    }

    /// When the authority ends that signs, as far as this member knows.
    pub fn authority_ends(&self) -> Option<SystemTime> {
        let (_, authorities) = self.tls.identity()?;
        let first = CertificateDer::from_pem_slice(&authorities?.text).ok()?;
        certificates::end(Some(&first))
    }

    /// Whether what this member believes, or shows, is not what the cluster has by now.
    fn is_behind(&self, of: &[String]) -> bool {
        let Some(signs) = of.first() else { return false };
        let own = self.believes();
        own.authorities != of || own.shows != *signs
    }

    /// Takes its files as they are now.
    pub fn take(&self, inner: &Inner) -> Result<(), String> {
        let text = |e: control_api::tls::TlsError| e.to_string();
        self.tls.server.reload().map_err(text)?;
        inner.wire().trust(&self.tls).map_err(text)
    }
}

impl Inner {
    pub(crate) fn believes(&self) -> Option<Believes> {
        self.issuing.as_ref().map(Issuing::believes)
    }

    /// Fingerprints of what the cluster's members are to believe; none where it issues no certificates.
    pub(crate) fn authorities(&self) -> Vec<String> {
        let Some(issuing) = &self.issuing else { return Vec::new() };
        let state = self.publisher().state();
        let mut known = lock(&issuing.known);
        match &*known {
            // Asked with every heartbeat, and the same for years.
            Some((of, known)) if Arc::ptr_eq(of, state.authority()) => known.clone(),
            _ => {
                let read = fingerprints(state.authority());
                *known = Some((state.authority().clone(), read.clone()));
                read
            }
        }
    }

    /// Does at once what would be done before long, if this member is behind.
    pub(crate) fn note_authorities(&self, of: &[String]) {
        if let Some(issuing) = self.issuing.as_ref().filter(|issuing| issuing.is_behind(of)) {
            issuing.behind.notify_one();
        }
    }

    /// Members that have not said yet that they are where the next step needs them.
    fn not_following(&self, authority: &Authority) -> Vec<String> {
        let of = |pem: &str| fingerprint_of(pem).unwrap_or_default();
        let follows: Box<dyn Fn(&Believes) -> bool> = match (&authority.next, &authority.former) {
            (Some(next), _) => {
                let next = of(&next.certificate);
                Box::new(move |believes| believes.authorities.contains(&next))
            }
            (None, Some(_)) => {
                let signs = of(&authority.certificate);
                Box::new(move |believes| believes.shows == signs)
            }
            (None, None) => return Vec::new(),
        };
        let state = self.publisher().state();
        let mut names: Vec<String> = state.view.members.keys().cloned().chain(self.voters()).collect();
        names.sort_unstable();
        names.dedup();
        let own = self.believes().unwrap_or_default();
        let reports = self.roll.reports();
        names.retain(|name| {
            let said = reports.get(name).and_then(|report| report.believes.as_ref());
            let said = if name == self.name() { Some(&own) } else { said };
            !said.is_some_and(&follows)
        });
        names
    }

    /// What the authority is measured by, and whether every member is where its next step needs it; nothing where there is none to follow.
    pub(crate) fn authority_measured(&self, state: &State) -> Option<(Terms, bool)> {
        let issuing = self.issuing.as_ref().filter(|_| state.level() >= AUTHORITIES_LEVEL)?;
        let authority = state.authority();
        let ends = certificates::end(der(&authority.certificate).as_deref())?;
        let ahead = issuing.authority_lasts / AHEAD;
        let terms = Terms { ends: seconds(ends), ahead: ahead.as_secs(), lifetime: issuing.lifetime.as_secs() };
        Some((terms, self.not_following(authority).is_empty()))
    }

    /// The change by which a step is taken, if it can be.
    pub(crate) fn authority_change(&self, step: AuthorityStep, now: SystemTime) -> Option<Action> {
        let state = self.publisher().state();
        let authority = state.authority();
        match step {
            AuthorityStep::Stage => match self.successor(now) {
                Ok(action) => {
                    tracing::info!("the cluster's authority ends before long: another is to follow");
                    Some(action)
                }
                Err(refusal) => {
                    tracing::error!(%refusal, "the cluster's authority ends before long, and no other can be made");
                    None
                }
            },
            AuthorityStep::Promote => {
                tracing::info!("every member believes the cluster's next authority: it signs from now on");
                let certificate = authority.next.as_ref()?.certificate.clone();
                Some(Action::PromoteAuthority { certificate, at: seconds(now) })
            }
            AuthorityStep::Retire => {
                tracing::info!(
                    "every member has a certificate of the cluster's authority: the one before is believed no more"
                );
                Some(Action::RetireAuthority { certificate: authority.former.as_ref()?.certificate.clone() })
            }
        }
    }

    /// Another authority, which this member has made.
    pub(crate) fn successor(&self, now: SystemTime) -> Result<Action, Refusal> {
        let issuing = self.issuing.as_ref();
        let (Some(issuing), Some(seal)) = (issuing, issuing.and_then(|issuing| issuing.place.seal())) else {
            return Err(Refusal::conflict(
                "this cluster does not issue certificates, or this member is a secondary; where certificates come from files, write new \
                 ones into those (--peer-cert-file, --peer-trusted-ca-file). Ask a primary otherwise",
            ));
        };
        let made = issue::make(&seal, issuing.authority_lasts, now);
        let (certificate, sealed_key) =
            made.map_err(|why| Refusal::unavailable(format!("no authority can be made: {why}")))?;
        Ok(Action::StageAuthority { next: Successor { certificate, sealed_key, since: seconds(now) } })
    }

    pub(crate) fn authority_shown(&self) -> Option<AuthorityShown> {
        let issuing = self.issuing.as_ref()?;
        let state = self.publisher().state();
        let authority = state.authority();
        let at = |since: u64| UNIX_EPOCH + Duration::from_secs(since);
        Some(AuthorityShown {
            ends: issuing.authority_ends(),
            next: authority.next.as_ref().map(|next| at(next.since)),
            former: authority.former.as_ref().map(|former| at(former.since)),
            waits_for: self.leading().map(|_: &Raft| self.not_following(authority)),
        })
    }
}

/// Brings what this member believes up to date: a primary knows it by the log, others ask the one that leads. Nobody else is asked, who may
/// be behind. False where it is not known yet.
pub(crate) async fn keep_up(inner: &Inner, issuing: &Issuing) -> Result<bool, String> {
    let state = inner.publisher().state();
    let authority = state.authority();
    let kept = if !authority.certificate.is_empty() {
        let sealed_key = issuing.place.seal().map(|_| authority.sealed_key.as_str());
        issuing.place.keep_authorities(&authority.believed(), sealed_key)
    } else if inner.voter().is_none()
        && let Some(url) = inner.leader_url()
    {
        let told: String = inner.wire().get(&url, AUTHORITIES_PATH, ASKED).await.map_err(|e| e.to_string())?;
        if told.is_empty() {
            return Ok(false);
        }
        issuing.place.keep_authorities(&told, None)
    } else {
        return Ok(false);
    };
    kept.map_err(|e| e.to_string())?;
    issuing.take(inner).map(|()| true)
}

fn fingerprints(authority: &Authority) -> Vec<String> {
    let believed = authority.believed();
    CertificateDer::pem_slice_iter(believed.as_bytes()).flatten().map(|of| fingerprint(&of)).collect()
}

fn fingerprint(certificate: &[u8]) -> String {
    hex(digest(&SHA256, certificate).as_ref())
}

fn der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// Where the leader tells members whom to believe.
pub const AUTHORITIES_PATH: &str = "/raft/authorities";
const ASKED: Duration = Duration::from_secs(5);
/// Another is to follow when this part of an authority's time is left: two years of ten.
const AHEAD: u32 = 5;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use control_api::certificates::faults;
    use control_api::tls::{Identity, Pem};
    use control_state::Command;
    use rcgen::KeyPair;

    use super::*;
    use crate::issue::Seal;

    /// A member, as far as its certificate goes.
    struct Member {
        key: KeyPair,
        certificate: String,
        believed: String,
    }

    const DAY: u64 = 86_400;
    const LIFETIME: Duration = Duration::from_secs(30 * DAY);
    const LASTS: Duration = Duration::from_secs(400 * DAY);

    /// Six years of a cluster whose authority lasts 400 days. Some members are away now and then, one for longer than its certificate is
    /// good, after which it has to come anew. Whoever is there is believed by everybody who is, at all times.
    #[test]
    fn whoever_is_there_is_believed_whichever_authority_signs() {
        let seal = Seal::draw().unwrap();
        let began = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let (mut state, mut turn) = (State::default(), 0);
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer.unwrap();
        };
        let (certificate, sealed_key) = issue::make(&seal, LASTS, began).unwrap();
        let first = certificate.clone();
        act(&mut state, Action::FoundAuthority { certificate, sealed_key });
        let mut members: BTreeMap<&str, Member> = BTreeMap::new();
        let away = |name: &str, day: u64| match name {
            "brief" => day % 40 >= 37,
            "long" => day % 61 >= 33,
            "lost" => day % 300 >= 200,
            _ => false,
        };
        let names = ["always", "brief", "long", "lost"];
        let (mut moves, mut anew, mut believed_together) = (0, 0, 0);
        for day in 0..6 * 365 {
            let now = began + Duration::from_secs(day * DAY);
            let issue = |state: &State, key: &KeyPair, name: &str| {
                let request = issue::request(key).unwrap();
                issue::issue(state.authority(), &seal, &request, name, &[], (LIFETIME, 0), now).unwrap()
            };
            let here: Vec<&str> = names.into_iter().filter(|name| !away(name, day)).collect();
            for name in &here {
                let ended = |member: &Member| certificates::end(der(&member.certificate).as_deref()).unwrap() <= now;
                if members.get(name).is_none_or(ended) {
                    let key = KeyPair::generate().unwrap();
                    let certificate = issue(&state, &key, name);
                    anew += u32::from(members.contains_key(name));
                    members.insert(name, Member { key, certificate, believed: state.authority().believed() });
                }
            }
            // As they come back, before anybody has told them anything.
            for one in &here {
                for other in &here {
                    let identity = Identity {
                        chain: Pem { from: "shown".into(), text: members[one].certificate.clone().into() },
                        key: Pem { from: "key".into(), text: Vec::new() },
                    };
                    let believed = Pem { from: "believed".into(), text: members[other].believed.clone().into() };
                    let told = faults(&identity, Some(&believed), &[(*one).to_owned()], now).unwrap();
                    let severe: Vec<_> = told.iter().filter(|fault| fault.severe).collect();
                    assert!(severe.is_empty(), "day {day}: {one} to {other}: {severe:?}");
                }
            }
            for name in &here {
                let member = members.get_mut(name).unwrap();
                member.believed = state.authority().believed();
                let shown = der(&member.certificate).unwrap();
                let left = certificates::end(Some(&shown)).unwrap().duration_since(now).unwrap_or_default();
                let signs = der(&state.authority().certificate).unwrap();
                if left <= LIFETIME / 3 || !certificates::names_issuer(&shown, &signs) {
                    member.certificate = issue(&state, &member.key, name);
                }
            }
            let authority = state.authority().clone();
            believed_together = believed_together.max(issue::certificates_of(&authority.believed()).len());
            let follows = |member: &Member| match (&authority.next, &authority.former) {
                (Some(next), _) => member.believed.contains(next.certificate.trim_end()),
                _ => certificates::names_issuer(
                    &der(&member.certificate).unwrap(),
                    &der(&authority.certificate).unwrap(),
                ),
            };
            let ends = certificates::end(der(&authority.certificate).as_deref()).unwrap();
            assert!(ends > now, "day {day}: the authority has ended");
            let terms = Terms { ends: seconds(ends), ahead: (LASTS / AHEAD).as_secs(), lifetime: LIFETIME.as_secs() };
            let all_follow = names.iter().all(|name| members.get(name).is_some_and(follows));
            match authority.due(terms, seconds(now), all_follow) {
                Some(AuthorityStep::Stage) => {
                    let (certificate, sealed_key) = issue::make(&seal, LASTS, now).unwrap();
                    let next = Successor { certificate, sealed_key, since: seconds(now) };
                    act(&mut state, Action::StageAuthority { next });
                }
                Some(AuthorityStep::Promote) => {
                    let certificate = authority.next.as_ref().unwrap().certificate.clone();
                    moves += 1;
                    act(&mut state, Action::PromoteAuthority { certificate, at: seconds(now) });
                }
                Some(AuthorityStep::Retire) => {
                    let certificate = authority.former.as_ref().unwrap().certificate.clone();
                    act(&mut state, Action::RetireAuthority { certificate });
                }
                None => {}
            }
        }
        assert!((5..=7).contains(&moves) && anew > 0 && believed_together == 2, "{moves} {anew} {believed_together}");
        assert!(!state.authority().believed().contains(first.trim_end()), "it is long forgotten");
    }
}
