//! `cargo xtask demo`: a small world with real servers and real traffic, told as a
//! story. [`scene`] builds it, [`story`] has the chapters, [`next`] what to try then.

mod next;
mod scene;
mod story;

use std::io::{IsTerminal as _, stdin};

use tidegate_tests::harness::tag::{self, Tag};

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("--stop") => tag::kept()?.iter().try_for_each(Tag::remove),
        Some("--keep") => play(true),
        None => play(false),
        Some(other) => anyhow::bail!("unknown argument {other}: --keep or --stop"),
    }
}

/// Builds the world and tells the story; then waits, leaves it up, or removes it.
fn play(keep: bool) -> anyhow::Result<()> {
    let mut scene = scene::Scene::build()?;
    story::tell(&mut scene)?;
    if keep {
        next::suggest(&scene)?;
        println!("\nThe lab stays up. Remove it with: cargo xtask demo --stop");
        return scene.keep();
    }
    if stdin().is_terminal() {
        next::suggest(&scene)?;
        println!("\nPress Enter to remove the lab.");
        stdin().read_line(&mut String::new())?;
    } else {
        println!("\nTo look around in it yourself: cargo xtask demo --keep");
    }
    Ok(())
}
