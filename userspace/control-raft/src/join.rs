//! How a member comes to a cluster that issues certificates itself: it shows a token once, and a certificate from then on.
//!
//! The token names the cluster, where its primaries are, the fingerprint of its authority, and a secret. The new member asks one of them
//! for the authority and believes it by its fingerprint; then, over a connection that the authority vouches for, it proves the
//! secret without saying it and gets a certificate that is bound to its name. Long before that ends it asks for the next one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base_text::{duration, quoted};
use control_api::client::Client;
use control_api::tls::{ClientTrust, Pem};
use control_api::{MemberRole, Refusal};
use control_state::{Action, Authority, JoinToken, SPENDERS_LEVEL, Spender};
use hyper::Method;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::config::{Config, PeerTls, StartError, StartErrorKind, StateFlag, host_port};
use crate::control::Inner;
use crate::issue::{self, Joined, Place, unhex};
use crate::seal::{CLUSTER, FROM};
use crate::secret::{hex, sign_with, signed_with};
use crate::succession;
use crate::term::Term;

/// How the certificates of this member come to be.
#[derive(Debug, Clone)]
pub struct Issued {
    /// `--join`: what the member comes with the first time. Without it, it founds the cluster.
    pub token: Option<String>,
    /// How long a certificate is good; it is renewed when a third of that is left.
    pub lifetime: Duration,
    /// How long an authority is good that this member makes; another follows when a fifth of that is left.
    pub authority_lasts: Duration,
}

/// What this member issues with, and to itself.
pub(crate) struct Issuing {
    pub place: Place,
    /// What this member shows.
    pub tls: PeerTls,
    pub lifetime: Duration,
    pub authority_lasts: Duration,
    /// Others believe or show something that this member does not yet.
    pub behind: Notify,
    /// Fingerprints of the authorities that the group has.
    pub known: Mutex<Option<(Arc<Authority>, Vec<String>)>>,
}

/// What a token says, behind [`PREFIX`] as JSON in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// The cluster's name.
    c: String,
    /// Peer URLs of its primaries.
    u: Vec<String>,
    /// Fingerprint of its authority.
    a: String,
    /// Of those beside it that are believed while one follows the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    m: Vec<String>,
    /// The token's id.
    i: String,
    /// Its secret.
    s: String,
}

/// A token for people to hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    pub token: String,
    pub expires: SystemTime,
}

/// Whom a token lets in: anybody, as far as it does not say. It stands in the secret itself, which the cluster keeps sealed, so that
/// whoever holds the token changes nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// A token for a secondary never tells the key that the authority is sealed with.
    pub role: Option<MemberRole>,
    pub name: Option<String>,
}

impl Bound {
    fn secret(&self, drawn: &str) -> String {
        if *self == Bound::default() {
            return drawn.to_owned();
        }
        let role = self.role.map(|role| role.to_string()).unwrap_or_default();
        format!("{drawn}/{role}/{}", self.name.as_deref().unwrap_or_default())
    }

