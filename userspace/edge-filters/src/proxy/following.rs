//! A Proxy that goes where its servers point (`maxRedirection`), see [`redirects`](super::redirects).

use super::members::Set;
use super::redirects::{self, Next, Origin};
use super::{Pool, Proxy, Stand, is_error};
use crate::ranking::{is_telling, pushes_back};
use base_model::MtlsSpec;
use base_runtime::net::{MachineAddresses, OwnPort};
use base_telemetry::Limit;
use base_telemetry::proxy::{self as stats, ServerRecorder, UpstreamError};
use edge_pipeline::{Body, Exchange};
use edge_upstream::balance::Choice;
use edge_upstream::balance::load::Place;
use edge_upstream::health::Heard;
use edge_upstream::{Answer, Attempt, AttemptError, Endpoint, Identity, Server, names};
use proto_http::Response;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Redirects that are followed for one request, whatever the document says.
pub const REDIRECTS_MOST: u32 = 20;

/// Most that is read of an answer that is not the last, in bytes, so that its connection can serve again.
const DISCARDED_MOST: u64 = 64 * 1024;

/// What following takes.
pub struct Following {
    most: u32,
    machine: Arc<MachineAddresses>,
    /// Those of hosts that no pool lists get no certificate of ours.
    identity: Option<Arc<Identity>>,
    /// Redirects that were not followed: one too many, or to where nobody is led.
    refused: Limit,
}

impl Following {
    /// `None` where nothing is followed.
    pub fn new(most: u32, refused: Limit) -> Option<Following> {
        let identity = || Identity::shared(None::<&MtlsSpec>).ok();
        (most > 0).then(|| Following {
            most: most.min(REDIRECTS_MOST),
            machine: MachineAddresses::shared(),
            identity: identity(),
            refused,
        })
    }

    /// Addresses of a host that this client's request may be led to.
    async fn addresses(&self, host: &str, port: u16, client: IpAddr) -> Result<Vec<IpAddr>, String> {
        let mut found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => match names::look_up(host, client).await {
                Ok((found, _)) => found,
                Err(names::LookUpError::Busy) => return Err("too many names are being looked up".to_owned()),
                Err(names::LookUpError::Failed(why)) => return Err(why),
            },
        };
        let is_own = |ip: IpAddr| OwnPort::is_one(port) && self.machine.has(ip);
        found.retain(|ip| !redirects::is_barred(*ip) && !is_own(*ip));
        if found.is_empty() { Err("nobody is led there".to_owned()) } else { Ok(found) }
    }
}

/// Who answers for where a redirect points.
enum Found<'p> {
    /// The server that said so.
    Same,
    /// Another one of the pool, with a place among its requests.
    InPool(usize, Option<Place>),
    /// One of another pool of the filter, and a place there.
    Elsewhere(Visit<'p>, Option<Place>),
    /// Nobody that is listed.
    Stranger(Server),
}

/// A request to a server of another pool than the one that was chosen: it counts there, however it ends.
struct Visit<'p> {
    pool: &'p Pool,
    set: Arc<Set>,
    choice: Choice,
    since: Instant,
    ended: bool,
}

impl Visit<'_> {
    fn server(&self) -> &Server {
        &self.set.balancer.servers()[self.choice.index]
    }

    fn recorder(&self) -> &ServerRecorder {
        &self.set.of_servers[self.choice.index]
    }

    fn end(mut self, result: &Result<Answer, AttemptError>) {
        self.ended = true;
        let took = base_runtime::now().saturating_duration_since(self.since);
        let failed = result.as_ref().map_or(true, |answer| is_error(answer.response.status));
        self.set.balancer.took(self.choice.index, took, failed);
        match result {
            Ok(answer) => {
                self.pool.heard(&self.set, self.choice, if failed { Heard::ErrorAnswer } else { Heard::Answer });
                self.recorder().record(&stats::AnsweredRequest {
                    status: answer.response.status,
                    duration: took,
                    request_bytes: 0,
                    response_bytes: answer.body.length().unwrap_or_default(),
                });
            }
            Err(error) => self.pool.failed(&self.set, self.choice, error),
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.recorder().error(UpstreamError::Canceled);
        }
    }
}

