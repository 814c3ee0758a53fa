use super::*;
use proptest::prelude::*;
use std::cell::Cell;

/// A clock that tests move.
struct FakeClock(Cell<Stamp>);

impl FakeClock {
    fn start() -> Self {
        Self(Cell::new(Stamp { at: 1_000_000, cpu: 40_000, thread: 1 }))
    }

    fn pass(&self, ns: u64, cpu: u64) {
        let stamp = self.0.get();
        self.0.set(Stamp { at: stamp.at + ns, cpu: stamp.cpu + cpu, ..stamp });
    }

    fn switch(&self, thread: usize, cpu: u64) {
        self.0.set(Stamp { thread, cpu, ..self.0.get() });
    }
}

impl Clock for &FakeClock {
    fn now(&self) -> u64 {
        self.0.get().at
    }

    fn stamp(&self) -> Stamp {
        self.0.get()
    }
}

const KERNEL: Step = Step::KernelLoaded { bytes: 43_211_008 };

/// A whole run: the owner is thread 1, the vCPU thread 2.
fn run(clock: &FakeClock) -> Timeline<&FakeClock> {
    let timeline = Timeline::new(clock, clock.0.get(), Some(900_000), true);
    for (step, ns, cpu) in [
        (Step::ConfigRead, 150_000, 100_000),
        (Step::KvmOpened, 400_000, 90_000),
        (Step::MemoryMapped, 20_000, 19_000),
        (KERNEL, 2_000_000, 1_500_000),
        (Step::VcpusReady, 300_000, 200_000),
    ] {
        clock.pass(ns, cpu);
        timeline.step(step);
    }
    let owner = clock.0.get().cpu;
    clock.switch(2, 0);
    clock.pass(50_000, 30_000);
    timeline.step(Step::FirstRun);
    for (mark, ns) in [(Mark::INIT_START, 30_000_000), (Mark(0x99), 1_000_000)] {
        clock.pass(ns, ns / 2);
        timeline.mark(mark);
    }
    clock.pass(500_000, 500_000);
    timeline.step(Step::GuestStopped);
    clock.switch(1, owner + 10_000);
    clock.pass(1_000_000, 5_000);
    timeline.step(Step::VmDestroyed);
    clock.pass(7_000, 7_000);
    timeline
}

#[test]
fn rows_of_a_whole_run() {
    let clock = FakeClock::start();
    let report = run(&clock).report();
    let rows: Vec<_> =
        report.rows.iter().map(|row| (row.event, row.at_ns, row.took_ns, row.cpu_ns)).collect();
    let step = Event::Step;
    assert_eq!(
        rows,
        [
            (Event::Exec, 100_000, 100_000, Some(40_000)),
            (step(Step::ConfigRead), 250_000, 150_000, Some(100_000)),
            (step(Step::KvmOpened), 650_000, 400_000, Some(90_000)),
            (step(Step::MemoryMapped), 670_000, 20_000, Some(19_000)),
            (step(KERNEL), 2_670_000, 2_000_000, Some(1_500_000)),
            (step(Step::VcpusReady), 2_970_000, 300_000, Some(200_000)),
            (step(Step::FirstRun), 3_020_000, 50_000, Some(30_000)),
            (Event::Mark(Mark::INIT_START), 33_020_000, 30_000_000, Some(15_000_000)),
            (Event::Mark(Mark(0x99)), 34_020_000, 1_000_000, Some(500_000)),
            (step(Step::GuestStopped), 34_520_000, 500_000, Some(500_000)),
            (step(Step::VmDestroyed), 35_520_000, 1_000_000, None),
            (Event::Unaccounted, 35_527_000, 7_000, None),
        ]
    );
    assert_eq!((report.origin_ns, report.lost_marks), (900_000, 0));
}

