use clap::CommandFactory;
use hyper::Method;
use serde_json::Value;

use crate::arguments::{
    ApiWhat, Arguments, CacheWhat, CreateWhat, Format, LogsWhat, MemberWhat, ObjectWhat, StatusWhat, Verb,
};
use crate::documents::{Mode, send, send_documents, word};
use crate::output::{heads, print, structured, table};
use crate::resource::Resource;
use crate::server::{Server, segment};
use crate::{
    backup, bans, caches, capture, check, config, convert, custom, describe, edit, explain, history, http_proxy,
    kubernetes, last_good, members, objects, pages, profile, schema, tap, tokens, top, trace, wasm, watch,
};

pub async fn run(arguments: Arguments) -> Result<(), String> {
    let format = arguments.format().map_err(|wrong| wrong.to_string())?;
    match &arguments.verb {
        Verb::Check { files, strict } => return check::check(files, *strict),
        Verb::Convert { from } => return convert::convert(from, &arguments.output),
        Verb::Explain { query } => {
            print(&explain::explain(query)?);
            return Ok(());
        }
        Verb::Schema { kind } => {
            print(&schema::schema(kind.as_deref())?);
            return Ok(());
        }
        Verb::Docs { directory } => return pages::write(directory),
        Verb::Config(what) => return config::run(what, format),
        Verb::Backup(what) if what.generate_key.is_some() => {
            return what.generate_key.as_deref().map_or(Ok(()), backup::generate_key);
        }
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "weirctl", &mut script);
            print(&String::from_utf8_lossy(&script));
            return Ok(());
        }
        _ => {}
    }
    let server = Server::new(&config::context(arguments.server.as_deref(), &arguments.tls)?)?;
    match arguments.verb {
        Verb::Create { what: Some(CreateWhat::Httpproxy(proxy)), .. } => {
            let documents = http_proxy::documents(&proxy)?;
            if proxy.dry_run {
                structured_all(&documents, format);
                return Ok(());
            }
            send_documents(&server, documents, Mode::Create, false, None).await
        }
        Verb::Create { files, what: None } => send(&server, &files, Mode::Create, None).await,
        Verb::Apply { files, if_version } => send(&server, &files, Mode::Apply, if_version).await,
        Verb::History { name } => history::history(&server, name.as_deref(), format).await,
        Verb::Diff { from, to } => history::diff(&server, from, to).await,
        Verb::Backup(what) => backup::backup(&server, &what, &arguments.output).await,
        Verb::Restore(what) => backup::restore(&server, &what, format).await,
        Verb::Rollback { version } => history::rollback(&server, version).await,
        Verb::Get { kind, names, watch: true, namespace, .. } => {
            let name = names.first().map(String::as_str);
            match kind.eq_ignore_ascii_case("all") {
                true => watch::watch(&server, None, None, &namespace, format).await,
                false => match Resource::parse(&kind)? {
                    Resource::Object(kind) => watch::watch(&server, Some(kind), name, &namespace, format).await,
                    _ => Err("objects can be watched, nothing else".into()),
                },
            }
        }
        Verb::Get { kind, names, wide: true, namespace, .. } => {
            let kind = match kind.eq_ignore_ascii_case("all") {
                true => None,
                false => match Resource::parse(&kind)? {
                    Resource::Object(kind) => Some(kind),
                    _ => return Err("objects have owners, nothing else".into()),
                },
            };
            objects::wide(&server, kind, names.first().map(String::as_str), &namespace, format).await
        }
        Verb::Get { kind, names, version, namespace, .. } => {
            if kind.eq_ignore_ascii_case("all") {
                return objects::get(&server, None, None, version, &namespace, format).await;
            }
            let name = names.first().map(String::as_str);
            match Resource::parse(&kind)? {
                Resource::Object(kind) => objects::get(&server, Some(kind), name, version, &namespace, format).await,
                _ if version.is_some() => Err("objects are remembered by version, nothing else is".into()),
                Resource::Member => members::get(&server, name, format).await,
                Resource::CustomKind => custom::get_kinds(&server, name, format).await,
                Resource::CustomData => custom::get_data(&server, &names, format).await,
                Resource::Kubernetes(plural) => kubernetes::get(&server, plural, name, format).await,
            }
        }
        Verb::Describe { kind, names, verbose, namespace } => {
            let name = names.first().map(String::as_str);
            match Resource::parse(&kind)? {
                Resource::Object(kind) => describe::describe(&server, kind, name, verbose, &namespace, format).await,
                Resource::Member => members::describe(&server, name, format).await,
                Resource::CustomKind => custom::describe_kinds(&server, name, format).await,
                Resource::CustomData => custom::get_data(&server, &names, format).await,
                Resource::Kubernetes(plural) => kubernetes::get(&server, plural, name, Format::Yaml).await,
            }
        }
        Verb::Delete { kind: None, files, .. } if !files.file.is_empty() => {
            objects::delete_files(&server, &files).await
        }
        Verb::Delete { kind: None, .. } => Err("delete what? KIND NAME…, KIND --all, or -f FILE".into()),
        Verb::Delete { kind: Some(kind), names, all, .. } => match Resource::parse(&kind)? {
            Resource::Object(kind) => objects::delete(&server, kind, &names, all).await,
            Resource::Member => members::purge(&server, &names).await,
            Resource::CustomKind => custom::delete_kinds(&server, &names).await,
            Resource::CustomData => custom::delete_data(&server, &names, all).await,
            Resource::Kubernetes(plural) => {
                Err(format!("{plural} are objects of Kubernetes: delete them there, with kubectl"))
            }
        },
        Verb::Edit { kind, name } => match (Resource::parse(&kind)?, name) {
            (Resource::Object(kind), Some(name)) => edit::edit(&server, kind, &name).await,
            (Resource::Object(kind), None) => Err(format!("edit which {kind}? weirctl get {kind} lists them")),
            _ => Err("objects can be edited; custom data is changed with apply -f".into()),
        },
        Verb::Apis | Verb::Api(ApiWhat::List) => apis(&server, format).await,
        Verb::ApiResources => api_resources(&server, format).await,
        Verb::Health => {
            server.health().await?;
            print("OK");
            Ok(())
        }
        Verb::Metrics => {
            print(&server.text("/metrics").await?);
            Ok(())
        }
        Verb::Logs { what: Some(LogsWhat::GetLevel), .. } => {
            let level = server.get("/logs/level").await?;
            print(word(&level, "level"));
            Ok(())
        }
        Verb::Logs { what: Some(LogsWhat::SetLevel { level }), .. } => {
            server.send(Method::PUT, &format!("/logs/level/{}", segment(&level)), String::new()).await?;
            print(&format!("set log level to {level} successfully"));
            Ok(())
        }
        Verb::Logs { tail, follow, what: None } => {
            let path = format!("/logs?tail={tail}&follow={follow}");
            let take = |bytes: &[u8]| {
                print_raw(bytes);
                true
            };
            server.stream(&path, take).await
        }
        Verb::Top(what) => top::top(&server, &what, format).await,
        Verb::Tap(what) => tap::tap(&server, &what, format).await,
        Verb::Capture(what) => capture::capture(&server, &what, format).await,
        Verb::Trace { flow } => trace::trace(&server, &flow, format).await,
        Verb::Bans { what } => bans::run(&server, what, format).await,
        Verb::ExplainRequest { id } => tap::explain(&server, &id, format).await,
        Verb::Member(MemberWhat::List) => members::get(&server, None, format).await,
        Verb::Member(MemberWhat::Add { name, peer_url, wait }) => members::add(&server, &name, &peer_url, wait).await,
        Verb::Member(MemberWhat::Replace { old, new, peer_url, wait }) => {
            members::replace(&server, &old, &new, &peer_url, wait).await
        }
        Verb::Member(MemberWhat::Remove { name }) => members::remove(&server, &name).await,
        Verb::Member(MemberWhat::Token { ttl, role, name }) => {
            members::token(&server, &ttl, role.as_deref(), name.as_deref(), format).await
        }
        Verb::Member(MemberWhat::Authority { replace }) => members::authority(&server, replace, format).await,
        Verb::Member(MemberWhat::Purge { name }) => members::purge(&server, &[name]).await,
        Verb::Cache(CacheWhat::Purge(purge)) => caches::purge(&server, &purge).await,
        Verb::Token(what) => tokens::run(&server, what, format).await,
        Verb::Wasm(what) => wasm::run(&server, what, format).await,
        Verb::LastGood { what } => last_good::run(&server, what, format).await,
        Verb::Object(what) => object(&server, what, format).await,
        Verb::CustomDataKind(what) => custom::old_kinds(&server, what, format).await,
        Verb::CustomData(what) => custom::old_data(&server, what, format).await,
        Verb::Profile(what) => profile::run(&server, what, format).await,
        Verb::Check { .. }
        | Verb::Convert { .. }
        | Verb::Explain { .. }
        | Verb::Schema { .. }
        | Verb::Docs { .. }
        | Verb::Config(_)
        | Verb::Completion { .. } => Ok(()),
    }
}

