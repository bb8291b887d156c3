//! The nouns users write: documents, kinds, specs, durations, patterns; and the errors that advise them.
//!
//! Everything a person types arrives as YAML or JSON, becomes a [`serde_json::Value`] in [`yaml`], a [`Document`] in
//! [`document`], and a typed, checked spec in [`object`]. Both planes read documents through this crate and no other.
//!
//! ```
//! use base_model::{decode, yaml, HttpServerSpec};
//! let value = yaml::parse_document("Port: 10080\nrules: []\nmaxConnection: 5").unwrap();
//! let decoded = decode::<HttpServerSpec>(&value, "").unwrap();
//! assert_eq!(decoded.value.port, 10080);
//! assert_eq!(decoded.warnings[0].to_string(), "maxConnection: unknown field, ignored; did you mean maxConnections?");
//! ```
#![forbid(unsafe_code)]

pub mod beside;
pub mod dates;
pub mod document;
pub mod kept;
pub mod kinds;
pub mod namespaces;
pub mod object;
pub mod v1;
pub mod yaml;

pub mod decode;
pub mod explain;
pub mod problem;
pub mod secret;

pub mod access_list;
pub mod adaptive_concurrency;
pub mod auto_cert;
pub mod consumer;
pub mod global_filter;
pub mod http_server;
pub mod kafka;
pub mod kubernetes;
pub mod l4_pool;
mod listener;
mod load_balance;
pub mod log_sink;
pub mod overload_manager;
pub mod pipeline;
pub mod places;
mod pool_servers;
pub mod proxy;
pub mod proxy_protocol;
pub mod resilience;
mod room;
pub mod service_registry;
pub mod tcp_proxy;
pub mod tracing;
pub mod udp_proxy;
pub mod virtual_ip;

pub mod duration;
pub mod grpc_server;
mod hash_rule;
pub mod header_adapt;
pub mod health_check;
pub mod ip_filter;
mod mock_namespacer;
pub mod moment;
pub mod regexp;
pub mod repeats;
pub mod string_matcher;
pub mod words;

pub use access_list::{Access, AccessListSpec};
pub use adaptive_concurrency::{AdaptiveConcurrencySpec, Priority, PriorityRule};
pub use auto_cert::{AutoCertDomainSpec, AutoCertManagerSpec, DnsProviderSpec, ExternalAccountSpec, OnDemandSpec};
pub use beside::{Beside, Claim, Outline};
pub use consumer::{ConsumerKeySpec, ConsumerSpec, QuotaSpec};
pub use decode::{Decoded, decode, schema_of};
pub use document::Document;
pub use duration::GoDuration;
pub use explain::explain;
pub use global_filter::{FallthroughSpec, GlobalFilterSpec};
pub use grpc_server::{GrpcMethodSpec, GrpcRuleSpec, GrpcServerSpec};
pub use hash_rule::HashRule;
pub use header_adapt::HeaderAdaptSpec;
pub use health_check::{BodyMatchSpec, HeaderCheckSpec, HealthCheckSpec, HealthMatchSpec, ProbeType};
pub use http_server::{
    HeaderMatchSpec, HostSpec, HttpServerSpec, PathSpec, QueryMatchSpec, RequestIds, RouterKind, RuleSpec,
    UnderscoresInHeaders,
};
pub use ip_filter::{Cidr, IpFilter, IpFilterSpec};
pub use kafka::{SaslMechanism, SaslSpec};
pub use kept::Kept;
pub use kubernetes::{GatewayControllerSpec, IngressControllerSpec};
pub use l4_pool::{L4PoolSpec, L4ServerSpec};
pub use load_balance::{LOAD_BALANCE_POLICIES, LoadBalanceSpec, StickySessionSpec};
pub use log_sink::{
    FileSinkSpec, HttpSinkSpec, KafkaSinkSpec, LogFormat, LogKind, LogSinkSpec, SpoolSpec, SyslogSinkSpec,
};
pub use mock_namespacer::{Made, MockNamespacerSpec};
pub use moment::Moment;
pub use object::{Listening, Object, Spec};
pub use overload_manager::{OverloadAction, OverloadActionSpec, OverloadManagerSpec, Resource, TriggerSpec};
pub use pipeline::{
    BranchSpec, END, FilterKinds, FilterSpec, FlowNodeSpec, NamedSpec, PARALLEL_RESULTS, ParallelSpec, PipelineSpec,
    StepSpec,
};
pub use pool_servers::address_of;
pub use problem::{Findings, Problem, Warning};
pub use proxy::{
    CompressionSpec, HedgingSpec, MembersSpec, MemoryCacheSpec, MtlsSpec, OutlierDetectionSpec, PoolSpec, ProxySpec,
    QueueSpec, RequestMatcherSpec, RetryBudgetSpec, ServerSpec, ServerUrl, SplitSpec,
};
pub use proxy_protocol::ProxyProtocol;
pub use repeats::{once, repeats};
pub use resilience::{BackOffPolicy, CircuitBreakerSpec, RetrySpec, SlidingWindowType};
pub use secret::Secrets;
pub use service_registry::{
    ConsulServiceRegistrySpec, DnsServiceRegistrySpec, EtcdServiceRegistrySpec, EurekaServiceRegistrySpec,
    KubernetesServiceRegistrySpec, NacosServerSpec, NacosServiceRegistrySpec, ServiceRegistrySpec,
    ZookeeperServiceRegistrySpec,
};
pub use string_matcher::{Matcher, StringMatcher, UrlMatcher, UrlRule};
pub use tcp_proxy::{TcpProxySpec, TcpRuleSpec, TcpTls};
pub use tracing::{
    BatchLimitsSpec, ExporterSpec, JaegerSpec, OtlpSpec, ParentSampling, SamplingSpec, SpanLimitsSpec, TracingSpec,
    ZipkinDeprecatedSpec, ZipkinSpec,
};
pub use udp_proxy::UdpProxySpec;
pub use v1::{Translation, translate_v1};
pub use virtual_ip::{
    BACKENDS_MAX, BackendCheckSpec, BackendCheckType, BackendSourcesSpec, BackendSpec, ConnectionRateSpec, HashMode,
    LimitPrefixLength, MachineSpec, MachineState, PortRange, PortsSpec, Protocol, SourceRateSpec, VIRTUAL_IPS,
    VipLimitsSpec, VirtualIpSpec,
};
pub use words::{HttpCode, UrlName};
