use base_model::kinds;
use base_text::quoted;

/// What a word on the command line speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A kind of object, by its canonical name.
    Object(&'static str),
    Member,
    CustomKind,
    CustomData,
    /// What became of objects of Kubernetes, by their plural.
    Kubernetes(&'static str),
}

/// Kinds of Kubernetes whose objects controllers report on; `ingress` alone is the controller, as in Easegress.
const KUBERNETES: [(&str, &str); 7] = [
    ("ingresses", "ing"),
    ("gateways", "gtw"),
    ("httproutes", "httproute"),
    ("grpcroutes", "grpcroute"),
    ("tlsroutes", "tlsroute"),
    ("tcproutes", "tcproute"),
    ("udproutes", "udproute"),
];

impl Resource {
    pub fn parse(word: &str) -> Result<Resource, String> {
        match word.to_lowercase().as_str() {
            "member" | "members" | "m" | "mem" => return Ok(Resource::Member),
            "customdatakind" | "customdatakinds" | "cdk" => return Ok(Resource::CustomKind),
            "customdata" | "cd" => return Ok(Resource::CustomData),
            _ => {}
        }
        let lower = word.to_lowercase();
        if let Some((plural, _)) = KUBERNETES.iter().find(|(plural, short)| *plural == lower || *short == lower) {
            return Ok(Resource::Kubernetes(plural));
        }
        kinds::find(word).map(|kind| Resource::Object(kind.name)).ok_or_else(|| {
            let known: Vec<&str> = kinds::KINDS.iter().filter(|kind| kind.served).map(|kind| kind.name).collect();
            format!(
                "{word} is no kind; there are {}, Member, CustomDataKind, CustomData and their aliases (weirctl api-resources)",
                known.join(", "), word = quoted(&word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_kubernetes_are_no_kinds_of_ours() {
        assert_eq!(Resource::parse("Ingresses"), Ok(Resource::Kubernetes("ingresses")));
        assert_eq!(Resource::parse("ing"), Ok(Resource::Kubernetes("ingresses")));
        assert_eq!(Resource::parse("ingress"), Ok(Resource::Object("IngressController")));
        for (plural, short) in KUBERNETES {
            assert!(kinds::find(plural).is_none() && kinds::find(short).is_none(), "{plural} {short}");
        }
    }
}
