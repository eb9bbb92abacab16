//! The numbering: all of it in one file, and what was given and forgotten since in another, step
//! by step. So keeping one more number costs a line, however many there are.

use std::{
    fs,
    io::{self, Write as _},
};

use anyhow::Context as _;
use tidegate_policy::{Ids, Step, Unsaved};

use super::{Store, replace};

const IDS: &str = "ids.json";
/// Steps since, a line of JSON each.
const STEPS: &str = "ids.steps";
/// Steps are made part of the whole once there are so many bytes of them.
const MOST_STEPS: u64 = 1 << 20;

impl Store {
    /// Was a numbering ever kept?
    pub(super) fn has_ids(&self) -> bool {
        self.folder.join(IDS).exists()
    }

    /// The numbering so far; empty on first start. Damage is an error: starting over
    /// would give old numbers, still in kernel tables, a new meaning.
    pub(super) fn ids(&self) -> anyhow::Result<Ids> {
        let path = self.folder.join(IDS);
        let damaged = || {
            format!(
                "{} is damaged; run `tidegate cleanup` and remove the file to number anew",
                path.display()
            )
        };
        let mut ids: Ids = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(damaged)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ids::default()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let path = self.folder.join(STEPS);
        let steps = match fs::read_to_string(&path) {
            Ok(steps) => steps,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        // What comes after the last end of a line was cut off by a crash: nothing that uses
        // it was published.
        let whole = steps.rfind('\n').map_or("", |end| &steps[..end]);
        for (line, step) in (1..).zip(whole.lines()) {
            let step: Step = serde_json::from_str(step).with_context(|| {
                format!(
                    "{} is damaged in line {line}; run `tidegate cleanup` and remove it and {IDS} \
                     to number anew",
                    path.display()
                )
            })?;
            ids.replay(step);
        }
        Ok(ids)
    }

    /// Keeps the numbering. Must succeed before anything that uses it is published.
    pub fn save_ids(&self, ids: &mut Ids) -> anyhow::Result<()> {
        let saved = match ids.unsaved() {
            None => return Ok(()),
            Some(Unsaved::Steps(steps)) if self.has_room() => self.add(steps),
            Some(_) => self.save_all(ids),
        };
        match saved {
            Ok(()) => ids.saved(),
            // The last line may be half written.
            Err(_) => ids.not_saved(),
        }
        saved
    }

    fn has_room(&self) -> bool {
        let steps = fs::metadata(self.folder.join(STEPS));
        steps.is_ok_and(|steps| steps.len() < MOST_STEPS)
    }

    fn add(&self, steps: &[Step]) -> anyhow::Result<()> {
        let path = self.folder.join(STEPS);
        let mut lines = Vec::new();
        for step in steps {
            serde_json::to_writer(&mut lines, step).context("encode a number")?;
            lines.push(b'\n');
        }
        let add = || {
            let mut file = fs::File::options().append(true).open(&path)?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        add().with_context(|| format!("write {}", path.display()))
    }

    /// A crash between the two leaves steps that lead to what the whole says already.
    fn save_all(&self, ids: &Ids) -> anyhow::Result<()> {
        let path = self.folder.join(IDS);
        let bytes = serde_json::to_vec(ids).context("encode the numbering")?;
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))?;
        let path = self.folder.join(STEPS);
        replace(&path, b"").with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::ServiceId;
    use tidegate_policy::{Input, compile, parse_file};

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(root.path()).expect("opened");
        (root, store)
    }

    /// Gives numbers as a node with so many services does, and says which.
    fn number(ids: &mut Ids, services: u32) -> Vec<ServiceId> {
        let mut input = Input::default();
        for n in 0..services {
            let text = format!(
                "{{apiVersion: tidegate.io/v1alpha1, kind: Service, metadata: {{name: s{n}}}, spec: \
                 {{addresses: [10.9.{}.{}], ports: [{{port: 80}}]}}}}",
                n / 256,
                n % 256
            );
            for document in parse_file("s.yaml", &text).expect("read") {
                input.add(document);
            }
        }
        let compiled = compile(&input, ids).expect("compiles");
        compiled
            .services
            .values()
            .map(|service| service.id)
            .collect()
    }

    fn numbers(ids: &Ids) -> String {
        serde_json::to_string(ids).expect("encoded")
    }

    #[test]
    fn one_more_number_costs_a_line() {
        let (root, store) = store();
        let mut ids = Ids::default();
        number(&mut ids, 300);
        store.save_ids(&mut ids).expect("kept");
        let whole = fs::read(root.path().join(IDS)).expect("read");
        number(&mut ids, 301);
        store.save_ids(&mut ids).expect("kept");
        assert_eq!(fs::read(root.path().join(IDS)).expect("read"), whole);
        let steps = fs::read_to_string(root.path().join(STEPS)).expect("read");
        assert_eq!(steps.lines().count(), 1, "{steps}");
        // Nothing new is written nowhere.
        number(&mut ids, 301);
        store.save_ids(&mut ids).expect("kept");
        assert_eq!(
            fs::read_to_string(root.path().join(STEPS)).expect("read"),
            steps
        );

        // The next run goes on with all of them, and begins a file of its own.
        let mut next = store.ids().expect("read");
        assert_eq!(number(&mut next, 302), number(&mut ids, 302));
        store.save_ids(&mut next).expect("kept");
        assert_eq!(fs::read(root.path().join(STEPS)).expect("read"), b"");
        let mut last = store.ids().expect("read");
        assert_eq!(number(&mut last, 302), number(&mut ids, 302));
    }

    #[test]
    fn a_crash_costs_what_was_not_kept_yet_and_damage_is_told() {
        let (root, store) = store();
        let mut ids = Ids::default();
        number(&mut ids, 3);
        store.save_ids(&mut ids).expect("kept");
        number(&mut ids, 4);
        store.save_ids(&mut ids).expect("kept");
        let path = root.path().join(STEPS);
        let kept = numbers(&store.ids().expect("read"));
        let steps = fs::read_to_string(&path).expect("read");
        for cut in 1..steps.len() {
            fs::write(&path, format!("{steps}{}", &steps[..cut])).expect("written");
            assert_eq!(numbers(&store.ids().expect("read")), kept, "cut at {cut}");
        }
        // Steps that are part of the whole already change nothing.
        fs::write(&path, format!("{steps}{steps}")).expect("written");
        assert_eq!(numbers(&store.ids().expect("read")), kept);

        fs::write(&path, format!("nonsense\n{steps}")).expect("written");
        let error = store.ids().expect_err("damage");
        assert!(format!("{error:#}").contains("line 1"), "{error:#}");
    }

    #[test]
    fn what_could_not_be_added_is_written_as_a_whole_next_time() {
        let (root, store) = store();
        let mut ids = Ids::default();
        number(&mut ids, 3);
        store.save_ids(&mut ids).expect("kept");
        // Nothing can be added to a folder.
        let path = root.path().join(STEPS);
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        number(&mut ids, 4);
        store.save_ids(&mut ids).expect_err("refused");
        fs::remove_dir(&path).expect("removed");
        store.save_ids(&mut ids).expect("kept");
        assert_eq!(numbers(&store.ids().expect("read")), numbers(&ids));
    }
}
