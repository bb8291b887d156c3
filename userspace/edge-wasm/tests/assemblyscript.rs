//! A filter for Envoy that was written in AssemblyScript with its SDK, as a user would: the compiler and the SDK come from npm, once, into
//! the target directory.

use base_model::PipelineSpec;
use base_telemetry::{Identity, Telemetry};
use edge_pipeline::{Exchange, Pipeline, PipelineName};
use proto_http::{Method, Path};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The program, compiled where that was not done already; why it cannot be had.
fn program() -> Result<PathBuf, String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/assemblyscript/index.ts");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("assemblyscript");
    let program = directory.join("filter.wasm");
    let run = |name: &str, arguments: &[&str]| {
        let done = Command::new(name).args(arguments).current_dir(&directory).output();
        let done = done.map_err(|why| format!("{name} does not run: {why}"))?;
        let said = || format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        if done.status.success() { Ok(()) } else { Err(format!("{name} {}: {}", arguments.join(" "), said())) }
    };
    std::fs::create_dir_all(&directory).map_err(|why| why.to_string())?;
    let text = std::fs::read(source).map_err(|why| why.to_string())?;
    let here = directory.join("index.ts");
    if program.exists() && std::fs::read(&here).is_ok_and(|known| known == text) {
        return Ok(program);
    }
    std::fs::write(directory.join("package.json"), "{\"private\": true}").map_err(|why| why.to_string())?;
    let wanted = ["install", "--no-audit", "--no-fund", "assemblyscript@0.14.9", "@solo-io/proxy-runtime@0.1.8"];
    run("npm", &wanted)?;
    std::fs::write(&here, text).map_err(|why| why.to_string())?;
    let compile = ["asc", "index.ts", "-b", "new.wasm", "--use", "abort=abort_proc_exit", "--optimize"];
    run("npx", &compile)?;
    std::fs::rename(directory.join("new.wasm"), &program).map_err(|why| why.to_string())?;
    Ok(program)
}

#[test]
fn a_filter_made_with_an_sdk_runs_as_it_is() {
    let program = match program() {
        Ok(program) => program,
        Err(why) => {
            eprintln!("skipped: the AssemblyScript compiler and Solo's SDK cannot be had from npm: {why}");
            return;
        }
    };
    edge_wasm::install();
    let telemetry = Telemetry::new(Identity::default(), 1);
    let plugin = json!({"name": "f", "kind": "ProxyWasm", "code": program, "timeout": "5s"});
    let document =
        json!({"filters": [plugin, {"name": "m", "kind": "Mock", "rules": [{"code": 200, "body": "shop"}]}]});
    let spec = base_model::decode::<PipelineSpec>(&document, "").unwrap().value;
    let built = Pipeline::build(&PipelineName::of_object("p"), &spec, &edge_filters::kind, None, &telemetry);
    let pipeline = Arc::new(built.unwrap_or_else(|problems| panic!("{}", base_model::problem::render(&problems))));
    let runtime =
        base_runtime::Runtime::start(base_runtime::Config { workers: Some(1), ..Default::default() }).unwrap();
    let ask = |target: &'static str| {
        let (sender, done) = mpsc::channel();
        let pipeline = pipeline.clone();
        runtime.workers()[0].spawn(move || async move {
            let mut exchange = Exchange::default();
            let space = exchange.space();
            space.has_request = true;
            space.request.method = Method::Get;
            space.request.path = Path::parse(target.as_bytes()).unwrap();
            pipeline.run(&mut exchange).await;
            let space = exchange.space_ref();
            let response = space.response.as_ref().unwrap();
            let body = space.response_body.in_memory().map(<[u8]>::to_vec).unwrap_or_default();
            let marks = (
                space.request.headers.text("X-Out").map(str::to_owned),
                response.headers.text("X-Back").map(str::to_owned),
            );
            let _ = sender.send((response.status, String::from_utf8(body).unwrap(), marks));
        });
        done.recv().expect("the task did not panic")
    };
    // It is compiled without optimisation here, which takes a while.
    let end = Instant::now() + Duration::from_secs(120);
    while ask("/").0 == 503 {
        let status = pipeline.status();
        assert!(status["filters"]["f"]["health"] == "" && Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let marked = (Some("GET".to_owned()), Some("seen".to_owned()));
    assert_eq!(ask("/a"), (200, "shop".to_owned(), marked), "{}", pipeline.status());
    // As in Envoy, an answer of its own is shown to it, too.
    assert_eq!(ask("/deny"), (403, "no entry".to_owned(), (None, Some("seen".to_owned()))));
}
