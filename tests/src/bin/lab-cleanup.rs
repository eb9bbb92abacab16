//! Removes worlds of the lab: stale ones, those left up on purpose (`--kept`), or one
//! by name as soon as its owner is gone (`--when-stdin-ends TAG`).

use std::io::Read as _;

use tidegate_tests::harness::tag::{self, Tag};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => tag::sweep(),
        ["--kept"] => tag::kept()?.iter().try_for_each(Tag::remove),
        ["--when-stdin-ends", text] => {
            let tag = Tag::parse(text).ok_or_else(|| anyhow::anyhow!("not a tag: {text}"))?;
            // The other end is never written to; it closes when the owner ends.
            std::io::stdin().read_to_end(&mut Vec::new())?;
            tag.remove()
        }
        _ => anyhow::bail!("usage: lab-cleanup [--kept | --when-stdin-ends TAG]"),
    }
}
