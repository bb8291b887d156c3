//! What a Gateway says of TLS beside its listeners' certificates: which clients its HTTPS listeners let in, and as whom it speaks with the
//! servers of services that have a BackendTLSPolicy.

use serde_json::{Value, json};

use super::authorities::{self, Fault};
use super::object::{ClientValidation, Gateway};
use super::policy::Unusable;
use super::status::Condition;
use super::{Certificate, Owner, also, certificate, granted};
use crate::ingress::Check;
use crate::store::Store;

/// Which clients a listener lets in.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Clients {
    /// PEM: one of them must have signed a client's certificate. None: certificates are not asked for.
    pub authorities: Option<String>,
    /// Why not all of what is asked for can be had, and whether anything of it can.
    pub fault: Option<(&'static str, String)>,
    pub none_valid: bool,
}

/// What a port of HTTPS asks of its clients.
fn validation(gateway: &Gateway, port: i64) -> Option<&ClientValidation> {
    let frontend = &gateway.spec.tls.frontend;
    let own = frontend.per_port.iter().find(|of| of.port == port).map(|of| &of.tls);
    own.unwrap_or(&frontend.default).validation.as_ref()
}

/// See [`Clients`]. Whoever lets in all clients asks for no certificate: one that nobody has looked at would be taken for one that counts.
pub(super) fn clients(store: &Store, gateway: &Gateway, port: i64) -> Clients {
    let Some(wanted) = validation(gateway, port) else { return Clients::default() };
    let namespace = &gateway.metadata.namespace;
    let (mut found, mut fault) = (String::new(), None);
    for reference in &wanted.ca_certificate_refs {
        let read = authorities::named(reference, namespace).map_err(|fault| match fault {
            Fault::Kind(told) | Fault::Unusable(told) => ("InvalidCACertificateKind", told),
        });
        let read = read.and_then(|key| {
            if !granted(store, ("Gateway", namespace), ("", "ConfigMap", &key)) {
                let told = format!(
                    "no ReferenceGrant of namespace {} lets a Gateway of {namespace} use ConfigMap {}",
                    key.namespace, key.name
                );
                return Err(("RefNotPermitted", told));
            }
            authorities::read(store, &key).map_err(|fault| match fault {
                Fault::Kind(told) | Fault::Unusable(told) => ("InvalidCACertificateRef", told),
            })
        });
        match read {
            Ok(text) => found += &text,
            Err(why) => also(&mut fault, why),
        }
    }
    let none_valid = found.is_empty();
    let fault = match none_valid && fault.is_none() {
        true => Some(("InvalidCACertificateRef", "there is no caCertificateRefs".to_owned())),
        false => fault,
    };
    let authorities = (!is_fallback(wanted)).then_some(found);
    Clients { authorities, fault, none_valid }
}

fn is_fallback(validation: &ClientValidation) -> bool {
    validation.mode == "AllowInsecureFallback"
}

/// That a Gateway asks for certificates of clients and lets in those that have none, which it has to be told of.
pub(super) fn fallback(gateway: &Gateway) -> Option<Condition> {
    let frontend = &gateway.spec.tls.frontend;
    let mut all = frontend.per_port.iter().map(|of| &of.tls).chain([&frontend.default]);
    let is_open = all.any(|of| of.validation.as_ref().is_some_and(is_fallback));
    is_open.then(|| {
        let told = "AllowInsecureFallback lets in all clients: they are asked for no certificate, and backends have to tell them apart";
        Condition::new("InsecureFrontendValidationMode", true, "ConfigurationChanged", told)
    })
}

/// As whom a Gateway speaks with servers that are spoken to over TLS, and whether what it names can be used; nothing where it names none.
/// Where it cannot, nothing is shown, and the servers decide.
pub(super) fn identity(
    store: &Store,
    gateway: &Gateway,
    check: &mut dyn Check,
) -> (Option<Certificate>, Option<Condition>) {
    let Some(reference) = &gateway.spec.tls.backend.client_certificate_ref else { return (None, None) };
    let owner = Owner { kind: "Gateway", set: None, namespace: &gateway.metadata.namespace };
    match certificate(store, owner, reference, check) {
        Ok(found) => (Some(found), Some(Condition::new("ResolvedRefs", true, "ResolvedRefs", ""))),
        Err((reason, told)) => {
            let reason = if reason == "RefNotPermitted" { reason } else { "InvalidClientCertificateRef" };
            let told = format!("tls.backend.clientCertificateRef: {told}; servers are shown no certificate");
            (None, Some(Condition::new("ResolvedRefs", false, reason, told)))
        }
    }
}

/// How servers are believed, and as whom they are spoken to.
pub(super) fn towards(
    believed: Result<Option<&Value>, Unusable>,
    identity: Option<&Certificate>,
) -> Result<Option<Value>, Unusable> {
    let mut tls = believed?.cloned();
    if let (Some(tls), Some((_, (chain, key)))) = (&mut tls, identity) {
        tls["certBase64"] = json!(chain);
        tls["keyBase64"] = json!(key);
    }
    Ok(tls)
}
