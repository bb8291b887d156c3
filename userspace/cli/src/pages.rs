//! `docs`: a page of Markdown for each kind, from what `explain` says, a cookbook of recipes, and the schemas for editors.

use std::fs;
use std::path::Path;

use base_model::explain::{Explained, fields};
use serde_json::Value;

use crate::examples::{self, MORE, RECIPES, Recipe};
use crate::output::print;
use crate::schema::{self, Role};
use links::link;

mod links;

/// A file to write: its place below the folder, and its text.
type Page = (String, String);

/// Writes the pages into `directory`.
pub fn write(directory: &Path) -> Result<(), String> {
    let pages = pages()?;
    for (name, text) in &pages {
        let path = directory.join(name);
        let folder = path.parent().unwrap_or(directory);
        fs::create_dir_all(folder).map_err(|e| format!("{}: cannot be made: {e}", folder.display()))?;
        fs::write(&path, text).map_err(|e| format!("{}: cannot be written: {e}", path.display()))?;
    }
    print(&format!("{} files are in {}; begin with README.md", pages.len(), directory.display()));
    Ok(())
}

fn pages() -> Result<Vec<Page>, String> {
    let mut all = schema::all();
    all.sort_by_key(|known| known.kind.to_lowercase());
    let mut pages = vec![("README.md".to_owned(), index(&all)), ("cookbook.md".to_owned(), cookbook())];
    pages.extend(all.iter().map(|known| (format!("{}.md", known.kind), page(known, &all))));
    pages.extend(RECIPES.iter().map(|recipe| {
        let (title, about) = recipe.head();
        (format!("cookbook/{}.md", recipe.name), recipe_page(recipe, title, &about, &all))
    }));
    pages.extend(MORE.iter().map(|example| {
        let (first, rest) = example.head();
        let about: Vec<&str> = std::iter::once(first).chain(rest).collect();
        (
            format!("cookbook/example-{}.md", example.name),
            recipe_page(example, &format!("Example: {}", example.name), &about, &all),
        )
    }));
    for known in &all {
        pages.push((format!("schema/{}.json", known.kind), schema::schema(Some(&known.kind))?));
    }
    for (kind, _) in schema::beside() {
        pages.push((format!("schema/{kind}.json"), schema::schema(Some(kind))?));
    }
    pages.push((format!("schema/{ANY}.json"), schema::schema(None)?));
    Ok(pages)
}

/// The schema of any document.
const ANY: &str = "weir";

fn index(all: &[Explained]) -> String {
    let mut text = String::from(
        "# Documents of Weir\n\nWhat can be written, and what it means. `cargo xtask docs` makes these pages of what `weirctl explain` says.\n\n\
         The [cookbook](cookbook.md) has recipes, each a document to apply as it is. Editors check documents and complete them with \
         [schema/weir.json](schema/weir.json), which knows all kinds: name it in the first line of a file, as\n\
         `# yaml-language-server: $schema=PATH/schema/weir.json`.\n",
    );
    for (title, is_in) in [
        ("Objects", (|role| matches!(role, Role::Object(_))) as fn(Role) -> bool),
        ("Filters of pipelines", |role| role == Role::Filter),
        ("Policies of pipelines (`resilience`)", |role| role == Role::Policy),
    ] {
        text.push_str(&format!("\n## {title}\n"));
        for known in all.iter().filter(|known| is_in(Role::of(&known.kind))) {
            text.push_str(&format!("- [{0}]({0}.md): {1}\n", known.kind, first_sentence(&about(known))));
        }
    }
    text
}

