//! What the guest's kernel calls at boot, one after the other, by tables that its parts add to (`initcall_t`).

use super::plugin::{Clock, Points, Reached, Segment, World};
use super::{Initcall, Symbols};

/// From the block that calls to the function that is called there are not more instructions than this: a thunk may be
/// between the two.
const CALL: u64 = 100;

/// Where they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Addresses and names, in the order of the tables.
    functions: Vec<(u64, String)>,
    /// What calls them.
    caller: Option<(u64, u64)>,
}

impl Table {
    /// The kernel's; empty if it is none.
    pub fn of(kernel: &Symbols) -> Self {
        Self { functions: functions(kernel).unwrap_or_default(), caller: kernel.range("do_one_initcall") }
    }

    /// Has the plugin say when they are called, and when their caller goes on.
    pub fn add_to(&self, points: &mut Points, world: World) {
        for (address, _) in &self.functions {
            points.mark(world, *address);
        }
        if let Some(caller) = self.caller {
            points.inside(world, caller);
        }
    }

    /// The calls that were made.
    pub fn calls(&self, segments: &[Segment]) -> Vec<Initcall> {
        let mut calls = Vec::new();
        let mut called: Option<(&str, Clock)> = None;
        let mut caller = None;
        for reached in segments.iter().flat_map(|segment| &segment.reached) {
            match reached {
                // One that calls another is charged for it; some are called by others before it is their turn.
                Reached::Mark(index, at) => {
                    let by_caller = caller.is_some_and(|from| at.guest - from <= CALL);
                    if called.is_none() && by_caller {
                        called = self.functions.get(*index).map(|(_, name)| (name.as_str(), *at));
                    }
                }
                Reached::Inside(at) => {
                    caller = Some(at.guest);
                    calls.extend(called.take().map(|(name, from)| Initcall {
                        name: name.to_owned(),
                        guest: at.guest - from.guest,
                        lab: at.lab_kernel + at.lab_user - from.lab_kernel - from.lab_user,
                    }));
                }
            }
        }
        calls
    }
}

/// Entries are four bytes, relative to themselves (`CONFIG_HAVE_ARCH_PREL32_RELOCATIONS`).
fn functions(kernel: &Symbols) -> Option<Vec<(u64, String)>> {
    let (start, end) = (kernel.address("__initcall_start")?, kernel.address("__initcall_end")?);
    let table = kernel.bytes(start)?.get(..usize::try_from(end.checked_sub(start)?).ok()?)?;
    let entries = table.chunks_exact(4).zip((start..).step_by(4));
    let mut functions = Vec::new();
    for (entry, at) in entries {
        let offset = i32::from_le_bytes(entry.try_into().ok()?);
        let address = at.wrapping_add_signed(offset.into());
        functions.push((address, kernel.starts(address)?.to_owned()));
    }
    Some(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_last_until_the_caller_goes_on() {
        let at = |lab_kernel, guest| Clock { lab_kernel, lab_user: 0, guest };
        let names = ["one", "two"].map(|name| (0, name.to_owned()));
        let table = Table { functions: names.to_vec(), caller: None };
        let reached = vec![
            Reached::Inside(at(0, 5)),
            Reached::Mark(0, at(0, 10)),
            Reached::Mark(1, at(0, 12)),
            Reached::Inside(at(3, 20)),
            Reached::Inside(at(3, 21)),
            Reached::Mark(0, at(3, 500)),
            Reached::Inside(at(4, 1000)),
        ];
        let next = Segment { reached: vec![Reached::Mark(1, at(4, 1030))], ..Segment::default() };
        let last = Segment { reached: vec![Reached::Inside(at(4, 1031))], ..Segment::default() };
        let segments = [Segment { reached, ..Segment::default() }, next, last];
        let call = |name: &str, guest, lab| Initcall { name: name.to_owned(), guest, lab };
        assert_eq!(table.calls(&segments), [call("one", 10, 3), call("two", 1, 0)]);
    }
}