/// The spelling of older documents.
async fn object(server: &Server, what: ObjectWhat, format: Format) -> Result<(), String> {
    match what {
        ObjectWhat::Create { files } => send(server, &files, Mode::Create, None).await,
        ObjectWhat::Update { files } => objects::update_files(server, &files).await,
        ObjectWhat::Get { name } => {
            structured(&server.get(&format!("/objects/{}", segment(&name))).await?, format);
            Ok(())
        }
        ObjectWhat::Delete { names } => {
            for name in &names {
                let kind = server.get(&format!("/objects/{}", segment(name))).await?;
                objects::remove(server, word(&kind, "kind"), name).await?;
            }
            Ok(())
        }
        ObjectWhat::List => {
            structured(&server.get("/objects").await?, format);
            Ok(())
        }
        ObjectWhat::Kinds => {
            structured(&server.get("/object-kinds").await?, format);
            Ok(())
        }
        ObjectWhat::Status(StatusWhat::Get { name }) => {
            structured(&server.get(&format!("/status/objects/{}", segment(&name))).await?, format);
            Ok(())
        }
        ObjectWhat::Status(StatusWhat::List) => {
            structured(&server.get("/status/objects").await?, format);
            Ok(())
        }
    }
}

async fn apis(server: &Server, format: Format) -> Result<(), String> {
    let groups = server.get("").await?;
    if format != Format::Default {
        structured(&groups, format);
        return Ok(());
    }
    let mut rows = vec![heads(&["PATH", "METHOD", "VERSION", "GROUP"])];
    for group in groups.as_array().into_iter().flatten() {
        for entry in group["entries"].as_array().into_iter().flatten() {
            rows.push(vec![
                word(entry, "path").into(),
                word(entry, "method").into(),
                "v2".into(),
                word(group, "group").into(),
            ]);
        }
    }
    print(&table(&rows));
    Ok(())
}

