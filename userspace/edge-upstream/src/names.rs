//! The names of backends, looked up again whenever their time to live is over.
//!
//! One thread of its own does it for the whole process, so that workers never wait for DNS. `/etc/hosts` is asked first, then the
//! servers of `/etc/resolv.conf` with its search domains; both files are read again when they change. What neither knows is asked of
//! the C library, for machines that take names from elsewhere (`nsswitch.conf`). A name that cannot be looked up keeps the addresses
//! it had.

use crate::endpoint::{Endpoint, Place};
use base_runtime::net::site_of;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// A name is not asked for more often than this, whatever its time to live.
const SHORTEST: Duration = Duration::from_secs(1);

/// Nor more rarely: records that live for a day change within the day.
const LONGEST: Duration = Duration::from_secs(300);

/// How long an answer holds that came without a time to live.
const WITHOUT_TTL: Duration = Duration::from_secs(30);

/// Pause after a first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Names of backends asked for at the same time. One that nobody answers for does not count after [`SLOW_AFTER`]: others have their turn.
const QUERIES: usize = 32;
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// Threads in the C library at the same time, for names of backends and for names that requests brought: each waits as long as it takes.
const BLOCKED: usize = 16;

/// Names that requests wait for, at most; beyond it none is looked up.
const WAITING_MOST: usize = 512;

/// A client has at most what the others leave free divided by this: alone a fifth of all, so that names that nobody answers for, and
/// whoever asks for them, leave room for everybody else's.
const SHARE: usize = 4;

/// How long a name that a request brought may take.
const ONCE_WITHIN: Duration = Duration::from_secs(30);

/// How often `/etc/hosts` and `/etc/resolv.conf` are looked at.
const FILES_LOOK: Duration = Duration::from_secs(5);

/// Keeps the endpoint's addresses fresh as long as anybody holds it.
pub(crate) fn watch(endpoint: &Arc<Endpoint>) {
    // Nobody listens only when there is no thread, which was said.
    let _ = thread().send(Wish::Watch(Arc::downgrade(endpoint)));
}

/// Why a name that a request brought has no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUpError {
    /// So many are being looked up already.
    Busy,
    Failed(String),
}

/// Looks a name up once for this client: its addresses, and how long they hold.
pub async fn look_up(host: &str, client: IpAddr) -> Result<(Vec<IpAddr>, Duration), LookUpError> {
    let place = Waiting::take(client).ok_or(LookUpError::Busy)?;
    let (sender, found) = oneshot::channel();
    let gone = || LookUpError::Failed("names cannot be looked up".to_owned());
    thread().send(Wish::Once(host.to_owned(), sender, place)).map_err(|_| gone())?;
    found.await.map_err(|_| gone())?.map_err(LookUpError::Failed)
}

/// A place of a client among the look-ups that requests wait for.
struct Waiting {
    site: IpAddr,
}

/// What the thread is asked for.
enum Wish {
    Watch(Weak<Endpoint>),
    Once(String, oneshot::Sender<Found>, Waiting),
}

/// Addresses and how long they hold.
type Found = Result<(Vec<IpAddr>, Duration), String>;

impl Waiting {
    fn take(client: IpAddr) -> Option<Waiting> {
        let site = site_of(client);
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).begin(site).then_some(Waiting { site })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).end(self.site);
    }
}

static WAITING: Mutex<Askers> = Mutex::new(Askers { all: 0, of_site: BTreeMap::new() });

/// Who waits for how many names; a client that waits for none takes no room.
struct Askers {
    all: usize,
    of_site: BTreeMap<IpAddr, usize>,
}

impl Askers {
    /// False: there is no room for one more of this client.
    fn begin(&mut self, site: IpAddr) -> bool {
        let own = self.of_site.get(&site).copied().unwrap_or(0);
        if own >= (WAITING_MOST - self.all).div_ceil(SHARE) {
            return false;
        }
        self.all += 1;
        self.of_site.insert(site, own + 1);
        true
    }

    fn end(&mut self, site: IpAddr) {
        self.all -= 1;
        match self.of_site.get_mut(&site) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(self.of_site.remove(&site)),
        }
    }
}

fn thread() -> &'static mpsc::UnboundedSender<Wish> {
    static THREAD: OnceLock<mpsc::UnboundedSender<Wish>> = OnceLock::new();
    THREAD.get_or_init(|| {
        let (sender, receiver) = mpsc::unbounded_channel();
        let started = std::thread::Builder::new().name("weir-names".to_owned()).spawn(move || run(receiver));
        if let Err(error) = started {
            tracing::error!(%error, "no thread to look names up with; backends with names get no address");
        }
        sender
    })
}

fn run(mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "names of backends cannot be looked up"),
    };
    runtime.block_on(async {
        let mut read = Files::stamp();
        let (sources, current) = watch::channel(Arc::new(Sources::of_system()));
        let permits = Arc::new(Semaphore::new(QUERIES));
        // What a client asks for must not keep the names of backends waiting.
        let [blocked, once] = [(); 2].map(|()| Arc::new(Semaphore::new(BLOCKED)));
        let mut look = tokio::time::interval(FILES_LOOK);
        loop {
            tokio::select! {
                wish = wishes.recv() => match wish {
                    None => return,
                    Some(Wish::Watch(endpoint)) => {
                        let lanes = Lanes { permits: permits.clone(), blocked: blocked.clone() };
                        tokio::spawn(keep_fresh(endpoint, current.clone(), lanes));
                    }
                    Some(Wish::Once(host, sender, waiting)) => {
                        tokio::spawn(look_up_once(host, sender, waiting, current.borrow().clone(), once.clone()));
                    }
                },
                _ = look.tick() => {
                    let now = Files::stamp();
                    if now != read {
                        read = now;
                        sources.send_replace(Arc::new(Sources::of_system()));
                    }
                }
            }
        }
    });
}

