//! Any primary server that takes dynamic updates (BIND, Knot, PowerDNS and others), signed with a TSIG key where there is one.

use std::time::{SystemTime, UNIX_EPOCH};

use base_model::DnsProviderSpec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::wire::{self, Signer};
use super::{Doing, Provider, TTL, Txt};
use crate::Fault;

pub(crate) struct Rfc2136 {
    server: String,
    signer: Option<Signer>,
}

impl Rfc2136 {
    pub fn new(spec: &DnsProviderSpec) -> Result<Rfc2136, Fault> {
        let signer = match spec.tsig_key.as_str() {
            "" => None,
            name => {
                let key = STANDARD.decode(spec.tsig_secret.trim());
                let key = key.map_err(|_| Fault::Refused("dnsProvider.tsigSecret is not base64".to_owned()))?;
                Some(Signer::new(name, &spec.tsig_algorithm, &key).map_err(Fault::Refused)?)
            }
        };
        Ok(Rfc2136 { server: wire::place(&spec.server), signer })
    }

    async fn update(&self, record: &Txt, ttl: Option<u32>) -> Result<(), Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let what = (record.zone.as_str(), record.name.as_str(), record.value.as_str());
        wire::update(&self.server, what, ttl, self.signer.as_ref(), now).await.map_err(Fault::Passing)
    }
}

impl Provider for Rfc2136 {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move { self.update(record, Some(TTL as u32)).await.map(|()| String::new()) })
    }

    fn remove<'a>(&'a self, record: &'a Txt, _: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.update(record, None).await })
    }
}
