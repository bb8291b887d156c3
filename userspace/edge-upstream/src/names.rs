//! The names of backends, looked up again whenever their time to live is over.
//!
//! One thread of its own does it for the whole process, so that workers never wait for DNS. `/etc/hosts` is asked first, then the
//! servers of `/etc/resolv.conf` with its search domains; both files are read again when they change. What neither knows is asked of
//! the C library, for machines that take names from elsewhere (`nsswitch.conf`). A name that cannot be looked up keeps the addresses
//! it had.

use crate::endpoint::{Endpoint, Place};
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::{Hosts, TokioResolver};

use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};

/// A name is not asked for more often than this, whatever its time to live.
const SHORTEST: Duration = Duration::from_secs(1);

/// Nor more rarely: records that live for a day change within the day.
const LONGEST: Duration = Duration::from_secs(300);

/// How long an answer holds that came without a time to live.
const WITHOUT_TTL: Duration = Duration::from_secs(30);

/// Pause after a first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Names asked for at the same time.
const QUERIES: usize = 32;

/// How often `/etc/hosts` and `/etc/resolv.conf` are looked at.
const FILES_LOOK: Duration = Duration::from_secs(5);

/// Keeps the endpoint's addresses fresh as long as anybody holds it.
pub(crate) fn watch(endpoint: &Arc<Endpoint>) {
    static THREAD: OnceLock<mpsc::UnboundedSender<Weak<Endpoint>>> = OnceLock::new();
    let sender = THREAD.get_or_init(|| {
        let (sender, receiver) = mpsc::unbounded_channel();
        let started = std::thread::Builder::new().name("weir-names".to_owned()).spawn(move || run(receiver));
        if let Err(error) = started {
            tracing::error!(%error, "no thread to look names up with; backends with names get no address");
        }
        sender
    });
    // Nobody listens only when there is no thread, which was said above.
    let _ = sender.send(Arc::downgrade(endpoint));
}

fn run(mut endpoints: mpsc::UnboundedReceiver<Weak<Endpoint>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "names of backends cannot be looked up"),
    };
    runtime.block_on(async {
        let mut read = Files::stamp();
        let (sources, current) = watch::channel(Arc::new(Sources::of_system()));
        let permits = Arc::new(Semaphore::new(QUERIES));
        let mut look = tokio::time::interval(FILES_LOOK);
        loop {
            tokio::select! {
                endpoint = endpoints.recv() => {
                    let Some(endpoint) = endpoint else { return };
                    tokio::spawn(keep_fresh(endpoint, current.clone(), permits.clone()));
                }
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

/// When the files were written last.
#[derive(PartialEq, Eq)]
struct Files([Option<SystemTime>; 2]);

impl Files {
    fn stamp() -> Files {
        Files(["/etc/hosts", "/etc/resolv.conf"].map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok()))
    }
}

/// Looks one name up, again and again.
async fn keep_fresh(endpoint: Weak<Endpoint>, mut sources: watch::Receiver<Arc<Sources>>, permits: Arc<Semaphore>) {
    let mut failures = 0;
    loop {
        let Some(host) = endpoint.upgrade().and_then(|e| host_of(&e)) else { return };
        let current = sources.borrow_and_update().clone();
        let found = {
            let _permit = permits.acquire().await;
            current.look_up(&host).await
        };
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

    /// Addresses and how long they hold.
    async fn look_up(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
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
        let host = host.to_owned();
        let asked = tokio::task::spawn_blocking(move || (host.as_str(), 0).to_socket_addrs().map(Iterator::collect));
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