/// Looks one name up for as long as whoever asked waits for it.
async fn look_up_once(
    host: String,
    mut sender: oneshot::Sender<Found>,
    _waiting: Waiting,
    sources: Arc<Sources>,
    blocked: Arc<Semaphore>,
) {
    let found = tokio::select! {
        found = tokio::time::timeout(ONCE_WITHIN, sources.look_up(&host, &blocked)) => found,
        () = sender.closed() => return,
    };
    let _ = sender.send(found.unwrap_or_else(|_| Err("nobody answers for it".to_owned())));
}

/// What the names of backends share.
struct Lanes {
    permits: Arc<Semaphore>,
    blocked: Arc<Semaphore>,
}

impl Lanes {
    /// One of few at a time, until it turns out to be slow.
    async fn look_up(&self, sources: &Sources, host: &str) -> Found {
        let permit = self.permits.acquire().await;
        let mut looking = std::pin::pin!(sources.look_up(host, &self.blocked));
        match tokio::time::timeout(SLOW_AFTER, &mut looking).await {
            Ok(found) => found,
            Err(_) => {
                drop(permit);
                looking.await
            }
        }
    }
}

/// When the files were written last.
#[derive(PartialEq, Eq)]
struct Files([Option<SystemTime>; 2]);

impl Files {
    fn stamp() -> Files {
        Files(["/etc/hosts", "/etc/resolv.conf"].map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok()))
    }
}

/// Looks one name up, again and again.
async fn keep_fresh(endpoint: Weak<Endpoint>, mut sources: watch::Receiver<Arc<Sources>>, lanes: Lanes) {
    let mut failures = 0;
    loop {
        let Some(host) = endpoint.upgrade().and_then(|e| host_of(&e)) else { return };
        let current = sources.borrow_and_update().clone();
        let found = lanes.look_up(&current, &host).await;
        let Some(held) = endpoint.upgrade() else { return };
        let pause = match found {
            Ok((addresses, time_to_live)) => {
                failures = 0;
                held.looked_up(Ok(addresses));
                time_to_live.clamp(SHORTEST, LONGEST)
            }
            Err(error) => {
                let known = held.looked_up(Err(error.clone()));
                tracing::debug!(host, error, known, "name not looked up; what was known stays");
                let pause = RETRY_FIRST * 2u32.pow(failures);
                failures = (failures + 1).min(6);
                pause.min(RETRY_LONGEST)
            }
        };
        drop(held);
        // Another resolv.conf or another hosts file may say something else.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = sources.changed() => if changed.is_err() { return },
        }
    }
}

fn host_of(endpoint: &Endpoint) -> Option<String> {
    match &endpoint.place {
        Place::Host(host, _) => Some(host.clone()),
        Place::Socket(_) => None,
    }
}

/// Where names are asked for.
struct Sources {
    hosts: Hosts,
    dns: Option<TokioResolver>,
    /// Ask the C library for what was not found.
    system: bool,
}

impl Sources {
    fn of_system() -> Sources {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            // The hosts file is asked here, for both families at once; and an answer is used until its end, not kept beyond it.
            options.use_hosts_file = ResolveHosts::Never;
            options.cache_size = 0;
            builder.build()
        });
        let dns =
            dns.inspect_err(|error| tracing::warn!(%error, "/etc/resolv.conf cannot be used; asking the C library"));
        Sources { hosts: Hosts::from_system().unwrap_or_default(), dns: dns.ok(), system: true }
    }

    /// Addresses and how long they hold. `blocked` has room for those who wait for the C library.
    async fn look_up(&self, host: &str, blocked: &Arc<Semaphore>) -> Found {
        let fixed = self.in_hosts(host);
        if !fixed.is_empty() {
            return Ok((fixed, LONGEST));
        }
        let mut failed = "no DNS server is known".to_owned();
        if let Some(dns) = &self.dns {
            match dns.lookup_ip(host).await {
                Ok(found) => {
                    let holds = found.valid_until().saturating_duration_since(Instant::now());
                    return Ok((found.iter().collect(), holds));
                }
                Err(error) => failed = error.to_string(),
            }
        }
        if !self.system {
            return Err(failed);
        }
        let Ok(room) = blocked.clone().acquire_owned().await else { return Err(failed) };
        let host = host.to_owned();
        let asked = tokio::task::spawn_blocking(move || {
            // For as long as it takes, whoever waits for it.
            let _room = room;
            (host.as_str(), 0).to_socket_addrs().map(Iterator::collect)
        });
        match asked.await {
            Ok(Ok(found)) => {
                let found: Vec<std::net::SocketAddr> = found;
                Ok((found.into_iter().map(|a| a.ip()).collect(), WITHOUT_TTL))
            }
            _ => Err(failed),
        }
    }

    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let Ok(name) = Name::from_utf8(host) else { return Vec::new() };
        let mut found = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(lookup) = self.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
                found.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