#[test]
fn json_names_what_it_has() {
    let clock = FakeClock::start();
    let json = serde_json::to_value(run(&clock).report()).expect("JSON");
    assert_eq!(json["origin_ns"], 900_000);
    let rows = &json["rows"];
    let expected = [
        (0, r#"{"event":"exec","at_ns":100000,"took_ns":100000,"cpu_ns":40000}"#),
        (
            4,
            r#"{"event":"kernel-loaded","at_ns":2670000,"took_ns":2000000,"cpu_ns":1500000,"bytes":43211008}"#,
        ),
        (
            7,
            r#"{"event":"mark","at_ns":33020000,"took_ns":30000000,"cpu_ns":15000000,"code":32,
                "name":"init's first instruction"}"#,
        ),
        (8, r#"{"event":"mark","at_ns":34020000,"took_ns":1000000,"cpu_ns":500000,"code":153}"#),
        (11, r#"{"event":"unaccounted","at_ns":35527000,"took_ns":7000}"#),
    ];
    for (index, row) in expected {
        assert_eq!(rows[index], serde_json::from_str::<serde_json::Value>(row).expect("JSON"));
    }
}

#[test]
fn a_table_with_bars() {
    let clock = FakeClock::start();
    let text = run(&clock).report().to_text(Style { width: 80, ascii: true });
    let expected = "\
boot timeline                 at ms     took  working  waiting
process started               0.100    0.100    0.040    0.060  -
config read                   0.250    0.150    0.100    0.050  #
KVM opened                    0.650    0.400    0.090    0.310  -
memory mapped                 0.670    0.020    0.019    0.001  #
kernel loaded (41.2 MiB)      2.670    2.000    1.500    0.500  #
vCPUs ready                   2.970    0.300    0.200    0.100   #
first KVM_RUN entered         3.020    0.050    0.030    0.020   #
  init's first instruction   33.020   30.000   15.000   15.000   #######------
  mark 0x99                  34.020    1.000    0.500    0.500                #
guest stopped                34.520    0.500    0.500    0.000                 #
VM destroyed                 35.520    1.000        ?        ?                 =
not accounted for            35.527    0.007        ?        ?                 =
total                        35.527
# working  - waiting  = not known
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn what_is_off_keeps_its_origin_alone() {
    let clock = FakeClock::start();
    let timeline = Timeline::new(&clock, clock.0.get(), None, false);
    clock.pass(2_500_999, 0);
    timeline.step(Step::ConfigRead);
    timeline.mark(Mark::INIT_START);
    assert_eq!(timeline.elapsed_us(), 2500);
    let report = timeline.report();
    assert_eq!((report.rows.len(), report.total_ns()), (1, 2_500_999));
}

#[test]
fn elapsed_time_wraps_and_never_panics() {
    let clock = FakeClock::start();
    let timeline = Timeline::new(&clock, clock.0.get(), None, true);
    clock.pass((1 << 32) * 1000 + 7000, 0);
    assert_eq!(timeline.elapsed_us(), 7);
    let from_the_future = Timeline::new(&clock, clock.0.get(), Some(u64::MAX), true);
    assert_eq!((from_the_future.elapsed_us(), from_the_future.report().rows[0].took_ns), (0, 0));
}

#[test]
fn a_flood_of_marks_is_bounded_and_counted() {
    let clock = FakeClock::start();
    let timeline = Timeline::new(&clock, clock.0.get(), None, true);
    for mark in 0..1000u32 {
        clock.pass(10, 10);
        timeline.mark(Mark(mark as u8));
    }
    timeline.step(Step::VmDestroyed);
    let report = timeline.report();
    assert_eq!((report.rows.len(), report.lost_marks), (MAX_MARKS + 2, 1000 - MAX_MARKS));
    assert!(report.to_text(Style { width: 80, ascii: false }).contains("936 further marks"));
}

#[test]
fn the_hosts_clocks_tell_waiting_from_working_and_threads_apart() {
    let clock = HostClock;
    let first = clock.stamp();
    let second = clock.stamp();
    assert!(second.at >= first.at && second.cpu >= first.cpu && second.thread == first.thread);
    let other = std::thread::scope(|scope| scope.spawn(|| HostClock.stamp()).join().expect("a stamp"));
    assert_ne!(other.thread, first.thread);
    assert!(clock.now() >= other.at);
}

proptest! {
    #[test]
    fn rows_add_up(
        events in prop::collection::vec((any::<u8>(), 0u64..1 << 40, 0u64..1 << 40, 1usize..4), 0..80),
        parent in prop::option::of(0u64..2_000_000),
        width in 0usize..300,
        ascii: bool,
    ) {
        let clock = FakeClock::start();
        let timeline = Timeline::new(&clock, clock.0.get(), parent, true);
        for (code, ns, cpu, thread) in events {
            clock.switch(thread, cpu);
            clock.pass(ns, ns / 2);
            if code < 8 {
                timeline.step(Step::from_slot(usize::from(code), ns));
            } else {
                timeline.mark(Mark(code));
            }
        }
        let report = timeline.report();
        prop_assert_eq!(report.rows.iter().map(|row| row.took_ns).sum::<u64>(), report.total_ns());
        for row in &report.rows {
            prop_assert!(row.cpu_ns.unwrap_or(0) <= row.took_ns);
        }
        let style = Style { width, ascii };
        let text = report.to_text(style);
        prop_assert_eq!(text.is_ascii(), ascii);
        if width >= 80 && report.total_ns() < 10_000_000_000 {
            prop_assert!(text.lines().all(|line| line.chars().count() <= 100), "{}", text);
        }
    }
}