fn page(known: &Explained, all: &[Explained]) -> String {
    let kind = known.kind.as_str();
    let mut text = format!("# {kind}\n\n");
    match Role::of(kind) {
        Role::Object(object) => {
            let aliases: Vec<String> = object.aliases.iter().map(|alias| format!("`{alias}`")).collect();
            text.push_str(&format!("An object. `weirctl` knows it as {} too.", aliases.join(", ")));
            text.push_str(if object.singleton { " There is at most one.\n" } else { "\n" });
        }
        Role::Filter => text.push_str("A filter: an entry of `filters` of a `Pipeline`.\n"),
        Role::Policy => {
            text.push_str("A policy: an entry of `resilience` of a `Pipeline`, named by pools of a `Proxy`.\n")
        }
    }
    text.push_str(&format!("\n{}\n", about(known).trim()));
    if let Some(filter) = edge_filters::kinds().iter().find(|filter| filter.kind == kind) {
        let results: Vec<String> = filter.results.iter().map(|result| format!("`{result}`")).collect();
        let results = if results.is_empty() { "none".to_owned() } else { results.join(", ") };
        text.push_str(&format!("\nResults a `jumpIf` may name, beside success: {results}.\n"));
    }
    text.push_str("\n## Fields\n| field | type | meaning |\n|---|---|---|\n");
    for field in fields(known) {
        let mark = if field.required { ", required" } else { "" };
        let about = cell(&field.about);
        text.push_str(&format!("| `{}` | {}{mark} | {about} |\n", field.path, cell(&field.type_text)));
    }
    if let Some(example) = examples::of(kind) {
        text.push_str(&format!("\n## Example\n```yaml\n{}\n```\n", example.trim_end()));
    }
    let recipes = RECIPES.iter().filter(|recipe| kinds_in(recipe.text).any(|used| used == kind));
    let recipes: Vec<String> =
        recipes.map(|recipe| format!("[{}](cookbook/{}.md)", recipe.head().0, recipe.name)).collect();
    if !recipes.is_empty() {
        text.push_str(&format!("\nRecipes with it: {}.\n", recipes.join(", ")));
    }
    text.push_str(&format!("\n[Schema for editors](schema/{kind}.json) · [all kinds](README.md)\n"));
    link(&text, kind, "", all)
}

fn cookbook() -> String {
    let mut text = String::from(
        "# Cookbook\n\nEach recipe is one file of documents: `weirctl apply -f`, with places of your own. Those of Easegress's cookbook are here \
         under its chapters.\n\n| recipe | chapter of Easegress |\n|---|---|\n",
    );
    for recipe in RECIPES {
        text.push_str(&format!("| [{}](cookbook/{}.md) | {} |\n", recipe.head().0, recipe.name, recipe.chapter));
    }
    for example in MORE {
        text.push_str(&format!("| [Example: {0}](cookbook/example-{0}.md) | |\n", example.name));
    }
    text.push_str(
        "\nConfigurations of nginx and HAProxy become documents by `weirctl convert` (chapter 3.13). What needs a kind that this version does not \
         serve has no recipe: the AI gateway (2.9, 2.10), MQTT (3.01), functions (3.09), the web application firewall (3.14), the mesh (4.3).\n\n\
         [All kinds](README.md)\n",
    );
    text
}