async fn api_resources(server: &Server, format: Format) -> Result<(), String> {
    let resources = server.get("/object-api-resources").await?;
    if format != Format::Default {
        structured(&resources, format);
        return Ok(());
    }
    let mut rows = vec![heads(&["NAME", "ALIASES", "CATEGORY", "KIND", "ACTION"])];
    for resource in resources.as_array().into_iter().flatten() {
        let aliases: Vec<&str> =
            resource["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let category = word(resource, "category");
        let action =
            if category == "SystemController" { "get,describe" } else { "create,apply,get,describe,edit,delete" };
        rows.push(vec![
            word(resource, "name").into(),
            aliases.join(","),
            category.into(),
            word(resource, "kind").into(),
            action.into(),
        ]);
    }
    for (name, aliases, kind, action) in [
        ("member", "m,mem,members", "Member", "get,describe,delete"),
        ("customdatakind", "cdk,customdatakinds", "CustomDataKind", "create,apply,get,describe,delete"),
        ("customdata", "cd", "CustomData", "create,apply,get,describe,delete"),
    ] {
        rows.push([name, aliases, "", kind, action].map(str::to_owned).to_vec());
    }
    print(&table(&rows));
    Ok(())
}

fn structured_all(documents: &[Value], format: Format) {
    if format == Format::Json {
        structured(&Value::Array(documents.to_vec()), format);
    } else {
        print(&documents.iter().map(base_model::yaml::to_string).collect::<Vec<_>>().join("---\n"));
    }
}

fn print_raw(bytes: &[u8]) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        // Whoever read has left; there is nobody to follow for.
        std::process::exit(0);
    }
}
