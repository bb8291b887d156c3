//! The documents of deploy/examples and deploy/cookbook, as `explain` and the pages show them.

/// A document of a kind, or of a pipeline with the filter; of a policy its entry.
pub fn of(kind: &str) -> Option<&'static str> {
    EXAMPLES.iter().chain(POLICIES).find(|(name, _)| *name == kind).map(|(_, text)| *text)
}

/// A recipe of the cookbook by the name of its file, for those who write the pages.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    pub name: &'static str,
    /// The chapter of Easegress's documents that it is about; empty where it has none.
    pub chapter: &'static str,
    pub text: &'static str,
}

macro_rules! examples {
    ($($kind:literal),* $(,)?) => {
        &[$(($kind, include_str!(concat!("../../../deploy/examples/", $kind, ".yaml")))),*]
    };
}

macro_rules! recipes {
    ($($name:literal of $chapter:literal),* $(,)?) => {
        &[$(Recipe {
            name: $name,
            chapter: $chapter,
            text: include_str!(concat!("../../../deploy/cookbook/", $name, ".yaml")),
        }),*]
    };
}

const EXAMPLES: &[(&str, &str)] = examples![
    "AccessList",
    "AdaptiveConcurrency",
    "AutoCertManager",
    "CORSAdaptor",
    "Cache",
    "CertExtractor",
    "ConsulServiceRegistry",
    "Consumer",
    "DNSServiceRegistry",
    "DataBuilder",
    "EtcdServiceRegistry",
    "EurekaServiceRegistry",
    "Fallback",
    "FaultInjector",
    "FileServer",
    "ForwardAuth",
    "GRPCProxy",
    "GRPCServer",
    "GatewayController",
    "GlobalFilter",
    "HTTPServer",
    "HeaderLookup",
    "HeaderToJSON",
    "IngressController",
    "Kafka",
    "KubernetesServiceRegistry",
    "LogSink",
    "Lottery",
    "Mock",
    "MockNamespacer",
    "NacosServiceRegistry",
    "OIDCAdaptor",
    "OPAFilter",
    "OverloadManager",
    "Pipeline",
    "Proxy",
    "ProxyWasm",
    "RateLimiter",
    "Redirector",
    "RedirectorV2",
    "RemoteFilter",
    "RequestAdaptor",
    "RequestBuilder",
    "ResponseAdaptor",
    "ResponseBuilder",
    "ResultBuilder",
    "Script",
    "SimpleHTTPProxy",
    "TCPProxy",
    "UDPProxy",
    "Validator",
    "VirtualIP",
    "WaitingRoom",
    "WasmHost",
    "WebSocketProxy",
    "ZookeeperServiceRegistry",
];

const POLICIES: &[(&str, &str)] = &[
    (
        "CircuitBreaker",
        "resilience:\n- name: half\n  kind: CircuitBreaker\n  slidingWindowType: COUNT_BASED\n  slidingWindowSize: 100\n  minimumNumberOfCalls: 20\n  \
         failureRateThreshold: 50\n  waitDurationInOpenState: 10s\n",
    ),
    (
        "Retry",
        "resilience:\n- name: three-times\n  kind: Retry\n  maxAttempts: 3\n  waitDuration: 100ms\n  backOffPolicy: exponential\n  randomizationFactor: \
         0.5\n",
    ),
];

/// Examples that are about more than one kind, told as recipes.
pub const MORE: &[Recipe] = &[
    more("aggregation", include_str!("../../../deploy/examples/aggregation.yaml")),
    more("blue-green", include_str!("../../../deploy/examples/blue-green.yaml")),
    more("canary", include_str!("../../../deploy/examples/canary.yaml")),
    more("direct-return", include_str!("../../../deploy/examples/direct-return.yaml")),
];

const fn more(name: &'static str, text: &'static str) -> Recipe {
    Recipe { name, chapter: "", text }
}

/// In the order of Easegress's chapters.
pub const RECIPES: &[Recipe] = recipes![
    "quick-start" of "1.1 Quick start",
    "reverse-proxy" of "2.2 HTTP proxy usage",
    "pipeline" of "2.3 Pipeline explained",
    "aggregation" of "2.3 Pipeline explained",
    "global-filter" of "2.3 Pipeline explained",
    "resilience" of "2.4 Resilience",
    "verification" of "2.5 Traffic verification",
    "websocket" of "2.6 WebSocket",
    "grpc" of "2.7 gRPC",
    "https" of "2.8 HTTPS with Let's Encrypt",
    "header-variables" of "2.11 Nginx header variables",
    "flash-sale" of "3.02 Flash sale",
    "orchestration" of "3.03 Multiple API orchestration",
    "canary" of "3.04 Canary release",
    "tracing" of "3.05 Distributed tracing",
    "service-registry" of "3.06 Service registry",
    "workflow" of "3.10 Workflow",
    "performance" of "3.11 Performance",
    "migrate-v1" of "3.12 Migrate v1 to v2",
    "kubernetes" of "4.1 Kubernetes ingress controller, 4.2 Gateway API",
    "custom-data" of "6.2 Custom data",
];

impl Recipe {
    /// What its first comment says: a title, and what it is about.
    pub fn head(&self) -> (&'static str, Vec<&'static str>) {
        let lines = self.text.lines().take_while(|line| line.starts_with('#'));
        let mut lines = lines.map(|line| line.trim_start_matches('#').trim());
        (lines.next().unwrap_or_default(), lines.collect())
    }

    /// The documents, without what the page says above them.
    pub fn documents(&self) -> &'static str {
        let mut rest = self.text;
        while rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(folder: &str) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(folder);
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let names = entries.filter_map(|name| name.into_string().unwrap().strip_suffix(".yaml").map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_of_the_folders_is_known() {
        let mut recipes: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        recipes.sort_unstable();
        assert_eq!(recipes, names("cookbook"));
        let (kinds, more): (Vec<String>, Vec<String>) =
            names("examples").into_iter().partition(|name| name.starts_with(|c: char| c.is_uppercase()));
        assert_eq!(EXAMPLES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), kinds);
        assert_eq!(MORE.iter().map(|example| example.name).collect::<Vec<_>>(), more);
    }

    #[test]
    fn every_document_is_a_good_one() {
        for (kind, entries) in POLICIES {
            let text = format!(
                "name: p\nkind: Pipeline\nfilters: [{{name: m, kind: Mock, rules: [{{code: 200}}]}}]\n{entries}"
            );
            let document = base_model::yaml::parse_document(&text).unwrap();
            assert!(base_model::Object::read(&document, crate::catalog::filters()).is_ok(), "{kind}");
        }
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        for folder in ["examples", "cookbook"] {
            for name in names(folder) {
                let file = deploy.join(folder).join(format!("{name}.yaml"));
                let told = crate::check::check(std::slice::from_ref(&file), false);
                assert_eq!(told, Ok(()), "{}", file.display());
            }
        }
        // A recipe has all it needs: nothing it names is missing, and nothing it says does nothing.
        for recipe in RECIPES.iter().filter(|recipe| recipe.name != "migrate-v1") {
            let file = deploy.join(format!("cookbook/{}.yaml", recipe.name));
            assert_eq!(crate::check::check(&[file], true), Ok(()), "{}", recipe.name);
        }
    }

    #[test]
    fn recipes_have_a_title_and_documents() {
        for recipe in RECIPES {
            let (title, about) = recipe.head();
            assert!(!title.is_empty() && about.len() > 2 && about[0].is_empty(), "{}: {about:?}", recipe.name);
            assert!(recipe.documents().starts_with("name: "), "{}", recipe.name);
        }
    }
}