    /// Why a member may not come with this secret, if so.
    fn refuses(secret: &[u8], name: &str, role: MemberRole) -> Option<String> {
        let text = String::from_utf8_lossy(secret);
        let mut parts = text.splitn(3, '/').skip(1);
        let (for_role, for_name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !for_role.is_empty() && for_role != role.to_string() {
            return Some(format!(
                "the token is for a {for_role}, and this member is a {role}: give it that --cluster-role, or make another token (weirctl member \
                 token --role {role})"
            ));
        }
        (!for_name.is_empty() && for_name != name).then(|| {
            format!(
                "the token is for a member {}, and this one is {}: give it that --name, or make another token (weirctl member token)",
                quoted(for_name),
                quoted(name)
            )
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinCall {
    id: String,
    name: String,
    role: MemberRole,
    url: String,
    /// A certificate signing request, PEM.
    request: String,
    /// The rest, signed with the token's secret.
    proof: String,
}

impl JoinCall {
    /// Who asks, and that it is this request: the proof is of all that it says.
    fn spender(&self) -> Spender {
        Spender { name: self.name.clone(), request: hex(digest(&SHA256, self.proof.as_bytes()).as_ref()) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinAnswer {
    certificate: String,
    joined: Joined,
    /// For a primary.
    seal: Option<String>,
    /// All authorities that members believe.
    #[serde(default)]
    authorities: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenewCall {
    request: String,
}

impl Issued {
    pub fn new(token: Option<String>) -> Issued {
        Issued { token, lifetime: LIFETIME, authority_lasts: AUTHORITY_LASTS }
    }

    /// The certificate that a member with this data directory was issued, if it was.
    pub fn tls_in(data_dir: &Path) -> Option<PeerTls> {
        let place = Place::new(data_dir);
        place.is_settled().then(|| PeerTls::of(place.files()).ok()).flatten()
    }
}

/// Sees to it that the member has a certificate and knows its cluster.
pub(crate) async fn settle(mut config: Config) -> Result<(Config, Option<Issuing>), StartError> {
    let Some(issued) = config.issued.clone() else { return Ok((config, None)) };
    let wrong = |message: String| StartError::new(StartErrorKind::Config, message);
    if let Some(why) = issue::unfit(&config.name) {
        return Err(wrong(format!("--name {}: {why}", quoted(&config.name))));
    }
    let place = Place::new(&config.data_dir);
    if !place.is_settled() {
        match &issued.token {
            Some(token) => join(&config, &place, token).await?,
            None if config.role == MemberRole::Primary
                && config.state_flag == StateFlag::New
                && config.initial_cluster.keys().all(|name| *name == config.name) =>
            {
                let hosts = hosts(&config);
                place
                    .found(&config.name, &hosts, (issued.lifetime, issued.authority_lasts))
                    .map_err(|e| StartError::new(StartErrorKind::Data, e))?;
                tracing::info!(
                    "this member founds a cluster that issues its members' certificates (weirctl member token)"
                );
            }
            None => {
                return Err(wrong(
                    "https:// between members without --peer-cert-file, --peer-key-file and --peer-trusted-ca-file: the cluster issues their certificates itself. Start one member \
                     alone, without --initial-cluster, and every other with --join TOKEN (weirctl member token on the first)"
                        .into(),
                ));
            }
        }
    }
    if let Some(joined) = place.joined() {
        config.cluster_name = joined.cluster_name;
        if config.role == MemberRole::Primary {
            config.initial_cluster = joined.primaries;
            config.state_flag = StateFlag::Existing;
        } else {
            config.initial_cluster.clear();
            config.primary_peer_urls = joined.primaries.into_values().collect();
        }
    }
    let tls = PeerTls::of(place.files()).map_err(|e| StartError::new(StartErrorKind::Data, e.to_string()))?;
    config.tls = Some(tls.clone());
    let (lifetime, authority_lasts) = (issued.lifetime, issued.authority_lasts);
    let (behind, known) = (Notify::new(), Mutex::default());
    Ok((config, Some(Issuing { place, tls, lifetime, authority_lasts, behind, known })))
}

/// Hosts at which this member is reached, as far as its options say.
fn hosts(config: &Config) -> Vec<String> {
    let urls = config
        .advertise_peer_url
        .iter()
        .chain(&config.listen_peer_urls)
        .chain(config.initial_cluster.get(&config.name));
    let named = urls.filter_map(|url| host_port("", url).ok()).map(|(host, _)| host);
    let bound = config.listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.ip().to_string()));
    let own = config.member.addresses;
    let own = own.v4.map(IpAddr::V4).into_iter().chain(own.v6.map(IpAddr::V6)).map(|ip| ip.to_string());
    let mut hosts: Vec<String> = named.chain(bound).chain(own).collect();
    hosts.retain(|host| host.parse::<IpAddr>().map_or(!host.is_empty(), |ip| !ip.is_unspecified()));
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

async fn join(config: &Config, place: &Place, token: &str) -> Result<(), StartError> {
    let token = Token::read(token).map_err(|why| StartError::new(StartErrorKind::Config, format!("--join: {why}")))?;
    let failed = |e: &dyn std::fmt::Display| StartError::new(StartErrorKind::Data, e.to_string());
    let url = own_url(config).ok_or_else(|| {
        let advice =
            "--join: the others have to reach this member: give --initial-advertise-peer-urls https://HOST:PORT";
        StartError::new(StartErrorKind::Config, advice)
    })?;
    let (key, request) = place.asking().map_err(|e| failed(&e))?;
    let parts = proof_parts(&token.i, &config.name, config.role, &url, &request);
    let proof = sign_with(token.s.as_bytes(), &parts.each_ref().map(|part| part.as_bytes()));
    let (id, name, role) = (token.i.clone(), config.name.clone(), config.role);
    let call = JoinCall { id, name, role, url: url.clone(), request, proof };
    let mut last = "it names nobody".to_owned();
    let (began, mut turn) = (Instant::now(), 0);
    for at in token.u.iter().cycle() {
        turn += 1;
        match ask(at, &token, &config.name, &call).await {
            Ok((authority, answer)) => {
                let mut joined = answer.joined;
                if config.role == MemberRole::Primary {
                    joined.primaries.insert(config.name.clone(), url);
                }
                let seal = answer.seal.map_or(Ok(()), |seal| place.keep_seal(&seal));
                let kept = seal
                    .and_then(|()| place.keep_joined(&joined))
                    .and_then(|()| place.settle(&key.serialize_pem(), &authority, &answer.certificate));
                kept.map_err(|e| failed(&e))?;
                tracing::info!(at, "the cluster has issued a certificate to this member");
                return Ok(());
            }
            Err(Unjoined::Refused(mut message)) => {
                if turn > 1 {
                    message += " (this member has asked before and got no answer: below feature level 16 of the cluster the token is spent for that)";
                }
                return Err(StartError::new(StartErrorKind::Identity, format!("--join: {at}: {message}")));
            }
            Err(Unjoined::Unreached(reason)) => last = format!("{at}: {reason}"),
        }
        if turn % token.u.len() > 0 {
            continue;
        }
        // A cluster that starts, or that chooses a leader, takes nobody in for a moment.
        if began.elapsed() > ASKED_FOR {
            break;
        }
        if turn == token.u.len() {
            tracing::warn!("--join: nobody can be asked yet, it is tried again for a minute: {last}");
        }
        tokio::time::sleep(ASKED_AGAIN).await;
    }
    let message = format!("--join: nobody of cluster {} can be asked: {last}", quoted(&token.c));
    Err(StartError::new(StartErrorKind::Raft, message))
}

enum Unjoined {
    Refused(String),
    Unreached(String),
}

async fn ask(at: &str, token: &Token, name: &str, call: &JoinCall) -> Result<(String, JoinAnswer), Unjoined> {
    let unreached = |e: &dyn std::fmt::Display| Unjoined::Unreached(e.to_string());
    let headers = [(CLUSTER, token.c.as_str()), (FROM, name), ("content-type", "application/json")];
    // Whoever answers is believed by the fingerprint of what it answers, and by nothing else.
    let anybody = ClientTrust { authorities: None, identity: None, skip_verify: true };
    let anybody = Client::trusting(CONNECT, &anybody).map_err(|e| unreached(&e))?;
    let told = anybody.call(Method::GET, &format!("{at}{AUTHORITY_PATH}"), &headers, "", ASKED).await;
    let told = told.map_err(|e| unreached(&e))?;
    if !told.status.is_success() {
        return Err(Unjoined::Unreached(message_of(&told.body)));
    }
    // Of what is told, that which the token speaks of: anybody may have added to it.
    let vouched = |pem: &String| fingerprint_of(pem).is_some_and(|of| of == token.a || token.m.contains(&of));
    let told = issue::certificates_of(&String::from_utf8_lossy(&told.body));
    let authority: String = told.into_iter().filter(vouched).collect();
    if authority.is_empty() {
        return Err(Unjoined::Refused(
            "the token is of another authority than the cluster there has; make another there".into(),
        ));
    }
    let pem = Pem { from: "the cluster's authority".into(), text: authority.clone().into_bytes() };
    let trust = ClientTrust { authorities: Some(pem), identity: None, skip_verify: false };
    let client = Client::trusting(CONNECT, &trust).map_err(|e| unreached(&e))?;
    let body = serde_json::to_vec(call).map_err(|e| unreached(&e))?;
    let answer = client.call(Method::POST, &format!("{at}{JOIN_PATH}"), &headers, body, ASKED).await;
    let answer = answer.map_err(|e| unreached(&e))?;
    match answer.status.as_u16() {
        200 => {
            let answer: JoinAnswer = serde_json::from_slice(&answer.body).map_err(|e| unreached(&e))?;
            Ok((answer.authorities.clone().unwrap_or(authority), answer))
        }
        503 => Err(Unjoined::Unreached(message_of(&answer.body))),
        _ => Err(Unjoined::Refused(message_of(&answer.body))),
    }
}

fn message_of(body: &[u8]) -> String {
    let told = serde_json::from_slice::<crate::wire::ErrorBody>(body).map(|error| error.message);
    told.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

/// Where others reach this member.
fn own_url(config: &Config) -> Option<String> {
    let bound = || {
        let address = config.listeners.first()?.local_addr().ok()?;
        Some(format!("https://{address}"))
    };
    let listed = config.listen_peer_urls.iter().find(|url| {
        host_port("", url).is_ok_and(|(host, _)| host.parse::<IpAddr>().map_or(true, |ip| !ip.is_unspecified()))
    });
    let url = config.advertise_peer_url.clone().or_else(bound).or_else(|| listed.cloned());
    url.filter(|url| url.starts_with("https://")).map(|url| url.trim_end_matches('/').to_owned())
}

fn proof_parts(id: &str, name: &str, role: MemberRole, url: &str, request: &str) -> [String; 6] {
    ["weir join 1".into(), id.into(), name.into(), role.to_string(), url.into(), request.into()]
}

pub(crate) fn fingerprint_of(pem: &str) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some(hex(digest(&SHA256, &certificate).as_ref()))
}

impl Token {
    fn text(&self) -> String {
        format!("{PREFIX}{}", hex(serde_json::to_string(self).unwrap_or_default().as_bytes()))
    }

    fn read(text: &str) -> Result<Token, String> {
        let advice = "give the line that weirctl member token printed, whole";
        let digits = text.trim().strip_prefix(PREFIX).ok_or_else(|| format!("not a token; {advice}"))?;
        let json = unhex(digits).ok_or_else(|| format!("the token is not whole; {advice}"))?;
        serde_json::from_slice(&json).map_err(|_| format!("the token is not whole; {advice}"))
    }
}

impl Inner {
    /// A token with which one new member may come.
    pub(crate) async fn invite(&self, lasts: Duration, bound: Bound) -> Result<Invitation, Refusal> {
        let state = self.publisher().state();
        let authority = state.authority().clone();
        let seal = self.issuing.as_ref().and_then(|issuing| issuing.place.seal());
        let (Some(seal), Some(fingerprint)) = (seal, fingerprint_of(&authority.certificate)) else {
            return Err(Refusal::conflict(
                "this cluster does not issue certificates, or this member is a secondary: members come by token where the first primary was \
                 started with https:// peer URLs and without --peer-cert-file; ask a primary",
            ));
        };
        let mut drawn = [[0; 16]; 2];
        let filled = drawn.iter_mut().try_for_each(|bytes| aws_lc_rs::rand::fill(bytes));
        filled.map_err(|_| Refusal::unavailable("the machine has no random numbers"))?;
        if let Some((name, why)) = bound.name.as_deref().and_then(|name| Some((name, issue::unfit(name)?))) {
            return Err(Refusal::invalid(format!("name {}: {why}", quoted(name))));
        }
        let [id, secret] = drawn.map(|bytes| hex(&bytes));
        let secret = bound.secret(&secret);
        let sealed_secret =
            seal.close(secret.as_bytes()).ok_or_else(|| Refusal::unavailable("the token cannot be sealed"))?;
        let now = SystemTime::now();
        let expires = now + lasts;
        let token = JoinToken { sealed_secret, expires: seconds(expires) };
        self.propose(Action::AddToken { id: id.clone(), token, at: seconds(now) }).await?;
        let members = state.view.members.values();
        let primaries = members.filter(|member| member.role == MemberRole::Primary && !member.peer_url.is_empty());
        let mut urls: Vec<String> = primaries.map(|member| member.peer_url.clone()).collect();
        if !urls.contains(&self.places.own) {
            urls.insert(0, self.places.own.clone());
        }
        let believed = issue::certificates_of(&authority.believed());
        let m = believed.iter().skip(1).filter_map(|pem| fingerprint_of(pem)).collect();
        let token = Token { c: self.cluster_name().to_owned(), u: urls, a: fingerprint, m, i: id, s: secret };
        Ok(Invitation { token: token.text(), expires })
    }

    /// Certificates of the authorities that members believe, which are no secret.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        let state = self.publisher().state();
        Some(state.authority())
            .filter(|authority| !authority.certificate.is_empty())
            .map(|authority| authority.believed())
    }

    pub(crate) async fn admit_stranger(&self, call: JoinCall) -> Result<JoinAnswer, Refusal> {
        let used_otherwise = "the token was used by a member of this name that asked otherwise: it was on another --data-dir, or had another \
                              --cluster-role or --initial-advertise-peer-urls; start it as it was then, or make another token (weirctl member token)";
        let unknown = "the token is not known here: it was used, has expired, or is of another cluster; make another (weirctl member token)";
        let state = self.publisher().state();
        let authority = state.authority().clone();
        let issuing = self.issuing.as_ref();
        let (Some(issuing), Some(seal)) = (issuing, issuing.and_then(|issuing| issuing.place.seal())) else {
            return Err(Refusal::unavailable("this member issues no certificates"));
        };
        let at = seconds(SystemTime::now());
        let by = call.spender();
        let secret = authority.secret_for(&call.id, &by, at);
        let Some(secret) = secret.and_then(|sealed| seal.open(sealed)) else {
            let otherwise = authority.spent.get(&call.id).is_some_and(|spent| spent.by.name == call.name);
            return Err(Refusal::invalid(if otherwise { used_otherwise } else { unknown }));
        };
        let parts = proof_parts(&call.id, &call.name, call.role, &call.url, &call.request);
        if !signed_with(&secret, &parts.each_ref().map(|part| part.as_bytes()), call.proof.as_bytes()) {
            return Err(Refusal::invalid(unknown));
        }
        if let Some(why) = Bound::refuses(&secret, &call.name, call.role) {
            return Err(Refusal::conflict(format!("{why}; the token stays good")));
        }
        if let Some(why) = issue::unfit(&call.name) {
            return Err(Refusal::invalid(format!("--name {}: {why}", quoted(&call.name))));
        }
        if state.view.members.contains_key(&call.name) || self.voters().contains(&call.name) {
            return Err(Refusal::conflict(format!(
                "the cluster has a member {name} already: give this one a --name of its own, or, if that one is gone for good, remove it first \
                 (weirctl member purge {plain}); the token stays good",
                name = quoted(&call.name),
                plain = call.name
            )));
        }
        if let Some(why) = self.unfit_newcomer(&call.name) {
            return Err(Refusal::conflict(format!("--name {}: {why}; the token stays good", quoted(&call.name))));
        }
        let (host, _) =
            host_port("--initial-advertise-peer-urls", &call.url).map_err(|e| Refusal::invalid(e.message))?;
        if let Some(why) = self.unfit_host(&call.name, &host) {
            return Err(Refusal::conflict(format!("--initial-advertise-peer-urls: {why}; the token stays good")));
        }
        let version = self.publisher().state().view.version;
        let certificate = issue::issue(
            &authority,
            &seal,
            &call.request,
            &call.name,
            &[host],
            (issuing.lifetime, version),
            SystemTime::now(),
        );
        let certificate = certificate.map_err(Refusal::invalid)?;
        // The certificate is handed out only when nobody else can have come with the token. Whoever asked before and heard nothing has the
        // next one for the same key.
        let by = (state.level() >= SPENDERS_LEVEL).then_some(by);
        self.propose(Action::SpendToken { id: call.id, at, by }).await?;
        let primary =
            |name: &String| state.view.members.get(name).map(|member| (name.clone(), member.peer_url.clone()));
        let mut primaries: BTreeMap<String, String> = self.voters().iter().filter_map(primary).collect();
        primaries.insert(self.name().to_owned(), self.places.own.clone());
        primaries.retain(|_, url| !url.is_empty());
        tracing::info!(member = call.name, url = call.url, "a new member has come by token");
        Ok(JoinAnswer {
            certificate,
            joined: Joined { cluster_name: self.cluster_name().to_owned(), primaries },
            seal: (call.role == MemberRole::Primary).then(|| seal.text().to_owned()),
            authorities: Some(authority.believed()),
        })
    }

    /// The next certificate of a member that has shown the one before.
    pub(crate) fn renew_for(&self, name: &str, call: &RenewCall) -> Result<String, Refusal> {
        let hosts = self.fit_hosts(name, self.hosts_of(name));
        self.issue_for(name, &hosts, &call.request)
    }

    fn issue_for(&self, name: &str, hosts: &[String], request: &str) -> Result<String, Refusal> {
        let state = self.publisher().state();
        let issuing = self.issuing.as_ref();
        let (Some(issuing), Some(seal)) = (issuing, issuing.and_then(|issuing| issuing.place.seal())) else {
            return Err(Refusal::unavailable("this member issues no certificates; ask a primary"));
        };
        if state.authority().certificate.is_empty() {
            return Err(Refusal::unavailable("the cluster's authority is not known here yet; ask again in a moment"));
        }
        let terms = (issuing.lifetime, state.view.version);
        issue::issue(state.authority(), &seal, request, name, hosts, terms, SystemTime::now()).map_err(Refusal::invalid)
    }

    /// What takes a member out: with its certificate, if that is the cluster's.
    pub(crate) fn expulsion(&self, name: &str) -> Action {
        let name = name.to_owned();
        let state = self.publisher().state();
        if self.issuing.is_none() || state.level() < EXPEL_LEVEL {
            return Action::RemoveMember { name };
        }
        let now = SystemTime::now();
        // Clocks of members differ, and one that has not heard of it may issue another yet: that is of a version from before, too.
        Action::Expel { name, at: seconds(now), until: seconds(now + 2 * LIFETIME) }
    }

    /// Whether a member of this name has come by token so lately that it might come again with the same.
    pub(crate) fn has_come(&self, name: &str) -> bool {
        self.publisher().state().authority().spent.values().any(|spent| spent.by.name == name)
    }

    /// The version at which a member of this name was taken out last, as long as that matters.
    pub(crate) fn was_expelled(&self, name: &str) -> Option<u64> {
        self.publisher().state().authority().revoked.get(name).map(|revoked| revoked.version)
    }

    /// Why a certificate that the cluster issued is not good any more, if so.
    pub(crate) fn revoked(&self, name: &str, certificate: &CertificateDer<'_>) -> Option<String> {
        let state = self.publisher().state();
        if self.issuing.is_none() || !state.authority().revoked.contains_key(name) {
            return None;
        }
        state.authority().has_revoked(name, issue::version_of(certificate)).then(|| {
            format!(
                "member {} was removed, and its certificate with it: to make this machine a member again, stop weir, move its --data-dir away \
                 (the folder edge in it holds what its edge serves) and start it with --join and a new token (weirctl member token)",
                quoted(name)
            )
        })
    }

    /// The founder hands its authority to the group; so does whoever leads one that has lost it.
    pub(crate) async fn found_authority(&self, term: &Term) {
        let Some(issuing) = &self.issuing else { return };
        if !self.publisher().state().authority().certificate.is_empty() {
            return;
        }
        if let Some((certificate, sealed_key)) = issuing.place.founding() {
            // Refused by nobody: one that comes second changes nothing.
            let _ = term.propose(Action::FoundAuthority { certificate, sealed_key }).await;
        }
    }
}

/// Keeps up with the cluster's authorities, and asks for the next certificate in time, for as long as the member runs.
pub(crate) async fn keep_certified(inner: Arc<Inner>) {
    let Some(issuing) = &inner.issuing else { return };
    let look = (issuing.lifetime / 50).clamp(LOOK_MIN, LOOK_MAX);
    let (mut told, mut told_of_authorities) = (String::new(), String::new());
    let mut next = LOOK_MIN;
    loop {
        let _ = tokio::time::timeout(next, issuing.behind.notified()).await;
        let kept = succession::keep_up(&inner, issuing).await;
        next = match kept {
            Ok(true) => look,
            Ok(false) => LOOK_MIN,
            Err(_) => look.min(RETRY),
        };
        match kept {
            Ok(_) => told_of_authorities.clear(),
            // The same is not said again with every look.
            Err(error) if error != told_of_authorities => {
                tracing::warn!(
                    error,
                    "what this member believes of the cluster's authorities may be old; it is tried again"
                );
                told_of_authorities = error;
            }
            Err(_) => {}
        }
        let left = issuing.tls.ends().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        let believes = issuing.believes();
        let of_another = believes.authorities.first().is_some_and(|signs| *signs != believes.shows);
        if !of_another && left.is_none_or(|left| left > issuing.lifetime / 3) {
            continue;
        }
        match renew(&inner, issuing).await {
            Ok(()) => {
                told.clear();
                tracing::info!("this member has its next certificate");
            }
            Err(error) if error != told => {
                let left = duration(Duration::from_secs(left.unwrap_or_default().as_secs()));
                tracing::error!(
                    error,
                    "this member's certificate ends in {left} and could not be renewed; it is tried again"
                );
                told = error;
            }
            Err(_) => {}
        }
    }
}

async fn renew(inner: &Inner, issuing: &Issuing) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let key = KeyPair::from_pem(&issuing.place.key().map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    let request = issue::request(&key).map_err(|e| text(&e))?;
    let call = RenewCall { request };
    let mut certificate = inner.renew_for(inner.name(), &call).map_err(|refusal| refusal.message);
    for url in inner.leader_url().into_iter().chain(inner.candidates()) {
        if certificate.is_ok() {
            break;
        }
        let answer = inner.wire().post::<Result<String, Refusal>>(&url, RENEW_PATH, &call, ASKED).await;
        certificate = answer.map_err(|e| text(&e)).and_then(|answer| answer.map_err(|refusal| refusal.message));
    }
    issuing.place.renew(&certificate?).map_err(|e| text(&e))?;
    issuing.take(inner)
}

pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What a stranger may ask for: where the authority's certificate is, and where one comes with a token.
pub const AUTHORITY_PATH: &str = "/raft/authority";
pub const JOIN_PATH: &str = "/raft/join";
pub const RENEW_PATH: &str = "/raft/renew";
/// The feature level that has [`Action::Expel`].
const EXPEL_LEVEL: u32 = 5;
const PREFIX: &str = "weir-join-1-";
/// A month: a member that is away for a week finds its certificate good.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// Ten years.
const AUTHORITY_LASTS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Until the leader that was not reached is asked again.
const RETRY: Duration = Duration::from_secs(5);
const LOOK_MIN: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(3600);
const CONNECT: Duration = Duration::from_secs(3);
/// An election may be going on.
const ASKED: Duration = Duration::from_secs(10);
/// How long the members that a token names are asked until one of them answers, and the pause between.
const ASKED_FOR: Duration = Duration::from_secs(60);
const ASKED_AGAIN: Duration = Duration::from_millis(500);