impl Proxy {
    /// The answer at the end of its redirects. `once`: the body cannot be sent again.
    pub(super) async fn follow(
        &self,
        pool: &Pool,
        set: &Set,
        mut answer: Answer,
        stand: &Stand<'_>,
        once: bool,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let Some(following) = &self.following else { return Ok(answer) };
        if !(300..400).contains(&answer.response.status) || answer.upgraded.is_some() {
            return Ok(answer);
        }
        let (worker, servers) = (base_runtime::worker_index(), set.balancer.servers());
        let first = stand.choice.get().index;
        let server = &servers[first];
        let mut request = exchange.request().clone();
        let host = pool.host_for(server, &request).to_owned();
        let target = format!("{}{}", server.prefix, request.target());
        if request.set_target(target.as_bytes()).is_err() {
            return Ok(answer);
        }
        let tls = server.identity.is_some();
        let client = exchange.client.real_ip.unwrap_or(exchange.client.peer.ip());
        let own = Own { first, client, names: [Origin::new(tls, &host), Origin::new(tls, &server.authority)] };
        let mut origin = own.names[0].clone();
        for followed in 0.. {
            let there = exchange.space_ref().request_body.again().filter(|_| !once);
            let next = redirects::next(&request, &origin, &own.names, &answer.response, there.is_some());
            let Some(next) = next else { break };
            if followed == following.most {
                following.refused.hit(worker);
                exchange.tags.note_own(|| format!("{}: {followed} redirects followed, and one more", pool.name));
                break;
            }
            let found = match self.find(following, pool, set, &own, &next, stand).await {
                Ok(found) => found,
                Err(why) => {
                    following.refused.hit(worker);
                    let authority = &next.origin.authority;
                    exchange.tags.note(|| format!("{}: not redirected to {authority}: {why}", pool.name));
                    break;
                }
            };
            if !matches!(found, Found::Same) {
                leave(pool, set, stand, &answer.response, exchange);
            }
            answer.body.discard(DISCARDED_MOST).await;
            let (mut visit, mut stranger) = (None, None);
            match found {
                Found::Same => {}
                Found::InPool(index, place) => {
                    stand.choice.set(set.balancer.choice_of(index));
                    stand.place.set(place);
                    *stand.attended.borrow_mut() = stand.begin(index);
                    stand.away.set(false);
                    exchange.tags.asks(&pool.label, &set.urls[index]);
                }
                Found::Elsewhere(there, place) => {
                    stand.place.set(place);
                    visit = Some(there);
                }
                Found::Stranger(there) => stranger = Some(there),
            }
            stand.away.set(visit.is_some() || stranger.is_some());
            let index = stand.choice.get().index;
            let recorder = visit.as_ref().map_or(&set.of_servers[index], Visit::recorder);
            let to = match (&visit, stranger) {
                (Some(visit), _) => visit.server().bare(),
                (None, Some(stranger)) => stranger,
                (None, None) => servers[index].bare(),
            };
            let mut body = there.filter(|_| next.with_body).unwrap_or(Body::Empty);
            let introduction = to.introduction(&exchange.client);
            let attempt = Attempt {
                server: &to,
                request: &next.request,
                host: &next.origin.authority,
                introduction: &introduction,
                upgrade: false,
                max_idle: self.max_idle,
                connect_timeout: pool.connect_timeout,
                connecting: &stand.connecting,
                repeated: &Cell::new(false),
                keep_body: false,
                interim: None,
                recorder,
                limits: &self.limits,
                counters: &pool.counters,
            };
            let result = attempt.run(&mut body).await;
            match visit {
                Some(visit) => visit.end(&result),
                None => {
                    if let (Err(error), false) = (&result, stand.away.get()) {
                        pool.failed(set, stand.choice.get(), error);
                    }
                }
            }
            answer = result?;
            let target = &next.request.path;
            exchange
                .tags
                .note(|| format!("{}: redirected to {}{}", pool.name, next.origin.authority, target.encoded()));
            (request, origin) = (next.request, next.origin);
        }
        Ok(answer)
    }

    /// Whoever answers for an origin: a server that a pool lists, or any host.
    async fn find(
        &self,
        following: &Following,
        pool: &Pool,
        set: &Set,
        own: &Own,
        next: &Next,
        stand: &Stand<'_>,
    ) -> Result<Found<'_>, String> {
        let worker = base_runtime::worker_index();
        let in_set = |set: &Set| {
            let is_it = |server: &Arc<Server>| Origin::new(server.identity.is_some(), &server.authority) == next.origin;
            set.balancer.servers().iter().position(is_it)
        };
        let full = |_| {
            pool.full.hit(worker);
            "it has as many requests as it may have".to_owned()
        };
        let named = own.names.contains(&next.origin).then_some(own.first);
        if let Some(index) = named.or_else(|| in_set(set)) {
            if index == stand.choice.get().index && !stand.away.get() {
                return Ok(Found::Same);
            }
            return Ok(Found::InPool(index, set.balancer.enter(index).map_err(full)?));
        }
        for pool in &self.pools {
            let set = pool.members.of(worker);
            if let Some(index) = in_set(&set) {
                let place = set.balancer.enter(index).map_err(full)?;
                let (choice, since) = (set.balancer.choice_of(index), base_runtime::now());
                return Ok(Found::Elsewhere(Visit { pool, set, choice, since, ended: false }, place));
            }
        }
        let (host, port) = next.origin.place().ok_or("no host")?;
        let identity = match next.origin.tls {
            true => Some(following.identity.clone().ok_or("no authority is known to believe https of")?),
            false => None,
        };
        let addresses = following.addresses(&host, port, own.client).await?;
        let endpoint = Endpoint::found(&host, port, addresses);
        Ok(Found::Stranger(Server::named(&next.origin.authority, endpoint, identity)))
    }
}

/// The server that was asked first, and the names it goes by.
struct Own {
    first: usize,
    /// Whose request it is.
    client: IpAddr,
    names: [Origin; 2],
}

/// A server has said where to go, which was its answer: what comes of that is somebody else's.
fn leave(pool: &Pool, set: &Set, stand: &Stand<'_>, response: &Response, exchange: &mut Exchange) {
    let now = base_runtime::now();
    let took = now.saturating_duration_since(stand.since.replace(now));
    stand.place.set(None);
    let attended = stand.attended.take();
    if stand.away.get() {
        return;
    }
    let choice = stand.choice.get();
    set.balancer.took(choice.index, took, false);
    pool.heard(set, choice, Heard::Answer);
    set.of_servers[choice.index].record(&stats::AnsweredRequest {
        status: response.status,
        duration: took,
        request_bytes: exchange.request_body_length().unwrap_or_default(),
        response_bytes: 0,
    });
    exchange.tags.came(&pool.label, &set.urls[choice.index], Ok(response.status), took);
    if let (Some(ranking), Some(attended)) = (&pool.adaptive, attended) {
        ranking.hear(response);
        if is_telling(response) {
            attended.answered(pushes_back(response));
        }
    }
}
