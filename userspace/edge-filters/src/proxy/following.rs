//! A Proxy that goes where its servers point (`maxRedirection`), see [`redirects`](super::redirects).

use super::members::Set;
use super::redirects::{self, Next, Origin};
use super::{Pool, Proxy, Stand};
use base_model::MtlsSpec;
use base_runtime::net::{MachineAddresses, OwnPort};
use base_telemetry::Limit;
use edge_pipeline::{Body, Exchange};
use edge_upstream::health::Heard;
use edge_upstream::{Answer, Attempt, AttemptError, Endpoint, Identity, Server, names};
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

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

    /// Addresses of a host that one may be led to.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
        let mut found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => match names::look_up(host).await {
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
        let worker = base_runtime::worker_index();
        let server = &set.balancer.servers()[stand.choice.get().index];
        let mut request = exchange.request().clone();
        let host = pool.host_for(server, &request).to_owned();
        let target = format!("{}{}", server.prefix, request.target());
        if request.set_target(target.as_bytes()).is_err() {
            return Ok(answer);
        }
        let tls = server.identity.is_some();
        let own = [Origin::new(tls, &host), Origin::new(tls, &server.authority)];
        let mut origin = own[0].clone();
        for followed in 0.. {
            let there = exchange.space_ref().request_body.again().filter(|_| !once);
            let Some(next) = redirects::next(&request, &origin, &own, &answer.response, there.is_some()) else { break };
            if followed == following.most {
                following.refused.hit(worker);
                exchange.tags.note(|| format!("{}: {followed} redirects followed, and one more", pool.name));
                break;
            }
            let to = match self.server_at(following, set, server, &own, &next).await {
                Ok(to) => to,
                Err(why) => {
                    following.refused.hit(worker);
                    let authority = &next.origin.authority;
                    exchange.tags.note(|| format!("{}: not redirected to {authority}: {why}", pool.name));
                    break;
                }
            };
            if !own.contains(&next.origin) && !stand.away.replace(true) {
                pool.heard(set, stand.choice.get(), Heard::Answer);
            }
            answer.body.discard(DISCARDED_MOST).await;
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
                recorder: &set.of_servers[stand.choice.get().index],
                limits: &self.limits,
                counters: &pool.counters,
            };
            answer = attempt.run(&mut body).await?;
            let target = &next.request.path;
            exchange
                .tags
                .note(|| format!("{}: redirected to {}{}", pool.name, next.origin.authority, target.encoded()));
            (request, origin) = (next.request, next.origin);
        }
        Ok(answer)
    }

    /// Whoever answers for an origin: the server that said so, another one that a pool lists, or any host.
    async fn server_at(
        &self,
        following: &Following,
        set: &Set,
        server: &Server,
        own: &[Origin],
        next: &Next,
    ) -> Result<Server, String> {
        if own.contains(&next.origin) {
            return Ok(server.bare());
        }
        let is_it = |server: &&Arc<Server>| Origin::new(server.identity.is_some(), &server.authority) == next.origin;
        let worker = base_runtime::worker_index();
        let in_set = |set: &Set| set.balancer.servers().iter().find(is_it).map(|listed| listed.bare());
        let elsewhere = || self.pools.iter().find_map(|pool| in_set(&pool.members.of(worker)));
        if let Some(listed) = in_set(set).or_else(elsewhere) {
            return Ok(listed);
        }
        let (host, port) = next.origin.place().ok_or("no host")?;
        let identity = match next.origin.tls {
            true => Some(following.identity.clone().ok_or("no authority is known to believe https of")?),
            false => None,
        };
        let addresses = following.addresses(&host, port).await?;
        Ok(Server::named(&next.origin.authority, Endpoint::found(&host, port, addresses), identity))
    }
}
