//! What to try next: commands that work as they are printed, while the lab is up.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use crate::scene::Scene;

/// Prints the commands, after writing the small script they use.
pub(crate) fn suggest(scene: &Scene) -> anyhow::Result<()> {
    let enter = write_enter(scene)?;
    let enter = enter.display();
    let node = &scene.world.node;
    let config = node.config_dir();
    println!("\n== What to try next, in another terminal");
    println!("   export TIDEGATE_SOCKET={}", node.socket().display());
    println!("   alias tidegate={}", node.binary().display());
    for command in [
        "tidegate status",
        "tidegate observe --follow",
        "tidegate explain stranger backend-1:9000",
        "tidegate service list; tidegate policy list; tidegate plugin list; tidegate fqdn list",
    ] {
        println!("   {command}");
    }
    println!(
        "   {enter} frontend curl -i {}:8080/api/users",
        scene.backend.v4
    );
    println!("   {enter} stranger curl -m 2 {}:9000/", scene.backend.v4);
    println!("   {enter} node curl -s 127.0.0.1:9965/metrics");
    println!(
        "   $EDITOR {}",
        config.join("policies/backend.yaml").display()
    );
    println!("   rm {}", config.join("plugins/bot-filter.wasm").display());
    Ok(())
}

/// A script that runs a command where a workload lives: its network namespace, and its
/// control group, because service addresses are translated there.
fn write_enter(scene: &Scene) -> anyhow::Result<PathBuf> {
    let file = scene.world.dir().join("in");
    let outside = scene.outside();
    let tag = outside.netns();
    let tag = tag.trim_end_matches(outside.name());
    let groups = outside.cgroup().parent().unwrap_or(outside.cgroup());
    fs::write(
        &file,
        format!(
            "#!/bin/sh\n# usage: in WORKLOAD COMMAND...\nname=$1; shift\n\
             echo $$ > \"{}/$name/cgroup.procs\" &&\n\
             exec nsenter --net=\"/run/netns/{tag}$name\" \"$@\"\n",
            groups.display()
        ),
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