fn recipe_page(recipe: &Recipe, title: &str, about: &[&str], all: &[Explained]) -> String {
    let mut text = format!("# {title}\n");
    for line in about {
        let command = ["Before: ", "Try: "].iter().find_map(|word| Some((*word, line.strip_prefix(word)?)));
        match command {
            Some((word, commands)) => {
                text.push_str(&format!("{}\n```sh\n{}\n```", word.trim(), commands.replace(" ; ", "\n")))
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    // Of the folder of documents, which are pages here.
    let linked = about.iter().flat_map(|line| line.split("](../examples/").skip(1));
    for name in linked.filter_map(|rest| rest.split_once(".yaml)")).map(|(name, _)| name) {
        let is_kind = all.iter().any(|known| known.kind == name);
        let page = if is_kind { format!("../{name}.md") } else { format!("example-{name}.md") };
        text = text.replace(&format!("](../examples/{name}.yaml)"), &format!("]({page})"));
    }
    text.push_str(&format!("\n```yaml\n{}\n```\n", recipe.documents().trim_end()));
    let mut used: Vec<&str> =
        kinds_in(recipe.text).filter(|kind| all.iter().any(|known| known.kind == *kind)).collect();
    used.sort_unstable();
    used.dedup();
    let used: Vec<String> = used.iter().map(|kind| format!("[{kind}](../{kind}.md)")).collect();
    text.push_str(&format!("\nUsed here: {}.\n\n[Cookbook](../cookbook.md)\n", used.join(", ")));
    link(&text, "", "../", all)
}

/// The kinds that documents are of, and their filters and policies.
fn kinds_in(documents: &str) -> impl Iterator<Item = &str> {
    documents
        .split("kind: ")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default())
}

/// Of a filter what its module says, of others what their schema does.
fn about(known: &Explained) -> String {
    let filter = edge_filters::kinds().iter().find(|filter| filter.kind == known.kind);
    let own = known.schema.get("description").and_then(Value::as_str).unwrap_or_default();
    filter.map_or_else(|| own.to_owned(), |filter| filter.doc.to_owned())
}

fn first_sentence(text: &str) -> String {
    let paragraph = text.trim().split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}.", line.split(". ").next().unwrap_or_default().trim_end_matches('.'))
}

/// Text for one cell of a table.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    // Outside of code a < would begin a tag.
    let parts = line.split('`').enumerate();
    let parts: Vec<String> =
        parts.map(|(n, part)| if n % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() }).collect();
    parts.join("`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn written() -> BTreeMap<String, String> {
        pages().unwrap().into_iter().collect()
    }

    /// Whatever can be written has a page, and every field of it a type and a meaning.
    #[test]
    fn every_kind_has_a_page_with_its_fields() {
        let pages = written();
        let served = base_model::kinds::KINDS.iter().filter(|kind| kind.served).map(|kind| kind.name);
        let filters = edge_filters::kinds().iter().map(|filter| filter.kind);
        for kind in served.chain(filters).chain(base_model::resilience::KINDS) {
            let page = pages.get(&format!("{kind}.md")).unwrap_or_else(|| panic!("{kind} has no page"));
            assert!(pages.contains_key(&format!("schema/{kind}.json")) && page.contains("```yaml"), "{kind}");
            let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
            assert!(!rows.is_empty(), "{kind} has no fields");
            for row in rows {
                let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                assert!(cells.len() == 3 && cells[1..].iter().all(|cell| !cell.is_empty()), "{kind}: {row}");
            }
        }
        let text = |name: &str| &pages[name];
        assert!(text("HTTPServer.md").contains("| `rules.paths.pathPrefix` | text |"), "{}", text("HTTPServer.md"));
        assert!(text("FileServer.md").contains("`notFound`") && text("FileServer.md").contains("root: /srv/www"));
        assert!(text("Retry.md").contains("`maxAttempts`"));
        assert!(
            text("README.md").contains("[Kafka](Kafka.md): ") && text("cookbook.md").contains("3.04 Canary release")
        );
    }

    #[test]
    fn no_link_is_dead() {
        let pages = written();
        let mut count = 0;
        for (name, text) in pages.iter().filter(|(name, _)| name.ends_with(".md")) {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            for link in links::targets(text) {
                if link.contains("://") {
                    continue;
                }
                let target = match (link.strip_prefix("../"), folder) {
                    (Some(above), _) => above.to_owned(),
                    (None, "") => link.to_owned(),
                    (None, folder) => format!("{folder}/{link}"),
                };
                assert!(pages.contains_key(&target), "{name} links to {link}");
                count += 1;
            }
        }
        assert!(count > 200, "{count}");
        assert!(
            pages["Proxy.md"].contains("[`HTTPServer`](HTTPServer.md)")
                || pages["Proxy.md"].contains("[HTTPServer](HTTPServer.md)")
        );
    }
}
